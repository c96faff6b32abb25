"""The storage in memory that unit tests use does as the real one does on SeaweedFS: the same cases, for both."""

from __future__ import annotations

import asyncio

import pytest

from batch.local.stack import LocalStack
from batch.storage.compare_and_set import Standing, compare_and_set
from batch.storage.store import ObjectMissing, ObjectTooLarge, PreconditionFailed, Storage
from tests.memory_storage import MemoryStorage

B = "results"
WRONG = '"d41d8cd98f00b204e9800998ecf8427e"'


@pytest.fixture(params=[MemoryStorage, Storage])
def storage(request: pytest.FixtureRequest, env: LocalStack) -> Storage:
    made: Storage = request.param()
    return made


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    return f"contract/{request.node.name}/object"


async def test_create_and_replace_are_conditional(storage: Storage, key: str) -> None:
    first = await storage.create(B, key, b"one")
    with pytest.raises(PreconditionFailed):
        await storage.create(B, key, b"two")
    with pytest.raises(PreconditionFailed):
        await storage.replace(B, key, b"two", etag=WRONG)
    assert await storage.get(B, key) == b"one"
    second = await storage.replace(B, key, b"two", etag=first)
    assert second != first
    with pytest.raises(PreconditionFailed):
        await storage.replace(B, key, b"three", etag=first)
    found = await storage.get_entry(B, key)
    assert found is not None and (found[0], found[1].etag, found[1].size, found[1].key) == (b"two", second, 3, key)
    third = await storage.put(B, key, b"whatever is there")
    assert await storage.get(B, key, etag=third) == b"whatever is there"
    with pytest.raises(PreconditionFailed):
        await storage.get_version(B, key, etag=second)


async def test_what_is_not_there(storage: Storage, key: str) -> None:
    assert await storage.get_entry(B, key) is None and await storage.head(B, key) is None
    with pytest.raises(ObjectMissing):
        await storage.get(B, key)
    with pytest.raises(ObjectMissing):
        storage.described(B, key)
    with pytest.raises((PreconditionFailed, ObjectMissing)):
        await storage.replace(B, key, b"x", etag=WRONG)
    await storage.delete(B, [key])
    assert await storage.list_all(B, key) == []


async def test_reads(storage: Storage, key: str) -> None:
    await storage.put(B, key, b"0123456789")
    entry = await storage.head(B, key)
    assert entry is not None and (entry.key, entry.size) == (key, 10)
    assert (await storage.get_version(B, key, etag=entry.etag))[1].etag == entry.etag
    with pytest.raises(ObjectTooLarge):
        await storage.get(B, key, max_bytes=9)

    def ranges() -> tuple[bytes, bytes]:
        with storage.reading(B, key) as file:
            file.seek(4)
            return storage.read_range(B, key, 2, 5), file.read(3)

    assert await asyncio.to_thread(ranges) == (b"234", b"456")


async def test_listings(storage: Storage, key: str) -> None:
    folder = key.removesuffix("object")
    names = ["a/1", "a/2", "b/1", "c"]
    for name in reversed(names):
        await storage.put(B, folder + name, name.encode())
    assert [entry.key for entry in await storage.list_all(B, folder)] == [folder + name for name in names]
    assert {each.rstrip("/") for each in await storage.folders(B, folder)} == {f"{folder}a", f"{folder}b"}
    after = [entry.key async for page in storage.source_pages(B, folder, after=f"{folder}a/1") for entry in page]
    assert after == [folder + name for name in names[1:]]
    await storage.delete_below(B, folder, lambda each: each.endswith("1"))
    assert [entry.key for entry in await storage.list_all(B, folder)] == [f"{folder}a/2", f"{folder}c"]


async def test_of_many_writers_at_once_one_wins(storage: Storage, key: str) -> None:
    over: str | None = None
    for turn in range(3):
        writes = [compare_and_set(storage, B, key, f"{turn} of {n}".encode(), over=over) for n in range(8)]
        found: list[Standing] = await asyncio.gather(*writes)
        (winner,) = (each for each in found if each.ours)
        assert {(each.data, each.etag) for each in found} == {(winner.data, winner.etag)}
        over = winner.etag
