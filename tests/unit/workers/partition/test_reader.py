"""How the documents of a partition are read: a few at one go, one by one with patience, and what is concluded."""

from __future__ import annotations

from typing import Any

import pytest

from batch.corpus.planning import PlannedDocument
from batch.workflows.states import Outcome, Reason
from tests.unit.workers.partition.made_attempt import LAYOUT, Partition
from workers.extract import Unreadable
from workers.partition import reader as reader_module
from workers.partition.answered import Answered
from workers.partition.attempt_stop import AttemptStop, Stopped
from workers.partition.reader import BURST, BURST_BYTES, DocumentReader


def reader_of(partition: Partition, generation: int = 1) -> tuple[DocumentReader, AttemptStop]:
    """A reader by itself, in a run of its own."""
    run, attempt = partition.run(), partition.attempt(generation=generation)
    pulse: Any = partition.pulse
    stop = AttemptStop(run.brakes, pulse, attempt._ledger)
    answered = Answered(attempt._task, run, attempt._ledger, partition.metrics)
    return DocumentReader(partition.storage, run, attempt._task, stop, answered), stop


@pytest.fixture
def partition(monkeypatch: pytest.MonkeyPatch) -> Partition:
    monkeypatch.setattr(reader_module, "SOURCE_OUTAGE_AFTER", 0.0)
    return Partition({"t/a.txt": "one", "t/b.txt": "two", "t/c.txt": "three"})


def test_neighbours_are_read_together_up_to_a_number_and_a_size(partition: Partition) -> None:
    reader, _ = reader_of(partition)
    small = [PlannedDocument(str(number), f"s3://corpus/{number}", "e", 10) for number in range(BURST + 1)]
    large = [PlannedDocument(name, f"s3://corpus/{name}", "e", BURST_BYTES) for name in ("x", "y")]
    found = reader.groups([*small, *large])
    assert [len(group) for group, _ in found] == [BURST, 1, 1, 1]
    assert sum(found[0][1]) == BURST * 10


async def test_a_burst_leaves_what_does_not_come_to_a_fetch_by_itself(partition: Partition) -> None:
    reader, _ = reader_of(partition)
    partition.storage.away = lambda key: key == "t/b.txt"
    assert await reader.burst(partition.documents) == [b"one", None, b"three"]
    partition.storage.away = lambda key: False
    data, etag = await reader.fetch(partition.documents[1])
    assert (data, etag) == (b"two", partition.documents[1].etag)


async def test_a_source_that_gives_nothing_stops_the_attempt_and_makes_no_row(partition: Partition) -> None:
    partition.storage.away = lambda key: key.startswith("t/")
    reader, stop = reader_of(partition)
    with pytest.raises(Stopped):
        await reader.fetch(partition.documents[0])
    why = stop.why()
    assert why is not None and why.reason == Reason.STORAGE_UNREACHABLE
    outcome = await partition.attempt().run()
    assert (outcome.outcome, outcome.reason) == (Outcome.YIELDED, Reason.STORAGE_UNREACHABLE)
    assert LAYOUT.result(0, 0) not in partition.storage.objects and not partition.model.asked


async def test_one_document_that_its_source_does_not_give_is_an_error_of_its_own(partition: Partition) -> None:
    partition.storage.away = lambda key: key == "t/b.txt"
    outcome = await partition.attempt().run()
    assert (outcome.totals.ok, outcome.totals.errors_by_type) == (2, {"source_unreachable": 1})


async def test_a_document_that_changed_since_is_not_read_but_by_a_rerun(partition: Partition) -> None:
    partition.storage.objects["t/a.txt"] = b"uno"
    with pytest.raises(Unreadable) as changed:
        await reader_of(partition)[0].fetch(partition.documents[0])
    assert changed.value.error_type == "source_changed"
    data, etag = await reader_of(partition, generation=2)[0].fetch(partition.documents[0])
    assert (data, etag) == (b"uno", partition.storage.entry("t/a.txt").etag)
