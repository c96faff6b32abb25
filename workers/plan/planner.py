"""Activities: list the corpus and write the plan of one shard; find what a rerun has to do."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import aclosing, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial

import pyarrow.parquet as pq
from temporalio import activity
from temporalio.exceptions import ApplicationError

from batch.corpus.cursor import parse_cursor
from batch.corpus.duplicates import COLUMNS, Duplicates
from batch.corpus.key_list import ManifestBroken
from batch.corpus.keys import SourceKeys
from batch.corpus.planning import PlanFooter, PlannedDocument, ShardCutter
from batch.files.plan_file import read_documents, read_footer
from batch.files.run_file import RunFile, load_run
from batch.files.state import Entry, another_order, read_entries, read_pointer
from batch.storage.compare_and_set import compare_and_set
from batch.storage.layout import RunLayout
from batch.storage.store import ObjectEntry, ObjectMissing, Storage, StorageError, StorageRefused
from batch.workflows import contracts as c
from batch.workflows.states import Reason
from workers.observe.metrics import Metrics
from workers.plan.comparison import Comparison, UnsortedListing
from workers.plan.rerun import find_work
from workers.sources.planned import OpenObjects, ShardRows

REFUSALS = 4
"""Attempts, over some seven seconds, after which it is believed that something may not be listed, read or written."""

OTHERS = 10
"""Objects that are tried before a refusal is taken for that of the whole source."""
KEPT = 2
"""Runs whose documents stay in memory between two shards: 12 bytes each."""
KEPT_SECONDS = 900.0
"""How long a run's stay there while no shard of it is planned."""


