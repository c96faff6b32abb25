"""Object storage: atomic and conditional PUTs, checked GETs, streamed listings, errors that name bucket and key.

obstore carries the data, boto3 resolves credentials, region and endpoint (see `batch.aws`) and lists what others wrote
(see `batch.listing`). Whatever decides a race is sent exactly once: with a client's retries on, a conditional
PUT that succeeded can come back as a failed precondition.
"""

from __future__ import annotations

import asyncio
import atexit
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from datetime import timedelta
from functools import partial
from typing import IO, TYPE_CHECKING, Any, cast

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from batch import aws
from batch.listing import PAGE, ObjectEntry, Page, list_page, lists_by_folders
from batch.lookahead import STRETCHES, pages_ahead
from batch.ranged_file import RangedFile
from batch.storage_errors import (
    BucketMissing,
    ObjectMissing,
    ObjectTooLarge,
    PreconditionFailed,
    StorageError,
    StorageRefused,
    StorageUnreachable,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from obstore.store import RetryConfig

__all__ = [
    "BucketMissing",
    "ObjectEntry",
    "ObjectMissing",
    "ObjectTooLarge",
    "PreconditionFailed",
    "Storage",
    "StorageError",
    "StorageRefused",
    "StorageUnreachable",
]

REQUEST_TIMEOUT = "60s"
CONNECT_TIMEOUT = "5s"
RETRIES: RetryConfig = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=20),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=3), "base": 2},
}
NO_RETRIES: RetryConfig = {"max_retries": 0, "retry_timeout": timedelta(seconds=30)}
DELETE_BATCH = 500
DELETES_AT_ONCE = 8
"""Pages of 1,000 keys that are deleted at once: there may be as many objects as documents."""


