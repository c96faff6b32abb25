"""Durable answers of an unfinished partition: what a later attempt resumes from instead of paying again.

Answers are flushed about once a second while there are any, as small create-only objects named by generation, attempt
and a random token of the attempt, so that two attempts at once never overwrite each other. Each segment checks itself;
one that is torn, foreign or of another fingerprint is ignored and counted, never trusted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from dataclasses import dataclass

from batch.files.ledger_segment import LedgerName, Newest, decode_segment, encode_segment
from batch.storage.compare_and_set import compare_and_set
from batch.storage.layout import RunLayout
from batch.storage.store import ObjectMissing, Storage, StorageError, StorageRefused
from workers.documents.rows import Row
from workers.observe.metrics import Metrics

FLUSH_EVERY = 0.8
"""Seconds that an answer waits for company before its segment is sent."""
HOLD_AFTER = 2.0
"""Age in seconds of the oldest answer that is not durable at which intake stops."""
FLUSH_BYTES = 4 * 2**20
RETRY_MOST = 5.0
GIVE_UP_AFTER = 15.0
"""Seconds of refusals (no bucket, no right to write) after which a closing ledger lets its last answers go."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Replayed:
    """What the ledger already holds: the newest row of each document, and how far attempts of this dispatch got."""

    rows: dict[str, Row]
    chunks: dict[str, dict[str, Row]]
    """Document -> key of a chunk of it -> what `add_chunk` took for it; also of documents that have their row."""
    last_attempt: int
    """The last attempt of this generation and dispatch that made an answer durable; 0 if none did."""
    ignored: int


async def read_ledger(
    storage: Storage, layout: RunLayout, name: LedgerName, metrics: Metrics | None = None
) -> Replayed:
    """All segments of the partition, of any generation and attempt, newest row of a document winning."""
    newest = Newest()
    last_attempt = ignored = 0
    entries = await storage.list_all(layout.output.bucket, layout.ledger(name.partition))
    for start in range(0, len(entries), 32):
        batch = entries[start : start + 32]
        for entry, data in zip(
            batch, await asyncio.gather(*(_fetch(storage, layout, entry.key) for entry in batch)), strict=True
        ):
            if data is None:
                continue  # cleaned up since the listing
            segment = decode_segment(data)
            if segment is None or not name.is_beside(segment[0]):
                ignored += 1
                log.warning("ignoring ledger segment %s: torn, foreign or of another job", layout.uri(entry.key))
                continue
            written_by, found = segment
            newest.add(found)
            if (written_by.generation, written_by.dispatch) == (name.generation, name.dispatch):
                last_attempt = max(last_attempt, written_by.attempt)
    if metrics is not None and ignored:
        metrics.ledger_segments.labels("ignored").inc(ignored)
    return Replayed(newest.rows, newest.chunks, last_attempt, ignored)


async def _fetch(storage: Storage, layout: RunLayout, key: str) -> bytes | None:
    try:
        return await storage.get(layout.output.bucket, key)
    except ObjectMissing:
        return None


class Ledger:
    """The writing end, for one attempt. `add` never blocks; `ready` is what holds intake when S3 is slow or away."""

    def __init__(self, storage: Storage, layout: RunLayout, name: LedgerName, metrics: Metrics) -> None:
        self._storage, self._layout, self._name = storage, layout, name
        self._written = metrics.ledger_segments.labels("written")
        self.token = secrets.token_hex(6)
        self.has_answers = False
        """Whether it was given any, durable or about to be."""
        self._number = 0
        self._buffer: list[Row] = []
        self._size = 0
        self._oldest: float | None = None
        self._sending_since: float | None = None
        self._more = asyncio.Event()
        self._at_once = asyncio.Event()
        """Closing, or so many bytes that they wait for no company."""
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._refused_since: float | None = None
        self.refused: StorageRefused | None = None
        """Why S3 will not take answers until somebody acts; None while it may still come back by itself."""

    def start(self) -> None:
        self._task = asyncio.create_task(self._flush_always(), name=f"ledger-{self._name.partition}")

    def add(self, row: Row) -> None:
        """Takes an answer; it is durable at the latest one flush later."""
        self.has_answers = True
        self._buffer.append(row)
        self._size += len(row.get("output_text") or "") + len(row.get("text") or "") + 512
        if self._oldest is None:
            self._oldest = time.monotonic()
        self._more.set()
        if self._size >= FLUSH_BYTES:
            self._at_once.set()

    def add_chunk(self, document_id: str, key: str, fields: Row) -> None:
        """Takes the answer to one chunk of a document, which is no row of the results."""
        self.add({"document_id": document_id, "chunk": key, **fields})

    async def mark(self) -> None:
        """Leaves an empty segment: an attempt that found its work under way elsewhere is none without progress."""
        key = self._key(self._number)
        self._number += 1
        try:
            await self._storage.create(self._layout.output.bucket, key, encode_segment(self._name, []))
        except StorageError as error:
            log.warning("an attempt without progress is not marked: %s", error)

    def has_failed(self) -> bool:
        """Whether the flushing ended by a mistake of ours; `close` raises it."""
        return self._task is not None and self._task.done() and not self._closing

    def is_ready(self) -> bool:
        """Whether intake may go on: nothing has waited too long to become durable."""
        since = self._oldest if self._sending_since is None else self._sending_since  # what is sent is older
        return since is None or time.monotonic() - since < HOLD_AFTER

    async def close(self) -> None:
        """Flushes all there is, for as long as that takes."""
        self._closing = True
        self._at_once.set()
        self._more.set()
        if self._task is not None:
            await self._task

    async def _flush_always(self) -> None:
        while True:
            await self._more.wait()
            if self._oldest is not None:
                wait = self._oldest + FLUSH_EVERY - time.monotonic()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._at_once.wait(), max(0.0, wait))
            self._more.clear()
            if not self._closing:
                self._at_once.clear()
            if self._buffer:
                rows, self._sending_since = self._buffer, self._oldest
                self._buffer, self._size, self._oldest = [], 0, None
                await self._send(rows)
                self._sending_since = None
            if self._closing and not self._buffer:
                return

    def keys(self) -> list[str]:
        """Of all segments that this attempt has sent."""
        return [self._key(number) for number in range(self._number)]

    def _key(self, number: int) -> str:
        name = self._name
        return self._layout.segment(name.partition, name.generation, name.attempt, self.token, number)

    async def _send(self, rows: list[Row]) -> None:
        name = self._name
        key = self._key(self._number)
        self._number += 1
        data = encode_segment(name, rows)
        pause = 0.1
        while True:
            try:
                await compare_and_set(self._storage, self._layout.output.bucket, key, data, over=None, patience=0)
            except StorageError as error:
                log.warning("ledger segment not written yet, intake is held: %s", error)
                now = time.monotonic()
                if not isinstance(error, StorageRefused):
                    self.refused, self._refused_since = None, None
                elif self._refused_since is None:
                    self.refused, self._refused_since = error, now
                elif self._closing and now - self._refused_since > GIVE_UP_AFTER:
                    log.error("%d answers are lost: %s", len(rows), error)
                    return
                await asyncio.sleep(pause)
                pause = min(RETRY_MOST, pause * 2)
                continue
            self.refused, self._refused_since = None, None
            self._written.inc()
            return
