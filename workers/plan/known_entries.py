"""What the state knows of one object's documents, looked up by id: in memory, or on disk where they are many.

An object of whole text is one document; one of JSONL or Parquet may be millions of rows.
"""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice

from batch.files.state import Entry

MOST = 50_000
"""Entries that are held in memory, some 30 MB."""


class KnownEntries:
    """Each entry is taken once; what is left at the end is not listed any more."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        remaining = iter(entries)
        self._entries = {entry.document_id: entry for entry in islice(remaining, MOST)}
        self._disk: sqlite3.Connection | None = None
        for entry in remaining:
            if self._disk is None:
                self._disk = sqlite3.connect("", check_same_thread=False)  # a temporary file, gone with the connection
                self._disk.execute("CREATE TABLE entry (id TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
            value = pickle.dumps(tuple(entry))
            self._disk.execute("INSERT OR REPLACE INTO entry VALUES (?, ?)", (entry.document_id, value))

    def take(self, document_id: str) -> Entry | None:
        """The entry of a document, which is known no more from here on."""
        entry = self._entries.pop(document_id, None)
        if entry is not None or self._disk is None:
            return entry
        row = self._disk.execute("DELETE FROM entry WHERE id = ? RETURNING value", (document_id,)).fetchone()
        return Entry(*pickle.loads(row[0])) if row is not None else None

    def take_rest(self) -> Iterator[Entry]:
        """All that was not taken."""
        yield from self._entries.values()
        self._entries = {}
        if self._disk is not None:
            for (value,) in self._disk.execute("SELECT value FROM entry"):
                yield Entry(*pickle.loads(value))
            self._disk.close()
            self._disk = None
