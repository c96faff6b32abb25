"""Planners that die or race: no document in no plan or in two."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import replace

import polars as pl
import pytest
from temporalio.testing import ActivityEnvironment

from batch.files.run_file import RunFile
from batch.job.job import Job
from batch.job.logical_date import Nominal
from batch.storage.layout import RunLayout
from batch.storage.store import ObjectEntry, Storage
from batch.workflows import contracts as c
from tests.chaos.harness import TUNING, Chaos, Corpus, say
from workers.observe.metrics import Metrics
from workers.plan.planner import Planner


class Delayed(Storage):
    """A storage whose listing pauses before its last page, while the corpus changes."""

    def __init__(self, gate: asyncio.Event, waiting: asyncio.Event) -> None:
        super().__init__()
        self._gate, self._waiting = gate, waiting

    async def source_pages(
        self, bucket: str, prefix: str, *, after: str = ""
    ) -> AsyncGenerator[list[ObjectEntry], None]:
        async for page in super().source_pages(bucket, prefix, after=after):
            self._waiting.set()
            await self._gate.wait()
            yield page


async def claimed(job: Job, run_id: str) -> c.RunRef:
    """A run as the claim leaves it, without a workflow."""
    layout = RunLayout.of(job.output.uri, run_id)
    file = RunFile.of(run_id, job, "execution", "now", Nominal.now())
    await Storage().create("results", layout.run_json, file.to_bytes())
    return c.RunRef(run_id, job.output.uri)


async def planned_ids(layout: RunLayout) -> Counter[str]:
    storage = Storage()
    found: Counter[str] = Counter()
    for entry in await storage.list_all("results", layout.plans):
        found.update(pl.read_parquet(await storage.get("results", entry.key))["document_id"].to_list())
    return found


async def test_two_planners_with_different_listings_agree_on_one_plan(chaos: Chaos) -> None:
    """The slow one has listed before documents came and went; the quick one after. Both say what the stored file says,
    and the next shard goes on from there."""
    corpus = await chaos.corpus(100)
    run = await claimed(chaos.job(corpus, documents=10), f"{corpus.name}-run")
    layout = RunLayout.of(run.output_uri, run.run_id)
    first = c.PlanInput(run=run, shard=0, first_partition=0, cursor="", partitions=5)
    gate, waiting = asyncio.Event(), asyncio.Event()
    slow = asyncio.create_task(ActivityEnvironment().run(Planner(Delayed(gate, waiting), Metrics()).plan_shard, first))
    await waiting.wait()
    storage = Storage()
    names = sorted(corpus.keys)
    await storage.delete("corpus", names[5:8])
    await storage.put("corpus", f"{corpus.name}/documents/00000003-new.txt", b"a new document")
    quick = await ActivityEnvironment().run(Planner(storage, Metrics()).plan_shard, first)
    gate.set()
    assert await slow == quick
    assert (quick.partitions, quick.documents, quick.last) == (5, 50, False)

    shard, cursor, partition, documents = 1, quick.cursor, quick.partitions, quick.documents
    while True:
        task = c.PlanInput(run=run, shard=shard, first_partition=partition, cursor=cursor, partitions=5)
        racers = await asyncio.gather(
            *(ActivityEnvironment().run(Planner(Storage(), Metrics()).plan_shard, task) for _ in range(4))
        )
        assert all(found == racers[0] for found in racers)
        planned = racers[0]
        shard, cursor, partition = shard + 1, planned.cursor, partition + planned.partitions
        documents += planned.documents
        if planned.last:
            break
    ids = await planned_ids(layout)
    listed = {entry.key for entry in await storage.list_all("corpus", f"{corpus.name}/")}
    say(f"planners raced: {documents} documents in {shard} shards")
    assert set(ids.values()) == {1}
    assert set(ids) == listed
    assert documents == len(listed)


@pytest.mark.soak  # control activities are missed after 60 s only
async def test_a_planner_killed_while_it_writes_is_replaced(chaos: Chaos) -> None:
    """The worker that plans is killed (and, once, only frozen, so that both attempts are at work); another goes on."""
    corpus = await chaos.corpus(400)
    planner = chaos.worker("planner", slots=1, proxied=True)
    await planner.start()
    chaos.proxy.slow_seconds = 0.5
    chaos.proxy.set("slow")
    tuning = replace(TUNING, shard_partitions=4)
    run = await chaos.start(chaos.job(corpus, documents=10), tuning=tuning)
    layout = run.layout
    storage = Storage()
    await chaos.until_status(run, lambda status: status.planned >= 40, within=60)
    before = len(await storage.list_all("results", layout.plans))
    planner.signal(signal.SIGSTOP)
    await chaos.start_workers("1")
    await asyncio.sleep(2)
    planner.thaw()
    await asyncio.sleep(0.5)
    await chaos.kill(planner)
    chaos.proxy.set("pass")
    say(f"planner ended with {before} of {len(corpus) // 40} plans written")
    await planner.start()
    await chaos.complete(run, corpus, within=180)
    check_plan(corpus, await planned_ids(layout))


def check_plan(corpus: Corpus, ids: Counter[str]) -> None:
    assert set(ids) == set(corpus.keys)
    assert set(ids.values()) == {1}
