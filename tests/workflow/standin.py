"""Stand-ins for the activities: the same names and types, no storage and no model behind them."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from temporalio import activity
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Worker

from batch import contracts as c
from batch.coordinator import WORKFLOWS

Process = Callable[[c.PartitionInput], Coroutine[Any, Any, c.PartitionOutcome]]


async def until(condition: Any, seconds: float = 20.0) -> None:
    for _ in range(int(seconds / 0.05)):
        if await condition() if asyncio.iscoroutinefunction(condition) else condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"not within {seconds} s")


@dataclass
class StandIns:
    """What a run's activities would do, with `shards` shards of `partitions` partitions."""

    shards: int = 2
    partitions: int = 10
    documents: int = 5
    seconds: float = 0.05
    process: Process | None = None
    in_flight: int = 1000
    beat_every: float = 0.3
    controls: list[c.Control] = field(default_factory=list)
    begun: dict[int, int] = field(default_factory=dict)
    cancelled: int = 0
    running: int = 0
    busy: list[tuple[float, int]] = field(default_factory=list)
    finished: list[c.FinishInput] = field(default_factory=list)
    probe_problem: str = ""

    @activity.defn(name=c.CLAIM_RUN)
    async def claim(self, task: c.ClaimInput) -> c.Claimed:
        return c.Claimed(c.RunRef(task.run_id, "s3://results/"), "stand-in", "simulated-small", 3, self.in_flight)

    @activity.defn(name=c.PLAN_SHARD)
    async def plan(self, task: c.PlanInput) -> c.PlannedShard:
        return c.PlannedShard(
            task.shard,
            task.first_partition,
            self.partitions,
            self.partitions * self.documents,
            f"key-{task.shard}",
            last=task.shard == self.shards - 1,
        )

    @activity.defn(name=c.PLAN_RERUN)
    async def plan_rerun(self, task: c.RerunPlanInput) -> c.RerunPlan:
        """The first partition of each shard, one shard a page; the plan is complete."""
        shard = task.start_shard
        if shard == self.shards:
            return c.RerunPlan([], None, plan_complete=True, plan_shards=shard)
        first = shard * self.partitions
        work = c.PlannedShard(shard, first, self.partitions, self.documents, "k", shard == self.shards - 1, [first])
        return c.RerunPlan([work], shard + 1)

    @activity.defn(name=c.PROCESS_PARTITION)
    async def partition(self, task: c.PartitionInput) -> c.PartitionOutcome:
        self.begun[task.partition] = self.begun.get(task.partition, 0) + 1
        self._count(1)
        try:
            if self.process is not None:
                return await self.process(task)
            await self.work(random.lognormvariate(0, 0.5) * self.seconds)
            return self.committed(task)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self._count(-1)

    async def work(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            activity.heartbeat()
            await asyncio.sleep(min(self.beat_every, left))

    def committed(self, task: c.PartitionInput) -> c.PartitionOutcome:
        return c.PartitionOutcome(
            task.partition, c.COMMITTED, c.Totals(documents=self.documents, ok=self.documents, partitions=1)
        )

    def _count(self, change: int) -> None:
        self.running += change
        self.busy.append((time.monotonic(), self.running))

    @activity.defn(name=c.WRITE_CONTROL)
    async def control(self, task: c.ControlInput) -> None:
        self.controls.append(task.control)

    @activity.defn(name=c.FIND_CLOSED_SHARDS)
    async def closed(self, task: c.ClosedShardsInput) -> list[str]:
        return []

    @activity.defn(name=c.CHECK_MODEL)
    async def check(self, task: c.CheckInput) -> c.CheckResult:
        return c.CheckResult(self.probe_problem)

    @activity.defn(name=c.FINISH_RUN)
    async def finish(self, task: c.FinishInput) -> c.Finished:
        self.finished.append(task)
        return c.Finished(task.state, c.Totals(), [], "s3://m", "s3://r")

    @asynccontextmanager
    async def worker(self, client: Client, *, slots: int = 50, queue: str = "") -> AsyncIterator[str]:
        """Both workers of a process; gives the task queue."""
        queue = queue or f"queue-{uuid.uuid4()}"
        control = Worker(
            client,
            task_queue=c.control_queue(queue),
            workflows=WORKFLOWS,
            activities=[self.claim, self.plan, self.plan_rerun, self.control, self.closed, self.check, self.finish],
        )
        partitions = Worker(
            client,
            task_queue=queue,
            activities=[self.partition],
            max_concurrent_activities=slots,
            max_heartbeat_throttle_interval=timedelta(seconds=max(0.5, self.beat_every)),
            default_heartbeat_throttle_interval=timedelta(seconds=max(0.5, self.beat_every)),
        )
        async with control, partitions:
            yield queue

    async def start(
        self, client: Client, queue: str, tuning: c.Tuning | None = None, rerun: c.RerunRequest | None = None
    ) -> WorkflowHandle[Any, Any]:
        return await client.start_workflow(
            c.RUN_WORKFLOW,
            c.RunInput(tuning=tuning or c.Tuning(), partitions_queue=queue, job_json="{}", rerun=rerun),
            id=f"run-{uuid.uuid4()}",
            task_queue=c.control_queue(queue),
            result_type=c.Finished,
        )
