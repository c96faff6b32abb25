"""An attempt at a partition, step by step: committed, replay, ask, commit; and whoever comes in between."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from batch.files import result_file
from batch.workflows import contracts as c
from batch.workflows.states import Outcome, Reason, State
from tests.unit.workers.partition.made_attempt import LAYOUT, Partition

RESULT = LAYOUT.result(0, 0)


def rows(partition: Partition) -> dict[str, dict[str, Any]]:
    table, _ = result_file.decode(partition.storage.objects[RESULT])
    return {row["document_id"]: row for row in table.to_pylist()}


@pytest.fixture
def partition() -> Partition:
    return Partition({"t/a.txt": "one", "t/b.txt": "two", "t/c.txt": "three"})


async def test_documents_are_asked_and_committed(partition: Partition) -> None:
    outcome = await partition.attempt().run()
    assert (outcome.outcome, outcome.totals.ok) == (Outcome.COMMITTED, 3)
    assert {key: row["output_text"] for key, row in rows(partition).items()} == {
        "t/a.txt": "ONE",
        "t/b.txt": "TWO",
        "t/c.txt": "THREE",
    }


@pytest.mark.parametrize("ends_by", ["drain", "superseded", "cancel", "cut", "pause"])
async def test_a_commit_that_storage_does_not_take_ends_with_the_attempt(partition: Partition, ends_by: str) -> None:
    """And nothing is lost: the ledger holds the rows, the next attempt commits them and pays nothing."""
    storage, run = partition.storage, partition.run()
    storage.away = lambda key: key == RESULT and bool(partition.model.asked)
    attempt = partition.attempt(run=run)
    work = asyncio.create_task(attempt.run())
    await asyncio.wait_for(storage.failed.wait(), 3)
    match ends_by:
        case "drain":
            partition.drain.set()
        case "superseded":
            partition.pulse.late = True
        case "cancel":
            attempt.stop_soon()
        case "cut":
            attempt.cut()
        case "pause":
            run.brakes.follow(c.Control(State.PAUSED, 1))
    outcome = await asyncio.wait_for(work, 3)
    assert outcome.outcome == Outcome.YIELDED
    assert outcome.reason == (Reason.BY_USER if ends_by == "pause" else Reason.DRAIN)
    storage.away = lambda key: False
    partition.drain.clear()
    partition.pulse.late = False
    outcome = await partition.attempt(2).run()
    assert (outcome.outcome, outcome.totals.ok) == (Outcome.COMMITTED, 3)
    assert sorted(partition.model.asked) == ["one", "three", "two"]


async def test_a_commit_is_tried_once_also_by_who_drains(partition: Partition) -> None:
    attempt = partition.attempt()
    partition.storage.before_put = lambda key: partition.drain.set()
    assert (await attempt.run()).outcome == Outcome.COMMITTED
