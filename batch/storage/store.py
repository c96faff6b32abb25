"""Object storage: atomic and conditional PUTs, checked GETs, streamed listings, errors that name bucket and key.

How servers are reached, `batch.storage.buckets` knows. Whatever decides a race is sent exactly once: with a client's
retries on, a conditional PUT that succeeded can come back as a failed precondition.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from functools import partial
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

import obstore
from obstore.exceptions import (
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from batch.storage import plain_reads
from batch.storage.bucket_facts import BucketFacts
from batch.storage.buckets import Buckets, check_size
from batch.storage.errors import (
    BucketMissing,
    ObjectArchived,
    ObjectMissing,
    ObjectTooLarge,
    PreconditionFailed,
    StorageError,
    StorageRefused,
    StorageUnreachable,
)
from batch.storage.etags import bare, quoted
from batch.storage.listing import PAGE, ObjectEntry, Page, Position
from batch.storage.listing_pages import DIRECTORY_BUCKET
from batch.storage.lookahead import STRETCHES, pages_ahead
from batch.storage.ranged_file import RangedFile

if TYPE_CHECKING:
    from collections.abc import Iterator


__all__ = [
    "BucketMissing",
    "ObjectArchived",
    "ObjectEntry",
    "ObjectMissing",
    "ObjectTooLarge",
    "PreconditionFailed",
    "Storage",
    "StorageError",
    "StorageRefused",
    "StorageUnreachable",
]

DELETE_BATCH = 500
DELETES_AT_ONCE = 8
"""Pages of 1,000 keys that are deleted at once: there may be as many objects as documents."""
WHOLE_FOR_RANGE = 64 * 2**20
"""Bytes of the largest object that is read whole, again and again, where a server ignores ranges."""
EXAMINED_PAGES = 3
T = TypeVar("T")


class Storage:
    """All buckets, by name. One a process; every method may be called from many tasks at once.

    Args:
        observe: called with (operation, seconds) after each request, for metrics.
        concurrency: requests in flight at once at most, over all buckets.
    """

    def __init__(self, *, observe: Callable[[str, float], None] | None = None, concurrency: int = 256) -> None:
        self._observe = observe
        self._buckets = Buckets(observe)
        self._slots = asyncio.Semaphore(concurrency)
        self._listing: ThreadPoolExecutor | None = None

    def facts(self, bucket: str) -> BucketFacts:
        """What was found out about a bucket in this process."""
        return self._buckets.facts(bucket)

    def pay_for(self, bucket: str) -> None:
        """From now on says with each request that we pay for it (`source.requester_pays`)."""
        self._buckets.pay_for(bucket)

    def open(self) -> None:
        """Reads the settings, and loads what talks to S3: half a second, else spent by the first request of all.

        Blocking. Raises `StorageRefused` where the settings do not do.
        """
        self._buckets.open()

    async def get(self, bucket: str, key: str, *, etag: str | None = None, max_bytes: int | None = None) -> bytes:
        """The whole object. With `etag`, only that version of it, else `PreconditionFailed`."""
        return (await self._get(bucket, key, etag, max_bytes))[0]

    async def get_version(
        self, bucket: str, key: str, *, etag: str = "", max_bytes: int | None = None
    ) -> tuple[bytes, ObjectEntry]:
        """The whole object, and what the answer says of it. With `etag`, that version of it, else `PreconditionFailed`.

        A server may ignore the condition: what the answer says is the caller's to hold against what it wanted.
        """
        return await self._get(bucket, key, etag or None, max_bytes)

    async def get_entry(
        self, bucket: str, key: str, *, max_bytes: int | None = None
    ) -> tuple[bytes, ObjectEntry] | None:
        """The object with its etag, whichever version is there; None when there is none."""
        try:
            return await self._get(bucket, key, None, max_bytes)
        except ObjectMissing:
            return None

    async def _get(self, bucket: str, key: str, etag: str | None, max_bytes: int | None) -> tuple[bytes, ObjectEntry]:
        options: Any = {"if_match": quoted(etag)} if etag else None

        async def ask(store: S3Store) -> tuple[bytes, ObjectEntry]:
            result = await obstore.get_async(store, key, options=options)
            check_size(bucket, key, result.meta["size"], max_bytes)
            return bytes(await result.bytes_async()), _entry(cast(Any, result.meta))

        async with self._slots:
            with self._buckets.translated("get", bucket, key):
                if not self._buckets.facts(bucket).plain_reads:
                    try:
                        return await self._buckets.ask(bucket, ask)
                    except BaseError as error:
                        if not plain_reads.is_needed(error):
                            raise
                        self._buckets.note_plain(bucket, error)
                return await asyncio.to_thread(self._buckets.read_plainly, bucket, key, etag=etag, max_bytes=max_bytes)

    async def get_many(
        self, bucket: str, wanted: Sequence[ObjectEntry], *, max_bytes: int
    ) -> list[bytes | ObjectArchived | None]:
        """Several small objects as they were listed, in one burst; None for each that `get_version` has to look at.

        That is one that fails, but for an archived one, and one whose answer has another etag or size than was listed.

        At some hundred small objects a second a GET by itself costs 0.5 ms of CPU, most of it for waking threads; in a
        burst of 32 little more than half (measured).
        """
        store = self._buckets.store(bucket)
        started = time.perf_counter()
        asked: list[asyncio.Future[Any]] = []

        def read(answers: list[Any]) -> list[bytes | ObjectArchived | None]:
            found: list[bytes | ObjectArchived | None] = []
            for answer, entry in zip(answers, wanted, strict=True):
                if isinstance(answer, BaseException):
                    failure = (
                        self._buckets.explain(answer, "get", bucket, entry.key)
                        if isinstance(answer, BaseError)
                        else None
                    )
                    found.append(failure if isinstance(failure, ObjectArchived) else None)
                    continue
                try:
                    size, etag = answer.meta["size"], answer.meta["e_tag"] or ""
                    as_listed = size == entry.size <= max_bytes and bare(etag) == bare(entry.etag)
                    found.append(bytes(answer.bytes()) if as_listed else None)
                except (BaseError, OSError):
                    found.append(None)
            return found

        try:
            for entry in wanted:
                await self._slots.acquire()
                answer: asyncio.Future[Any]
                try:
                    version = {"if_match": quoted(entry.etag)} if entry.etag else None
                    answer = asyncio.ensure_future(obstore.get_async(store, entry.key, options=cast(Any, version)))
                except Exception as error:  # a key that cannot be asked for, say, is refused at once
                    answer = asyncio.get_running_loop().create_future()
                    answer.set_exception(error)
                answer.add_done_callback(lambda _: self._slots.release())
                asked.append(answer)
            answers = await asyncio.gather(*asked, return_exceptions=True)
        finally:
            for answer in asked:
                answer.cancel()
        found = await asyncio.to_thread(read, answers)
        if self._observe:
            seconds = time.perf_counter() - started
            for _ in found:
                self._observe("get", seconds)
        return found

    async def head(self, bucket: str, key: str) -> ObjectEntry | None:
        """Size, etag and time, None when there is no such object."""

        async def ask(store: S3Store) -> ObjectEntry:
            return _entry(cast(Any, await obstore.head_async(store, key)))

        async with self._slots:
            try:
                with self._buckets.translated("head", bucket, key):
                    try:
                        return await self._buckets.ask(bucket, ask)
                    except BaseError as error:
                        if not plain_reads.is_needed(error):
                            raise
                    return await asyncio.to_thread(self._buckets.head_plainly, bucket, key)
            except ObjectMissing:
                return None

    def described(self, bucket: str, key: str) -> ObjectEntry:
        """As `head`, of one that is there, else `ObjectMissing`. Blocking: for threads."""
        with self._buckets.translated("head", bucket, key):
            try:
                return self._buckets.ask_in_thread(bucket, lambda store: _entry(cast(Any, obstore.head(store, key))))
            except BaseError as error:
                if not plain_reads.is_needed(error):
                    raise
            return self._buckets.head_plainly(bucket, key)

    async def put(self, bucket: str, key: str, data: bytes) -> str:
        """Writes the object whole, whatever was there; returns its etag."""
        return await self._put(bucket, key, data, None, retry=True)

    async def create(self, bucket: str, key: str, data: bytes) -> str:
        """Writes the object only if none is there; `PreconditionFailed` if one is. Sent once."""
        return await self._put(bucket, key, data, "create", retry=False)

    async def replace(self, bucket: str, key: str, data: bytes, *, etag: str) -> str:
        """Writes the object only over the version `etag`; `PreconditionFailed` if it is another. Sent once."""
        return await self._put(bucket, key, data, {"e_tag": quoted(etag)}, retry=False)

    async def _put(self, bucket: str, key: str, data: bytes, mode: Any, *, retry: bool) -> str:
        async with self._slots:
            try:
                with self._buckets.translated("put", bucket, key):
                    result = await self._buckets.ask(
                        bucket,
                        lambda store: obstore.put_async(store, key, data, mode=mode, use_multipart=False),
                        retry=retry,
                    )
                    return result["e_tag"] or ""
            except ObjectMissing:
                if isinstance(mode, dict):  # If-Match on an object that is gone
                    raise
                # obstore leaves the code out of a 404 for a PUT; there is nothing else that could be missing.
                message = f"put s3://{bucket}/{key}: there is no bucket {bucket!r} at {self._buckets.where()}"
                raise BucketMissing(message) from None

    async def delete(self, bucket: str, keys: Iterable[str]) -> None:
        """Deletes; keys that are not there are no error."""
        keys = list(keys)
        for start in range(0, len(keys), DELETE_BATCH):
            batch = keys[start : start + DELETE_BATCH]
            async with self._slots:
                try:
                    with self._buckets.translated("delete", bucket, batch[0]):
                        await self._delete(bucket, batch)
                except ObjectMissing:
                    pass

    async def _delete(self, bucket: str, keys: list[str]) -> None:
        """Many at a time, one by one on a server that lacks that."""

        def ask(store: S3Store) -> Awaitable[None]:
            return obstore.delete_async(store, keys)

        try:
            await self._buckets.ask(bucket, ask)
        except (PermissionDeniedError, UnauthenticatedError, NotFoundError):
            raise
        except BaseError:
            if self._buckets.facts(bucket).single_deletes:
                raise
            self._buckets.note(bucket, single_deletes=True)
            try:
                await self._buckets.ask(bucket, ask)
            except BaseError:
                self._buckets.note(bucket, single_deletes=False)
                raise

    async def delete_below(self, bucket: str, prefix: str, goes: Callable[[str], bool] = lambda key: True) -> None:
        """Deletes our own objects below `prefix` whose key `goes`, several pages at once."""
        going = set[asyncio.Task[None]]()
        try:
            async for page in self.pages(bucket, prefix):
                keys = [entry.key for entry in page if goes(entry.key)]
                going.add(asyncio.create_task(self.delete(bucket, keys)))
                if len(going) == DELETES_AT_ONCE:
                    await asyncio.gather(*going)
                    going.clear()
            await asyncio.gather(*going)
        finally:
            for task in going:
                task.cancel()

    async def pages(self, bucket: str, prefix: str) -> AsyncIterator[list[ObjectEntry]]:
        """Pages of our own objects below `prefix`."""
        with self._buckets.translated("list", bucket, prefix):
            stream = obstore.list(self._buckets.store(bucket), prefix or None, chunk_size=1000)
            async for page in stream:
                yield [_entry(meta) for meta in page]

    async def folders(self, bucket: str, prefix: str) -> list[str]:
        """The folders right below `prefix`, which ends with a slash, of our own objects; each with or without its own.

        The server puts their keys together: one page of answer for a thousand folders, however much lies in them.
        """
        with self._buckets.translated("list", bucket, prefix):
            found = await obstore.list_with_delimiter_async(self._buckets.store(bucket), prefix)
            return [str(folder) for folder in found["common_prefixes"]]

    async def source_pages(
        self, bucket: str, prefix: str, *, after: str = "", page_size: int = PAGE
    ) -> AsyncGenerator[list[ObjectEntry], None]:
        """As `pages`, of objects that others wrote, those after the key `after` only, in the order of the server.

        Their keys are exactly what S3 has (see `batch.storage.listing`). Who comes back for a second page gets what
        follows read ahead (see `batch.storage.lookahead`): close the generator where it is left before its end.
        """
        if self._listing is None:
            self._listing = ThreadPoolExecutor(max_workers=STRETCHES, thread_name_prefix="listing")
        loop = asyncio.get_running_loop()

        async def fetch(after: str, position: Position | None) -> Page:
            started = time.perf_counter()
            ask = partial(self._buckets.page, bucket, prefix, position or Position(after), page_size)
            async with self._slots:
                page = await loop.run_in_executor(self._listing, ask)
            if self._observe:
                self._observe("list", time.perf_counter() - started)
            return page

        async with aclosing(pages_ahead(fetch, prefix=prefix, after=after)) as pages:
            async for page in pages:
                yield page

    async def examine_listing(self, bucket: str, prefix: str) -> None:
        """Follows a listing over its first, small pages, and begins one after its first key: five requests.

        Notes what the server does not honour. Raises `ListingBroken` where it cannot be followed, else `StorageError`.
        """

        def examine() -> None:
            position, first = Position(), ""
            for _ in range(EXAMINED_PAGES):
                page = self._buckets.page(bucket, prefix, position, 2)
                first = first or (page.entries[0].key if page.entries else "")
                if page.next is None:
                    break
                position = page.next
            if first and not bucket.endswith(DIRECTORY_BUCKET):
                self._buckets.page(bucket, prefix, Position(first), 2)

        async with self._slots:
            await asyncio.to_thread(examine)

    async def listed(self, bucket: str, key: str) -> ObjectEntry | None:
        """An object as the listing has it now; None: it has it no more."""
        async with aclosing(self.source_pages(bucket, key, page_size=2)) as pages:
            return next((entry for entry in await anext(pages, []) if entry.key == key), None)

    async def lists_by_folders(self, bucket: str) -> bool:
        """Whether the server lists what is in `a/` before `a.txt`, as SeaweedFS does. S3 goes by the bytes of keys."""
        return (await self._server(bucket)).startswith("seaweedfs")

    async def etags_are_versions(self, bucket: str) -> bool:
        """Whether every etag is another one after every change of its object: AWS says so of S3, nobody of others."""
        return await self._server(bucket) == "amazons3"

    async def _server(self, bucket: str) -> str:
        """The server's name for itself, in small letters. Raises `StorageError` where it cannot be had."""
        await asyncio.to_thread(self._buckets.find_bucket, bucket)
        return self._buckets.facts(bucket).server or ""

    async def list_all(self, bucket: str, prefix: str) -> list[ObjectEntry]:
        """A listing that is known to be small, in one list."""
        return [entry async for page in self.pages(bucket, prefix) for entry in page]

    def read_range(self, bucket: str, key: str, start: int, end: int, *, version: ObjectEntry | None = None) -> bytes:
        """Bytes from `start` up to `end` of that version of an object, else `PreconditionFailed`; None: of any.

        A version is what `head` said. Blocking: for threads. Raises `StorageRefused` for an object of more than 64 MiB
        where the server ignores ranges.
        """
        with self._buckets.translated("read", bucket, key):
            data, found = self._read_part(bucket, key, start, end, version)
            if version is not None and not _is_version(found, version):
                raise PreconditionFailed(f"read s3://{bucket}/{key}: another version came than was asked for")
            if len(data) != min(end, found.size) - start:
                raise StorageUnreachable(f"read s3://{bucket}/{key}: {len(data)} bytes came of {end - start}")
            return data

    def _read_part(
        self, bucket: str, key: str, start: int, end: int, version: ObjectEntry | None
    ) -> tuple[bytes, ObjectEntry]:
        options: Any = {"range": (start, end)}
        if version is not None and version.etag:
            options["if_match"] = quoted(version.etag)

        def ask(store: S3Store) -> tuple[bytes, ObjectEntry]:
            answer = obstore.get(store, key, options=options)
            return bytes(answer.bytes()), _entry(cast(Any, answer.meta))

        if not self._buckets.facts(bucket).plain_reads:
            try:
                return self._buckets.ask_in_thread(bucket, ask)
            except BaseError as error:
                if not plain_reads.is_needed(error):
                    raise
                self._buckets.note_plain(bucket, error)
        etag = version.etag if version is not None else None
        most = WHOLE_FOR_RANGE if version is None or version.size > WHOLE_FOR_RANGE else version.size
        try:
            return self._buckets.read_plainly(bucket, key, etag=etag, within=(start, end), max_bytes=most)
        except ObjectTooLarge:
            raise StorageRefused(
                f"read s3://{bucket}/{key}: {self._buckets.where()} ignores ranges (the header Range) and gives "
                f"the whole object, which is more than {WHOLE_FOR_RANGE:,} bytes: as rows it cannot be read from there"
            ) from None

    @contextmanager
    def reading(self, bucket: str, key: str) -> Iterator[IO[bytes]]:
        """A seekable binary file of the object, read by ranges; blocking: for threads."""
        entry = self.described(bucket, key)
        with self._buckets.translated("read", bucket, key):

            def read_range(start: int, end: int) -> bytes:
                return self._read_part(bucket, key, start, end, None)[0]

            with RangedFile(entry.size, read_range) as file:
                yield cast(IO[bytes], file)


def _entry(meta: Any) -> ObjectEntry:
    return ObjectEntry(
        meta["path"], int(meta["size"]), quoted(meta["e_tag"] or ""), modified=meta["last_modified"].timestamp()
    )


def _is_version(found: ObjectEntry, wanted: ObjectEntry) -> bool:
    same = not found.etag or not wanted.etag or bare(found.etag) == bare(wanted.etag)
    return same and found.size == wanted.size and (not found.modified or found.modified == wanted.modified)
