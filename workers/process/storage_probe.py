"""Whether storage answers again that was away: what a pause waits for that it made."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import aclosing, suppress

from batch.corpus.key_list import ManifestBroken
from batch.corpus.keys import SourceKeys
from batch.job.job import Job
from batch.storage.errors import StorageError, StorageUnreachable
from batch.storage.layout import RunLayout
from batch.storage.listing import is_addressable
from batch.storage.store import Storage
from batch.workflows import contracts as c

TRIED = 3
"""Documents that are tried; each of a source that is away takes the seconds of its retries."""


async def storage_problem(storage: Storage, job: Job, run: c.RunRef) -> str:
    """What is still away of a run's output and source; "" if both answer.

    A refusal is an answer: then it is no outage that the run waits for, and it says itself what is wrong.
    """
    try:
        await _write(storage, RunLayout.of(run.output_uri, run.run_id))
        await _read(storage, job)
    except StorageUnreachable as error:
        return str(error)[:500]
    except (StorageError, ManifestBroken):
        pass
    return ""


async def _write(storage: Storage, layout: RunLayout) -> None:
    key = f"{layout.root}probe-{secrets.token_hex(6)}"
    await storage.put(layout.output.bucket, key, b"")
    with suppress(StorageError):
        await storage.delete(layout.output.bucket, [key])


async def _read(storage: Storage, job: Job) -> None:
    """A byte of one of the first documents that have any: one may be away for good."""
    keys = SourceKeys(storage, job.source, leave_refused=True)
    failures: list[StorageUnreachable] = []
    async with aclosing(keys.documents()) as pages:
        async for page in pages:
            for entry in page:
                if entry.size and entry.problem is None and is_addressable(entry.key):
                    try:
                        await asyncio.to_thread(storage.read_range, keys.prefixes.bucket, entry.key, 0, 1)
                        return
                    except StorageUnreachable as error:
                        failures.append(error)
                if len(failures) == TRIED:
                    break
            if len(failures) == TRIED:
                break
    if failures:
        raise failures[0]
