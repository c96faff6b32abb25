"""One of several that write an object wins, and each of them knows whether it did: what stands decides, no error."""

from __future__ import annotations

import asyncio
import math

import pytest

from batch.storage import compare_and_set as module
from batch.storage.compare_and_set import Standing, compare_and_set, update
from batch.storage.store import StorageRefused, StorageUnreachable
from tests.memory_storage import MemoryStorage

KEY = "runs/r/results/0.parquet"


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


async def at_once(seconds: float) -> None:
    await asyncio.sleep(0)


async def write(storage: MemoryStorage, data: bytes, over: str | None = None, patience: float = math.inf) -> Standing:
    return await compare_and_set(storage, "b", KEY, data, over=over, patience=patience, pause=at_once)


async def test_one_is_written_and_the_other_learns_what_stands(storage: MemoryStorage) -> None:
    first = await write(storage, b"of one")
    assert first == Standing(True, b"of one", storage.entry(KEY).etag)
    assert await write(storage, b"of the other") == Standing(False, b"of one", first.etag)
    second = await write(storage, b"of the other", over=first.etag)
    assert second.ours
    assert await write(storage, b"of one, late", over=first.etag) == Standing(False, b"of the other", second.etag)
    storage.objects.clear()
    assert await write(storage, b"of one, late", over=first.etag) == Standing(False, None)


@pytest.mark.parametrize("lose", [["request"], ["answer"], ["request", "request", "answer"], ["answer", "answer"]])
@pytest.mark.parametrize("over", [None, b"earlier"])
async def test_a_lost_request_is_sent_again_and_a_lost_answer_looked_for(
    storage: MemoryStorage, lose: list[str], over: bytes | None
) -> None:
    etag = await storage.put("b", KEY, over) if over is not None else None
    storage.lose = list(lose)
    assert (await write(storage, b"mine", over=etag)).ours
    assert storage.objects == {KEY: b"mine"}


async def test_a_412_for_ones_own_write_is_no_loss(storage: MemoryStorage) -> None:
    """The answer was lost, and whoever sits between sent the request a second time."""
    storage.before_put = lambda key: storage.objects.setdefault(key, b"mine") and None
    assert (await write(storage, b"mine")).ours


async def test_another_writer_comes_in_while_an_answer_is_lost(storage: MemoryStorage) -> None:
    storage.lose = ["request", ""]
    storage.before_put = lambda key: storage.objects.update({key: b"of the other"}) if len(storage.puts) == 2 else None
    assert await write(storage, b"mine") == Standing(False, b"of the other", storage.entry(KEY).etag)


async def test_of_many_at_once_one_wins(storage: MemoryStorage) -> None:
    storage.lose = ["answer", "request", "", "answer"]
    found = await asyncio.gather(*(write(storage, f"of {number}".encode()) for number in range(8)))
    (winner,) = (each for each in found if each.ours)
    assert {each.data for each in found} == {storage.objects[KEY]} == {winner.data}


async def test_a_conflict_that_left_nothing_behind_is_tried_again(storage: MemoryStorage) -> None:
    """Such as a 409 of S3: something else went on at that key, and is over."""
    storage.objects[KEY] = b"goes in a moment"
    read = storage.get_entry

    async def gone(bucket: str, key: str, *, max_bytes: int | None = None) -> None:
        del storage.objects[KEY]
        storage.get_entry = read  # type: ignore[method-assign]

    storage.get_entry = gone  # type: ignore[method-assign]
    assert (await write(storage, b"mine")).ours


async def test_storage_that_stays_away_or_refuses_is_said(storage: MemoryStorage) -> None:
    storage.fail = StorageUnreachable("503")
    with pytest.raises(StorageUnreachable):
        await write(storage, b"mine", patience=module.PAUSE_FIRST * 4)
    assert len(storage.puts) > 1
    storage.fail = StorageRefused("no right to")
    with pytest.raises(StorageRefused):
        await write(storage, b"mine")


async def test_who_waits_may_end_it(storage: MemoryStorage) -> None:
    class Drained(Exception): ...

    async def drained(seconds: float) -> None:
        raise Drained

    storage.fail = StorageUnreachable("503")
    with pytest.raises(Drained):
        await compare_and_set(storage, "b", KEY, b"mine", over=None, patience=math.inf, pause=drained)


async def test_an_update_starts_anew_from_what_another_one_wrote(storage: MemoryStorage) -> None:
    storage.before_put = lambda key: storage.objects.update({key: b"ab"}) if len(storage.puts) == 1 else None
    await update(storage, "b", KEY, lambda found: (found or b"") + b"c")
    assert storage.objects[KEY] == b"abc"
    await update(storage, "b", KEY, lambda found: None)
    assert storage.objects[KEY] == b"abc"
