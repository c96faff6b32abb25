"""What an incremental run asks about: the listing held against the state of the job's last run, as both come in order.

listing (sorted by key) + state (sorted by key) -> each document with its reason -> plan
                                                -> what the listing lacks -> deleted/shard-00000.parquet
"""

from __future__ import annotations

import io
import pickle
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import groupby, islice
from operator import attrgetter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batch.corpus.planning import CHANGED, FULL, JOB_CHANGED, NEW, RETRIED, UNCHANGED, UNPROVEN, PlannedDocument
from batch.files.result_file import ERROR
from batch.files.state import Entry
from batch.storage.etags import is_proven, tells_versions
from batch.storage.layout import bucket_and_key, place_of

_DELETED: list[pa.Field[Any]] = [
    pa.field("document_id", pa.string()),
    pa.field("etag", pa.string()),
    pa.field("result", pa.string()),
]
DELETED_SCHEMA = pa.schema(_DELETED)
AT_ONCE = 10_000
MOST_KNOWN = 50_000
"""Entries that are held in memory, some 30 MB."""


class KnownEntries:
    """What the state knows of one object's documents, by id: in memory, or on disk where many rows are.

    Each entry is taken once; what is left at the end is not listed any more.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        remaining = iter(entries)
        self._entries = {entry.document_id: entry for entry in islice(remaining, MOST_KNOWN)}
        self._disk: sqlite3.Connection | None = None
        for entry in remaining:
            if self._disk is None:
                self._disk = sqlite3.connect("", check_same_thread=False)  # a temporary file, gone with the connection
                self._disk.execute("CREATE TABLE entry (id TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
            value = pickle.dumps(tuple(entry))
            self._disk.execute("INSERT OR REPLACE INTO entry VALUES (?, ?)", (entry.document_id, value))

    def take(self, document_id: str) -> Entry | None:
        """Returns the entry of a document, which is known no more from here on."""
        entry = self._entries.pop(document_id, None)
        if entry is not None or self._disk is None:
            return entry
        row = self._disk.execute("DELETE FROM entry WHERE id = ? RETURNING value", (document_id,)).fetchone()
        return Entry(*pickle.loads(row[0])) if row is not None else None

    def take_rest(self) -> Iterator[Entry]:
        """Yields all that was not taken."""
        yield from self._entries.values()
        self._entries = {}
        if self._disk is not None:
            for (value,) in self._disk.execute("SELECT value FROM entry"):
                yield Entry(*pickle.loads(value))
            self._disk.close()
            self._disk = None


NOTHING = KnownEntries()


class UnsortedListing(ValueError):
    """The server lists in no order that can be held against that of the state."""


class Comparison:
    """One shard's stretch of the listing, held against the state. Blocking: for threads."""

    def __init__(
        self,
        entries: Iterable[Entry],
        *,
        fingerprint: str,
        full: bool,
        within: str = "",
        by_folders: bool = False,
        trusted: bool = False,
    ) -> None:
        """`entries` begin where the shard does. `full`: whatever it was asked before, each document is asked again.

        `within`: the key of an object whose first rows are in the shard before; what is gone of it is not known.
        `trusted`: every etag of the store is another one after every change, whatever it is made of.
        """
        self._trusted = trusted
        self._place: Callable[[str], Any] = partial(place_of, by_folders=True) if by_folders else str
        self._objects = groupby(entries, key=attrgetter("key"))
        self._fingerprint, self._full, self._within = fingerprint, full, within
        self._ahead: tuple[str, Iterator[Entry]] | None = None
        self._key, self._at, self._known = "", self._place(""), NOTHING
        self._unread = False
        """Whether the object that is looked at could not be read to its end."""
        self._gone: list[Entry] = []
        self._deleted = 0
        self._buffer = io.BytesIO()
        self._writer = pq.ParquetWriter(self._buffer, DELETED_SCHEMA, compression="zstd")

    def begin(self) -> None:
        """Before all else."""
        self._ahead = next(self._objects, None)

    def judge(self, document: PlannedDocument) -> PlannedDocument:
        """The document with its reason. Documents come sorted by the keys of their objects, and all are the shard's."""
        key = bucket_and_key(document.uri)[1]
        if key != self._key:
            self._advance(key)
        if document.problem is not None and document.document_id == key:
            self._unread = True
        entry = self._known.take(document.document_id)
        if entry is None:
            return document.judged(NEW)
        if self._full:
            return document.judged(FULL)
        if entry.fingerprint != self._fingerprint:
            return document.judged(JOB_CHANGED)
        if entry.status == ERROR and entry.retryable:
            return document.judged(RETRIED)
        if entry.etag != document.etag:
            return document.judged(CHANGED, entry.result, entry.content_hash)
        if not self._is_same(document, entry):
            return document.judged(UNPROVEN, entry.result, entry.content_hash)
        return document.judged(UNCHANGED, entry.result)

    def _is_same(self, document: PlannedDocument, entry: Entry) -> bool:
        """Whether the same etag means the same content: it is a row's own hash, the MD5 of what was read, or S3's."""
        if document.is_planned or is_proven(entry.etag, entry.content_hash):
            return True
        return self._trusted and tells_versions(entry.etag)

    def _advance(self, key: str) -> None:
        """Goes to the object of this key; what is passed on the way is not there any more."""
        place = self._place(key)
        if place < self._at:
            raise UnsortedListing(
                f"the source lists {key!r} after {self._key!r}: an incremental run needs keys in the order of S3"
            )
        self._leave()
        while self._ahead is not None and self._place(self._ahead[0]) < place:
            self._pass()
        if self._ahead is not None and self._ahead[0] == key:
            self._known = KnownEntries(self._ahead[1])
            self._ahead = next(self._objects, None)
        self._key, self._at = key, place

    def _pass(self) -> None:
        """The next object of the state is not listed any more, but for one whose rows are in the shard before."""
        assert self._ahead is not None
        if self._ahead[0] != self._within:
            self._note(self._ahead[1])
        self._ahead = next(self._objects, None)

    def _leave(self) -> None:
        """What the object that was looked at lacks is gone, if all that it holds was seen."""
        if self._known is not NOTHING:
            if self._key != self._within and not self._unread:
                self._note(self._known.take_rest())
            self._known = NOTHING
        self._unread = False

    def finish(self, *, last: bool, whole: bool = True) -> tuple[bytes, int]:
        """Returns the file of what is gone, and how many documents that is.

        `last`: nothing more is listed after the shard; `whole`: it has all of its last object, not only the first rows.
        """
        if whole:
            self._leave()
        while last and self._ahead is not None:
            self._pass()
        self._write()
        self._writer.close()
        return self._buffer.getvalue(), self._deleted

    def _note(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._gone.append(entry)
            if len(self._gone) >= AT_ONCE:
                self._write()

    def _write(self) -> None:
        if self._gone:
            columns = {name: [getattr(entry, name) for entry in self._gone] for name in DELETED_SCHEMA.names}
            self._writer.write_table(pa.table(columns, schema=DELETED_SCHEMA))
            self._deleted += len(self._gone)
            self._gone = []
