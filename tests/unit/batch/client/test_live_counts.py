"""Live numbers: each partition counts once, and calls in flight are those that processes last spoke of."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.workflow.v1 import PendingActivityInfo

from batch.client.live_counts import LiveCounts
from batch.workflows import contracts as c
from batch.workflows.states import State

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STARTED = PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
SCHEDULED = PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED


def some(documents: int, errors: int = 0) -> c.Totals:
    types = {"refusal": errors} if errors else {}
    return c.Totals(documents=documents, ok=documents - errors, errors=errors, errors_by_type=types, cost_usd=documents)


def counts(**fields: object) -> LiveCounts:
    progress = c.Progress(
        run=None,
        state=State.RUNNING,
        control=c.Control(),
        generation=1,
        planned_documents=1000,
        planned_partitions=10,
        plan_done=True,
        totals=some(100),
        shards_open=[3],
        shards_reported=[some(40)],
        shards_finished=0,
        started_at=0.0,
    )
    return LiveCounts(replace(progress, **fields))  # type: ignore[arg-type]


def beat(
    partition: int,
    documents: int,
    *,
    process: str = "a",
    calls: int = 0,
    age: float = 0,
    started: float = 600,
    state: PendingActivityState.ValueType = STARTED,
) -> tuple[PendingActivityInfo, c.Beat]:
    pending = PendingActivityInfo(state=state)
    pending.last_heartbeat_time.FromDatetime(NOW - timedelta(seconds=age))
    pending.last_started_time.FromDatetime(NOW - timedelta(seconds=started))
    return pending, c.Beat(partition, 50, some(documents), process, calls)


def report(**fields: object) -> c.ShardReport:
    return replace(c.ShardReport(3, some(60), dispatched=True, finished=False), **fields)  # type: ignore[arg-type]


def test_a_shard_takes_the_place_of_what_it_had_reported() -> None:
    live = counts(answered=some(30), shards_answered=[some(20)])
    live.add_shard(report(answered=some(25)), [beat(7, 11)])
    assert live.committed.documents == 120
    assert live.answered.documents == 10 + 25 + 11
    assert live.all.documents == 166 and live.all.cost_usd == 166


def test_an_older_coordinator_says_nothing_of_what_is_answered() -> None:
    live = counts()
    live.add_shard(report(), [])
    assert (live.committed.documents, live.answered.documents) == (120, 0)


def test_a_partition_that_is_dispatched_again_counts_by_its_beat_once_it_beats() -> None:
    held = [c.Held(7, some(20, 4)), c.Held(8, some(5))]
    live = counts(shards_answered=[c.Totals()])
    live.add_shard(report(held=held, failing=[1]), [beat(7, 23)])
    assert live.answered.documents == 23 + 5
    live = counts(shards_answered=[c.Totals()])
    live.add_shard(report(held=held, failing=[1]), [])
    assert (live.answered.documents, live.failing) == (25, [7, 1])


def test_calls_in_flight_are_of_each_process_what_it_said_last() -> None:
    """Eight partitions of two processes that may have 16 calls each out: sums over partitions came to 64."""
    live = counts()
    beats = [beat(n, 1, process="ab"[n % 2], calls=16 - n, age=n) for n in range(8)]
    live.add_shard(report(), beats)
    assert live.in_flight == 16 + 15


def test_an_attempt_that_is_over_has_nothing_in_flight() -> None:
    live = counts()
    again = beat(1, 9, calls=16, age=30, started=10)  # its retry has begun, and has not beaten yet
    waits = beat(2, 9, process="b", calls=16, age=30, state=SCHEDULED)
    live.add_shard(report(), [again, waits])
    assert (live.in_flight, live.beating, live.answered.documents) == (0, False, 18)