class Storage:
    """All buckets, by name. One a process; every method may be called from many tasks at once.

    Args:
        observe: called with (operation, seconds) after each request, for metrics.
        concurrency: requests in flight at once at most, over all buckets.
    """

    def __init__(self, *, observe: Callable[[str, float], None] | None = None, concurrency: int = 256) -> None:
        self._observe = observe
        self._slots = asyncio.Semaphore(concurrency)
        self._stores: dict[tuple[str, bool], S3Store] = {}
        self._settings: aws.AwsSettings | None = None
        self._config: dict[str, Any] | None = None
        self._boto3: Any = None
        self._by_folders: dict[str, bool] = {}
        self._listing: ThreadPoolExecutor | None = None

    def _store(self, bucket: str, *, retry: bool = True) -> S3Store:
        store = self._stores.get((bucket, retry))
        if store is None:
            config = self._resolve()
            store = S3Store(bucket, retry_config=RETRIES if retry else NO_RETRIES, **config)
            self._stores[bucket, retry] = store
        return store

    def _resolve(self) -> dict[str, Any]:
        if self._config is None:
            # A process that ends while obstore's threads wind down sometimes aborts (seen in 13 of 55 short scripts).
            atexit.register(time.sleep, 0.1)
            from obstore.auth.boto3 import Boto3CredentialProvider

            settings = self._settings = aws.resolve()
            self._config = {
                "region": settings.region,
                "credential_provider": Boto3CredentialProvider(settings.session),
                "client_options": {
                    "timeout": REQUEST_TIMEOUT,
                    "connect_timeout": CONNECT_TIMEOUT,
                    "allow_http": (settings.endpoint or "").startswith("http://"),
                },
            }
            if settings.endpoint:
                self._config["endpoint"] = settings.endpoint
        return self._config

    def open(self) -> None:
        """Reads the settings, and loads what talks to S3: half a second, else spent by the first request of all.

        Blocking. Raises `StorageRefused` where the settings do not do.
        """
        self._lister()

    def _lister(self) -> Any:
        """boto3's client, for listings; safe to share between threads."""
        if self._boto3 is None:
            self._resolve()
            assert self._settings is not None
            self._boto3 = aws.s3_client(self._settings)
        return self._boto3

    @contextmanager
    def _translated(self, operation: str, bucket: str, key: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        except (BaseError, OSError) as error:
            raise self._explain(error, operation, bucket, key) from error
        finally:
            if self._observe:
                self._observe(operation, time.perf_counter() - started)

    def _explain(self, error: Exception, operation: str, bucket: str, key: str) -> StorageError:
        what = f"{operation} s3://{bucket}/{key}"
        reason = _reason(error)
        if isinstance(error, (AlreadyExistsError, PreconditionError)):
            return PreconditionFailed(f"{what}: {reason}")
        if "<Code>NoSuchBucket</Code>" in reason:
            return BucketMissing(f"{what}: there is no bucket {bucket!r} at {self._where()}")
        if isinstance(error, (NotFoundError, FileNotFoundError)):
            return ObjectMissing(f"{what}: no such object")
        if "External AWS credential provider" in reason:  # obstore's words: boto3 got none, so S3 was not even asked
            return StorageUnreachable(f"{what}: the AWS credentials cannot be had at the moment: {reason}")
        if isinstance(error, (PermissionDeniedError, UnauthenticatedError, PermissionError)):
            return StorageRefused(f"{what}: access refused by {self._where()}: {reason}")
        return StorageUnreachable(
            f"{what}: no usable answer from {self._where()} (AWS_ENDPOINT_URL_S3 sets the address): {reason}"
        )

    def _where(self) -> str:
        return self._settings.where if self._settings else "S3"

    async def get(self, bucket: str, key: str, *, etag: str | None = None, max_bytes: int | None = None) -> bytes:
        """The whole object. With `etag`, only that version of it, else `PreconditionFailed`."""
        return (await self._get(bucket, key, {"if_match": etag} if etag is not None else None, max_bytes))[0]

    async def get_entry(
        self, bucket: str, key: str, *, max_bytes: int | None = None
    ) -> tuple[bytes, ObjectEntry] | None:
        """The object with its etag, whichever version is there; None when there is none."""
        try:
            return await self._get(bucket, key, None, max_bytes)
        except ObjectMissing:
            return None

    async def _get(self, bucket: str, key: str, options: Any, max_bytes: int | None) -> tuple[bytes, ObjectEntry]:
        async with self._slots:
            with self._translated("get", bucket, key):
                result = await obstore.get_async(self._store(bucket), key, options=options)
                size = result.meta["size"]
                if max_bytes is not None and size > max_bytes:
                    raise ObjectTooLarge(f"s3://{bucket}/{key} has {size:,} bytes; the limit is {max_bytes:,}")
                return bytes(await result.bytes_async()), _entry(cast(Any, result.meta))

    async def get_many(
        self, bucket: str, wanted: list[tuple[str, str | None]], *, max_bytes: int
    ) -> list[bytes | None]:
        """Several small objects, each as `get` gives it, in one burst; None for each that `get` has to look at.

        At some hundred small objects a second a GET by itself costs 0.5 ms of CPU, most of it for waking threads; in a
        burst of 32 little more than half (measured).
        """
        store = self._store(bucket)
        started = time.perf_counter()
        asked: list[asyncio.Future[Any]] = []

        def read(answers: list[Any]) -> list[bytes | None]:
            found: list[bytes | None] = []
            for answer in answers:
                try:
                    usable = not isinstance(answer, BaseException) and answer.meta["size"] <= max_bytes
                    found.append(bytes(answer.bytes()) if usable else None)
                except (BaseError, OSError):
                    found.append(None)
            return found

        try:
            for key, etag in wanted:
                await self._slots.acquire()
                answer: asyncio.Future[Any]
                try:
                    version = {"if_match": etag} if etag else None
                    answer = asyncio.ensure_future(obstore.get_async(store, key, options=cast(Any, version)))
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
        """Size and etag, None when there is no such object."""
        async with self._slots:
            try:
                with self._translated("head", bucket, key):
                    return _entry(cast(Any, await obstore.head_async(self._store(bucket), key)))
            except ObjectMissing:
                return None

    async def put(self, bucket: str, key: str, data: bytes) -> str:
        """Writes the object whole, whatever was there; returns its etag."""
        return await self._put(bucket, key, data, None, retry=True)

    async def create(self, bucket: str, key: str, data: bytes) -> str:
        """Writes the object only if none is there; `PreconditionFailed` if one is. Sent once."""
        return await self._put(bucket, key, data, "create", retry=False)

    async def replace(self, bucket: str, key: str, data: bytes, *, etag: str) -> str:
        """Writes the object only over the version `etag`; `PreconditionFailed` if it is another. Sent once."""
        return await self._put(bucket, key, data, {"e_tag": etag}, retry=False)

    async def _put(self, bucket: str, key: str, data: bytes, mode: Any, *, retry: bool) -> str:
        async with self._slots:
            try:
                with self._translated("put", bucket, key):
                    result = await obstore.put_async(
                        self._store(bucket, retry=retry), key, data, mode=mode, use_multipart=False
                    )
                    return result["e_tag"] or ""
            except ObjectMissing:
                if isinstance(mode, dict):  # If-Match on an object that is gone
                    raise
                # obstore leaves the code out of a 404 for a PUT; there is nothing else that could be missing.
                message = f"put s3://{bucket}/{key}: there is no bucket {bucket!r} at {self._where()}"
                raise BucketMissing(message) from None

    async def delete(self, bucket: str, keys: Iterable[str]) -> None:
        """Deletes; keys that are not there are no error."""
        keys = list(keys)
        for start in range(0, len(keys), DELETE_BATCH):
            batch = keys[start : start + DELETE_BATCH]
            async with self._slots:
                try:
                    with self._translated("delete", bucket, batch[0]):
                        await obstore.delete_async(self._store(bucket), batch)
                except ObjectMissing:
                    pass

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
        with self._translated("list", bucket, prefix):
            stream = obstore.list(self._store(bucket), prefix or None, chunk_size=1000)
            async for page in stream:
                yield [_entry(meta) for meta in page]

    async def folders(self, bucket: str, prefix: str) -> list[str]:
        """The folders right below `prefix`, which ends with a slash, of our own objects; each with or without its own.

        The server puts their keys together: one page of answer for a thousand folders, however much lies in them.
        """
        with self._translated("list", bucket, prefix):
            found = await obstore.list_with_delimiter_async(self._store(bucket), prefix)
            return [str(folder) for folder in found["common_prefixes"]]

    async def source_pages(
        self, bucket: str, prefix: str, *, after: str = "", page_size: int = PAGE
    ) -> AsyncGenerator[list[ObjectEntry], None]:
        """As `pages`, of objects that others wrote, those after the key `after` only, in the order of the server.

        Their keys are exactly what S3 has (see `batch.listing`). Who comes back for a second page gets what follows
        read ahead (see `batch.lookahead`): close the generator where it is left before its end.
        """
        if self._listing is None:
            self._listing = ThreadPoolExecutor(max_workers=STRETCHES, thread_name_prefix="listing")
        loop, lister = asyncio.get_running_loop(), self._lister()

        async def fetch(after: str, token: str | None) -> Page:
            started = time.perf_counter()
            ask = partial(list_page, after=after, token=token, where=self._where(), most=page_size)
            async with self._slots:
                page = await loop.run_in_executor(self._listing, ask, lister, bucket, prefix)
            if self._observe:
                self._observe("list", time.perf_counter() - started)
            return page

        async with aclosing(pages_ahead(fetch, prefix=prefix, after=after)) as pages:
            async for page in pages:
                yield page

    async def lists_by_folders(self, bucket: str) -> bool:
        """Whether the server lists what is in `a/` before `a.txt`, as SeaweedFS does. S3 goes by the bytes of keys."""
        if bucket not in self._by_folders:
            ask = partial(lists_by_folders, self._lister(), bucket, where=self._where())
            self._by_folders[bucket] = await asyncio.to_thread(ask)
        return self._by_folders[bucket]

    async def list_all(self, bucket: str, prefix: str) -> list[ObjectEntry]:
        """A listing that is known to be small, in one list."""
        return [entry async for page in self.pages(bucket, prefix) for entry in page]

    def read_range(self, bucket: str, key: str, start: int, end: int, *, etag: str) -> bytes:
        """Bytes from `start` up to `end` of that version of an object, else `PreconditionFailed`; "" is any version.

        Blocking: for threads.
        """
        with self._translated("read", bucket, key):
            answer = obstore.get(self._store(bucket), key, options={"range": (start, end), "if_match": etag or None})
            return bytes(answer.bytes())

    @contextmanager
    def reading(self, bucket: str, key: str) -> Iterator[IO[bytes]]:
        """A seekable binary file of the object, read by ranges; blocking: for threads."""
        store = self._store(bucket)

        def read_range(start: int, end: int) -> bytes:
            return bytes(obstore.get_range(store, key, start=start, end=end))

        with (
            self._translated("read", bucket, key),
            RangedFile(int(obstore.head(store, key)["size"]), read_range) as file,
        ):
            yield cast(IO[bytes], file)


def _entry(meta: Any) -> ObjectEntry:
    return ObjectEntry(meta["path"], int(meta["size"]), meta["e_tag"] or "")


def _reason(error: Exception) -> str:
    """The telling lines of obstore's long messages, without its debug dump."""
    text = str(error).split("Debug source:", maxsplit=1)[0]
    return " ".join(text.split())[:400]
