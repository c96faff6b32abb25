"""Objects of rows into shards: an object may fill many of them, so the next one goes on where the last one ended.

What is open at a shard's end stays open for the next one, if this process gets it. Otherwise the next one opens the
object anew: it goes on at the cursor, and counts the ids before in the plans that stand.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice

from batch.corpus.cursor import Place, is_version, parse_cursor
from batch.corpus.planning import PlannedDocument, ShardCutter
from batch.job.formats import JSONL, OBJECT, kind_of, may_be_jsonl
from batch.job.job import Job
from batch.schema.error_types import ErrorType
from batch.storage.layout import RunLayout, bucket_and_key, object_uri
from batch.storage.listing import ObjectEntry, is_addressable
from batch.storage.store import ObjectArchived, ObjectMissing, Storage, StorageRefused
from workers.sources import READERS
from workers.sources.documents import (
    Occurrences,
    OpenObject,
    count_planned,
    object_problem,
    row_documents,
)
from workers.sources.json_layout import holds_json_lines
from workers.sources.objects import SourceObject, version_of
from workers.sources.row import Wanted

KEPT = 4
"""Objects that stay open between two shards, of all runs together: some 10 MiB of memory each."""
LOOKS_AT_ONCE = 32
"""Objects whose first bytes are looked at side by side."""
AT_ONCE = 200
"""Rows that a thread plans before the event loop is asked whether to go on."""


class OpenObjects:
    """What the planner keeps between two shards, by run and cursor."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[str, str], OpenObject] = OrderedDict()

    def take(self, run_id: str, cursor: str) -> OpenObject | None:
        """The object that stood open at this cursor. It is not kept any more: a shard that fails begins it anew."""
        return self._open.pop((run_id, cursor), None)

    def keep(self, run_id: str, cursor: str, found: OpenObject) -> None:
        """Keeps an object that is open at this cursor."""
        self._open[run_id, cursor] = found
        while len(self._open) > KEPT:
            self._open.popitem(last=False)[1].close()


