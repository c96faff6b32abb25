"""What an incremental run asks about: the listing held against the state of the job's last run, as both come in order.

listing (sorted by key) + state (sorted by key) -> each document with its reason -> plan
                                                -> what the listing lacks -> deleted/shard-00000.parquet
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batch.layout import bucket_and_key
from batch.planning import CHANGED, FULL, JOB_CHANGED, NEW, RETRIED, UNCHANGED, PlannedDocument
from batch.result_file import ERROR
from batch.state import Entry, by_key

_DELETED: list[pa.Field[Any]] = [
    pa.field("document_id", pa.string()),
    pa.field("etag", pa.string()),
    pa.field("result", pa.string()),
]
DELETED_SCHEMA = pa.schema(_DELETED)
AT_ONCE = 10_000


def content_hash(data: bytes) -> str:
    """32 hex digits of a document's bytes: what tells whether it changed where the etag lies."""
    return hashlib.sha256(data).hexdigest()[:32]


class Comparison:
    """One shard's stretch of the listing, held against the state. Blocking: for threads."""

    def __init__(self, entries: Iterable[Entry], *, fingerprint: str, full: bool) -> None:
        """`entries` begin where the shard does. `full`: whatever it was asked before, each document is asked again."""
        self._objects = by_key(entries)
        self._fingerprint, self._full = fingerprint, full
        self._ahead: tuple[str, dict[str, Entry]] | None = next(self._objects, None)
        self._key, self._known = "", dict[str, Entry]()
        self._gone: list[Entry] = []
        self._deleted = 0
        self._buffer = io.BytesIO()
        self._writer = pq.ParquetWriter(self._buffer, DELETED_SCHEMA, compression="zstd")

    def compare(self, documents: list[PlannedDocument]) -> list[PlannedDocument]:
        """The documents, which come sorted by key, with their reasons."""
        return [self._judged(document) for document in documents]

    def _judged(self, document: PlannedDocument) -> PlannedDocument:
        key = bucket_and_key(document.uri)[1]
        if key != self._key:
            self._advance(key)
        entry = self._known.pop(document.document_id, None)
        if entry is None:
            return replace(document, reason=NEW)
        if self._full:
            return replace(document, reason=FULL)
        if entry.fingerprint != self._fingerprint:
            return replace(document, reason=JOB_CHANGED)
        if entry.status == ERROR and entry.retryable:
            return replace(document, reason=RETRIED)
        if entry.etag != document.etag:
            return replace(document, reason=CHANGED, previous=entry.result, content_hash=entry.content_hash)
        return replace(document, reason=UNCHANGED, previous=entry.result)

    def _advance(self, key: str) -> None:
        """Goes to the object of this key; what is passed on the way is not there any more."""
        self._gone += self._known.values()
        self._known = {}
        while self._ahead is not None and self._ahead[0] < key:
            self._gone += self._ahead[1].values()
            self._ahead = next(self._objects, None)
        if self._ahead is not None and self._ahead[0] == key:
            self._known = self._ahead[1]
            self._ahead = next(self._objects, None)
        self._key = key

    def settle(self, cursor: str) -> None:
        """Notes what is gone up to the key `cursor`, up to which the shard's documents were taken."""
        if self._key == cursor:
            self._gone += self._known.values()
            self._known = {}
        self._note([entry for entry in self._gone if entry.key <= cursor])
        self._gone = [entry for entry in self._gone if entry.key > cursor]

    def finish(self, *, last: bool) -> tuple[bytes, int]:
        """The file of what is gone, and how many documents that is. `last`: nothing more is listed after the shard."""
        if last:
            self._note([*self._gone, *self._known.values()])
            for some in self._rest():
                self._note(some)
        self._writer.close()
        return self._buffer.getvalue(), self._deleted

    def _rest(self) -> Iterator[list[Entry]]:
        some: list[Entry] = []
        while self._ahead is not None:
            some += self._ahead[1].values()
            self._ahead = next(self._objects, None)
            if len(some) >= AT_ONCE:
                yield some
                some = []
        yield some

    def _note(self, entries: list[Entry]) -> None:
        if entries:
            columns = {name: [getattr(entry, name) for entry in entries] for name in DELETED_SCHEMA.names}
            self._writer.write_table(pa.table(columns, schema=DELETED_SCHEMA))
            self._deleted += len(entries)
