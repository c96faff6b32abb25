"""Workers that are killed, terminated, frozen: nothing lost, nothing twice, little paid again (promises 1 and 2)."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from batch.storage.store import Storage
from benchmarks.figures import Figure
from tests.chaos.harness import TUNING, Chaos, ChaosWorker, measured, say
from tests.chaos.journal import Loss

MEDIAN, SIGMA = 0.3, 0.5
"""Seconds and sigma of the provider's lognormal latency (the issue: around 300 ms)."""


async def kill_again_and_again(
    chaos: Chaos, workers: list[ChaosWorker], kills: int, *, half: int, apart: tuple[float, float]
) -> None:
    """Kills a random worker at random moments, each with at least `half` in flight, and starts it again."""
    done = 0
    while done < kills:
        await asyncio.sleep(chaos.random.uniform(*apart))
        loss = await chaos.kill_in_flight(workers, half + half // 4)
        assert loss is not None, "no worker has more in flight than half of its concurrency"
        done += loss.in_flight >= half
        say(f"kill {done} of {loss.by} with {loss.in_flight} in flight")
        await next(worker for worker in workers if worker.by == loss.by).start()


def check_losses(chaos: Chaos, kills: int, half: int) -> list[Loss]:
    losses = chaos.losses()
    counted = [loss for loss in losses if loss.in_flight >= half]
    assert len(counted) >= kills
    paid = chaos.journal.paid()
    say(
        f"{len(losses)} kills: paid again {sum(loss.paid_again for loss in losses)} of {len(paid)}, "
        f"bounds add up to {math.floor(sum(loss.bound for loss in losses))}; unexplained {chaos.unexplained()}"
    )
    for loss in losses:
        assert loss.paid_again <= loss.bound, str(loss)
    assert chaos.unexplained() == 0
    return losses


async def two_workers_killed(
    chaos: Chaos, *, documents: int, kills: int, concurrency: int, apart: tuple[float, float], within: float
) -> None:
    corpus = await chaos.corpus(documents)
    workers = await chaos.start_workers("0", "1")
    chaos.provider(latency_median=MEDIAN, latency_sigma=SIGMA)
    run = await chaos.start(chaos.job(corpus, documents=100, concurrency=concurrency))
    await kill_again_and_again(chaos, workers, kills, half=concurrency // 2, apart=apart)
    result = await chaos.complete(run, corpus, within=within)
    losses = check_losses(chaos, kills, concurrency // 2)
    assert set(corpus.keys.values()) <= set(chaos.journal.paid())
    measured(
        chaos.test,
        f"Two workers of concurrency {concurrency}, killed (`kill -9`) at random moments; provider around 300 ms.",
        Figure("kills with half of the concurrency in flight", len(losses), at_least=kills),
        Figure("documents with one ok row", result.ok, exactly=documents),
        Figure("answers paid again, all kills", sum(loss.paid_again for loss in losses)),
        Figure("in flight plus 1.5 s of answers, all kills", math.floor(sum(loss.bound for loss in losses))),
        Figure(
            "worst kill: paid again by its bound",
            max(loss.paid_again / loss.bound for loss in losses),
            "%",
            at_most=1.0,
        ),
        Figure("answers paid again for no kill", chaos.unexplained(), exactly=0),
    )


async def test_kill_9_repays_what_was_in_flight_and_little_more(chaos: Chaos) -> None:
    await two_workers_killed(chaos, documents=1800, kills=2, concurrency=32, apart=(0.5, 2.0), within=90)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_ten_kills_in_30000_documents(chaos: Chaos) -> None:
    await two_workers_killed(chaos, documents=30_000, kills=10, concurrency=64, apart=(1.0, 5.0), within=900)


@pytest.mark.soak
async def test_without_the_ledger_the_bound_does_not_hold(chaos: Chaos) -> None:
    """The proof that the measurement can fail."""
    corpus = await chaos.corpus(1000)
    worker = chaos.worker("0", fault="ledger-off")
    await worker.start()
    chaos.provider(latency=0.2)
    run = await chaos.start(chaos.job(corpus, documents=125, concurrency=32))
    await chaos.until(lambda: chaos.journal.refresh().answers(worker.by) >= 600, within=60)
    assert await chaos.kill_in_flight([worker], 16) is not None
    await worker.start()
    await chaos.complete(run, corpus)
    (loss,) = chaos.losses()
    measured(
        chaos.test,
        "The same with the ledger switched off: the proof that the measurement can fail.",
        Figure("answers paid again", loss.paid_again, at_least=math.floor(loss.bound) + 1),
        Figure("in flight plus 1.5 s of answers", math.floor(loss.bound)),
    )


@pytest.mark.soak
async def test_sigterm_pays_nothing_again(chaos: Chaos) -> None:
    """A rolling restart of both workers."""
    await rolling_restarts(chaos, documents=280, concurrency=16, rounds=1)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_ten_sigterms_in_30000_documents(chaos: Chaos) -> None:
    await rolling_restarts(chaos, documents=30_000, concurrency=64, rounds=5)


async def rolling_restarts(chaos: Chaos, *, documents: int, concurrency: int, rounds: int) -> None:
    corpus = await chaos.corpus(documents)
    workers = await chaos.start_workers("0", "1")
    chaos.provider(latency_median=2 * MEDIAN, latency_sigma=SIGMA)
    run = await chaos.start(chaos.job(corpus, documents=concurrency * 2, concurrency=concurrency))

    def busy(worker: ChaosWorker) -> bool:
        return chaos.journal.refresh().in_flight(worker.by) >= concurrency // 2

    for worker in workers * rounds:
        await chaos.until(partial(busy, worker), within=60)
        await asyncio.sleep(chaos.random.uniform(0.0, 0.5))
        await worker.terminate()
        await worker.start()
    await chaos.complete(run, corpus, within=60 + documents / 20)
    stats = chaos.ask("/stats")
    measured(
        chaos.test,
        f"Two workers of concurrency {concurrency}, each told to stop (SIGTERM) and started again, in turn.",
        Figure("SIGTERMs", 2 * rounds),
        Figure("answers paid", stats["accepted"], exactly=len(corpus)),
        Figure("documents paid more than once", stats["paid_more_than_once"], exactly=0),
    )


@pytest.mark.soak
async def test_a_worker_that_dies_between_commit_and_completion_repays_nothing(chaos: Chaos, tmp_path: Path) -> None:
    corpus = await chaos.corpus(60)
    worker = chaos.worker(
        "0", fault="die-after-commit", slots=1, environment={"DOCBATCH_CHAOS_ONCE": str(tmp_path / "once")}
    )
    await worker.start()
    run = await chaos.start(chaos.job(corpus, documents=20), tuning=replace(TUNING, heartbeat_timeout=4.0))
    await worker.died()
    await worker.start()
    await chaos.complete(run, corpus)
    assert (tmp_path / "once").exists()
    stats = chaos.ask("/stats")
    assert (stats["accepted"], stats["paid_more_than_once"]) == (len(corpus), 0)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_fifty_drains_do_not_use_up_a_partitions_chances(chaos: Chaos) -> None:
    """One partition, drained more often than attempts without progress are allowed."""
    corpus = await chaos.corpus(20)
    (worker,) = await chaos.start_workers("0")
    chaos.provider(fail_all="503", retry_after=30.0)
    run = await chaos.start(chaos.job(corpus, documents=20), tuning=replace(TUNING, max_barren_attempts=2))
    before = 0

    def called() -> bool:
        return chaos.requests() > before

    for _ in range(50):
        before = chaos.requests()
        await chaos.until(called, within=30, every=0.1)
        await worker.terminate()
        await worker.start()
    chaos.provider(fail_all=None)
    result = await chaos.complete(run, corpus)
    measured(
        chaos.test,
        "One partition, drained again and again while two attempts in a row without progress are allowed.",
        Figure("drains", 50),
        Figure("documents with one ok row", result.ok, exactly=len(corpus)),
    )


@pytest.mark.soak
async def test_a_frozen_worker_wakes_up_beside_its_successor(chaos: Chaos) -> None:
    """SIGSTOP past the heartbeat timeout, another worker finishes its partitions, SIGCONT."""
    corpus = await chaos.corpus(320)
    frozen, other = await chaos.start_workers("0", "1")
    chaos.provider(latency_median=MEDIAN, latency_sigma=SIGMA)
    tuning = replace(TUNING, heartbeat_timeout=4.0)
    run = await chaos.start(chaos.job(corpus, documents=40, concurrency=24), tuning=tuning)
    await chaos.until(lambda: chaos.journal.refresh().in_flight(frozen.by) >= 12, within=30)
    await asyncio.sleep(0.7)
    at = frozen.freeze()
    by = frozen.by
    status = await chaos.until_status(run, lambda status: status.documents == len(corpus) or status.ended, within=60)
    say(f"while frozen for {time.time() - at:.1f} s: {status.documents} rows, {other.name} did the rest")
    frozen.thaw()
    await chaos.complete(run, corpus, latecomers=True)
    await asyncio.sleep(2.0)  # whatever the woken one may still try
    await chaos.check_rows(run, corpus)
    assert await Storage().list_all("results", run.layout.ledgers) == [], "the woken one left segments behind"
    loss = chaos.journal.refresh().loss(by, at)
    measured(
        chaos.test,
        "A worker stopped (SIGSTOP) past the heartbeat timeout while another finishes its partitions, then SIGCONT.",
        Figure("documents with one row, reconciled", len(corpus), exactly=320),
        Figure("answers paid again", sum(chaos.journal.paid_again().values()), at_most=math.floor(loss.bound)),
    )
