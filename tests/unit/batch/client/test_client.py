"""Starting and rerunning from Python on the task queue that was asked for; what a status says of repeated failures."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.api.common.v1 import ActivityType
from temporalio.api.failure.v1 import Failure
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionResponse

from batch import Job
from batch.client import checks, status
from batch.client import run as client
from batch.workflows.run_state import RunInput
from tests.jobs import job


class FakeRun:
    def __init__(self, connection: Any) -> None:
        self.queue = connection.task_queue

    async def rerun(self, **_: Any) -> FakeRun:
        return self


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(queue of workflows, queue of partitions) of each start."""
    queues: list[tuple[str, str]] = []

    async def start_workflow(name: str, argument: RunInput, *, task_queue: str, **_: Any) -> None:
        queues.append((task_queue, argument.partitions_queue))

    async def nothing(*_: Any) -> int:
        return 0

    async def unpolled(*_: Any) -> str:
        return "night"

    async def temporal() -> Any:
        return SimpleNamespace(start_workflow=start_workflow, count_workflows=nothing)

    async def run(self: Any, run_id: str) -> FakeRun:
        return FakeRun(self)

    monkeypatch.setattr(client, "connect_temporal", temporal)
    monkeypatch.setattr(checks, "check_job", nothing)
    monkeypatch.setattr(checks, "unpolled_queue", unpolled)
    monkeypatch.setattr(client.Connection, "run", run)
    return queues


async def test_start_goes_to_the_task_queue(started: list[tuple[str, str]]) -> None:
    await client.start(Job.parse(job()), task_queue="night")
    await client.start(Job.parse(job()))
    assert started == [("night-control", "night"), ("docbatch-control", "docbatch")]


async def test_rerun_goes_to_the_task_queue() -> None:
    assert (await client.rerun("r", task_queue="night")).queue == "night"  # type: ignore[attr-defined]
    assert (await client.rerun("r")).queue == "docbatch"  # type: ignore[attr-defined]


async def test_who_stops_a_start_that_is_on_its_way_is_told_that_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sent, answered = asyncio.Event(), asyncio.Event()

    async def start_workflow(*_: Any, **__: Any) -> None:
        sent.set()
        await answered.wait()

    async def temporal() -> Any:
        async def nothing(*_: Any) -> int:
            return 0

        return SimpleNamespace(start_workflow=start_workflow, count_workflows=nothing)

    monkeypatch.setattr(client, "connect_temporal", temporal)
    starting = asyncio.create_task(client.start(Job.parse(job()), run_id="late-1"))
    await sent.wait()
    starting.cancel()
    asyncio.get_running_loop().call_soon(answered.set)
    with caplog.at_level(logging.WARNING), pytest.raises(asyncio.CancelledError):
        await starting
    assert caplog.messages[-1] == "run late-1 has begun all the same, and goes on; stop it: docbatch cancel late-1"


@pytest.mark.parametrize(("attempt", "said"), [(3, ""), (4, "plan_shard fails and is repeated: no disk")])
def test_a_status_tells_what_is_repeated_without_success(attempt: int, said: str) -> None:
    pending = PendingActivityInfo(
        activity_type=ActivityType(name="plan_shard"), attempt=attempt, last_failure=Failure(message="no disk")
    )
    answer = DescribeWorkflowExecutionResponse(pending_activities=[PendingActivityInfo(attempt=9), pending])
    described: Any = SimpleNamespace(raw_description=answer)
    assert status.failing(described) == said
