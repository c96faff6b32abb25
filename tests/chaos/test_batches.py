"""Batch mode under kills: no batch created twice, nothing paid twice (issue: "It must show", line 6)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from batch.storage.store import Storage
from benchmarks.figures import Figure
from tests.chaos.harness import TUNING, Chaos, measured


async def killed_twice(chaos: Chaos, once: Path, *, documents: int, size: int, seconds: float, within: float) -> None:
    """Killed between the creation of a batch and its record, and again while the batches are polled."""
    corpus = await chaos.corpus(documents)
    files = chaos.ask("/stats")["files"]
    worker = chaos.worker("0", fault="die-after-create", environment={"DOCBATCH_CHAOS_ONCE": str(once)})
    await worker.start()
    chaos.provider(batch_seconds=seconds)
    run = await chaos.start(
        chaos.job(corpus, documents=size, mode="batch"), tuning=replace(TUNING, heartbeat_timeout=4)
    )
    await worker.died(within=60)
    orphans = chaos.ask("/stats")["batches"]
    await worker.start()
    partitions = -(-documents // size)
    await chaos.until(lambda: chaos.ask("/stats")["batches"] == partitions, within=60)
    await asyncio.sleep(5.0)  # by now the orphan is adopted, and every batch is polled
    going = chaos.ask("/stats")["batches_going"]
    await worker.kill()
    await worker.start()
    result = await chaos.complete(run, corpus, within=within)
    stats = chaos.ask("/stats")
    measured(
        chaos.test,
        "Batch mode; the worker is killed (`kill -9`) between a batch's creation and its record, and while it polls.",
        Figure("batches created when the first kill came", orphans, at_least=1),
        Figure("batches under way at the second kill", going, at_least=1),
        Figure("documents with one ok row", result.ok, exactly=documents),
        Figure("partitions", partitions),
        Figure("batches created", stats["batches"], exactly=partitions),
        Figure("answers paid", stats["accepted"], exactly=documents),
        Figure("documents paid more than once", stats["paid_more_than_once"], exactly=0),
        Figure("files left at the provider", stats["files"] - files, exactly=0),
    )


@pytest.mark.soak
async def test_a_batch_outlives_two_kills_of_its_worker(chaos: Chaos, tmp_path: Path) -> None:
    await killed_twice(chaos, tmp_path / "once", documents=300, size=300, seconds=11.0, within=60)


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_batches_of_12000_documents(chaos: Chaos, tmp_path: Path) -> None:
    await killed_twice(chaos, tmp_path / "once", documents=12_000, size=2_000, seconds=40.0, within=300)


@pytest.mark.soak
async def test_a_creator_that_wakes_up_late_creates_no_second_batch(chaos: Chaos, tmp_path: Path) -> None:
    """Two attempts at once: the first stands still right before it creates its batch, the second takes over."""
    corpus = await chaos.corpus(60)
    once = tmp_path / "once"
    frozen = chaos.worker("0", fault="freeze-at-create", environment={"DOCBATCH_CHAOS_ONCE": str(once)})
    await frozen.start()
    chaos.provider(batch_seconds=3.0)
    run = await chaos.start(chaos.job(corpus, documents=60, mode="batch"), tuning=replace(TUNING, heartbeat_timeout=4))
    await chaos.until(once.exists, within=30)
    (other,) = await chaos.start_workers("1")
    await chaos.until(lambda: chaos.ask("/stats")["batches"] == 1, within=60)
    frozen.thaw()
    await chaos.complete(run, corpus, within=60, latecomers=True)
    await asyncio.sleep(2.0)  # whatever the late one may still try
    assert other.running
    stats = chaos.ask("/stats")
    assert (stats["batches"], stats["accepted"], stats["paid_more_than_once"]) == (1, len(corpus), 0), stats


@pytest.mark.soak
async def test_kills_while_a_batch_is_polled_do_not_use_up_a_partitions_chances(chaos: Chaos) -> None:
    """More kills in a row than attempts without progress are allowed, and not one answer yet."""
    corpus = await chaos.corpus(40)
    (worker,) = await chaos.start_workers("0")
    chaos.provider(batch_seconds=45.0)
    tuning = replace(TUNING, heartbeat_timeout=4, max_barren_attempts=2)
    run = await chaos.start(chaos.job(corpus, documents=40, mode="batch"), tuning=tuning)
    for kill in range(1, 5):
        async with asyncio.timeout(30):
            while len(await Storage().list_all("results", run.layout.ledger(0))) < kill:  # noqa: ASYNC110 - by a worker
                await asyncio.sleep(0.2)
        await worker.kill()
        await worker.start()
    await chaos.complete(run, corpus, within=120)
    stats = chaos.ask("/stats")
    assert (stats["batches"], stats["accepted"], stats["paid_more_than_once"]) == (1, len(corpus), 0), stats