class ShardRows:
    """The rows of one shard."""

    def __init__(
        self,
        storage: Storage,
        layout: RunLayout,
        job: Job,
        *,
        bucket: str,
        cutter: ShardCutter,
        shard: int,
        kept: OpenObjects,
        leave_refused: bool,
    ) -> None:
        """`leave_refused`: an object that may not be read is an error row instead of the shard's failure."""
        self._storage, self._layout, self._job, self._bucket = storage, layout, job, bucket
        self._cutter, self._shard, self._kept = cutter, shard, kept
        self._wanted, self._leave_refused = Wanted.of(job), leave_refused
        self._left: OpenObject | None = None
        self._with_lines: set[str] = set()
        self._unseen: dict[str, str] = {}
        """Objects of which it cannot be told whether they hold rows, by key: the problem that their error row has."""

    async def look_into(self, entries: Sequence[ObjectEntry]) -> None:
        """Finds out which of them hold JSON Lines where their names do not say. Raises `StorageError`."""
        self._with_lines, self._unseen = set(), {}
        slots = asyncio.Semaphore(LOOKS_AT_ONCE)

        async def look(entry: ObjectEntry) -> None:
            source = SourceObject(self._storage, self._bucket, entry)
            async with slots:
                try:
                    if await asyncio.to_thread(holds_json_lines, source):
                        self._with_lines.add(entry.key)
                except ObjectArchived as error:
                    self._unseen[entry.key] = f"{ErrorType.ARCHIVED}: {error}"
                except ObjectMissing:
                    gone = f"{source.uri} went before the plan was made of it"
                    self._unseen[entry.key] = f"{ErrorType.OBJECT_GONE}: {gone}"
                except StorageRefused as error:
                    if not self._leave_refused:
                        raise
                    self._unseen[entry.key] = f"{ErrorType.OBJECT_REFUSED}: {error}"

        looks = [
            look(entry)
            for entry in entries
            if may_be_jsonl(self._job.source, entry.key) and entry.problem is None and is_addressable(entry.key)
        ]
        for ended in await asyncio.gather(*looks, return_exceptions=True):
            if ended is not None:
                raise ended

    def holds_rows(self, entry: ObjectEntry) -> bool:
        """Tells whether the object's rows are documents, or may be; of one that cannot be asked for there are none."""
        if entry.key in self._with_lines or entry.key in self._unseen:
            return True
        return kind_of(self._job.source, entry.key) != OBJECT and is_addressable(entry.key)

    async def begin(self, entry: ObjectEntry) -> bool:
        """Takes an object from its start. Whether the shard is full."""
        if (problem := entry.problem or self._unseen.get(entry.key)) is not None:
            lost = object_problem(entry.key, object_uri(self._bucket, entry.key), entry.etag, problem)
            return not await asyncio.to_thread(self._cutter.add, lost, entry.key)
        found = await self._described(entry)
        if isinstance(found, str):
            lost = object_problem(entry.key, object_uri(self._bucket, entry.key), entry.etag, found)
            return not await asyncio.to_thread(self._cutter.add, lost, entry.key)
        return await self._fill(self._open(found, Place(), Occurrences()))

    async def _described(self, entry: ObjectEntry) -> ObjectEntry | str:
        """The object as it is now: a listing's size and etag may be others. Or the problem that its error row has."""
        uri = object_uri(self._bucket, entry.key)
        try:
            found = await self._storage.head(self._bucket, entry.key)
        except StorageRefused as error:
            if not self._leave_refused:
                raise
            return f"{ErrorType.OBJECT_REFUSED}: {error}; its rows are left out"
        return found or f"{ErrorType.OBJECT_GONE}: {uri} went before the plan was made of it; its rows are left out"

    async def go_on(self, cursor: str) -> bool:
        """Takes the rest of the object that the shard before ended within, if it did. Whether the shard is full."""
        key, start, version = parse_cursor(cursor)
        if start is None:
            return False
        found = self._kept.take(self._layout.run_id, cursor)
        if found is None:
            entry, word, what = None, ErrorType.OBJECT_GONE, "went"
            try:
                entry = await self._storage.head(self._bucket, key)
            except StorageRefused:
                if not self._leave_refused:
                    raise
                word, what = ErrorType.OBJECT_REFUSED, "could not be read any more"
            if entry is not None and not is_version(version, version_of(entry)):
                entry, word, what = None, ErrorType.OBJECT_CHANGED, "changed"
            if entry is None:
                problem = f"{word}: the object {what} while the plan was made of it; its later rows are left out"
                lost = object_problem(key, object_uri(self._bucket, key), "", problem)
                return not await asyncio.to_thread(self._cutter.add, lost, key)
            seen = Occurrences()
            uri = object_uri(self._bucket, key)
            await asyncio.to_thread(count_planned, self._storage, self._layout, self._shard, uri, seen)
            found = self._open(entry, start, seen)
        return await self._fill(found)

    def _open(self, entry: ObjectEntry, start: Place, seen: Occurrences) -> OpenObject:
        source = SourceObject(self._storage, self._bucket, entry)
        kind = kind_of(self._job.source, entry.key)
        rows = READERS[JSONL if kind == OBJECT else kind](source, self._wanted.within(entry.key), start)
        return OpenObject(entry.key, row_documents(source, rows, seen, leave_refused=self._leave_refused), seen)

    async def _fill(self, found: OpenObject) -> bool:
        while (full := await asyncio.to_thread(found.fill, self._cutter, AT_ONCE)) is None:
            pass
        if full:
            self._left = found
        else:
            found.close()
        return full

    def planned(self, cursor: str) -> None:
        """The shard's plan stands and ends at `cursor`: what is open goes on from there."""
        key, within, _ = parse_cursor(cursor)
        if self._left is not None and within is not None and self._left.key == key:  # it may be one that got no place
            self._kept.keep(self._layout.run_id, cursor, self._left)


def holds_rows(storage: Storage, job: Job, document: PlannedDocument) -> bool:
    """Whether it is an object whose rows a run would ask about, not the object. Blocking. Raises `StorageError`."""
    key = bucket_and_key(document.uri)[1]
    if document.is_planned or not is_addressable(key):
        return False
    if may_be_jsonl(job.source, key):
        try:
            return holds_json_lines(_object_of(storage, document))
        except (ObjectArchived, ObjectMissing, StorageRefused):  # who reads it as a document says so
            return False
    return kind_of(job.source, key) != OBJECT


def first_rows(storage: Storage, job: Job, document: PlannedDocument, count: int) -> list[PlannedDocument]:
    """Returns up to `count` rows of an object, as a run plans them. Blocking. Raises `StorageError`."""
    source = _object_of(storage, document)
    kind = kind_of(job.source, source.key)
    rows = READERS[JSONL if kind == OBJECT else kind](source, Wanted.of(job).within(source.key), Place())
    seen = Occurrences()
    try:
        return [found for found, _ in islice(row_documents(source, rows, seen), count)]
    finally:
        seen.close()


def _object_of(storage: Storage, document: PlannedDocument) -> SourceObject:
    bucket, key = bucket_and_key(document.uri)
    try:
        return SourceObject(storage, bucket, storage.described(bucket, key))
    except ObjectMissing:  # who reads it says so
        return SourceObject(storage, bucket, ObjectEntry(key, document.size, document.etag))
