"""The gauges of runs, from what Temporal's visibility lists."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus as Status
from temporalio.service import RPCError, RPCStatusCode

from batch.workflows.states import ENDED, State
from workers.observe.metrics import ABORTED, Metrics
from workers.process.control import RunControl
from workers.process.main import main

NOW = datetime.now(UTC)


@dataclass
class Execution:
    """One entry of a listing; `age` in minutes since its start."""

    id: str
    status: Status
    of: dict[str, Any]
    age: int = 0
    start_time: datetime = field(init=False)

    def __post_init__(self) -> None:
        self.start_time = NOW - timedelta(minutes=self.age)

    async def memo(self) -> dict[str, Any]:
        return self.of


class Visibility:
    """Stands in for Temporal's client."""

    def __init__(self, listed: list[Execution]) -> None:
        self.listed = listed
        self.away = False

    async def list_workflows(self, query: str, limit: int) -> AsyncIterator[Execution]:
        assert "ExecutionStatus = 'Running' OR CloseTime > '" in query
        if self.away:
            raise RPCError("away", RPCStatusCode.UNAVAILABLE, b"")
        for execution in self.listed:
            yield execution


def job(state: str | None = None, name: str = "night") -> dict[str, str]:
    return {"job_name": name} | ({"state": state} if state else {})


async def test_budgets_are_those_of_the_runs_that_are_going() -> None:
    def budgeted(most: float, charged: float) -> dict[str, Any]:
        return {**job(), "max_cost_usd": most, "charged_usd": charged}

    listed = [
        Execution("a", Status.RUNNING, budgeted(10.0, 4.0)),
        Execution("b", Status.RUNNING, budgeted(5.0, 1.5)),
        Execution("c", Status.COMPLETED, budgeted(100.0, 50.0)),
        Execution("d", Status.RUNNING, job(name="without")),
    ]
    metrics, visibility, anything = Metrics(), Visibility(listed), object()
    control = RunControl(anything, visibility, anything, metrics)  # type: ignore[arg-type]

    def gauges(name: str) -> tuple[float | None, ...]:
        names = ("docbatch_budget_usd", "docbatch_budget_charged_usd")
        return tuple(metrics.registry.get_sample_value(gauge, {"job_name": name}) for gauge in names)

    await control.count_runs()
    assert (gauges("night"), gauges("without")) == ((15.0, 5.5), (None, None))
    del listed[:2]
    await control.count_runs()
    assert gauges("night") == (0.0, 0.0)
    visibility.away = True
    with pytest.raises(RPCError):
        await control.count_runs()
    assert gauges("night") == (None, None)


async def test_runs_are_counted_by_their_latest_execution() -> None:
    visibility = Visibility(
        [
            Execution("a", Status.RUNNING, job()),
            Execution("b", Status.RUNNING, job(State.PAUSED)),
            Execution("c", Status.COMPLETED, job(State.FAILED), age=50),
            Execution("c", Status.RUNNING, job(State.RUNNING), age=5),  # the rerun of what failed
            Execution("d", Status.RUNNING, job(), age=1),
            Execution("d", Status.CONTINUED_AS_NEW, job(), age=9),
            Execution("e", Status.COMPLETED, job(State.COMPLETED_WITH_FAILURES)),
            Execution("f", Status.CANCELED, job(State.CANCELLED)),
            Execution("f2", Status.CANCELED, job()),  # before it was claimed
            Execution("g", Status.TERMINATED, job(State.RUNNING)),
            Execution("g2", Status.TERMINATED, job(State.RUNNING), age=50),
            Execution("g2", Status.FAILED, {}, age=5),  # a rerun that failed before it was claimed
            Execution("h", Status.RUNNING, {}),
            Execution("i", Status.RUNNING, job(name="other")),
        ]
    )
    metrics = Metrics()
    anything: Any = None
    control = RunControl(anything, visibility, anything, metrics)  # type: ignore[arg-type]
    await control.count_runs()

    def value(name: str, state: str, job_name: str = "night") -> float | None:
        return metrics.registry.get_sample_value(name, {"job_name": job_name, "state": state})

    assert value("docbatch_runs", State.RUNNING) == 3
    assert value("docbatch_runs", State.PAUSED) == 1
    assert value("docbatch_runs", State.RUNNING, "other") == 1
    ended = {state: value("docbatch_ended_runs", state) for state in (*ENDED, ABORTED)}
    assert {state for state, count in ended.items() if count} == {
        State.COMPLETED_WITH_FAILURES,
        State.CANCELLED,
        ABORTED,
    }
    assert ended[State.FAILED] == 0

    visibility.listed = []
    await control.count_runs()
    assert value("docbatch_runs", State.PAUSED) == 0

    visibility.away = True
    with pytest.raises(RPCError):
        await control.count_runs()
    assert value("docbatch_runs", State.PAUSED) is None, "an old count must not outlive the truth in a `max by`"


def test_the_interval_is_more_than_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--count-runs-seconds", "0"])
    assert exit_.value.code == 2
    assert "--count-runs-seconds is more than 0" in capsys.readouterr().err
