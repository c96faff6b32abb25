"""A client knows which of a run's task queues nobody polls, also where the workers of control have a version."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from temporalio.client import Client
from temporalio.worker import Worker

from batch.client import checks
from batch.client.checks import CheckFailed, check_control_polled, unpolled_queue
from batch.workflows import contracts as c
from tests.workflow.standin import StandIns, until
from workers.process.versioning import deployment_config


async def test_both_queues_are_looked_at(temporal: Client) -> None:
    queue, work = f"queue-{uuid.uuid4()}", StandIns()
    version = deployment_config({"TEMPORAL_DEPLOYMENT_NAME": queue, "TEMPORAL_WORKER_BUILD_ID": "one"})
    partitions = Worker(temporal, task_queue=queue, activities=[work.partition])
    control = Worker(temporal, task_queue=c.control_queue(queue), activities=[work.claim], deployment_config=version)

    async def only_partitions_polled() -> bool:
        return await unpolled_queue(temporal, queue) == c.control_queue(queue)

    async def both_polled() -> bool:
        return await unpolled_queue(temporal, queue) is None

    assert await unpolled_queue(temporal, queue) == queue
    async with partitions:
        await until(only_partitions_polled)
        async with control:
            await until(both_polled)


async def test_a_worker_that_comes_right_now_is_waited_for(temporal: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = f"queue-{uuid.uuid4()}"
    monkeypatch.setattr(checks, "FIRST_POLL", 0.0)
    with pytest.raises(CheckFailed, match="start one"):
        await check_control_polled(temporal, queue)
    monkeypatch.setattr(checks, "FIRST_POLL", 30.0)
    looking = asyncio.create_task(check_control_polled(temporal, queue))
    await asyncio.sleep(0.3)
    assert not looking.done()
    async with Worker(temporal, task_queue=c.control_queue(queue), activities=[StandIns().claim]):
        await looking
