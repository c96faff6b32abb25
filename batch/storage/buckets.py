"""How the buckets are reached: settings and clients, a bucket's region and address, and what went wrong in our words.

obstore carries the data, boto3 resolves credentials, region and endpoint (see `batch.storage.aws`), lists what others
wrote (see `batch.storage.listing`) and reads what obstore cannot (see `batch.storage.plain_reads`).
"""

from __future__ import annotations

import asyncio
import atexit
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from batch.storage import aws, plain_reads
from batch.storage.bucket_facts import BucketFacts, in_another_way, is_misplaced, refuses_path_style, served_by
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
from batch.storage.listing import ObjectEntry, Page, Position, read_quickly
from batch.storage.listing_pages import next_page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from obstore.store import RetryConfig

REQUEST_TIMEOUT = "60s"
CONNECT_TIMEOUT = "5s"
RETRIES: RetryConfig = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=20),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=3), "base": 2},
}
NO_RETRIES: RetryConfig = {"max_retries": 0, "retry_timeout": timedelta(seconds=30)}
T = TypeVar("T")


class Buckets:
    """What all requests have in common, of whatever kind; `observe` is called with (operation, seconds) after each."""

    def __init__(self, observe: Callable[[str, float], None] | None) -> None:
        self._observe = observe
        self._stores: dict[tuple[str, bool], S3Store] = {}
        self._settings: aws.AwsSettings | None = None
        self._config: dict[str, Any] | None = None
        self._boto3: dict[bool, Any] = {}
        self._facts: dict[str, BucketFacts] = {}
        self._looking = threading.Lock()

    def facts(self, bucket: str) -> BucketFacts:
        """What was found out about the bucket."""
        return self._facts.setdefault(bucket, BucketFacts())

    def pay_for(self, bucket: str) -> None:
        """Says with each request that we pay for it."""
        if not self.facts(bucket).requester_pays:
            self.note(bucket, requester_pays=True)

    def note(self, bucket: str, **found: Any) -> None:
        for name, value in found.items():
            setattr(self.facts(bucket), name, value)
        for retry in (True, False):
            self._stores.pop((bucket, retry), None)

    def store(self, bucket: str, *, retry: bool = True) -> S3Store:
        store = self._stores.get((bucket, retry))
        if store is None:
            config = self.resolve()
            own = self.facts(bucket).config(bucket, self._settings)
            store = S3Store(bucket, retry_config=RETRIES if retry else NO_RETRIES, **{**config, **own})
            self._stores[bucket, retry] = store
        return store

    async def ask(self, bucket: str, ask: Callable[[S3Store], Awaitable[T]], *, retry: bool = True) -> T:
        """One request; once more where the bucket turns out to lie in another region, or to be addressed otherwise."""
        store = self.store(bucket, retry=retry)
        try:
            return await ask(store)
        except BaseError as error:
            if not is_misplaced(error) or not await asyncio.to_thread(self._look_for, bucket, store, error):
                raise
            return await ask(self.store(bucket, retry=retry))

    def ask_in_thread(self, bucket: str, ask: Callable[[S3Store], T]) -> T:
        """As `_ask`. Blocking."""
        store = self.store(bucket)
        try:
            return ask(store)
        except BaseError as error:
            if not is_misplaced(error) or not self._look_for(bucket, store, error):
                raise
            return ask(self.store(bucket))

    def _look_for(self, bucket: str, asked: S3Store, error: Exception) -> bool:
        """Finds out where a bucket lies and how it is addressed. Whether that is another way than `asked`. Blocking."""
        with self._looking:
            if asked not in (self._stores.get((bucket, True)), self._stores.get((bucket, False))):
                return True  # somebody has found out meanwhile
            assert self._settings is not None
            found = in_another_way(self._client, bucket, self.facts(bucket), self._settings, error)
            if found:
                self.note(bucket, **found)
            return bool(found)

    def resolve(self) -> dict[str, Any]:
        """Reads the settings, once, for obstore. Raises `StorageRefused`."""
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
        """Reads the settings and loads the client. Blocking."""
        self._client()

    def _client(self, *, virtual: bool = False) -> Any:
        """boto3's client, for listings and what obstore cannot read; safe to share between threads."""
        if virtual not in self._boto3:
            self.resolve()
            assert self._settings is not None
            self._boto3[virtual] = _s3_client(self._settings, virtual=virtual)
        return self._boto3[virtual]

    def _client_of(self, bucket: str) -> Any:
        return self._client(virtual=self.facts(bucket).virtual)

    @contextmanager
    def translated(self, operation: str, bucket: str, key: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        except (BaseError, OSError) as error:
            # Not `from error`: what obstore says of itself may be as long as what was asked for.
            raise self.explain(error, operation, bucket, key) from None
        finally:
            if self._observe:
                self._observe(operation, time.perf_counter() - started)

    def explain(self, error: Exception, operation: str, bucket: str, key: str) -> StorageError:
        what = f"{operation} s3://{bucket}/{key}"
        reason, text = _reason(error), str(error)
        if isinstance(error, (AlreadyExistsError, PreconditionError)):
            return PreconditionFailed(f"{what}: {reason}")
        if "InvalidObjectState" in text:
            return ObjectArchived(f"s3://{bucket}/{key} is archived: restore it first")
        if is_misplaced(error):
            return StorageRefused(f"{what}: {self.facts(bucket).misplaced(bucket, self.where(), text)}: {reason}")
        if "<Code>NoSuchBucket</Code>" in text:
            return BucketMissing(f"{what}: there is no bucket {bucket!r} at {self.where()}")
        if isinstance(error, (NotFoundError, FileNotFoundError)):
            return ObjectMissing(f"{what}: no such object")
        if "External AWS credential provider" in reason:  # obstore's words: boto3 got none, so S3 was not even asked
            return StorageUnreachable(f"{what}: the AWS credentials cannot be had at the moment: {reason}")
        if isinstance(error, (PermissionDeniedError, UnauthenticatedError, PermissionError)):
            return StorageRefused(f"{what}: access refused by {self.where()}: {reason}")
        return StorageUnreachable(
            f"{what}: no usable answer from {self.where()} (AWS_ENDPOINT_URL_S3 sets the address): {reason}"
        )

    def where(self) -> str:
        return self._settings.where if self._settings else "S3"

    def note_plain(self, bucket: str, error: Exception) -> None:
        if plain_reads.is_of_server(error):
            self.facts(bucket).plain_reads = True

    def read_plainly(
        self,
        bucket: str,
        key: str,
        *,
        etag: str | None = None,
        within: tuple[int, int] | None = None,
        max_bytes: int | None = None,
    ) -> tuple[bytes, ObjectEntry]:
        """By boto3, which minds no header that it does not need. Blocking."""
        pays = self.facts(bucket).requester_pays
        try:
            data, entry = plain_reads.read(
                self._client_of(bucket), bucket, key, etag=etag, within=within, most=max_bytes, pays=pays
            )
        except plain_reads.FAILURES as error:
            raise plain_reads.explained(error, f"get s3://{bucket}/{key}", self.where()) from None
        if max_bytes is not None:
            check_size(bucket, key, len(data), max_bytes)
        return data, entry

    def head_plainly(self, bucket: str, key: str) -> ObjectEntry:
        try:
            return plain_reads.head(self._client_of(bucket), bucket, key, pays=self.facts(bucket).requester_pays)
        except plain_reads.FAILURES as error:
            raise plain_reads.explained(error, f"head s3://{bucket}/{key}", self.where()) from None

    def find_bucket(self, bucket: str) -> None:
        """Finds out how a bucket that is to be listed is addressed, and by what it is served: once. Blocking."""
        with self._looking:
            facts, client = self.facts(bucket), self._client_of(bucket)
            if facts.server is None:
                assert self._settings is not None
                self.note(bucket, **served_by(client, bucket, self._settings))

    def page(self, bucket: str, prefix: str, position: Position, most: int) -> Page:
        """A page of a listing; by another address where the server wants one. Blocking."""
        self.find_bucket(bucket)
        facts, store = self.facts(bucket), self.store(bucket)
        try:
            return next_page(self._client_of(bucket), bucket, prefix, position, facts, where=self.where(), most=most)
        except StorageRefused as error:
            if not refuses_path_style(str(error)) or not self._look_for(bucket, store, error):
                raise
        return next_page(self._client_of(bucket), bucket, prefix, position, facts, where=self.where(), most=most)


def _s3_client(settings: aws.AwsSettings, *, virtual: bool = False) -> Any:
    """A boto3 client of the same S3, for the source's listings. `virtual`: of buckets that want to be `BUCKET.HOST`."""
    from botocore.config import Config

    virtual = virtual or settings.virtual
    config = Config(
        retries={"total_max_attempts": 3, "mode": "standard"},
        s3={"addressing_style": "virtual" if virtual else "path" if settings.endpoint else "auto"},
        connect_timeout=5,
        read_timeout=60,
    )
    with aws.mistakes_named():
        client = settings.session.client(
            "s3", region_name=settings.region, endpoint_url=settings.endpoint, config=config
        )
    read_quickly(client)
    return client


def check_size(bucket: str, key: str, size: int, most: int | None) -> None:
    if most is not None and size > most:
        raise ObjectTooLarge(f"s3://{bucket}/{key} has {size:,} bytes; the limit is {most:,}")


def _reason(error: Exception) -> str:
    """The telling lines of obstore's long messages, without its debug dump."""
    text = str(error).split("Debug source:", maxsplit=1)[0]
    return " ".join(text.split())[:400]
