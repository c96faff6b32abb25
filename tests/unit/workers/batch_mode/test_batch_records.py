"""Records of batches: each step is conditional, so that of two attempts at once one finds out that it is late."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from tests.memory_storage import MemoryStorage
from tests.unit.workers.batch_mode.records import LAYOUT
from workers.batch_mode.batch_records import CREATED, UPLOADED, BatchRecord, BatchRecords, Held, TakenOver, metadata_of

RECORD = BatchRecord(partition=7, generation=1, number=1, token="", created_at=1.0, documents=[0, 1])


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def records(storage: MemoryStorage) -> BatchRecords:
    return BatchRecords(storage, LAYOUT, 7)  # type: ignore[arg-type]


async def test_a_record_goes_from_announced_to_created_and_is_found_again(records: BatchRecords) -> None:
    held = await records.announce(RECORD)
    await records.step(held, state=UPLOADED, input_file="f")
    await records.step(held, state=CREATED, batch_id="b")
    (found,) = await records.read()
    assert found == held
    assert found.record == replace(RECORD, token=held.record.token, state=CREATED, input_file="f", batch_id="b")
    await records.void(held)
    assert await records.read() == []


async def test_one_number_is_announced_once(records: BatchRecords) -> None:
    await records.announce(RECORD)
    with pytest.raises(TakenOver):
        await records.announce(RECORD)


async def test_whoever_was_taken_over_finds_out_at_its_next_step(records: BatchRecords) -> None:
    late = await records.announce(RECORD)
    (other,) = await records.read()
    await records.void(other)
    with pytest.raises(TakenOver):
        await records.step(late, state=UPLOADED, input_file="f")
    again = await records.announce(RECORD)
    with pytest.raises(TakenOver):
        await records.step(late, state=UPLOADED, input_file="f")
    assert [held.record.token for held in await records.read()] == [again.record.token]


async def test_two_that_say_the_same_agree(records: BatchRecords) -> None:
    held = await records.announce(RECORD)
    twin = Held(held.record, held.etag)
    await records.step(held, state=CREATED, batch_id="b")
    await records.step(twin, state=CREATED, batch_id="b")
    assert twin == held


@pytest.mark.parametrize("fails", ["request", "answer"])
async def test_where_the_outcome_is_unknown_what_stands_decides(
    storage: MemoryStorage, records: BatchRecords, fails: str
) -> None:
    storage.lose = [fails]
    held = await records.announce(RECORD)
    storage.lose = [fails]
    await records.step(held, state=UPLOADED, input_file="f")
    (found,) = await records.read()
    assert found == held
    assert len(storage.puts) == (4 if fails == "request" else 2)


def test_metadata_keep_the_providers_bounds() -> None:
    metadata = metadata_of("r" * 600, RECORD)
    assert len(metadata) <= 16
    assert all(len(key) <= 64 and len(value) <= 512 for key, value in metadata.items())


async def test_only_records_of_documents_with_pages_name_those() -> None:
    storage = MemoryStorage()
    records = BatchRecords(storage, LAYOUT, 7)  # type: ignore[arg-type]
    pages: dict[str, dict[str, int | None]] = {"1": {"pages": 3, "pages_without_text": 1}}
    await records.announce(RECORD)
    await records.announce(replace(RECORD, number=2, pages=pages))
    named = ["pages" in orjson.loads(data) for _, data in sorted(storage.objects.items())]
    assert named == [False, True], "an older worker reads the others"
    assert [held.record.pages for held in await records.read()] == [{}, pages]


async def test_only_records_of_truncated_documents_name_them() -> None:
    """A worker of an earlier release, beside this one in a rolling update, reads all the others."""
    storage = MemoryStorage()
    records = BatchRecords(storage, LAYOUT, 7)  # type: ignore[arg-type]
    await records.announce(RECORD)
    await records.announce(replace(RECORD, number=2, truncated=[1]))
    named = ["truncated" in orjson.loads(data) for _, data in sorted(storage.objects.items())]
    assert named == [False, True]
    assert [held.record.truncated for held in await records.read()] == [[], [1]]
