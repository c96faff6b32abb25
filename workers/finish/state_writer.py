"""The state that an incremental run leaves: written as the finisher reads its results, and made the job's current one.

    result files, in the plan's order -> parts of a new version -> current.json, if it still says what the run found
                                                                -> else merged with what it says now, and once more

May be repeated at any point: a version counts only once `current.json` names it, by one conditional PUT.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batch.corpus.keys import SourceKeys
from batch.corpus.planning import PlanFooter
from batch.files.run_file import RunFile
from batch.files.state import (
    KEPT,
    NOTHING_LISTED,
    STATE_SCHEMA,
    Entry,
    StatePointer,
    read_entries,
    read_pointer,
    version_name,
)
from batch.schema.error_types import ErrorType, Stage, words_of
from batch.storage.compare_and_set import compare_and_set
from batch.storage.layout import RunLayout, StateLayout
from batch.storage.store import Storage
from workers.finish.state_merge import merged

PART_ROWS, GROUP_ROWS = 200_000, 20_000
"""Documents of a part, which is held in memory while it is written (some 10 MB), and of a row group of it."""

OF_OBJECTS = pa.array([ErrorType.ARCHIVED, *words_of(Stage.OBJECT)], pa.string())
"""Error types of objects of rows as a whole; the first one is a document's, too."""

log = logging.getLogger(__name__)


class StateWriter:
    """The state of one run's end."""

    def __init__(self, storage: Storage, layout: RunLayout, file: RunFile, generation: int) -> None:
        self._storage, self._run, self._file, self._generation = storage, layout, file, generation
        self._layout = file.job.state_layout
        self._listed_at = datetime.fromisoformat(file.created_at)
        self._by_folders = False
        self._unread = False
        """Whether there are objects of rows that could not be read to their end."""
        self._version = _Version(storage, self._layout, version_name(file.run_id, generation))

    async def add(self, plan: PlanFooter, partition: int, table: pa.Table) -> None:
        """The rows of a result file; partitions come in the plan's order."""
        uri = self._run.uri(self._run.result(plan.shard, partition))
        planned_at = datetime.fromisoformat(plan.planned_at) if plan.planned_at else self._listed_at
        entries = _entries(table, uri, self._file.run_id, self._listed_at, planned_at)
        self._unread = self._unread or _leaves_rows_unread(table)
        await self._version.add(entries)

    async def move(self, *, complete: bool) -> None:
        """Makes what was added the current state. `complete`: the run's plan holds all that there is to list.

        It takes the place of the state that the run was compared with. But of objects that could not be read to their
        end the run does not know all rows: these it takes over from there, by a merge.
        """
        self._by_folders = await SourceKeys(self._storage, self._file.job.source).by_folders()
        listed_at = self._listed_at if complete else NOTHING_LISTED
        own = self._pointer(self._version.name, *await self._version.close(), listed_at)
        while True:
            found = await read_pointer(self._storage, self._layout)
            pointer = own
            if found is not None:
                now, _ = found
                mine = now.run_id == self._file.run_id
                compared_with = self._file.state.name if self._file.state is not None else None
                if mine and now.generation > self._generation:
                    await self._remove(own.name)
                    return
                if now.by_folders != own.by_folders:  # of a manifest and of a listing that overlapped: no merge
                    if datetime.fromisoformat(now.listed_at) >= listed_at:
                        log.warning(
                            "the state of job %s stays as run %s left it, which took its keys in another order and is "
                            "younger",
                            self._file.job.name,
                            now.run_id,
                        )
                        await self._remove(own.name)
                        return
                elif self._unread or not (complete and (now.name == compared_with or (mine and not now.merged))):
                    pointer = await self._merge(own, now)
                older = [now.name, *now.older]
                pointer = replace(pointer, older=older[:KEPT])
            bucket, key, over = self._layout.uri.bucket, self._layout.current, found[1] if found is not None else None
            if not (await compare_and_set(self._storage, bucket, key, pointer.to_bytes(), over=over)).ours:
                log.info("another run moved the state of job %s meanwhile: merging", self._file.job.name)
                if pointer.name != own.name:
                    await self._remove(pointer.name)
                continue
            if pointer.name != own.name:
                await self._remove(own.name)
            if found is not None:
                for name in older[KEPT:]:
                    await self._remove(name)
            return

    def _pointer(self, name: str, parts: int, documents: int, listed_at: datetime) -> StatePointer:
        run_id, listed = self._file.run_id, listed_at.isoformat()
        return StatePointer(name, parts, documents, run_id, self._generation, listed, self._by_folders)

    async def _merge(self, own: StatePointer, now: StatePointer) -> StatePointer:
        version = _Version(self._storage, self._layout, version_name(own.run_id, own.generation))
        listed = [datetime.fromisoformat(pointer.listed_at) for pointer in (own, now)]
        entries = merged(
            read_entries(self._storage, self._layout, own),
            listed[0],
            read_entries(self._storage, self._layout, now),
            listed[1],
            by_folders=self._by_folders,
        )
        while True:
            some = await asyncio.to_thread(_table_of, entries)
            if not some.num_rows:
                break
            await version.add(some)
        return replace(self._pointer(version.name, *await version.close(), max(listed)), merged=True)

    async def _remove(self, name: str) -> None:
        await self._storage.delete_below(self._layout.uri.bucket, self._layout.version(name))