class Planner:
    """Holds the storage that both activities read, and the metrics."""

    def __init__(self, storage: Storage, metrics: Metrics) -> None:
        self._storage, self._metrics = storage, metrics
        self._known = KnownDuplicates(storage)
        self._open_objects = OpenObjects()

    @activity.defn(name=c.PLAN_SHARD)
    async def plan_shard(self, task: c.PlanInput) -> c.PlannedShard:
        """Created once: a second attempt that loses the race throws its own away and says what the stored file says."""
        try:
            with _refusals():
                return await self._plan_shard(task)
        except (UnsortedListing, ManifestBroken) as error:
            raise ApplicationError(str(error), type=type(error).__name__, non_retryable=True) from None

    async def _plan_shard(self, task: c.PlanInput) -> c.PlannedShard:
        layout = RunLayout.of(task.run.output_uri, task.run.run_id)
        stored = await self._stored(task, layout)
        if stored is not None:
            return stored
        file = await load_run(self._storage, task.run)
        job = file.job
        leave_refused = _is_refusal_believed() and await self._is_source_readable(file)
        keys = SourceKeys(self._storage, job.source, manifest_etag=file.manifest_etag, leave_refused=leave_refused)
        comparison = await self._comparison(file, keys, task.cursor) if job.incremental else None
        duplicates = await self._known.take(layout, task.shard) if _marks_duplicates(file) else None
        cutter = ShardCutter(
            shard=task.shard,
            first_partition=task.first_partition,
            start_cursor=task.cursor,
            documents=job.partitions.documents,
            size=job.partitions.bytes,
            partitions=task.partitions,
            duplicates=duplicates,
            judge=comparison.judge if comparison is not None else None,
        )
        if comparison is not None:
            await asyncio.to_thread(comparison.begin)
        rows = ShardRows(
            self._storage,
            layout,
            job,
            bucket=keys.prefixes.bucket,
            cutter=cutter,
            shard=task.shard,
            kept=self._open_objects,
            leave_refused=leave_refused,
        )
        left_out = LeftOut()
        full = await rows.go_on(task.cursor) or await self._list(keys, cutter, rows, left_out, after=task.cursor)
        gone, deleted = b"", 0
        if comparison is not None:
            whole = _is_whole(cutter.cursor, last=not full)
            gone, deleted = await asyncio.to_thread(comparison.finish, last=not full, whole=whole)
        now = datetime.now(UTC).isoformat()
        finish = partial(cutter.finish, last=not full, deleted=deleted, left_out=left_out.up_to_here, planned_at=now)
        data, footer = await asyncio.to_thread(finish)
        bucket, key = layout.output.bucket, layout.plan(task.shard)
        if not (await compare_and_set(self._storage, bucket, key, data, over=None)).ours:
            stored = await self._stored(task, layout)
            if stored is None:
                raise ObjectMissing(f"{layout.uri(key)} was deleted right after it was written")
            return stored
        if deleted:
            await self._write_deleted(layout, task.shard, gone)
        if duplicates is not None and not footer.last:
            await asyncio.to_thread(duplicates.keep)
            self._known.give_back(layout, duplicates)
        rows.planned(footer.end_cursor)
        self._metrics.start_job(job.name)
        self._metrics.planned_documents.labels(job.name).inc(footer.documents)
        return _planned(footer)

    async def _is_source_readable(self, file: RunFile) -> bool:
        """Whether one of its first objects can be read: then one that cannot is so by itself."""
        keys = SourceKeys(self._storage, file.job.source, manifest_etag=file.manifest_etag, leave_refused=True)
        bucket, tried = keys.prefixes.bucket, 0
        async with aclosing(keys.documents()) as pages:
            async for page in pages:
                for entry in page:
                    if tried == OTHERS:
                        return False
                    if entry.size and entry.problem is None:
                        tried += 1
                        with suppress(StorageError):
                            await asyncio.to_thread(self._storage.read_range, bucket, entry.key, 0, 1)
                            return True
        return False

    async def _list(
        self, keys: SourceKeys, cutter: ShardCutter, rows: ShardRows, left_out: LeftOut, *, after: str
    ) -> bool:
        """Takes the objects after a cursor, or their rows. Whether the shard is full."""
        bucket = keys.prefixes.bucket
        async with aclosing(keys.documents(after=parse_cursor(after)[0])) as pages:
            async for page in pages:
                await rows.look_into(page)
                hidden = keys.left_out_of_page
                if await self._take(page, bucket, cutter, rows):
                    left_out.add_until(parse_cursor(cutter.cursor)[0], page, hidden)
                    return True
                left_out.add(page, hidden)
        left_out.end()
        return False

    async def _take(self, page: list[ObjectEntry], bucket: str, cutter: ShardCutter, rows: ShardRows) -> bool:
        whole: list[ObjectEntry] = []
        for entry in page:
            if not rows.holds_rows(entry):
                whole.append(entry)
                continue
            if await asyncio.to_thread(_cut, whole, bucket, cutter) or await rows.begin(entry):
                return True
            whole = []
        return await asyncio.to_thread(_cut, whole, bucket, cutter)

    async def _comparison(self, file: RunFile, keys: SourceKeys, cursor: str) -> Comparison:
        """Of a stretch of the listing with the state that the run found when it was claimed.

        If that was so long ago that it is gone, with the state of now: what is carried forward is checked row by row.
        """
        layout, state = file.job.state_layout, file.state
        first = layout.part(state.name, 0) if state is not None and state.parts else None
        if first is not None and await self._storage.head(layout.uri.bucket, first) is None:
            found = await read_pointer(self._storage, layout)
            state = found[0] if found is not None else None
        by_folders = await keys.by_folders()
        if state is not None and state.by_folders != by_folders:
            raise UnsortedListing(another_order(layout))
        key, place, _ = parse_cursor(cursor)
        trusted = await self._storage.etags_are_versions(keys.prefixes.bucket)
        entries: Iterable[Entry] = ()
        if state is not None:
            entries = read_entries(self._storage, layout, state, after=key, including=place is not None, times=False)
        return Comparison(
            entries,
            fingerprint=file.fingerprint,
            full=file.full,
            within=key if place is not None else "",
            by_folders=by_folders,
            trusted=trusted,
        )

    async def _stored(self, task: c.PlanInput, layout: RunLayout) -> c.PlannedShard | None:
        """What the shard's plan says, if it stands. Then the file of what is gone stands too."""
        bucket, key = layout.output.bucket, layout.plan(task.shard)
        if await self._storage.head(bucket, key) is None:
            return None
        footer = await asyncio.to_thread(read_footer, self._storage, bucket, key)
        if footer.deleted and await self._storage.head(bucket, layout.deleted(task.shard)) is None:
            await self._find_deleted(task, layout, footer)
        return _planned(footer)

    async def _find_deleted(self, task: c.PlanInput, layout: RunLayout, plan: PlanFooter) -> None:
        """Whoever made the plan may have died before it wrote what is gone: compares the plan once more."""
        file = await load_run(self._storage, task.run)
        keys = SourceKeys(self._storage, file.job.source, manifest_etag=file.manifest_etag)
        comparison = await self._comparison(file, keys, plan.start_cursor)

        def compare() -> bytes:
            comparison.begin()
            for row_group in range(plan.partitions):
                for document in read_documents(self._storage, layout, plan.shard, row_group):
                    comparison.judge(document)
            return comparison.finish(last=plan.last, whole=_is_whole(plan.end_cursor, last=plan.last))[0]

        await self._write_deleted(layout, plan.shard, await asyncio.to_thread(compare))

    async def _write_deleted(self, layout: RunLayout, shard: int, gone: bytes) -> None:
        """After the plan, whose maker alone knows what is gone: another attempt may have found something else.

        Of two that write it, both do so for the plan that stands.
        """
        await compare_and_set(self._storage, layout.output.bucket, layout.deleted(shard), gone, over=None)

    @activity.defn(name=c.PLAN_RERUN)
    async def plan_rerun(self, task: c.RerunPlanInput) -> c.RerunPlan:
        """A page of the shards that have something to do again, from `start_shard` on."""
        with _refusals():
            plan = await find_work(self._storage, task)
        documents = sum(shard.documents for shard in plan.shards)
        if documents:
            job_name = (await load_run(self._storage, task.run)).job.name
            self._metrics.start_job(job_name)
            self._metrics.planned_documents.labels(job_name).inc(documents)
        return plan


