"""A shard's history is bounded, however often its partitions yield."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from batch.workflows import contracts as c
from batch.workflows.states import Outcome, Reason, State
from tests.workflow.standin import StandIns

SUGGESTED = 80
"""Events from which the server of these tests suggests to continue as new; a usual one does at 4,096."""
PARTITIONS, WINDOW, OUTAGES = 4, 2, 10


@pytest.fixture
async def hasty() -> AsyncIterator[Client]:
    """A server on which a history is soon long."""
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=str(Path(sys.executable).with_name("temporal")),
        dev_server_log_level="error",
        dev_server_extra_args=["--dynamic-config-value", f"limit.historyCount.suggestContinueAsNew={SUGGESTED}"],
    ) as environment:
        yield environment.client


async def histories(client: Client, shard: str) -> list[int]:
    """Events of each execution of the shard."""
    found = []
    async for execution in client.list_workflows(f"WorkflowId = '{shard}'"):
        handle = client.get_workflow_handle(execution.id, run_id=execution.run_id)
        found.append(len((await handle.fetch_history()).events))
    return found


@pytest.mark.parametrize("reason", [Reason.PROVIDER_UNREACHABLE, Reason.DRAIN])
async def test_a_shard_continues_as_new_over_many_outages_and_forgets_nothing(hasty: Client, reason: str) -> None:
    answered = c.Totals(documents=3, ok=2, errors=1, errors_by_type={"refusal": 1})
    dispatches: dict[int, list[int]] = defaultdict(list)

    async def process(task: c.PartitionInput) -> c.PartitionOutcome:
        dispatches[task.partition].append(task.dispatch)
        if task.partition < WINDOW and task.dispatch <= OUTAGES:
            return c.PartitionOutcome(
                task.partition, Outcome.YIELDED, reason=reason, epoch=task.epoch, answered=answered
            )
        if task.partition == PARTITIONS - 1:
            return c.PartitionOutcome(task.partition, Outcome.GIVEN_UP, answered=answered)
        return work.committed(task)

    work = StandIns(shards=1, partitions=PARTITIONS, process=process)
    async with work.worker(hasty) as queue:
        handle = await work.start(hasty, queue, c.Tuning(window=WINDOW, probe_every=0.05))
        finished = await handle.result()
        report = await hasty.get_workflow_handle(c.shard_workflow_id(handle.id, 1, 0)).query(
            "totals", result_type=c.ShardReport
        )
    assert finished.state == State.COMPLETED_WITH_FAILURES
    for partition in range(PARTITIONS):
        assert dispatches[partition] == list(range(1, 1 + (OUTAGES + 1 if partition < WINDOW else 1)))
    assert (report.totals.partitions, report.totals.partitions_failed, report.answered) == (PARTITIONS, 1, answered)
    events = await histories(hasty, c.shard_workflow_id(handle.id, 1, 0))
    assert len(events) > 1
    assert max(events) < 1.5 * SUGGESTED
