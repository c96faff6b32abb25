"""What stops a run's calls in a process, and what a newer epoch lifts."""

from __future__ import annotations

import asyncio

import pytest

from batch.workflows import contracts as c
from batch.workflows.states import Reason, State
from workers.llm.answers.errors import Kind, Verdict
from workers.llm.limits import stop as brakes_module
from workers.llm.limits.stop import ERROR_WINDOW, Brakes


def make(rate: float = 0.5) -> Brakes:
    brakes = Brakes(max_error_rate=rate, drain=asyncio.Event())
    brakes.follow(c.Control(epoch=1))
    return brakes


def reason(brakes: Brakes) -> str | None:
    stop = brakes.stop()
    return stop.reason if stop else None


def test_a_newer_epoch_lifts_a_brake_and_an_older_one_does_not() -> None:
    brakes = make()
    brakes.stop_job(Verdict(Kind.JOB, "insufficient_quota", "no money"))
    assert reason(brakes) == "insufficient_quota"
    brakes.follow(c.Control(epoch=1))
    assert reason(brakes) == "insufficient_quota"
    brakes.follow(c.Control(epoch=2))
    assert reason(brakes) is None
    brakes.follow(c.Control(State.PAUSED, 1, Reason.BY_USER))
    assert reason(brakes) is None


def test_within_an_epoch_paused_stays_paused() -> None:
    brakes = make()
    brakes.follow(c.Control(State.PAUSED, 1, Reason.BY_USER))
    brakes.follow(c.Control(State.RUNNING, 1))
    assert reason(brakes) == Reason.BY_USER


def test_the_error_rate_needs_a_full_window() -> None:
    brakes = make(0.5)
    for _ in range(ERROR_WINDOW - 1):
        brakes.document("timeout")
    assert reason(brakes) is None
    brakes.document("timeout")
    assert reason(brakes) == Reason.ERROR_RATE


def test_a_pause_by_the_error_rate_counts_what_failed() -> None:
    brakes = make(0.5)
    for number in range(ERROR_WINDOW):
        brakes.document(("timeout", "timeout", "refusal", None)[number % 4])
    stop = brakes.stop()
    assert stop is not None and "(timeout 100, refusal 50)" in stop.message


def test_the_error_rate_at_its_limit_goes_on() -> None:
    brakes = make(0.5)
    for number in range(10 * ERROR_WINDOW):
        brakes.document("refusal" if number % 2 == 0 else None)
    assert reason(brakes) is None


def test_an_outage_is_due_after_nothing_but_transient_failures_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(brakes_module.time, "monotonic", lambda: now)
    brakes = make()
    assert not brakes.transient()
    now += 59
    assert not brakes.transient()
    brakes.succeeded()
    now += 59
    assert not brakes.transient()
    now += 61
    assert brakes.transient()
    assert reason(brakes) is None
    brakes.outage("refused")
    assert reason(brakes) == Reason.PROVIDER_UNREACHABLE


async def test_waiting_ends_with_a_stop() -> None:
    brakes = make()
    waiting = asyncio.create_task(brakes.wait_stopped(30))
    await asyncio.sleep(0)
    brakes.follow(c.Control(State.PAUSED, 1, Reason.BY_USER))
    assert await asyncio.wait_for(waiting, 2)
