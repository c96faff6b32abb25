"""A cancellation that comes together with an activity's result is not lost."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

from tests.workflow.standin import until

with workflow.unsafe.imports_passed_through():
    from batch.workflows.awaiting import control_activity


@workflow.defn
class Loop:
    """As the coordinator does: a part loops over control activities, and is cancelled when all is done."""

    def __init__(self) -> None:
        self._done = False

    @workflow.run
    async def run(self) -> None:
        part = asyncio.create_task(self._part())
        await workflow.wait_condition(lambda: self._done)
        part.cancel()
        await asyncio.gather(part, return_exceptions=True)

    async def _part(self) -> None:
        while True:
            await control_activity("look", None, type(None))
            await asyncio.sleep(0.2)

    @workflow.signal
    def finish(self) -> None:
        self._done = True


async def test_a_cancellation_beside_a_result_ends_the_task(temporal: Client) -> None:
    queue, begun, may_end = f"queue-{uuid.uuid4()}", asyncio.Event(), asyncio.Event()
    ended = asyncio.Event()

    @activity.defn
    async def look(_: None) -> None:
        begun.set()
        while not may_end.is_set():
            activity.heartbeat()
            await asyncio.sleep(0.05)
        ended.set()

    def workflows() -> Worker:
        return Worker(temporal, task_queue=queue, workflows=[Loop], max_cached_workflows=0)

    # The activity's worker goes on while nobody works on workflows: result and signal then arrive as one task.
    async with Worker(temporal, task_queue=queue, activities=[look]):
        async with workflows():
            handle = await temporal.start_workflow(
                Loop.run, id=queue, task_queue=queue, execution_timeout=timedelta(seconds=30)
            )
            await asyncio.wait_for(begun.wait(), 10)
        may_end.set()
        await asyncio.wait_for(ended.wait(), 10)

        async def completed() -> bool:
            kinds = [event.event_type for event in (await handle.fetch_history()).events]
            return any(kind == 12 for kind in kinds)  # ActivityTaskCompleted

        await until(completed)
        await handle.signal(Loop.finish)
        async with workflows():
            await asyncio.wait_for(handle.result(), 15)
