"""Lives of a run worth keeping as histories: `python -m tests.workflow.scenarios [NAME...]` records them anew.

Record one that is there only when a change of the workflows cannot be made compatible, and no run of the old kind is
going any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleSpec,
    WorkflowFailureError,
)
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment

from batch.workflows import contracts as c
from batch.workflows.run_state import RunInput
from batch.workflows.states import Outcome, Reason
from tests.workflow.standin import HeldAccount, StandIns, Till, until

HISTORIES = Path(__file__).with_name("histories")
MASKED = {"identity": "worker", "stackTrace": ""}
TUNING = c.Tuning(shard_partitions=6, window=3)


async def normal(client: Client) -> str:
    work = StandIns(shards=2, partitions=6)
    async with work.worker(client) as queue:
        handle = await work.start(client, queue, TUNING)
        await handle.result()
        return handle.id


async def retries_and_yields(client: Client) -> str:
    work = StandIns(shards=1, partitions=6)

    async def process(task: c.PartitionInput) -> c.PartitionOutcome:
        begun = work.begun[task.partition]
        if task.partition == 1 and begun == 1:
            raise ApplicationError("once")
        if task.partition == 2 and begun == 1:
            return c.PartitionOutcome(2, Outcome.YIELDED, reason=Reason.DRAIN, epoch=task.epoch)
        if task.partition == 3:
            return c.PartitionOutcome(3, Outcome.GIVEN_UP)
        if task.partition == 4:
            raise ApplicationError("never", non_retryable=True)
        return work.committed(task)

    work.process = process
    async with work.worker(client) as queue:
        handle = await work.start(client, queue, TUNING)
        await handle.result()
        return handle.id


async def pause_and_resume(client: Client) -> str:
    work = StandIns(shards=2, partitions=6, seconds=0.1)
    async with work.worker(client, slots=2) as queue:
        handle = await work.start(client, queue, TUNING)
        await until(lambda: bool(work.begun))
        await handle.signal("pause", "lunch")
        await asyncio.sleep(0.5)
        await handle.signal("resume")
        await handle.result()
        return handle.id


async def outage_and_probe(client: Client) -> str:
    work = StandIns(shards=1, partitions=4, probe_problem="refused")

    async def process(task: c.PartitionInput) -> c.PartitionOutcome:
        if task.epoch == 1:
            return c.PartitionOutcome(task.partition, Outcome.YIELDED, reason=Reason.PROVIDER_UNREACHABLE, epoch=1)
        return work.committed(task)

    work.process = process
    async with work.worker(client) as queue:
        handle = await work.start(client, queue, c.Tuning(window=3, probe_every=0.3))
        await asyncio.sleep(1.0)
        work.probe_problem = ""
        await handle.result()
        return handle.id


async def cancel(client: Client) -> str:
    work = StandIns(shards=3, partitions=6, seconds=5.0)
    async with work.worker(client, slots=4) as queue:
        handle = await work.start(client, queue, TUNING)
        await until(lambda: work.running == 4)
        await handle.cancel()
        with contextlib.suppress(WorkflowFailureError):
            await handle.result()
        return handle.id


async def cancel_while_accounting(client: Client) -> str:
    """Cancelled when all its work is done: nothing is left to stop, and its account is made."""
    work = HeldAccount(shards=1, partitions=4)
    async with work.worker(client) as queue:
        handle = await work.start(client, queue, TUNING)
        await work.accounting.wait()
        await handle.cancel()
        await asyncio.sleep(1.0)
        work.may_end.set()
        await handle.result()
        return handle.id


async def rerun(client: Client) -> str:
    work = StandIns(shards=2, partitions=6)
    async with work.worker(client) as queue:
        handle = await work.start(client, queue, TUNING, rerun=c.RerunRequest(all_errors=True))
        await handle.result()
        return handle.id


async def continue_as_new(client: Client) -> str:
    work = StandIns(shards=4, partitions=6)
    async with work.worker(client) as queue:
        tuning = c.Tuning(shard_partitions=6, window=3, continue_every_shards=1)
        handle = await work.start(client, queue, tuning)
        await handle.result()
        return handle.id


async def scheduled(client: Client) -> str:
    """A run that a schedule started, in a namespace with our search attributes; long enough to publish its progress."""
    work = StandIns(shards=1, partitions=4, searchable=True)

    async def process(task: c.PartitionInput) -> c.PartitionOutcome:
        await work.work(12.0 if task.partition == 3 else 0.1)
        return work.committed(task)

    work.process = process
    async with work.worker(client) as queue:
        name = f"nightly-{queue}"
        start = RunInput(TUNING, queue, job_json="{}", time_zone="Asia/Tokyo")
        action = ScheduleActionStartWorkflow(c.RUN_WORKFLOW, start, id=name, task_queue=c.control_queue(queue))
        schedule = await client.create_schedule(name, Schedule(action, ScheduleSpec()), trigger_immediately=True)
        await until(lambda: bool(work.finished))
        await schedule.delete()
        run_id = work.claims[0].run_id
        await client.get_workflow_handle(run_id).result()
        return run_id


async def budget(client: Client) -> str:
    """A run that uses up its maximum cost, pauses, and goes on with a higher one, across continue-as-new."""
    work = StandIns(shards=3, partitions=6, max_cost_usd=7.0)
    async with work.worker(client) as queue:
        tuning = c.Tuning(shard_partitions=6, window=3, plan_ahead=1, continue_every_shards=1)
        handle = await work.start(client, queue, tuning)
        till = Till(client, handle.id)
        work.process = till.charges(work)
        await until(lambda: any(control.reason == Reason.MAX_COST for control in work.controls))
        await handle.signal("resume", 20.0)
        await until(lambda: len(till.paid) == 18)
        await till.close()
        await handle.result()
        return handle.id


SCENARIOS: dict[str, Callable[[Client], Awaitable[str]]] = {
    scenario.__name__: scenario
    for scenario in (
        *(normal, retries_and_yields, pause_and_resume, outage_and_probe, cancel, rerun, continue_as_new),
        cancel_while_accounting,
        scheduled,
        budget,
    )
}


def portable(history: str) -> str:
    """Compact, and without names and paths of the machine that recorded it."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: MASKED.get(key, clean(inner)) for key, inner in value.items()}
        return [clean(inner) for inner in value] if isinstance(value, list) else value

    return json.dumps(clean(json.loads(history)), separators=(",", ":"))


