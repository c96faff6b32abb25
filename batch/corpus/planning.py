"""Documents to partitions: pure functions over a stream of objects, and the Parquet form of a shard's plan.

A plan file holds one shard: one row a document, one row group a partition, so that an activity reads just its own.
Its footer carries the start and end cursor and the partition range; the finisher checks that the cursors join up.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from batch.storage.layout import object_uri
from batch.storage.listing import ObjectEntry

if TYPE_CHECKING:
    from batch.corpus.duplicates import Duplicates

_PLAN_FIELDS: list[pa.Field[Any]] = [
    pa.field("document_id", pa.string()),
    pa.field("uri", pa.string()),
    pa.field("etag", pa.string()),
    pa.field("size", pa.int64()),
    pa.field("partition", pa.int64()),
    pa.field("content", pa.string()),
    pa.field("row", pa.string()),
    pa.field("reason", pa.string()),
    pa.field("previous", pa.string()),
    pa.field("content_hash", pa.string()),
    pa.field("same_as", pa.string()),
    pa.field("problem", pa.string()),
]
PLAN_SCHEMA = pa.schema(_PLAN_FIELDS)
MOST_PLAN_BYTES = 32 * 2**20
"""A shard whose plan file grew as large as this ends with the partition that made it so."""
_OF_DOCUMENT = [name for name in PLAN_SCHEMA.names if name != "partition"]
"""Columns that are fields of `PlannedDocument`, in its order."""
_fields_of = attrgetter(*_OF_DOCUMENT)
_content_of = attrgetter("etag", "size")
_REPEATING = ["partition", "reason", "previous", "same_as"]
"""Columns with few values: a dictionary of any other is as large as the column, and costs a third of the encoding."""


NEW, CHANGED, JOB_CHANGED, RETRIED, FULL, UNCHANGED = "new", "changed", "job_changed", "retried", "full", "unchanged"
UNPROVEN = "unproven"
"""Why an incremental run asks about a document: it is new; its etag is another one, or is the same and proves nothing
(what has the same content all the same is not asked about); what is asked is another; the last result was a retryable
error; all are asked again. Or why not."""


@dataclass(frozen=True, slots=True)
class PlannedDocument:
    """One document of the plan. `size` is that of its object, or of its row's text and other fields, in bytes.

    A row of a JSONL or Parquet object comes with its text (`content`) and its other fields (`row`, a JSON object); its
    `etag` is the hash of what the prompt shows of both. `reason` says why an incremental run asks about it, or does
    not. Where its last row may still hold, `previous` is the URI of that row's result file, and `content_hash` that of
    what it was the answer to. `same_as` says in which partition the document lies whose answer it shares (see
    `batch.corpus.duplicates`).

    `problem` (`TYPE: message`) says why there is no text, where that was found when the plan was made: such a document
    is never read again, nor asked about.
    """

    document_id: str
    uri: str
    etag: str
    size: int
    content: str | None = None
    row: str | None = None
    reason: str | None = None
    previous: str | None = None
    content_hash: str | None = None
    same_as: str | None = None
    problem: str | None = None

    @property
    def is_planned(self) -> bool:
        """Tells whether all that there is of it came with the plan: nothing is left to be fetched."""
        return self.content is not None or self.problem is not None

    @classmethod
    def of(cls, bucket: str, entry: ObjectEntry) -> PlannedDocument:
        """That of a whole object."""
        return cls(entry.key, object_uri(bucket, entry.key), entry.etag, entry.size)

    def judged(self, reason: str, previous: str | None = None, content_hash: str | None = None) -> PlannedDocument:
        """Returns the same with what an incremental run found: millions a run, so not by `dataclasses.replace`."""
        return PlannedDocument(
            self.document_id,
            self.uri,
            self.etag,
            self.size,
            self.content,
            self.row,
            reason,
            previous,
            content_hash,
            self.same_as,
            self.problem,
        )


@dataclass(frozen=True)
class PlanFooter:
    """What a shard's plan file says of itself. Cursors are the last place before the shard, and its own last: a key
    each, or a place within an object (`batch.corpus.cursor`)."""

    shard: int
    first_partition: int
    partitions: int
    documents: int
    start_cursor: str
    end_cursor: str
    last: bool
    reasons: dict[str, int] = field(default_factory=dict)
    """Of an incremental run: how many documents are asked about, or not, for which reason."""
    deleted: int = 0
    """Of an incremental run: documents of the last one that the listing has no more, up to the end cursor."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Keys up to the end cursor that are no documents, by the rule (`batch.corpus.hidden`)."""
    planned_at: str = ""
    """When the listing had been taken up to the end cursor: ISO 8601, UTC; "" in plans of older versions."""

    def to_metadata(self) -> dict[str, str]:
        values = {**self.__dict__, "reasons": json.dumps(self.reasons), "left_out": json.dumps(self.left_out)}
        return {f"docbatch.{name}": str(value) for name, value in values.items()}

    @classmethod
    def from_metadata(cls, metadata: dict[bytes, bytes]) -> PlanFooter:
        """Raises `KeyError` or `ValueError` for a file that is no plan of ours. Plans of older versions say less."""
        lacked = {
            "docbatch.reasons": "{}",
            "docbatch.deleted": "0",
            "docbatch.left_out": "{}",
            "docbatch.planned_at": "",
        }
        known = lacked | {
            key.decode(): value.decode() for key, value in metadata.items() if key.startswith(b"docbatch.")
        }
        text = {name: known[f"docbatch.{name}"] for name in cls.__dataclass_fields__}
        return cls(
            shard=int(text["shard"]),
            first_partition=int(text["first_partition"]),
            partitions=int(text["partitions"]),
            documents=int(text["documents"]),
            start_cursor=text["start_cursor"],
            end_cursor=text["end_cursor"],
            last=text["last"] == "True",
            reasons=json.loads(text["reasons"]),
            deleted=int(text["deleted"]),
            left_out=json.loads(text["left_out"]),
            planned_at=text["planned_at"],
        )