class LeftOut:
    """How many keys are no documents, by rule, up to the last one that a shard took: the next lists from there."""

    def __init__(self) -> None:
        self.up_to_here = Counter[str]()
        self._since = Counter[str]()

    def add(self, page: list[ObjectEntry], hidden: list[tuple[int, str]]) -> None:
        """Of a page that was taken whole. `hidden`: before which of its entries each stood, and its rule."""
        if page:
            self.end()
        self.up_to_here.update(rule for at, rule in hidden if at < len(page))
        self._since.update(rule for at, rule in hidden if at == len(page))

    def add_until(self, key: str, page: list[ObjectEntry], hidden: list[tuple[int, str]]) -> None:
        """Of the page in which the shard ended, with the object `key`, or before the first of its entries."""
        taken = next((at for at, entry in enumerate(page, 1) if entry.key == key), 0)
        if taken:
            self.end()
        self.up_to_here.update(rule for at, rule in hidden if at < taken)

    def end(self) -> None:
        """What was looked at last is up to here, too: something behind it was taken, or there is no more."""
        self.up_to_here += self._since
        self._since = Counter()


def _is_refusal_believed() -> bool:
    return activity.info().attempt >= REFUSALS


@contextmanager
def _refusals() -> Iterator[None]:
    """Where repeating does not help, the run pauses until somebody mends the rights."""
    try:
        yield
    except StorageRefused as error:
        if not _is_refusal_believed():
            raise
        raise ApplicationError(str(error), type=Reason.STORAGE_REFUSED, non_retryable=True) from None


def _is_whole(cursor: str, *, last: bool) -> bool:
    """Whether a shard that ends there has all of its last object."""
    return last or parse_cursor(cursor)[1] is None


def _cut(entries: list[ObjectEntry], bucket: str, cutter: ShardCutter) -> bool:
    """Takes objects that are one document each: whether the shard is full. Blocking."""
    return not all(cutter.add(PlannedDocument.of(bucket, entry), entry.key) for entry in entries)


def _marks_duplicates(file: RunFile) -> bool:
    """Not in a run whose rows, by an older version, have no place for it."""
    return file.job.shares_answers and "same_as" in file.schema.names


def _planned(footer: PlanFooter) -> c.PlannedShard:
    return c.PlannedShard(
        shard=footer.shard,
        first_partition=footer.first_partition,
        partitions=footer.partitions,
        documents=footer.documents,
        cursor=footer.end_cursor,
        last=footer.last,
        reasons=footer.reasons,
        deleted=footer.deleted,
        left_out=footer.left_out,
    )


class KnownDuplicates:
    """One for the process's planner."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._kept: OrderedDict[str, Duplicates] = OrderedDict()

    async def take(self, layout: RunLayout, shard: int) -> Duplicates:
        """What is known before this shard. It is the caller's alone until it is given back."""
        found = self._kept.pop(layout.root, None)
        if found is None or found.shards > shard:
            found = Duplicates()
        for earlier in range(found.shards, shard):
            await asyncio.to_thread(self._read, found, layout, earlier)
        return found

    def give_back(self, layout: RunLayout, duplicates: Duplicates) -> None:
        """With another shard, whose plan stands."""
        self._kept[layout.root] = duplicates
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        asyncio.get_running_loop().call_later(KEPT_SECONDS, self._drop, layout.root, duplicates.shards)

    def _drop(self, root: str, shards: int) -> None:
        kept = self._kept.get(root)
        if kept is not None and kept.shards == shards:
            del self._kept[root]

    def _read(self, found: Duplicates, layout: RunLayout, shard: int) -> None:
        with self._storage.reading(layout.output.bucket, layout.plan(shard)) as file:
            found.read(pq.ParquetFile(file).read(columns=COLUMNS))
