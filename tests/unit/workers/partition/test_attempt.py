"""An attempt at a partition, step by step: committed, replay, ask, commit; and whoever comes in between."""

from __future__ import annotations

import asyncio
import gc
import weakref
from dataclasses import replace
from typing import Any

import pytest

from batch.files import result_file
from batch.workflows import contracts as c
from batch.workflows.states import Outcome, Reason, State
from tests.unit.workers.partition.made_attempt import LAYOUT, Partition
from workers.llm.answer import Answer

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


async def test_a_partition_that_is_committed_is_never_asked_again(partition: Partition) -> None:
    first = await partition.attempt().run()
    again = await partition.attempt(2).run()
    assert (again.outcome, again.totals) == (Outcome.COMMITTED, first.totals)
    assert len(partition.model.asked) == 3


async def test_what_a_ledger_holds_is_not_asked_again(partition: Partition) -> None:
    """Also where the text was answered by an attempt that never came to its commit."""

    def drains(text: str) -> str:
        partition.drain.set()
        return text.upper()

    partition.model.says = drains
    run = partition.run()
    run.lane.concurrency = 1
    outcome = await partition.attempt(run=run).run()
    assert (outcome.outcome, outcome.reason) == (Outcome.YIELDED, Reason.DRAIN)
    assert outcome.answered.ok == len(partition.model.asked) < 3
    partition.drain.clear()
    partition.model.says = str.upper
    outcome = await partition.attempt(2).run()
    assert (outcome.outcome, outcome.totals.ok) == (Outcome.COMMITTED, 3)
    assert sorted(partition.model.asked) == ["one", "three", "two"]


async def test_a_ledger_of_another_version_of_a_document_is_no_answer(partition: Partition) -> None:
    partition.storage.away = lambda key: key == RESULT and bool(partition.model.asked)
    work = asyncio.create_task(partition.attempt().run())
    await asyncio.wait_for(partition.storage.failed.wait(), 3)
    work.cancel()  # the process is gone
    partition.storage.away = lambda key: False
    partition.storage.objects["t/b.txt"] = b"deux"
    partition.documents[1] = replace(partition.documents[1], etag=partition.storage.entry("t/b.txt").etag, size=4)
    partition.plan()
    assert (await partition.attempt(2).run()).totals.ok == 3
    assert sorted(partition.model.asked) == ["deux", "one", "three", "two"]


async def test_a_commit_whose_answer_is_lost_is_known_again(partition: Partition) -> None:
    def lose(key: str) -> None:
        if key == RESULT:
            partition.storage.lose = ["answer"]

    partition.storage.before_put = lose
    outcome = await partition.attempt().run()
    assert (outcome.outcome, outcome.totals.ok) == (Outcome.COMMITTED, 3)
    counted = partition.metrics.registry.get_sample_value("docbatch_documents_total", {"job_name": "t", "status": "ok"})
    assert counted == 3 and partition.storage.puts.count(RESULT) == 1


async def test_of_two_attempts_at_once_one_commits_and_both_say_so(partition: Partition) -> None:
    other = Partition({"t/a.txt": "one", "t/b.txt": "two", "t/c.txt": "three"})
    await other.attempt().run()
    theirs = other.storage.objects[RESULT]

    def comes_first(key: str) -> None:
        if key == RESULT:
            partition.storage.objects[RESULT] = theirs

    partition.storage.before_put = comes_first
    outcome = await partition.attempt(2).run()
    assert (outcome.outcome, outcome.totals.ok) == (Outcome.COMMITTED, 3)
    assert partition.storage.objects[RESULT] == theirs
    counted = partition.metrics.registry.get_sample_value("docbatch_documents_total", {"job_name": "t", "status": "ok"})
    assert not counted, "the other one counts them"


async def test_a_superseded_attempt_clears_up_after_the_one_that_committed(partition: Partition) -> None:
    other = Partition({"t/a.txt": "one", "t/b.txt": "two", "t/c.txt": "three"})
    await other.attempt().run()

    def late(text: str) -> str:
        partition.storage.objects[RESULT] = other.storage.objects[RESULT]
        partition.pulse.late = True
        return text.upper()

    partition.model.says = late
    assert (await partition.attempt().run()).outcome == Outcome.COMMITTED
    assert not [key for key in partition.storage.objects if key.startswith(LAYOUT.ledger(0))]


async def test_a_torn_result_is_replaced(partition: Partition) -> None:
    partition.storage.objects[RESULT] = b"PAR1 torn"
    assert (await partition.attempt().run()).totals.ok == 3
    assert len(rows(partition)) == 3


async def test_a_rerun_keeps_what_stands_and_asks_about_the_rest(partition: Partition) -> None:
    del partition.storage.objects["t/b.txt"]
    first = await partition.attempt().run()
    assert (first.totals.ok, first.totals.retryable_errors) == (2, 1)
    partition.storage.objects["t/b.txt"] = b"two"
    assert (await partition.attempt(generation=2).run()).totals.ok == 3
    assert sorted(partition.model.asked) == ["one", "three", "two"]
    assert {key: row["generation"] for key, row in rows(partition).items()} == {
        "t/a.txt": 1,
        "t/b.txt": 2,
        "t/c.txt": 1,
    }


async def test_it_is_given_up_after_attempts_without_progress(partition: Partition) -> None:
    outcome = await partition.attempt(4).run()
    assert outcome.outcome == Outcome.GIVEN_UP and not partition.model.asked


async def test_a_mistake_of_ours_ends_the_attempt_and_keeps_the_others_answers(
    partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = partition.run()
    fits, asked = run.chat.fit, partition.model.asked

    def mistaken(answer: Answer) -> str | None:
        if answer.text == "TWO":
            raise RuntimeError("a mistake of ours")
        return fits(answer)

    monkeypatch.setattr(run.chat, "fit", mistaken)
    with pytest.raises(RuntimeError):
        await partition.attempt(run=run).run()
    before = asked.copy()
    assert (await partition.attempt(2).run()).totals.ok == 3
    assert "two" in asked[len(before) :] and len(asked) < 2 * len(before) + 1


async def test_documents_of_the_same_content_are_asked_about_once() -> None:
    partition = Partition({"t/a.txt": "one", "t/b.txt": "one", "t/c.txt": "two"})
    partition.documents[1] = replace(partition.documents[1], same_as="0/0")
    partition.plan()
    assert (await partition.attempt().run()).totals.ok == 3
    assert sorted(partition.model.asked) == ["one", "two"]
    assert rows(partition)["t/b.txt"]["same_as"] == "t/a.txt"


async def test_documents_of_the_same_text_are_asked_about_once() -> None:
    partition = Partition({"t/a.txt": "one", "t/b.html": "<p>one</p>", "t/c.txt": "two"}, duplicates="text")
    assert (await partition.attempt().run()).totals.ok == 3
    assert sorted(partition.model.asked) == ["one", "two"]
    shared = [row for row in rows(partition).values() if row["same_as"]]
    assert len(shared) == 1 and shared[0]["cost_usd"] == 0.0


async def test_an_ended_attempt_is_freed_without_the_collector(partition: Partition) -> None:
    gc.disable()
    try:
        attempt = partition.attempt()
        await attempt.run()
        partition.pulse.details = dict
        freed = weakref.ref(attempt._answered)
        del attempt
        await asyncio.sleep(0.05)
        assert freed() is None
    finally:
        gc.enable()
