"""Object storage in a dictionary, with the conditional PUTs of the real one (see `test_memory_storage`), and faults."""

from __future__ import annotations

import hashlib
import io
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import IO

from batch.storage.etags import bare
from batch.storage.layout import place_of
from batch.storage.listing import ObjectEntry
from batch.storage.store import ObjectMissing, ObjectTooLarge, PreconditionFailed, Storage, StorageUnreachable


class MemoryStorage(Storage):
    """All buckets are one: a key is in `objects` whatever its bucket. Etags are those of S3, the MD5.

    Args:
        by_folders: whether it lists what is in `a/` before `a.txt`, as SeaweedFS does.

    Attributes:
        fail: what each PUT fails of, and nothing is written.
        lose: what happens to the next PUTs: the `request` is lost and nothing written, or the `answer` alone; "": all
            is well.
        before_put: called with the key before each PUT: another writer may come in between.
        reads: ranges that were read.
        asked: keys whose size and etag were asked for.
        puts: keys that were sent.
    """

    def __init__(self, *, by_folders: bool = False) -> None:
        super().__init__()
        self.objects: dict[str, bytes] = {}
        self.fail: Exception | None = None
        self.lose: list[str] = []
        self.before_put: Callable[[str], None] = lambda key: None
        self.reads: list[tuple[str, int, int]] = []
        self.asked: list[str] = []
        self.puts: list[str] = []
        self._by_folders = by_folders

    def entry(self, key: str) -> ObjectEntry:
        data = self.objects[key]
        return ObjectEntry(key, len(data), f'"{hashlib.md5(data).hexdigest()}"')

    async def get(self, bucket: str, key: str, *, etag: str | None = None, max_bytes: int | None = None) -> bytes:
        return (await self.get_version(bucket, key, etag=etag or "", max_bytes=max_bytes))[0]

    async def get_version(
        self, bucket: str, key: str, *, etag: str = "", max_bytes: int | None = None
    ) -> tuple[bytes, ObjectEntry]:
        entry = self.described(bucket, key)
        if etag and bare(etag) != bare(entry.etag):
            raise PreconditionFailed(key)
        if max_bytes is not None and entry.size > max_bytes:
            raise ObjectTooLarge(key)
        return self.objects[key], entry

    async def get_entry(
        self, bucket: str, key: str, *, max_bytes: int | None = None
    ) -> tuple[bytes, ObjectEntry] | None:
        return await self.get_version(bucket, key, max_bytes=max_bytes) if key in self.objects else None

    async def head(self, bucket: str, key: str) -> ObjectEntry | None:
        self.asked.append(key)
        return self.entry(key) if key in self.objects else None

    def described(self, bucket: str, key: str) -> ObjectEntry:
        if key not in self.objects:
            raise ObjectMissing(key)
        return self.entry(key)

    async def put(self, bucket: str, key: str, data: bytes) -> str:
        return self._write(key, data, lambda: None)

    async def create(self, bucket: str, key: str, data: bytes) -> str:
        def check() -> None:
            if key in self.objects:
                raise PreconditionFailed(key)

        return self._write(key, data, check)

    async def replace(self, bucket: str, key: str, data: bytes, *, etag: str) -> str:
        def check() -> None:
            if bare(self.described(bucket, key).etag) != bare(etag):
                raise PreconditionFailed(key)

        return self._write(key, data, check)

    def _write(self, key: str, data: bytes, check: Callable[[], None]) -> str:
        self.puts.append(key)
        self.before_put(key)
        lost = self.lose.pop(0) if self.lose else ""
        if self.fail is not None:
            raise self.fail
        if lost == "request":
            raise StorageUnreachable(f"put {key}: the request was lost")
        check()
        self.objects[key] = data
        if lost == "answer":
            raise StorageUnreachable(f"put {key}: the answer was lost")
        return self.entry(key).etag

    async def delete(self, bucket: str, keys: Iterable[str]) -> None:
        for key in keys:
            self.objects.pop(key, None)

    async def pages(self, bucket: str, prefix: str) -> AsyncIterator[list[ObjectEntry]]:
        entries = [self.entry(key) for key in sorted(self.objects) if key.startswith(prefix)]
        for start in range(0, len(entries), 1000):
            yield entries[start : start + 1000]

    async def folders(self, bucket: str, prefix: str) -> list[str]:
        below = (key.removeprefix(prefix) for key in self.objects if key.startswith(prefix))
        return sorted({f"{prefix}{name.partition('/')[0]}" for name in below if "/" in name})

    async def source_pages(
        self, bucket: str, prefix: str, *, after: str = "", page_size: int = 1
    ) -> AsyncGenerator[list[ObjectEntry], None]:
        place = partial(place_of, by_folders=self._by_folders)
        for key in sorted(self.objects, key=place):
            if key.startswith(prefix) and place(key) > place(after):
                yield [self.entry(key)]

    async def examine_listing(self, bucket: str, prefix: str) -> None:
        """Finds nothing amiss."""

    async def etags_are_versions(self, bucket: str) -> bool:
        return False

    async def lists_by_folders(self, bucket: str) -> bool:
        return self._by_folders

    def read_range(self, bucket: str, key: str, start: int, end: int, *, version: ObjectEntry | None = None) -> bytes:
        if version is not None and self.described(bucket, key).etag != version.etag:
            raise PreconditionFailed(key)
        assert 0 <= start < end <= self.described(bucket, key).size
        self.reads.append((key, start, end))
        return self.objects[key][start:end]

    @contextmanager
    def reading(self, bucket: str, key: str) -> Iterator[IO[bytes]]:
        self.described(bucket, key)
        yield io.BytesIO(self.objects[key])
