"""In a namespace without our search attributes runs go on all the same, and the list filters by itself and says so."""

from __future__ import annotations

import asyncio
import logging

import pytest
from temporalio.client import Client, Schedule, ScheduleActionStartWorkflow, ScheduleSpec

from batch.client import visibility
from batch.workflows import contracts as c
from batch.workflows.run_state import RunInput
from batch.workflows.states import State
from tests.workflow.standin import StandIns, until


async def test_without_search_attributes(temporal: Client, caplog: pytest.LogCaptureFixture) -> None:
    assert not await visibility.registered(temporal)
    work = StandIns(shards=1, partitions=4, seconds=0.01)
    async with work.worker(temporal) as queue:
        start = RunInput(c.Tuning(shard_partitions=4), queue, job_json="{}", time_zone="Asia/Tokyo")
        action = ScheduleActionStartWorkflow(c.RUN_WORKFLOW, start, id="nightly", task_queue=c.control_queue(queue))
        schedule = await temporal.create_schedule("nightly", Schedule(action, ScheduleSpec()), trigger_immediately=True)
        await until(lambda: bool(work.finished))
        claim = work.claims[0]
        await temporal.get_workflow_handle(claim.run_id).result()
        by_hand = await work.start(temporal, queue)
        await by_hand.result()
        await schedule.delete()

    # The coordinator claims for the slot, which is also at the end of the id, and for now without one.
    assert (claim.scheduled, claim.time_zone) == (True, "Asia/Tokyo")
    assert claim.run_id == f"nightly-{claim.nominal.replace('+00:00', 'Z')}"
    assert not work.claims[1].scheduled
    assert work.claims[1].nominal == (await by_hand.describe()).start_time.isoformat()

    with caplog.at_level(logging.WARNING, logger="batch.client.visibility"):
        for _ in range(50):  # visibility lags
            runs = await visibility.list_runs(temporal, job="stand-in", state=State.COMPLETED, limit=10)
            if len(runs) == 2:
                break
            await asyncio.sleep(0.1)
    assert {run["run_id"] for run in runs} == {claim.run_id, by_hand.id}
    assert {run["documents"] for run in runs} == {0}  # as the stand-in of the finisher says
    assert visibility.REGISTER in caplog.text
    assert await visibility.list_runs(temporal, job="other", state=None, limit=10) == []
    assert len(await visibility.list_runs(temporal, job=None, state=None, limit=1)) == 1


async def test_what_visibility_knows_survives_continue_as_new(temporal: Client) -> None:
    """A scheduled run has another memo at its start; what it upserted since must not be lost with the execution."""
    work = StandIns(shards=3, partitions=4, seconds=0.05)
    async with work.worker(temporal) as queue:
        handle = await work.start(
            temporal, queue, c.Tuning(shard_partitions=4, window=2, plan_ahead=1, continue_every_shards=1)
        )
        await handle.result()
        executions = [execution async for execution in temporal.list_workflows(f"WorkflowId = '{handle.id}'")]
        memo = await (await handle.describe()).memo()
    assert len(executions) > 1
    assert {"job_name": "stand-in", "output_uri": "s3://results/"}.items() <= memo.items()
    assert memo["state"] == State.COMPLETED
