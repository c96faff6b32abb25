"""All faults mixed, for minutes: nothing lost, nothing twice, little paid again, the workers' memory flat.

    DOCBATCH_SOAK_MINUTES (15)     runs follow one another until the time is up, and the documents are enough
    DOCBATCH_SOAK_DOCUMENTS        at least so many in all; 50,000 in 15 minutes
    DOCBATCH_CHAOS_SEED            the seed of everything at random; printed

Two workers of concurrency 64. Three strands of faults run beside each other: errors of the provider at a low rate (all
the time), faults of workers, and faults of servers. Storage and Temporal do not go while a worker is being ended: the
bound on what an end costs is stated for answers that could be made durable.

Worker `0` is killed, terminated and frozen; worker `1` is only frozen, so that one process lives from the first minute
to the last: its memory tells whether something leaks.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Protocol

import pytest
from temporalio.service import RPCError

from batch.client.run import Run
from benchmarks.figures import Figure
from tests.chaos.harness import SEED, TUNING, Chaos, ChaosWorker, measured, say
from tests.chaos.s3_proxy import Mode

MINUTES = float(os.environ.get("DOCBATCH_SOAK_MINUTES") or 15)
DOCUMENTS = int(os.environ.get("DOCBATCH_SOAK_DOCUMENTS") or min(50_000, math.ceil(50_000 * MINUTES / 15)))
RUN_DOCUMENTS = 12_500
SIZE = 500
CONCURRENCY = 64
SOAK_TUNING = replace(TUNING, heartbeat_timeout=8.0)
BEHAVIOUR: dict[str, Any] = {
    "latency_median": 0.2,
    "latency_sigma": 0.5,
    "rate_500": 0.002,
    "rate_503": 0.002,
    "rate_429": 0.003,
    "rate_reset": 0.002,
    "rate_timeout": 0.0002,
}
"""The provider's. None of these faults is paid, so that each second payment is on a fault of ours."""
CALL_TIMEOUT = 30.0
"""Seconds; longer than a freeze, so that answers which arrived during one are taken."""
WARM = min(60.0, MINUTES * 60 / 12)
"""Seconds after its start from which a worker's memory counts."""
MEMORY_GROWTH = 1.10
MEMORY_JUDGED_FROM = 10.0
"""Minutes of a soak that is long enough to judge memory by."""


class Fault(Protocol):
    """Does it, and returns when the stack is well again."""

    __name__: str

    def __call__(self, dice: Random, /) -> Awaitable[None]: ...