class _Version:
    """Parts of one version, written as they fill."""

    def __init__(self, storage: Storage, layout: StateLayout, name: str) -> None:
        self._storage, self._layout, self.name = storage, layout, name
        self._waiting: list[pa.Table] = []
        self._rows = self._parts = self._documents = 0

    async def add(self, table: pa.Table) -> None:
        self._waiting.append(table)
        self._rows += table.num_rows
        if self._rows >= PART_ROWS:
            await self._flush()

    async def _flush(self) -> None:
        table = pa.concat_tables(self._waiting)
        data = await asyncio.to_thread(_encode, table)
        await self._storage.put(self._layout.uri.bucket, self._layout.part(self.name, self._parts), data)
        self._parts += 1
        self._documents += self._rows
        self._waiting, self._rows = [], 0

    async def close(self) -> tuple[int, int]:
        """How many parts and documents there are."""
        if self._waiting:
            await self._flush()
        return self._parts, self._documents


def _encode(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=GROUP_ROWS)
    return sink.getvalue()


def _entries(table: pa.Table, uri: str, run_id: str, listed_at: datetime, planned_at: datetime) -> pa.Table:
    """A result file's rows as entries of the state."""
    rows = table.num_rows
    key = pc.replace_substring_regex(table.column("uri"), "^s3://[^/]+/", "")
    is_whole = pc.equal(table.column("document_id"), key)
    is_own = pc.equal(table.column("run_id"), pa.scalar(run_id))
    asked = pc.and_(is_own, pc.greater(table.column("attempts"), pa.scalar(0)))
    # A rerun asks about the object of its time; a row of an object stays that of the plan.
    by_rerun = pc.and_(is_whole, pc.greater(table.column("generation"), pa.scalar(1)))
    read_again: Any = pc.and_(asked, by_rerun)
    time = STATE_SCHEMA.field("seen_at").type
    given = {
        "key": key,
        "listed_at": pa.array([listed_at] * rows, time),
        "seen_at": pc.if_else(read_again.fill_null(False), table.column("processed_at"), pa.scalar(planned_at, time)),
        "result": pa.array([uri] * rows, pa.string()),
    }
    columns = [given[name] if name in given else table.column(name) for name in STATE_SCHEMA.names]
    return pa.table(columns, names=STATE_SCHEMA.names).cast(STATE_SCHEMA)


def _leaves_rows_unread(table: pa.Table) -> bool:
    """Whether one of them is the error row of an object of rows as a whole."""
    return bool(pc.any(pc.is_in(table.column("error_type"), OF_OBJECTS)).as_py())


def _table_of(entries: Iterator[Entry]) -> pa.Table:
    """The next of them, at most as many as make a part."""
    some = list(islice(entries, GROUP_ROWS))
    columns = zip(*some, strict=True) if some else [[] for _ in STATE_SCHEMA.names]
    arrays = [pa.array(list(column), field.type) for column, field in zip(columns, STATE_SCHEMA, strict=True)]
    return pa.table(arrays, schema=STATE_SCHEMA)
