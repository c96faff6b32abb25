"""What a rerun has to do: the partitions without a result, or whose rows hold errors worth asking again."""

from __future__ import annotations

import asyncio

import pyarrow.parquet as pq

from batch import contracts as c
from batch import result_file
from batch.layout import RunLayout
from batch.plan_file import read_footer
from batch.planning import PlanFooter
from batch.result_file import NotOurs
from batch.store import ObjectMissing, Storage

SHARDS_A_PAGE = 10
AT_ONCE = 16


async def find_work(storage: Storage, task: c.RerunPlanInput) -> c.RerunPlan:
    """One page, from shard `start_shard` on. Reads footers only, never rows."""
    layout = RunLayout.of(task.run.output_uri, task.run.run_id)
    wanted = set(task.request.partitions)
    found: list[c.PlannedShard] = []
    shard = task.start_shard
    footer: PlanFooter | None = await _plan(storage, layout, shard - 1) if shard else None
    for _ in range(SHARDS_A_PAGE):
        following = await _plan(storage, layout, shard)
        if following is None:
            return c.RerunPlan(
                found,
                next_shard=None,
                plan_complete=footer is not None and footer.last,
                cursor=footer.end_cursor if footer else "",
                plan_shards=shard,
                plan_partitions=footer.first_partition + footer.partitions if footer else 0,
            )
        footer = following
        numbers = range(footer.first_partition, footer.first_partition + footer.partitions)
        chosen = [number for number in numbers if not wanted or number in wanted]
        work = await _work(storage, layout, task, footer, chosen)
        if work:
            sizes = await asyncio.to_thread(_sizes, storage, layout, footer.shard)
            found.append(
                c.PlannedShard(
                    shard=footer.shard,
                    first_partition=footer.first_partition,
                    partitions=footer.partitions,
                    documents=sum(sizes[partition - footer.first_partition] for partition in work),
                    cursor=footer.end_cursor,
                    last=footer.last,
                    only=work,
                )
            )
        shard += 1
    return c.RerunPlan(found, next_shard=shard)


async def _work(
    storage: Storage, layout: RunLayout, task: c.RerunPlanInput, plan: PlanFooter, partitions: list[int]
) -> list[int]:
    """Those of the partitions that have no result, or documents to be asked again."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def wants(partition: int) -> bool:
        async with slots:
            totals = await asyncio.to_thread(_totals, storage, layout, plan.shard, partition)
        return totals is None or bool(totals.errors if task.request.all_errors else totals.retryable_errors)

    wanted = await asyncio.gather(*(wants(partition) for partition in partitions))
    return [partition for partition, is_wanted in zip(partitions, wanted, strict=True) if is_wanted]


def _totals(storage: Storage, layout: RunLayout, shard: int, partition: int) -> c.Totals | None:
    try:
        with storage.reading(layout.output.bucket, layout.result(shard, partition)) as file:
            return result_file.read_footer(file).totals
    except (ObjectMissing, FileNotFoundError, NotOurs):
        return None


def _sizes(storage: Storage, layout: RunLayout, shard: int) -> list[int]:
    """Documents of each partition of the shard."""
    with storage.reading(layout.output.bucket, layout.plan(shard)) as file:
        metadata = pq.read_metadata(file)
        return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


async def _plan(storage: Storage, layout: RunLayout, shard: int) -> PlanFooter | None:
    bucket, key = layout.output.bucket, layout.plan(shard)
    if await storage.head(bucket, key) is None:
        return None
    return await asyncio.to_thread(read_footer, storage, bucket, key)