async def record(names: list[str]) -> None:
    """Runs the scenarios (none named: all) on a real server and writes the history of each execution."""
    HISTORIES.mkdir(exist_ok=True)
    wanted = {name: SCENARIOS[name] for name in names or SCENARIOS}
    for name in wanted:
        for old in HISTORIES.glob(f"{name}-*.json"):
            old.unlink()
    binary = Path(sys.executable).with_name("temporal")
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=str(binary),
        dev_server_log_level="error",
        search_attributes=[SearchAttributeKey.for_keyword(name) for name in (c.JOB_ATTRIBUTE, c.STATE_ATTRIBUTE)],
    ) as environment:
        for name, scenario in wanted.items():
            run_id = await scenario(environment.client)
            await asyncio.sleep(1.0)  # visibility lags
            number = 0
            async for execution in environment.client.list_workflows(f"WorkflowId STARTS_WITH '{run_id}'"):
                handle = environment.client.get_workflow_handle(execution.id, run_id=execution.run_id)
                kind = "shard" if "/" in execution.id else "run"
                path = HISTORIES / f"{name}-{kind}-{number}.json"
                path.write_text(portable((await handle.fetch_history()).to_json()))
                number += 1
            print(f"{name}: {number} histories")


if __name__ == "__main__":
    asyncio.run(record(sys.argv[1:]))
