"""Nights of one job: what is asked about, what is carried forward, and that the table is the one that a full run gives.

Night 2 finds 1 % new, 1 % changed and 0.5 % deleted; night 3 has another prompt. The same night 2 once more for a twin
of the job, whose workers are killed (`kill -9`) five times at random moments.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import date

import polars as pl

from batch import Job, connect
from batch.client.run import Run
from batch.client.status import RunResult
from batch.files.results import current
from batch.files.state import read_pointer
from batch.local import corpus
from batch.local.processes import Process
from batch.local.stack import LocalStack
from batch.workflows.contracts import Tuning
from benchmarks.figures import Figure, same
from benchmarks.lab import DOCUMENT_BYTES, MODEL, SCHEMA, Provider, stack
from benchmarks.synthetic import synthetic_documents

KILLS = 5
OF_A_RUN = ["shard", "partition", "generation", "run_id", "processed_at", "latency_seconds", "content_hash"]
TUNING = replace(Tuning(), heartbeat_timeout=5.0, watch_shards_every=10.0)


def run(quick: bool) -> list[Figure]:
    """Must show 2 and 3 of the issue about sources and incremental runs."""
    count = 2_000 if quick else 20_000
    with stack() as running:
        running.start_worker()
        running.start_worker()
        return asyncio.run(Nights(running, count).run())


def _job(name: str, prompt: str, *, incremental: bool) -> Job:
    return Job.parse(
        {
            "name": name,
            "source": {"uri": "s3://corpus/nights/"},
            "prompt": {"user": prompt + "\n{{ text }}"},
            "model": {"name": MODEL},
            "output": {"uri": f"s3://results/{name}/{{{{ date }}}}/", "schema": SCHEMA},
            "limits": {"concurrency": 128},
            "partitions": {"documents": 200},
            "incremental": incremental,
        }
    )


class Nights:
    """The corpus as it changes, and the runs over it."""

    def __init__(self, running: LocalStack, count: int) -> None:
        self._running, self._count = running, count
        self._provider = Provider(running)
        self._killed = 0
        self._texts = dict(synthetic_documents(count, DOCUMENT_BYTES))

    async def _upload(self, names: Iterable[str]) -> None:
        await corpus.upload_async(
            self._running.environment(), "corpus", "nights", [(name, self._texts[name]) for name in names]
        )

    async def _pass_a_day(self) -> tuple[int, int, int]:
        """1 % new, 1 % changed, 0.5 % deleted: how many of each."""
        names = sorted(self._texts)
        random.Random(7).shuffle(names)
        part = self._count // 100
        changed, deleted = names[:part], names[part : part + part // 2]
        new = [f"{name}.new.txt" for name in names[-part:]]
        for name in changed:
            self._texts[name] += b" Edited."
        for name in new:
            self._texts[name] = self._texts[name.removesuffix(".new.txt")] + b" Another."
        await self._upload([*changed, *new])
        s3 = self._running.s3_client()
        for name in deleted:
            del self._texts[name]
            s3.delete_object(Bucket="corpus", Key=f"nights/{name}")
        return len(new), len(changed), len(deleted)

    async def _night(
        self, name: str, day: int, *, prompt: str = "Label this.", incremental: bool = True, killed: bool = False
    ) -> tuple[Run, RunResult, int]:
        self._provider.reset()
        began = time.monotonic()
        connection = await connect()
        job = _job(name, prompt, incremental=incremental)
        label = "" if incremental else "-full"
        started = await connection.start(
            job, run_id=f"{name}-{day}{label}", day=date(2026, 11, day), tuning=TUNING, check_model=False
        )
        killing = asyncio.create_task(self._kill_some(started)) if killed else None
        ended = await started.wait()
        if killing is not None:
            await killing
        paid = int(self._provider.stats()["paid"])
        print(
            f"  {started.run_id}: {ended.state}, {ended.documents:,} documents, {paid:,} answers paid, "
            f"{ended.reasons} {ended.deleted} deleted, {time.monotonic() - began:.1f} s",
            flush=True,
        )
        assert ended.state == "completed", ended
        return started, ended, paid

    async def _kill_some(self, run: Run) -> None:
        """Kills workers at random moments and starts them again: first the planner's, at the end the finisher's."""
        chance = random.Random(11)
        await asyncio.sleep(chance.uniform(0.05, 0.4))
        for _ in range(KILLS - 1):
            await self._kill(chance.choice(self._running.workers))
            await asyncio.sleep(chance.uniform(0.3, 1.2))
        status = await run.status()
        while not status.plan_done or status.documents < status.planned:
            await asyncio.sleep(0.02)
            status = await run.status()
        await asyncio.gather(*(self._kill(worker) for worker in self._running.workers))

    async def _kill(self, worker: Process) -> None:
        worker.kill(signal.SIGKILL)
        self._killed += 1
        await asyncio.to_thread(worker.start)

    async def run(self) -> list[Figure]:
        await self._upload(self._texts)
        _, _, first_paid = await self._night("nightly", 1)
        await self._night("twin", 1)
        new, changed, deleted = await self._pass_a_day()
        second, second_end, second_paid = await self._night("nightly", 2)
        full, _, _ = await self._night("nightly", 2, incremental=False)
        self._provider.control(latency=2.0)
        twin, twin_end, twin_paid = await self._night("twin", 2, killed=True)
        self._provider.control(latency=0.0)
        third, third_end, third_paid = await self._night("nightly", 3, prompt="Summarize this.")
        third_full, _, _ = await self._night("nightly", 3, prompt="Summarize this.", incremental=False)
        twin_again, again_end, again_paid = await self._night("twin", 4)
        unchanged = len(self._texts) - new - changed
        table = _table(second)
        wanted = {"new": new, "changed": changed, "unchanged": unchanged}
        layout = _job("twin", "", incremental=True).state_layout
        pointer = await read_pointer(second.connection.storage, layout)
        assert pointer is not None
        now = current(layout, pointer[0]).collect()
        return [
            Figure("night 1: answers paid", first_paid, exactly=self._count),
            Figure("night 2: answers paid", second_paid, exactly=new + changed),
            same("night 2: reasons add up", second_end.reasons == wanted and second_end.deleted == deleted),
            same("night 2: the table of a full run", table.equals(_table(full))),
            Figure("night 3, another prompt: answers paid", third_paid, exactly=len(self._texts)),
            same("night 3: reasons add up", third_end.reasons == {"job_changed": len(self._texts)}),
            same("night 3: the table of a full run", _table(third).equals(_table(third_full))),
            Figure("night 2 of the twin: kills", self._killed, at_least=KILLS),
            same("night 2 of the twin: the same table", _table(twin).equals(table) and twin_end.reasons == wanted),
            Figure("night 2 of the twin: answers paid", twin_paid, at_least=new + changed),
            Figure("its next night: answers paid", again_paid, exactly=0),
            same("its next night: the same table", _table(twin_again).equals(table)),
            same("its current state: the same table", _sorted(now).equals(table)),
            same("its next night: nothing has changed", again_end.reasons == {"unchanged": len(self._texts)}),
        ]


def _table(run: Run) -> pl.DataFrame:
    return _sorted(run.results().collect())


def _sorted(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.drop(OF_A_RUN, strict=False).sort("document_id")
