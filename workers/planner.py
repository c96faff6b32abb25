"""Activities: list the corpus and write the plan of one shard; find what a rerun has to do."""

from __future__ import annotations

import asyncio

from temporalio import activity

from batch import contracts as c
from batch.job import Job
from batch.layout import RunLayout, S3Uri
from batch.places import parse_cursor
from batch.plan_file import read_footer
from batch.planning import PlanFooter, PlannedDocument, ShardCutter, selector
from batch.run_file import load_run
from batch.store import PreconditionFailed, Storage
from workers.metrics import Metrics
from workers.rerun import find_work
from workers.sources.planned import OpenObjects, ShardRows


class Planner:
    """Holds the storage that both activities read, and the metrics."""

    def __init__(self, storage: Storage, metrics: Metrics) -> None:
        self._storage, self._metrics = storage, metrics
        self._open_objects = OpenObjects()

    @activity.defn(name=c.PLAN_SHARD)
    async def plan_shard(self, task: c.PlanInput) -> c.PlannedShard:
        """Created once: a second attempt that loses the race throws its own away and says what the stored file says."""
        layout = RunLayout.of(task.run.output_uri, task.run.run_id)
        stored = await self._stored(layout, task.shard)
        if stored is not None:
            return stored
        job = (await load_run(self._storage, task.run)).job
        source = S3Uri.parse(job.source.uri)
        cutter = ShardCutter(
            shard=task.shard,
            first_partition=task.first_partition,
            start_cursor=task.cursor,
            documents=job.partitions.documents,
            size=job.partitions.bytes,
            partitions=task.partitions,
        )
        rows = ShardRows(
            self._storage,
            layout,
            job,
            bucket=source.bucket,
            cutter=cutter,
            shard=task.shard,
            kept=self._open_objects,
        )
        full = await rows.go_on(task.cursor) or await self._list(job, source, cutter, rows, after=task.cursor)
        data, footer = await asyncio.to_thread(cutter.finish, last=not full)
        try:
            await self._storage.create(layout.output.bucket, layout.plan(task.shard), data)
        except PreconditionFailed:
            stored = await self._stored(layout, task.shard)
            if stored is None:
                raise
            return stored
        rows.planned(footer.end_cursor)
        self._metrics.start_job(job.name)
        self._metrics.planned_documents.labels(job.name).inc(footer.documents)
        return _planned(footer)

    async def _list(self, job: Job, source: S3Uri, cutter: ShardCutter, rows: ShardRows, *, after: str) -> bool:
        """Takes the objects after a cursor, or their rows. Whether the shard is full."""
        selects = selector(job.source, source.prefix)
        async for page in self._storage.source_pages(source.bucket, source.prefix, after=parse_cursor(after)[0]):
            for entry in page:
                if not selects(entry.key):
                    continue
                if rows.holds_rows(entry):
                    if await rows.begin(entry):
                        return True
                elif not cutter.add(PlannedDocument.of(source.bucket, entry), entry.key):
                    return True
        return False

    async def _stored(self, layout: RunLayout, shard: int) -> c.PlannedShard | None:
        bucket, key = layout.output.bucket, layout.plan(shard)
        if await self._storage.head(bucket, key) is None:
            return None
        return _planned(await asyncio.to_thread(read_footer, self._storage, bucket, key))

    @activity.defn(name=c.PLAN_RERUN)
    async def plan_rerun(self, task: c.RerunPlanInput) -> c.RerunPlan:
        """A page of the shards that have something to do again, from `start_shard` on."""
        plan = await find_work(self._storage, task)
        documents = sum(shard.documents for shard in plan.shards)
        if documents:
            job_name = (await load_run(self._storage, task.run)).job.name
            self._metrics.start_job(job_name)
            self._metrics.planned_documents.labels(job_name).inc(documents)
        return plan


def _planned(footer: PlanFooter) -> c.PlannedShard:
    return c.PlannedShard(
        shard=footer.shard,
        first_partition=footer.first_partition,
        partitions=footer.partitions,
        documents=footer.documents,
        cursor=footer.end_cursor,
        last=footer.last,
    )