@dataclass
class Soak:
    """What is done to the stack, what it may cost, and what the workers' memory is meanwhile."""

    chaos: Chaos
    mortal: ChaosWorker
    survivor: ChaosWorker
    run: Run | None = None
    over: bool = False
    faults: Counter[str] = field(default_factory=Counter)
    ends: list[tuple[str, str, float]] = field(default_factory=list)
    """(fault, incarnation, Unix seconds) of each fault after which documents may be paid again."""
    memory: list[tuple[float, str, float, int]] = field(default_factory=list)
    """(monotonic seconds, incarnation, its age, resident bytes)."""
    apart: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self._born = {worker.by: time.monotonic() for worker in (self.mortal, self.survivor)}

    # -- faults

    async def of_workers(self) -> None:
        kinds: dict[Fault, int] = {self.kill: 3, self.terminate: 2, self.freeze: 2}
        await self._strand("worker", kinds, (10.0, 25.0))

    async def of_servers(self) -> None:
        kinds: dict[Fault, int] = {
            self.s3_answers_503: 2,
            self.s3_refuses: 2,
            self.temporal_goes: 2,
            self.provider_drops: 3,
            self.provider_is_overloaded: 2,
            self.pause: 2,
        }
        await self._strand("server", kinds, (6.0, 15.0))

    async def _strand(self, name: str, kinds: dict[Fault, int], between: tuple[float, float]) -> None:
        dice = Random(f"{SEED}/{name}")
        while not self.over:
            await asyncio.sleep(dice.uniform(*between))
            if self.over or self.run is None:
                continue
            (fault,) = dice.choices(list(kinds), list(kinds.values()))
            what = fault.__name__
            self.faults[what] += 1
            began = time.monotonic()
            await fault(dice)
            say(f"{name}: {what}, {time.monotonic() - began:.1f} s")

    def _pays(self, what: str, *workers: ChaosWorker, at: float | None = None) -> None:
        self.ends.extend((what, worker.by, at or time.time()) for worker in workers)

    async def _start(self, worker: ChaosWorker) -> None:
        await worker.start()
        self._born[worker.by] = time.monotonic()

    async def _busy(self, worker: ChaosWorker) -> None:
        """Waits a while for calls in flight: an end costs nothing while a run is planned or finished."""
        for _ in range(100):
            if self.chaos.journal.refresh().in_flight(worker.by) >= CONCURRENCY // 4:
                return
            await asyncio.sleep(0.1)

    async def kill(self, _: Random) -> None:
        async with self.apart:
            await self._busy(self.mortal)
            by = self.mortal.by
            self.ends.append(("kill", by, await self.mortal.kill()))
            await self._start(self.mortal)

    async def terminate(self, _: Random) -> None:
        async with self.apart:
            await self._busy(self.mortal)
            await self.mortal.terminate()
            await self._start(self.mortal)

    async def freeze(self, dice: Random) -> None:
        async with self.apart:
            worker = dice.choice([self.mortal, self.survivor])
            await self._busy(worker)
            self._pays("freeze", worker, at=worker.freeze())
            await asyncio.sleep(SOAK_TUNING.heartbeat_timeout * dice.uniform(1.2, 1.8))
            worker.thaw()
            await asyncio.sleep(2.0)

    async def _s3(self, mode: Mode, dice: Random) -> None:
        async with self.apart:
            self.chaos.proxy.set(mode)
            await asyncio.sleep(dice.uniform(3.0, 15.0))
            self.chaos.proxy.set("pass")
            await asyncio.sleep(7.0)  # answers that waited are durable: segments are sent again at most every 5 s

    async def s3_answers_503(self, dice: Random) -> None:
        await self._s3("503", dice)

    async def s3_refuses(self, dice: Random) -> None:
        await self._s3("refuse", dice)

    async def temporal_goes(self, dice: Random) -> None:
        async with self.apart:
            self.chaos.stack.temporal.kill(signal.SIGKILL)
            await asyncio.sleep(dice.uniform(0.0, 1.5 * SOAK_TUNING.heartbeat_timeout))
            await asyncio.to_thread(self.chaos.stack.temporal.start)
            # Activities whose heartbeats Temporal missed start a second time beside the first.
            self._pays("temporal", self.mortal, self.survivor)
            await asyncio.sleep(3.0)

    async def _provider(self, how: str, seconds: float) -> None:
        self.chaos.provider(fail_all=how)
        await asyncio.sleep(seconds)
        self.chaos.provider(fail_all=None)

    async def provider_drops(self, dice: Random) -> None:
        await self._provider("drop", dice.uniform(2.0, 15.0))

    async def provider_is_overloaded(self, dice: Random) -> None:
        await self._provider("503", dice.uniform(2.0, 10.0))

    async def pause(self, dice: Random) -> None:
        """Neither request may get lost, and a run that has ended meanwhile wants none."""
        run = self.run
        assert run is not None
        try:
            await self._ask(run.pause)
            await asyncio.sleep(dice.uniform(2.0, 8.0))
            await self._ask(run.resume)
        except RPCError as error:
            say(f"pause: {error}")
            assert (await run.status()).ended, "the run goes, but could not be paused or resumed"

    async def _ask(self, what: Callable[[], Awaitable[None]]) -> None:
        async with self.apart:  # Temporal is there
            await what()

    # -- memory

    async def watch_memory(self) -> None:
        while not self.over:
            for worker in (self.mortal, self.survivor):
                born = self._born.get(worker.by)
                if born is not None and worker.running:
                    now = time.monotonic()
                    try:
                        self.memory.append((now, worker.by, now - born, worker.resident_bytes()))
                    except OSError:
                        continue
            await asyncio.sleep(1.0)

    def memory_grew(self, began: float, whose: str = "") -> float:
        """Median resident bytes of the last third of the time by that of the first, warm workers only; 0: unknown."""
        third = (time.monotonic() - began) / 3
        warm = [(at - began, size) for at, by, age, size in self.memory if age > WARM and by.startswith(whose)]
        first = [size for at, size in warm if at <= third]
        last = [size for at, size in warm if at > 2 * third]
        if not first or not last:
            return 0.0
        span = third * 3 / 10
        tenths = [[size for at, size in warm if n * span < at <= (n + 1) * span] for n in range(10)]
        shown = [f"{statistics.median(tenth) / 2**20:.0f}" if tenth else "-" for tenth in tenths]
        say(f"MB by tenths of the time, {whose or 'all'}: {' '.join(shown)}")
        before, after = statistics.median(first), statistics.median(last)
        say(
            f"memory of {whose or 'all workers'}: {before / 2**20:.0f} MB in the first third, {after / 2**20:.0f} MB "
            f"in the last ({after / before - 1:+.1%})"
        )
        return after / before


