"""What a rerun has to do: the partitions without a result, or whose rows hold errors worth asking again.

And what its run has cost so far, where nobody is left who would know.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pyarrow.parquet as pq

from batch.corpus.planning import PlanFooter
from batch.files import result_file
from batch.files.ledger_segment import LedgerName
from batch.files.plan_file import read_footer
from batch.files.result_file import NotOurs, ResultFooter
from batch.storage.layout import RunLayout, place_of_result
from batch.storage.store import ObjectMissing, Storage
from batch.workflows import contracts as c
from workers.partition.ledger import read_ledger

SHARDS_A_PAGE = 10
AT_ONCE = 16


async def find_work(storage: Storage, task: c.RerunPlanInput) -> c.RerunPlan:
    """Returns one page, from shard `start_shard` on. Reads footers only, never rows."""
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
    """Returns those of the partitions that have no result, or documents to be asked again."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def wants(partition: int) -> bool:
        async with slots:
            key = layout.result(plan.shard, partition)
            footer = await asyncio.to_thread(_footer_at, storage, layout.output.bucket, key)
        if footer is None or footer.partial:
            return True
        return bool(footer.totals.errors if task.request.all_errors else footer.totals.retryable_errors)

    wanted = await asyncio.gather(*(wants(partition) for partition in partitions))
    return [partition for partition, is_wanted in zip(partitions, wanted, strict=True) if is_wanted]


async def cost_so_far(storage: Storage, layout: RunLayout, fingerprint: str) -> float:
    """US dollars, by the rows that stand and, of partitions without a whole result, by those of their ledgers."""
    bucket = layout.output.bucket
    slots = asyncio.Semaphore(AT_ONCE)
    committed: set[int] = set()
    partial: dict[int, str] = {}
    cost = 0.0

    async def committed_cost(key: str, partition: int) -> float:
        async with slots:
            footer = await asyncio.to_thread(_footer_at, storage, bucket, key)
        if footer is None:
            return 0.0
        if footer.partial:  # its ledger is there, and may hold more; but not what was committed before the last rerun
            partial[partition] = key
            return 0.0
        committed.add(partition)
        return footer.totals.cost_usd

    async for page in storage.pages(bucket, layout.results):
        found = {entry.key: place for entry in page if (place := place_of_result(entry.key)) is not None}
        cost += sum(await asyncio.gather(*(committed_cost(key, place[1]) for key, place in found.items())))
    unfinished = set(partial)
    async for page in storage.pages(bucket, layout.ledgers):
        for entry in page:
            match = re.search(r"/partition-(\d+)/", entry.key)
            if match and int(match[1]) not in committed:
                unfinished.add(int(match[1]))
    for partition in sorted(unfinished):
        replayed = await read_ledger(storage, layout, LedgerName(layout.run_id, fingerprint, partition, 0, 0, 0))
        cost += sum(row["cost_usd"] or 0.0 for row in replayed.rows.values())
        if partition in partial:
            rows = await asyncio.to_thread(_costs_at, storage, bucket, partial[partition])
            cost += sum(
                row["cost_usd"] or 0.0
                for row in rows
                if row["run_id"] == layout.run_id and row["document_id"] not in replayed.rows
            )
    return cost


def _costs_at(storage: Storage, bucket: str, key: str) -> list[dict[str, Any]]:
    with storage.reading(bucket, key) as file:
        rows: list[dict[str, Any]] = pq.read_table(file, columns=["document_id", "run_id", "cost_usd"]).to_pylist()
    return rows


def _footer_at(storage: Storage, bucket: str, key: str) -> ResultFooter | None:
    try:
        with storage.reading(bucket, key) as file:
            return result_file.read_footer(file)
    except (ObjectMissing, FileNotFoundError, NotOurs):
        return None


def _sizes(storage: Storage, layout: RunLayout, shard: int) -> list[int]:
    """Returns documents of each partition of the shard."""
    with storage.reading(layout.output.bucket, layout.plan(shard)) as file:
        metadata = pq.read_metadata(file)
        return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


async def _plan(storage: Storage, layout: RunLayout, shard: int) -> PlanFooter | None:
    bucket, key = layout.output.bucket, layout.plan(shard)
    if await storage.head(bucket, key) is None:
        return None
    return await asyncio.to_thread(read_footer, storage, bucket, key)
