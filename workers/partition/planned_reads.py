"""An object of the plan as it is read: whether that is the version that was listed, and what to say where it is not.

The listed etag is a hint. A server may ignore it as a condition, give another one in a listing than in a GET, give the
same to all objects, or none; its listing may have another size than the object. So what came is held against what was
listed, and where neither proves anything the listing is asked once more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

from batch.corpus.planning import PlannedDocument
from batch.storage.etags import bare, proves, same_form
from batch.storage.layout import bucket_and_key
from batch.storage.listing import ObjectEntry
from batch.storage.store import PreconditionFailed, Storage
from workers.extract import Unreadable

CHANGED = "source_changed"
LARGE = 2**20
"""Bytes whose hash takes as long (some 2 ms) as the event loop may wait."""
T = TypeVar("T")
log = logging.getLogger(__name__)


async def hashed(function: Callable[..., T], data: bytes, *arguments: object) -> T:
    """What a function that hashes `data` gives for the arguments; in a thread where there is much of it."""
    return function(*arguments) if len(data) <= LARGE else await asyncio.to_thread(function, *arguments)


async def read_planned(storage: Storage, document: PlannedDocument, *, limit: int) -> tuple[bytes, str]:
    """The planned version of the document's object, and the etag that its row has.

    Raises `Unreadable` (`source_changed`) for another version, or what may be one; else `StorageError`.
    """
    bucket, key = bucket_and_key(document.uri)
    wanted, facts = document.etag, storage.facts(bucket)
    condition = "" if facts.other_etags else wanted
    try:
        data, found = await storage.get_version(bucket, key, etag=condition, max_bytes=limit)
    except PreconditionFailed:
        data, found = await storage.get_version(bucket, key, max_bytes=limit)
    if await hashed(proves, data, wanted, data):
        return data, wanted
    changed = wanted and found.etag and bare(found.etag) != bare(wanted) and same_form(found.etag, wanted)
    if changed:
        raise Unreadable(CHANGED, f"{document.uri} changed after it was listed")
    if len(data) != document.size:
        raise Unreadable(CHANGED, await _other_size(storage, document, found, len(data)))
    if not wanted:
        return data, found.etag
    if bare(found.etag) == bare(wanted):
        return data, wanted
    listed = await storage.listed(bucket, key)
    if listed is None or listed.etag != wanted or listed.size != document.size:
        raise Unreadable(CHANGED, f"{document.uri} changed after it was listed")
    if not facts.other_etags:
        facts.other_etags = True
        log.warning(
            "s3://%s lists %s with the etag %s and gives it with %s: versions are told by size and by the listing",
            bucket,
            key,
            wanted,
            found.etag or "none",
        )
    return data, wanted


async def _other_size(storage: Storage, document: PlannedDocument, found: ObjectEntry, size: int) -> str:
    """What to say of an object that has another size than was listed."""
    listed = await storage.listed(*bucket_and_key(document.uri))
    if listed is None or (listed.etag, listed.size) != (document.etag, document.size):
        return f"{document.uri} changed after it was listed"
    return (
        f"{document.uri} is listed with {document.size:,} bytes and the etag {document.etag or 'none'}, and has "
        f"{size:,} bytes and the etag {found.etag or 'none'}: which version this is cannot be told"
    )
