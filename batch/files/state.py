"""What a job's incremental runs know: of each document, the version that was asked about and where its result lies.

    STATE_URI/state/JOB/current.json                       which version holds now; moves by conditional PUT alone
    STATE_URI/state/JOB/RUN-gN-TOKEN/part-00000.parquet    a version: never changed, sorted by object key as S3 lists

A run is compared with the version that it found when it was claimed, and moves `current.json` to its own at its end.
If another run moved it meanwhile, the two are merged document by document first (`workers.finish.state_merge`).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from batch.storage.layout import StateLayout, place_of
from batch.storage.records import read_record
from batch.storage.store import Storage

VERSION = 1
KEPT = 10
"""Versions that stay beside the current one: a run may still be compared with the one that it found."""
NOTHING_LISTED = datetime.fromtimestamp(0, UTC)
"""When a version was listed of whose listing the end is not known: nothing is concluded from what it lacks."""

_FIELDS: list[pa.Field[Any]] = [
    pa.field("key", pa.string()),
    pa.field("document_id", pa.string()),
    pa.field("etag", pa.string()),
    pa.field("content_hash", pa.string()),
    pa.field("fingerprint", pa.string()),
    pa.field("status", pa.string()),
    pa.field("retryable", pa.bool_()),
    pa.field("processed_at", pa.timestamp("us", tz="UTC")),
    pa.field("listed_at", pa.timestamp("us", tz="UTC")),
    pa.field("seen_at", pa.timestamp("us", tz="UTC")),
    pa.field("result", pa.string()),
]
STATE_SCHEMA = pa.schema(_FIELDS)
_TIMES = ("processed_at", "listed_at", "seen_at")


class Entry(NamedTuple):
    """One document, in the order of `STATE_SCHEMA`. `result` is the URI of the result file that holds its row.

    `listed_at` is when the last run was claimed that had it in its plan; `seen_at` when the source had this version of
    it, as far as is known: its `etag` is of then.
    """

    key: str
    document_id: str
    etag: str
    content_hash: str | None
    fingerprint: str
    status: str
    retryable: bool | None
    processed_at: datetime
    listed_at: datetime
    seen_at: datetime
    result: str


@dataclass(frozen=True)
class StatePointer:
    """`current.json`: the version that holds, and the run whose listing it is of (`listed_at`: ISO 8601, UTC)."""

    name: str
    parts: int
    documents: int
    run_id: str
    generation: int
    listed_at: str
    by_folders: bool = False
    """Whether the server lists by folders (see `Storage.lists_by_folders`): then that is the order in here too."""
    merged: bool = False
    """Whether it holds what other runs saw too."""
    older: list[str] = field(default_factory=list)
    """Names of versions before it that still lie there, the last one first."""

    def to_bytes(self) -> bytes:
        return json.dumps({"version": VERSION, **asdict(self)}, indent=1).encode()


def another_order(layout: StateLayout) -> str:
    """Why a run cannot be compared with a state, and what to do."""
    return (
        f"the source lists its keys in another order than when the state at {layout.place} was written; remove that "
        "folder, and the run asks about everything"
    )


def version_name(run_id: str, generation: int) -> str:
    """A new one for each attempt to write it."""
    return f"{run_id.replace(':', '')}-g{generation}-{secrets.token_hex(4)}"


async def read_pointer(storage: Storage, layout: StateLayout) -> tuple[StatePointer, str] | None:
    """What holds now, and the etag of `current.json`; None before the job's first incremental run has ended."""
    found = await storage.get_entry(layout.uri.bucket, layout.current)
    return (read_record(StatePointer, json.loads(found[0])), found[1].etag) if found else None


def read_entries(
    storage: Storage,
    layout: StateLayout,
    pointer: StatePointer,
    *,
    after: str = "",
    including: bool = False,
    times: bool = True,
) -> Iterator[Entry]:
    """The documents of a version whose object keys come after `after`, in order. Blocking, by ranges: for threads.

    `including` those of that key itself. Without `times`, which are half of the work, `processed_at`, `listed_at` and
    `seen_at` are no times of theirs. Versions that were written before there was a `seen_at` give `listed_at` for it.
    """
    wanted = [name for name in STATE_SCHEMA.names if times or name not in _TIMES]
    begins = place_of(after, by_folders=pointer.by_folders)
    for number in range(pointer.parts):
        with storage.reading(layout.uri.bucket, layout.part(pointer.name, number)) as file:
            parquet = pq.ParquetFile(file)
            for group in range(parquet.num_row_groups):
                statistics = parquet.metadata.row_group(group).column(0).statistics
                if after and not pointer.by_folders and statistics is not None and str(statistics.max) < after:
                    continue
                table = parquet.read_row_group(group, columns=wanted)
                untold = [NOTHING_LISTED] * table.num_rows
                if times and "seen_at" not in table.column_names:
                    table = table.append_column("seen_at", table.column("listed_at"))
                columns = [table.column(name).to_pylist() if name in wanted else untold for name in STATE_SCHEMA.names]
                entries: Iterator[Entry] = map(Entry._make, zip(*columns, strict=True))
                if after:
                    entries = (
                        entry
                        for entry in entries
                        if place_of(entry.key, by_folders=pointer.by_folders) > begins
                        or (including and entry.key == after)
                    )
                yield from entries