SHARD_CONTENT = 128 * 2**20
"""Bytes of rows' texts after which a shard is full: its plan file is made in memory."""


class ShardCutter:
    """Cuts a stream of documents into the partitions of one shard and writes them as its plan file.

    `add` returns False, taking nothing, once the shard is full; `finish` gives the file.
    """

    def __init__(
        self,
        *,
        shard: int,
        first_partition: int,
        start_cursor: str,
        documents: int,
        size: int,
        partitions: int,
        duplicates: Duplicates | None = None,
        judge: Callable[[PlannedDocument], PlannedDocument] | None = None,
    ) -> None:
        """`duplicates` marks those documents that share the answer of an earlier one; `judge` gives each its reason."""
        self._shard, self._first, self._start = shard, first_partition, start_cursor
        self._max_documents, self._max_size, self._max_partitions = documents, size, partitions
        self._duplicates, self._judge = duplicates, judge
        self._buffer = io.BytesIO()
        options: dict[str, Any] = {"compression": "zstd", "use_dictionary": _REPEATING, "write_statistics": False}
        self._writer = pq.ParquetWriter(self._buffer, PLAN_SCHEMA, **options)
        self._open: list[PlannedDocument] = []
        self._open_size = 0
        self._open_ids = set[str]()  # an object `a.jsonl#7` beside row 7 of `a.jsonl`: never in one partition
        self._partitions = 0
        self._documents = 0
        self._reasons = Counter[str]()
        self._cursor = start_cursor
        self._content = 0

    def _ends_partition(self, document: PlannedDocument) -> bool:
        return len(self._open) >= self._max_documents or (
            bool(self._open)
            and (self._open_size + document.size > self._max_size or document.document_id in self._open_ids)
        )

    def add(self, document: PlannedDocument, cursor: str) -> bool:
        """Takes the document, which lies before `cursor`; False, and it is not taken, once the shard is full."""
        ends = self._ends_partition(document)
        if ends and (self._partitions + 1 >= self._max_partitions or self._buffer.tell() >= MOST_PLAN_BYTES):
            return False
        content = document.size if document.content is not None else 0
        if self._content and self._content + content > SHARD_CONTENT:
            return False
        if ends:
            self._close_partition()
        self._content += content
        if self._judge is not None:
            document = self._judge(document)
        self._open.append(document)
        self._open_ids.add(document.document_id)
        self._open_size += document.size
        self._documents += 1
        if document.reason is not None:
            self._reasons[document.reason] += 1
        self._cursor = cursor
        return True

    def _close_partition(self) -> None:
        if not self._open:
            return
        number = self._first + self._partitions
        rows = map(_fields_of, self._open)
        columns: dict[str, Sequence[Any]] = dict(zip(_OF_DOCUMENT, zip(*rows, strict=True), strict=True))
        columns["partition"] = [number] * len(self._open)
        if self._duplicates is not None:
            columns["same_as"] = self._duplicates.mark(map(_content_of, self._open), self._shard, number)
        self._writer.write_table(pa.table(columns, schema=PLAN_SCHEMA), row_group_size=len(self._open))
        self._partitions += 1
        self._open, self._open_size, self._open_ids = [], 0, set()

    @property
    def cursor(self) -> str:
        """Returns up to where documents were taken."""
        return self._cursor

    def finish(
        self, *, last: bool, deleted: int = 0, left_out: Mapping[str, int] | None = None, planned_at: str = ""
    ) -> tuple[bytes, PlanFooter]:
        self._close_partition()
        footer = PlanFooter(
            shard=self._shard,
            first_partition=self._first,
            partitions=self._partitions,
            documents=self._documents,
            start_cursor=self._start,
            end_cursor=self._cursor,
            last=last,
            reasons=dict(self._reasons),
            deleted=deleted,
            left_out=dict(left_out or {}),
            planned_at=planned_at,
        )
        self._writer.add_key_value_metadata(footer.to_metadata())
        self._writer.close()
        return self._buffer.getvalue(), footer


def documents_of(table: pa.Table) -> list[PlannedDocument]:
    """Returns the rows of (a row group of) a plan file. Those of older versions have fewer columns."""
    there = set(table.column_names)
    columns = (table.column(name).to_pylist() if name in there else [None] * table.num_rows for name in _OF_DOCUMENT)
    return [PlannedDocument(*row) for row in zip(*columns, strict=True)]
