"""What a job's incremental runs know: of each document, the version that was asked about and where its result lies.

    STATE_URI/state/JOB/current.json                       which version holds now; moves by conditional PUT alone
    STATE_URI/state/JOB/RUN-gN-TOKEN/part-00000.parquet    a version: never changed, sorted by object key as S3 lists

A run is compared with the version that it found when it was claimed, and moves `current.json` to its own at its end.
If another run moved it meanwhile, the two are merged document by document first.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from batch.layout import StateLayout
from batch.store import Storage

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
    pa.field("result", pa.string()),
]
STATE_SCHEMA = pa.schema(_FIELDS)


class Entry(NamedTuple):
    """One document, in the order of `STATE_SCHEMA`. `result` is the URI of the result file that holds its row."""

    key: str
    document_id: str
    etag: str
    content_hash: str | None
    fingerprint: str
    status: str
    retryable: bool | None
    processed_at: datetime
    listed_at: datetime
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

    @classmethod
    def from_bytes(cls, data: bytes) -> StatePointer:
        fields = json.loads(data)
        fields.pop("version")
        return cls(**fields)


def place_of(key: str, *, by_folders: bool) -> Any:
    """What sorts keys as the server lists them."""
    return key.split("/") if by_folders else key


def version_name(run_id: str, generation: int) -> str:
    """A new one for each attempt to write it."""
    return f"{run_id.replace(':', '')}-g{generation}-{secrets.token_hex(4)}"


async def read_pointer(storage: Storage, layout: StateLayout) -> tuple[StatePointer, str] | None:
    """What holds now, and the etag of `current.json`; None before the job's first incremental run has ended."""
    found = await storage.get_entry(layout.uri.bucket, layout.current)
    return (StatePointer.from_bytes(found[0]), found[1].etag) if found else None


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

    `including` those of that key itself. Without `times`, which are half of the work, `processed_at` and `listed_at`
    are no times of theirs.
    """
    wanted = [name for name in STATE_SCHEMA.names if times or name not in ("processed_at", "listed_at")]
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


def by_key(entries: Iterable[Entry]) -> Iterator[tuple[str, dict[str, Entry]]]:
    """The entries of each object together, by document id."""
    for key, group in groupby(entries, key=attrgetter("key")):
        yield key, {entry.document_id: entry for entry in group}


def merged(
    ours: Iterable[Entry],
    ours_listed: datetime,
    theirs: Iterable[Entry],
    theirs_listed: datetime,
    *,
    by_folders: bool = False,
) -> Iterator[Entry]:
    """Two versions as one.

    Of each document the row that was processed last; but an answer to what the younger run asks holds against one to
    something else, and an answer against an error that may pass. A document that only one of them has was deleted if
    the other's listing is the younger one. So neither order of two runs that overlapped, nor the rerun of an older one,
    takes the state back.
    """

    def is_before(one: str, another: str) -> bool:
        return bool(place_of(one, by_folders=by_folders) < place_of(another, by_folders=by_folders))

    mine, other = by_key(ours), by_key(theirs)
    left, right = next(mine, None), next(other, None)
    while left is not None or right is not None:
        if right is None or (left is not None and is_before(left[0], right[0])):
            assert left is not None
            yield from (entry for entry in left[1].values() if entry.listed_at > theirs_listed)
            left = next(mine, None)
        elif left is None or is_before(right[0], left[0]):
            yield from (entry for entry in right[1].values() if entry.listed_at > ours_listed)
            right = next(other, None)
        else:
            yield from _merged_object(left[1], ours_listed, right[1], theirs_listed)
            left, right = next(mine, None), next(other, None)


def _merged_object(
    ours: dict[str, Entry], ours_listed: datetime, theirs: dict[str, Entry], theirs_listed: datetime
) -> Iterator[Entry]:
    for document_id in {**theirs, **ours}:
        left, right = ours.get(document_id), theirs.get(document_id)
        if left is None or right is None:
            entry, listed = (left, theirs_listed) if left is not None else (right, ours_listed)
            assert entry is not None
            if entry.listed_at > listed:
                yield entry
            continue
        yield _better(left, right)._replace(listed_at=max(left.listed_at, right.listed_at))


def _better(one: Entry, other: Entry) -> Entry:
    if one.fingerprint != other.fingerprint:
        return max(one, other, key=lambda entry: entry.listed_at)
    if one.etag == other.etag and bool(one.retryable) != bool(other.retryable):
        return other if one.retryable else one
    return max(one, other, key=lambda entry: (entry.processed_at, entry.listed_at))
