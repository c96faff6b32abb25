"""The rows of one object as documents of the plan, in the order of the object, each with the cursor behind it.

A row's id is `KEY#ID`, ID being the value of `source.id_field`, else a hash of the row's text; a second row of the same
id is `KEY#ID#2`. So a row that is put in, or taken out, moves the id of no other.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow.parquet as pq

from batch.corpus.cursor import cursor_within, parse_cursor
from batch.corpus.planning import PlannedDocument, ShardCutter
from batch.files.plan_file import read_footer
from batch.schema.error_types import ErrorType
from batch.storage.errors import ObjectArchived, ObjectMissing, PreconditionFailed, StorageRefused
from batch.storage.layout import RunLayout, bucket_and_key
from batch.storage.store import Storage
from workers.sources.objects import SourceObject
from workers.sources.row import Broken, SourceRow

CACHE_KIB = 16 * 1024
LEFT_OUT = "while the plan was made of it; its rows from there on are left out"


def row_documents(
    source: SourceObject, rows: Iterator[SourceRow], seen: Occurrences, *, leave_refused: bool = False
) -> Iterator[tuple[PlannedDocument, str]]:
    """Yields each of the rows, and one more document for the object itself if it cannot be read to its end.

    `seen` has the rows before. `leave_refused`: that it may not be read is the object's own, too. Blocking. Raises
    `StorageError` for what is not this object's own.
    """
    uri = source.uri
    try:
        for row in rows:
            count = seen.add(row.identity)
            document_id = f"{source.key}#{row.identity}" + (f"#{count}" if count > 1 else "")
            document = PlannedDocument(
                document_id, uri, row.etag, row.size, content=row.content, row=row.fields, problem=row.problem
            )
            yield document, cursor_within(source.key, source.version, row.place)
        return
    except Broken as error:
        problem = f"{ErrorType.BROKEN_OBJECT}: {uri}: {error}"
    except PreconditionFailed:
        problem = f"{ErrorType.OBJECT_CHANGED}: {uri} changed {LEFT_OUT}"
    except ObjectMissing:
        problem = f"{ErrorType.OBJECT_GONE}: {uri} went {LEFT_OUT}"
    except ObjectArchived as error:
        problem = f"{ErrorType.ARCHIVED}: {error}; its rows are left out"
    except StorageRefused as error:
        if not leave_refused:
            raise
        problem = f"{ErrorType.OBJECT_REFUSED}: {error}; its rows from there on are left out"
    yield object_problem(source.key, uri, source.etag, problem), source.key


def object_problem(key: str, uri: str, etag: str, problem: str) -> PlannedDocument:
    """Returns the error row of an object as a whole; `problem` is `TYPE: message`."""
    return PlannedDocument(key, uri, etag, 0, problem=problem)


def count_planned(storage: Storage, layout: RunLayout, shard: int, uri: str, seen: Occurrences) -> None:
    """Counts the ids of an object's rows in the plans before `shard`, back to the one in which the object begins.

    Blocking.
    """
    key = bucket_and_key(uri)[1]
    prefix = f"{key}#"
    for number in range(shard - 1, -1, -1):
        with storage.reading(layout.output.bucket, layout.plan(number)) as file:
            plan = pq.ParquetFile(file)
            for group in range(plan.num_row_groups):
                table = plan.read_row_group(group, columns=["document_id", "uri"])
                for document_id, of in zip(*(column.to_pylist() for column in table.columns), strict=True):
                    if of == uri and document_id.startswith(prefix):
                        seen.add(document_id[len(prefix) :].partition("#")[0])
        start_key, within, _ = parse_cursor(
            read_footer(storage, layout.output.bucket, layout.plan(number)).start_cursor
        )
        if within is None or start_key != key:
            return


@dataclass
class OpenObject:
    """An object whose rows are being planned. It may outlive a shard: then the row that did not fit waits in it."""

    key: str
    documents: Iterator[tuple[PlannedDocument, str]]
    seen: Occurrences
    _waiting: tuple[PlannedDocument, str] | None = None

    def fill(self, cutter: ShardCutter, at_most: int) -> bool | None:
        """Adds up to `at_most` documents. True: the shard is full; False: the object is at its end; None: neither."""
        for _ in range(at_most):
            self._waiting = self._waiting or next(self.documents, None)
            if self._waiting is None:
                return False
            if not cutter.add(*self._waiting):
                return True
            self._waiting = None
        return None

    def close(self) -> None:
        """Gives memory and disk back."""
        self.seen.close()


class Occurrences:
    """Counts how often each row id came in an object so far, in bounded memory: on disk where there are many.

    Ids are kept as hashes of 64 bits: of ten million, two share one with a chance of three in a million, and then the
    second has a count too many, which harms nothing.
    """

    def __init__(self) -> None:
        # "" is a private file without a name that SQLite writes to only once the cache is full.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for pragma in (f"cache_size = -{CACHE_KIB}", "journal_mode = OFF", "synchronous = OFF"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.execute("CREATE TABLE seen (id INTEGER PRIMARY KEY, count INTEGER NOT NULL)")
        self._database.execute("BEGIN")

    def add(self, identity: str) -> int:
        """Tells which occurrence this is, from 1."""
        key = int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=8).digest(), signed=True)
        found = self._database.execute(
            "INSERT INTO seen VALUES (?, 1) ON CONFLICT (id) DO UPDATE SET count = count + 1 RETURNING count", (key,)
        ).fetchone()
        return int(found[0])

    def close(self) -> None:
        """Gives the disk back."""
        self._database.close()
