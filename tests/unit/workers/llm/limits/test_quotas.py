"""A process whose leases fail: it keeps what it had, takes a part when it has nothing, and starts the quota anew."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio.client import WorkflowUpdateRPCTimeoutOrCancelledError

from batch.job.job import Job
from batch.workflows.leases import Lease, LeaseRequest
from workers.llm.limits import quotas as quotas_module
from workers.llm.limits.quotas import Quotas
from workers.observe.metrics import Metrics

JOB = Job.parse(
    {
        "name": "t",
        "source": {"uri": "s3://corpus/t/"},
        "prompt": {"user": "{{ text }}"},
        "model": {"name": "simulated-small"},
        "output": {"uri": "s3://results/"},
        "limits": {"requests_per_minute": 6000},
    }
)


class Service:
    """Stands in for the quota workflows: away until told otherwise."""

    def __init__(self) -> None:
        self.away: Exception | None = WorkflowUpdateRPCTimeoutOrCancelledError()
        self.restarts = 0
        self.known: list[bool] = []

    async def lease(self, quota: str, request: LeaseRequest, *, known: bool) -> Lease:
        self.known.append(known)
        if self.away is not None:
            raise self.away
        return Lease({claim.run_id: 0.5 for claim in request.claims}, requests_per_minute=6000, renew_after=0.1)

    async def restart(self, quota: str) -> None:
        self.restarts += 1


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas_module, "LIFE", 1.5)
    monkeypatch.setattr(quotas_module, "RESTART_AFTER", 2.5)
    monkeypatch.setattr(quotas_module, "RENEW", 0.1)


def process(service: Service) -> Any:
    return Quotas("http://provider/v1", "key", Metrics(), service)  # type: ignore[arg-type]


async def test_without_a_lease_nothing_goes_out_at_first_and_then_at_a_part_of_the_pace(quickly: None) -> None:
    service = Service()
    lane = process(service).lane("r", JOB)
    lane.open()
    await asyncio.sleep(0.5)
    assert lane.share == 0.0
    waiting = asyncio.create_task(lane.enter(1.0, lambda: False))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    assert await asyncio.wait_for(waiting, 5)
    assert lane.share == 0.25
    lane.leave(1.0, 1.0)
    await asyncio.sleep(2.5)
    assert service.restarts == 1
    service.away = None
    await asyncio.sleep(1.5)
    assert lane.share == 0.5
    assert (service.known[0], service.known[-1]) == (False, True)
    lane.close()


async def test_a_lease_that_was_there_is_kept_and_a_mistake_of_ours_ends_nothing(quickly: None) -> None:
    service = Service()
    service.away = None
    lane = process(service).lane("r", JOB)
    lane.open()
    await asyncio.sleep(0.3)
    assert lane.share == 0.5
    service.away = ValueError("a payload of another version")
    await asyncio.sleep(0.5)
    assert lane.share == 0.5
    service.away = WorkflowUpdateRPCTimeoutOrCancelledError()
    await asyncio.sleep(2.0)
    assert lane.share == 0.5
    lane.close()


async def test_a_process_that_ends_waits_for_no_lease(quickly: None) -> None:
    service = Service()
    quotas = process(service)
    quotas.lane("r", JOB).open()
    await asyncio.sleep(0.2)
    await asyncio.wait_for(quotas.close(), 3)
