"""A preview pays once: a worker that fails in it is not followed by another; an estimate that is free is repeated."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ActivityError
from temporalio.worker import Worker

from batch.workflows.coordinator import WORKFLOWS
from batch.workflows.preview import (
    ESTIMATE_RUN,
    ESTIMATE_WORKFLOW,
    PREVIEW_DOCUMENTS,
    PREVIEW_WORKFLOW,
    PreviewInput,
    PreviewOutcome,
)
from tests.workflow.standin import until
from workers.process.control_heartbeat import ControlActivities
from workers.process.sandbox import workflow_runner


class StandIn:
    """Both activities, which fail or wait."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.cancelled = False
        self.waits = False

    @activity.defn(name=PREVIEW_DOCUMENTS)
    async def preview(self, task: PreviewInput) -> PreviewOutcome:
        return await self._work("preview")

    @activity.defn(name=ESTIMATE_RUN)
    async def estimate(self, task: PreviewInput) -> PreviewOutcome:
        return await self._work("estimate")

    async def _work(self, name: str) -> PreviewOutcome:
        self.begun.append(name)
        if not self.waits:
            raise RuntimeError("S3 is away")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return PreviewOutcome(0, 0)


@pytest.mark.parametrize(
    ("workflow", "asks", "begun"),
    [
        (PREVIEW_WORKFLOW, 5, ["preview"]),
        (ESTIMATE_WORKFLOW, 0, ["estimate"] * 3),
    ],
)
async def test_what_may_be_paid_is_tried_once(workflow: str, asks: int, begun: list[str], temporal: Client) -> None:
    queue, work = f"queue-{uuid.uuid4()}", StandIn()
    async with Worker(
        temporal,
        task_queue=queue,
        workflows=WORKFLOWS,
        workflow_runner=workflow_runner(),
        activities=[work.preview, work.estimate],
    ):
        start = PreviewInput("s3://results/", "token", asks, ask_within=1.0, within=30.0)
        with pytest.raises(WorkflowFailureError) as failed:
            await temporal.execute_workflow(workflow, start, id=queue, task_queue=queue)
    assert isinstance(failed.value.cause, ActivityError) and "S3 is away" in str(failed.value.cause.cause)
    assert work.begun == begun


async def test_a_cancellation_reaches_the_worker(temporal: Client) -> None:
    queue, work = f"queue-{uuid.uuid4()}", StandIn()
    work.waits = True
    async with Worker(
        temporal,
        task_queue=queue,
        workflows=WORKFLOWS,
        workflow_runner=workflow_runner(),
        activities=[work.preview],
        interceptors=[ControlActivities()],
        max_heartbeat_throttle_interval=timedelta(seconds=0.5),
    ):
        start = PreviewInput("s3://results/", "token", 5, ask_within=1.0, within=60.0)
        handle = await temporal.start_workflow(PREVIEW_WORKFLOW, start, id=queue, task_queue=queue)
        await until(lambda: bool(work.begun))
        await handle.cancel()
        with pytest.raises(WorkflowFailureError):
            await asyncio.wait_for(handle.result(), 15)
        assert (await handle.describe()).status == WorkflowExecutionStatus.CANCELED
    assert work.cancelled