def check_paid(soak: Soak) -> list[Figure]:
    journal = soak.chaos.journal.refresh()
    again = journal.paid_again()
    bounds: Counter[str] = Counter()
    for what, by, at in soak.ends:
        loss = journal.loss(by, at, underway=0.0 if what == "temporal" else 1.0)
        bounds[by] += math.floor(loss.bound)
        say(f"{what} of {by}: {loss.in_flight} in flight, {loss.rate:.0f} answers/s, bound {loss.bound:.0f}")
    for by in sorted(bounds | again):
        say(f"{by}: paid again {again[by]}, bound {bounds[by]}")
    assert all(count <= bounds[by] for by, count in again.items()), again
    return [
        Figure("faults after which answers may be paid again", len(soak.ends)),
        Figure("answers paid again", again.total(), at_most=bounds.total()),
    ]


@pytest.mark.soak
@pytest.mark.timeout(MINUTES * 60 * 2 + 900)
async def test_all_faults_mixed(chaos: Chaos) -> None:
    say(f"{MINUTES:g} minutes, at least {DOCUMENTS} documents, seed {SEED}")
    mortal, survivor = await chaos.start_workers(
        "0", "1", proxied=True, environment={"DOCBATCH_CHAOS_OUTAGE_AFTER": "20"}
    )
    chaos.provider(**BEHAVIOUR)
    soak = Soak(chaos, mortal, survivor)
    began = time.monotonic()
    strands = [asyncio.create_task(work()) for work in (soak.of_workers, soak.of_servers, soak.watch_memory)]
    documents, runs, working = 0, 0, 0.0
    while documents < DOCUMENTS or time.monotonic() - began < MINUTES * 60:
        corpus = await chaos.corpus(min(RUN_DOCUMENTS, max(2000, DOCUMENTS // 2)), size=SIZE)
        job = chaos.job(corpus, documents=100, concurrency=CONCURRENCY, timeout=CALL_TIMEOUT)
        async with soak.apart:
            soak.run = run = await chaos.start(job, tuning=SOAK_TUNING)
        started = time.monotonic()
        waiting = asyncio.create_task(chaos.wait(run, within=1200))
        await asyncio.wait([waiting, *strands], return_when=asyncio.FIRST_COMPLETED)
        for strand in strands:
            if strand.done():
                await strand  # it has failed: say why
        soak.run = None
        await waiting
        async with soak.apart:
            await chaos.complete(run, corpus, latecomers=True)
        documents, runs, working = documents + len(corpus), runs + 1, working + time.monotonic() - started
    soak.over = True
    await asyncio.gather(*strands)
    seconds = time.monotonic() - began
    say(
        f"{documents} documents in {runs} runs, {documents / working:.0f}/s under faults, {seconds:.0f} "
        f"s in all, seed {SEED}; faults {dict(soak.faults)}; provider {chaos.ask('/stats')['errors']}"
    )
    paid = check_paid(soak)
    grew = [soak.memory_grew(began), soak.memory_grew(began, survivor.name)]
    most = MEMORY_GROWTH if MINUTES >= MEMORY_JUDGED_FROM else None
    measured(
        chaos.test,
        f"{MINUTES:g} minutes of all faults mixed: workers killed, terminated, frozen; S3, Temporal and provider away.",
        Figure("documents with one ok row, reconciled", documents, at_least=DOCUMENTS),
        Figure("faults", sum(soak.faults.values())),
        *paid,
        Figure("memory of all workers, last third by first", grew[0], "%", at_most=most),
        Figure("memory of the worker that lives through it", grew[1], "%", at_most=most),
    )
