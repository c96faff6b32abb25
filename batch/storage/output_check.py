"""Whether an output does what every promise hangs on: conditional writes. Tried with two small objects that go again.

A result file, the plan and the run's claim are each written by one of several that try: `If-None-Match: *` and
`If-Match` on PUT decide. A server that ignores them (and answers 200) has results overwritten and answers paid twice,
in silence.
"""

from __future__ import annotations

import re
import secrets
from contextlib import suppress

from batch.storage.errors import (
    ObjectMissing,
    PreconditionFailed,
    StorageError,
    StorageRefused,
    StorageUnreachable,
)
from batch.storage.etags import bare
from batch.storage.layout import S3Uri
from batch.storage.store import Storage

FIRST, SECOND = b"docbatch looks whether it may write here\n", b"docbatch looks whether it may replace this\n"
_LACKING = re.compile(r"NotImplemented|Not Implemented|InvalidRequest|\b(?:400|405|501)\b")
"""What stands in an answer to a request that a server does not know; not within a key, whose digits are any."""
WRONG_ETAG = '"d41d8cd98f00b204e9800998ecf8427e"'
"""That of no bytes at all."""


class OutputUnfit(StorageRefused):
    """The server of the output lacks what docbatch needs of it. The message names it."""


async def check_place(storage: Storage, place: S3Uri) -> None:
    """Writes, replaces, lists and deletes two objects below `place`: a dozen requests.

    Raises `OutputUnfit` naming what is lacking, or another `StorageError`.
    """
    bucket = place.bucket
    stem = f"{place.prefix}.docbatch-write-probe-{secrets.token_hex(6)}"
    keys = [f"{stem}/1", f"{stem}/2"]
    try:
        await storage.put(bucket, keys[0], FIRST)  # first without a condition: what fails here is no lack of those
        await _check_create(storage, bucket, keys[0])
        await _check_replace(storage, bucket, keys[0])
        await storage.create(bucket, keys[1], FIRST)
        await _check_listing(storage, bucket, stem, keys)
        await storage.delete(bucket, keys)
        if await storage.head(bucket, keys[0]) is not None:
            raise _unfit(bucket, "an object that was deleted (DELETE) is still there")
    finally:
        with suppress(StorageError):
            await storage.delete(bucket, keys)


async def _check_create(storage: Storage, bucket: str, key: str) -> None:
    try:
        await storage.create(bucket, key, SECOND)
    except PreconditionFailed:
        return
    except (StorageUnreachable, ObjectMissing) as error:
        raise _lacking(bucket, error) from None
    raise _unfit(bucket, "an object that is there was overwritten in spite of If-None-Match: *")


async def _check_replace(storage: Storage, bucket: str, key: str) -> None:
    found = await storage.get_entry(bucket, key)
    if found is None or found[0] != FIRST:
        raise _unfit(bucket, "an object is not what was written into it just before")
    first = found[1].etag
    if not bare(first):
        raise _unfit(bucket, "objects have no etag, so that If-Match on PUT cannot name a version")
    try:
        await storage.replace(bucket, key, SECOND, etag=WRONG_ETAG)
    except PreconditionFailed:
        pass
    except (StorageUnreachable, ObjectMissing) as error:
        raise _lacking(bucket, error) from None
    else:
        raise _unfit(bucket, "an object was overwritten in spite of If-Match with another etag")
    try:
        await storage.replace(bucket, key, SECOND, etag=first)
    except (PreconditionFailed, ObjectMissing) as error:
        raise _unfit(bucket, f"an object is not replaced with If-Match and its own etag {first}: {error}") from None
    except StorageUnreachable as error:
        raise _lacking(bucket, error) from None
    found = await storage.get_entry(bucket, key)
    if found is None or found[0] != SECOND:
        raise _unfit(bucket, "an object is not what was written into it just before")
    if bare(found[1].etag) == bare(first):
        raise _unfit(bucket, f"objects of other content have the same etag {first}, so that If-Match decides nothing")
    try:
        await storage.replace(bucket, key, FIRST, etag=first)
    except PreconditionFailed:
        return
    raise _unfit(bucket, "an object was overwritten in spite of If-Match with the etag of an earlier version")


async def _check_listing(storage: Storage, bucket: str, stem: str, keys: list[str]) -> None:
    listed = [entry.key for entry in await storage.list_all(bucket, f"{stem}/")]
    if listed != keys:
        raise _unfit(bucket, f"its listing does not have what was just written: {len(listed)} of {len(keys)} objects")


def _lacking(bucket: str, error: StorageError) -> StorageError:
    """A server that answers such a request with an error of its own lacks it; one that does not answer may not."""
    text = str(error)
    if _LACKING.search(text):
        return _unfit(bucket, f"conditional PUT (If-None-Match, If-Match) is refused: {text}")
    return error


def _unfit(bucket: str, what: str) -> OutputUnfit:
    return OutputUnfit(
        f"the server of the bucket {bucket!r} does not do conditional writes as S3 does: {what}. Results would be lost "
        "or paid twice: choose another store for the output (docs/deploy.md)"
    )
