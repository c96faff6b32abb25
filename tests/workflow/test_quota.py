"""The workflow that deals out a quota, on a real server: leases, its end, and continue-as-new."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from batch.job.job import Job
from batch.workflows import contracts as c
from batch.workflows import quota as quota_workflow
from batch.workflows.coordinator import WORKFLOWS
from batch.workflows.leases import QUOTA_WORKFLOW, Lease, LeaseClaim, LeaseRequest, QuotaInput, quota_workflow_id
from tests.workflow.standin import until
from workers.llm.limits.quotas import QuotaClient, Quotas, quota_name
from workers.observe.metrics import Metrics
from workers.process.sandbox import workflow_runner

QUEUE = "quotas"


def job(name: str, *, requests_per_minute: int | None = 6000, **more: object) -> Job:
    return Job.parse(
        {
            "name": name,
            "source": {"uri": f"s3://corpus/{name}/"},
            "prompt": {"user": "{{ text }}"},
            "model": {"name": "simulated-small"},
            "output": {"uri": "s3://results/"},
            "limits": {"requests_per_minute": requests_per_minute},
            **more,
        }
    )


def process(client: Client | None) -> Quotas:
    """As one worker process has them."""
    return Quotas("http://provider/v1", "key", Metrics(), QuotaClient(client, QUEUE) if client else None)


def control(client: Client) -> Worker:
    return Worker(client, task_queue=c.control_queue(QUEUE), workflows=WORKFLOWS, workflow_runner=workflow_runner())


async def calls_in(lanes: list, seconds: float) -> list[int]:  # type: ignore[type-arg]
    """How many calls each lane lets out, if it always has some."""
    counts = [0] * len(lanes)
    over = asyncio.Event()

    async def ask_on(index: int) -> None:
        while not over.is_set() and await lanes[index].enter(1.0, over.is_set):
            counts[index] += 1
            await asyncio.sleep(0)
            lanes[index].leave(1.0, 1.0)

    tasks = [asyncio.create_task(ask_on(index)) for index in range(len(lanes)) for _ in range(4)]
    await asyncio.sleep(seconds)
    found = list(counts)
    over.set()
    await asyncio.gather(*tasks)
    return found


async def test_processes_share_one_quota_by_the_weight_of_their_runs(temporal: Client) -> None:
    """6,000 requests a minute are 100 a second: a run of weight 3 and one of weight 1, in two processes."""
    heavy, light = process(temporal), process(temporal)
    lanes = [heavy.lane("r1", job("one", weight=3.0)), light.lane("r2", job("two"))]
    async with control(temporal):
        for lane in lanes:
            lane.open()
        await calls_in(lanes, 6.0)  # the newcomer gets its part as the other's lease is renewed
        counts = await calls_in(lanes, 3.0)
        assert counts[0] == pytest.approx(225, rel=0.15)
        assert counts[1] == pytest.approx(75, rel=0.15)
        lanes[0].close()
        await until(lambda: lanes[1].share > 0.95)
        lanes[1].close()
        await heavy.close()
        await light.close()


async def test_a_quota_continues_as_new_and_ends_when_nobody_uses_it(
    temporal: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota_workflow, "IDLE", timedelta(seconds=1))
    asked = QuotaClient(temporal, QUEUE)
    claim = LeaseClaim("r", 3, 1.0, share=0.0, demand=1.0, requests_per_minute=60)
    async with Worker(
        temporal,
        task_queue=c.control_queue(QUEUE),
        workflows=WORKFLOWS,
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        lease = await asked.lease("q", LeaseRequest("a", [claim]), known=False)
        assert lease.shares == {"r": 1.0}
        handle = temporal.get_workflow_handle(quota_workflow_id("q"))
        assert (await handle.describe()).status == WorkflowExecutionStatus.RUNNING
        assert await asked.lease("q", LeaseRequest("a"), known=True) == Lease()
        assert await handle.result() is None

        continued = await temporal.start_workflow(
            QUOTA_WORKFLOW,
            QuotaInput(continued=True),
            id=quota_workflow_id("q"),
            task_queue=c.control_queue(QUEUE),
        )
        assert (await asked.lease("q", LeaseRequest("new", [claim]), known=False)).shares == {"r": 0.0}
        await continued.terminate()


async def test_without_temporal_a_process_keeps_to_the_limit_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    quotas = process(None)
    lane = quotas.lane("r1", job("one"))
    lane.open()
    await asyncio.sleep(0.2)
    assert (await calls_in([lane], 2.0))[0] == pytest.approx(200, rel=0.15)
    lane.close()
    await quotas.close()


async def test_a_job_without_minute_limits_leases_nothing(temporal: Client) -> None:
    quotas = process(temporal)
    lane = quotas.lane("r1", job("one", requests_per_minute=None))
    lane.open()
    lane.limiter.said({})
    assert (await calls_in([lane], 0.5))[0] > 1000
    lane.close()
    await quotas.close()
    assert not [execution async for execution in temporal.list_workflows("")]


async def test_limits_that_the_provider_names_are_leased_too(temporal: Client) -> None:
    quotas = process(temporal)
    lane = quotas.lane("r1", job("one", requests_per_minute=None))
    async with control(temporal):
        lane.open()
        lane.limiter.said({"x-ratelimit-limit-requests": "3000"})
        await until(lambda: lane.share > 0)
        assert (await calls_in([lane], 2.0))[0] == pytest.approx(100, rel=0.2)
        lane.close()
        await quotas.close()


def test_a_quota_is_named_by_endpoint_model_and_key_and_does_not_tell_the_key() -> None:
    names = {
        quota_name("http://a/v1", "m", "sk-1"),
        quota_name("http://a/v1", "m", "sk-2"),
        quota_name("http://b/v1", "m", "sk-1"),
    }
    assert len(names) == 3
    assert not any("sk-" in name for name in names)
    assert quota_name("http://a/v1", "m", "sk-1") in names
