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
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker, WorkerDeploymentConfig, WorkflowRunner

from batch.workflows import contracts as c
from batch.workflows.budget import WAIT, BudgetAnswer, BudgetRequest
from batch.workflows.coordinator import WORKFLOWS
from batch.workflows.run_state import RunInput
from batch.workflows.states import Outcome, Reason
from workers.process.sandbox import workflow_runner

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
    claims: list[c.ClaimInput] = field(default_factory=list)
    searchable: bool = False
    probe_problem: str = ""
    max_cost_usd: float | None = None
    refused_shard: int | None = None
    """One that cannot be planned."""
    refused_as: str = Reason.STORAGE_REFUSED

    @activity.defn(name=c.CLAIM_RUN)
    async def claim(self, task: c.ClaimInput) -> c.Claimed:
        self.claims.append(task)
        return c.Claimed(
            c.RunRef(task.run_id, "s3://results/"),
            "stand-in",
            3,
            self.in_flight,
            shows_progress=True,
            searchable=self.searchable,
            max_cost_usd=self.max_cost_usd,
        )

    @activity.defn(name=c.PLAN_SHARD)
    async def plan(self, task: c.PlanInput) -> c.PlannedShard:
        if task.shard == self.refused_shard:
            raise ApplicationError("cannot be planned", type=self.refused_as, non_retryable=True)
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
            task.partition, Outcome.COMMITTED, c.Totals(documents=self.documents, ok=self.documents, partitions=1)
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
    async def worker(
        self,
        client: Client,
        *,
        slots: int = 50,
        queue: str = "",
        control: WorkerDeploymentConfig | None = None,
        runner: WorkflowRunner | None = None,
    ) -> AsyncIterator[str]:
        """Both workers of a process, by default on a new task queue; gives the queue. `control`: that one's version."""
        queue = queue or f"queue-{uuid.uuid4()}"
        run_control = Worker(
            client,
            task_queue=c.control_queue(queue),
            workflows=WORKFLOWS,
            workflow_runner=runner or workflow_runner(),
            activities=[self.claim, self.plan, self.plan_rerun, self.control, self.closed, self.check, self.finish],
            deployment_config=control,
        )
        partitions = Worker(
            client,
            task_queue=queue,
            activities=[self.partition],
            max_concurrent_activities=slots,
            max_heartbeat_throttle_interval=timedelta(seconds=max(0.5, self.beat_every)),
            default_heartbeat_throttle_interval=timedelta(seconds=max(0.5, self.beat_every)),
        )
        async with run_control, partitions:
            yield queue

    async def start(
        self, client: Client, queue: str, tuning: c.Tuning | None = None, rerun: c.RerunRequest | None = None
    ) -> WorkflowHandle[Any, Any]:
        return await client.start_workflow(
            c.RUN_WORKFLOW,
            RunInput(tuning=tuning or c.Tuning(), partitions_queue=queue, job_json="{}", rerun=rerun),
            id=f"run-{uuid.uuid4()}",
            task_queue=c.control_queue(queue),
            result_type=c.Finished,
        )


class Till:
    """What a worker process says of its money: one account an epoch, one call at a time, each request sent twice."""

    def __init__(self, client: Client, run_id: str) -> None:
        self._client, self._run_id = client, run_id
        self._lock = asyncio.Lock()
        self._epoch = self._number = 0
        self._spent = 0.0
        self.answers: list[BudgetAnswer] = []
        self.paid: list[float] = []

    async def pay(self, usd: float, epoch: int) -> bool:
        """Whether the run has money for a call, which then is paid."""
        async with self._lock:
            if epoch != self._epoch:
                self._epoch, self._number, self._spent = epoch, 0, 0.0
            while True:
                answer = await self._ask(waiting=usd, needed=usd, call_usd=usd)
                if answer.allowance >= self._spent + usd:
                    self._spent += usd
                    self.paid.append(usd)
                    return True
                if answer.verdict != WAIT:
                    return False
                await asyncio.sleep(0.1)

    def charges(self, work: StandIns) -> Process:
        """Partitions that cost a dollar each, and yield where there is none."""

        async def process(task: c.PartitionInput) -> c.PartitionOutcome:
            if not await self.pay(1.0, task.epoch):
                return c.PartitionOutcome(task.partition, Outcome.YIELDED, reason=Reason.MAX_COST, epoch=task.epoch)
            return work.committed(task)

        return process

    async def close(self) -> None:
        await self._ask(final=True)

    async def _ask(self, **more: Any) -> BudgetAnswer:
        self._number += 1
        name = f"till-{self._epoch}"
        request = BudgetRequest(name, self._number, self._epoch, spent=self._spent, keeps=self._spent, **more)
        handle = self._client.get_workflow_handle(self._run_id)
        for attempt in range(2):
            answer: BudgetAnswer = await handle.execute_update(
                c.RESERVE_BUDGET, request, id=f"{name}-{self._number}-{attempt}", result_type=BudgetAnswer
            )
            self.answers.append(answer)
        return self.answers[-2]


@dataclass
class HeldAccount(StandIns):
    """Says when a run's account is being made (`accounting`), and holds that until it `may_end`."""

    accounting: asyncio.Event = field(default_factory=asyncio.Event)
    may_end: asyncio.Event = field(default_factory=asyncio.Event)

    @activity.defn(name=c.FINISH_RUN)
    async def finish(self, task: c.FinishInput) -> c.Finished:
        self.accounting.set()
        while not self.may_end.is_set():
            activity.heartbeat()
            await asyncio.sleep(0.05)
        return await super().finish(task)
