"""An object written once, or over one version of it, by one of several that try: what stands decides who won.

An answer may be lost after the write took place, so an error alone says nothing, and a 412 may be for one's own write.
Hence each writer puts something of its own into the object (a token, its run, its time); where the outcome is not
certain the object is read, and who finds its own bytes has written them. Two that write the same bytes both have.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from batch.storage.errors import ObjectMissing, PreconditionFailed, StorageUnreachable
from batch.storage.etags import bare
from batch.storage.store import Storage

PATIENCE = 20.0
"""Seconds that storage may be away, as for any other request."""
PAUSE_FIRST, PAUSE_MOST = 0.2, 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Standing:
    """What stands at the key: ours, or what another one wrote; no data: another one has deleted it."""

    ours: bool
    data: bytes | None
    etag: str = ""


async def compare_and_set(
    storage: Storage,
    bucket: str,
    key: str,
    data: bytes,
    *,
    over: str | None,
    patience: float = PATIENCE,
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> Standing:
    """Writes the object over its version `over`, or, where that is None, if there is none; tells what stands then.

    While the outcome is unknown it is looked for, and the write sent again, for `patience` seconds; `pause` waits, and
    may raise to end that. Raises `StorageUnreachable` after that, and `StorageRefused`.
    """
    began, seconds = time.monotonic(), PAUSE_FIRST
    while True:
        try:
            if over is None:
                return Standing(True, data, await storage.create(bucket, key, data))
            return Standing(True, data, await storage.replace(bucket, key, data, etag=over))
        except (PreconditionFailed, ObjectMissing, StorageUnreachable) as failure:
            error = failure
        try:
            found = await storage.get_entry(bucket, key)
        except StorageUnreachable as failure:
            error = failure
        else:
            if found is not None and found[0] == data:
                return Standing(True, data, found[1].etag)
            if (bare(found[1].etag) if found is not None else None) != (bare(over) if over is not None else None):
                return Standing(False, *((found[0], found[1].etag) if found is not None else (None,)))
        # A server that goes on refusing the very version that stands is at fault: nobody waits for it without end.
        most = min(patience, PATIENCE) if isinstance(error, PreconditionFailed) else patience
        if time.monotonic() + seconds > began + most:
            raise error
        log.info("whether s3://%s/%s was written is not known yet: %s", bucket, key, error)
        await pause(seconds)
        seconds = min(seconds * 2, PAUSE_MOST)


async def update(storage: Storage, bucket: str, key: str, change: Callable[[bytes | None], bytes | None]) -> bool:
    """Writes what `change` makes of what stands (None: nothing does), and again of what another one wrote meanwhile.

    Where it makes nothing, all stays as it is, and this is False. Raises as `compare_and_set` does.
    """
    standing = None
    while standing is None or not standing.ours:
        found = await storage.get_entry(bucket, key)
        data = change(found[0] if found is not None else None)
        if data is None:
            return False
        standing = await compare_and_set(storage, bucket, key, data, over=found[1].etag if found is not None else None)
    return True
