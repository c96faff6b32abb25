"""Changed workflow code keeps the committed histories replaying; a workflow that is reordered is caught."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer
from temporalio.workflow import NondeterminismError

from batch.workflows import contracts as c
from batch.workflows.coordinator import WORKFLOWS
from tests.workflow.scenarios import HISTORIES, SCENARIOS
from workers.process.sandbox import workflow_runner

FILES = sorted(HISTORIES.glob("*.json"))


def history(path: Path) -> WorkflowHistory:
    text = path.read_text()
    events = json.loads(text)["events"]
    return WorkflowHistory.from_json(events[0]["workflowExecutionStartedEventAttributes"]["workflowId"], text)


def test_every_scenario_is_there() -> None:
    recorded = {path.name.split("-")[0] for path in FILES}
    assert recorded == set(SCENARIOS)
    assert {"run", "shard"} <= {path.name.split("-")[1] for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_committed_histories_replay(path: Path) -> None:
    await Replayer(workflows=WORKFLOWS, workflow_runner=workflow_runner()).replay_workflow(history(path))


@workflow.defn(name=c.SHARD_WORKFLOW)
class ReorderedShard:
    """Sleeps before it dispatches: another order of commands than history's."""

    @workflow.run
    async def run(self, start: c.ShardInput) -> c.Totals:
        await asyncio.sleep(1)
        await workflow.execute_activity(c.PROCESS_PARTITION, start_to_close_timeout=timedelta(seconds=1))
        return c.Totals()


async def test_a_reordered_workflow_is_caught() -> None:
    path = next(path for path in FILES if path.name.startswith("normal-shard"))
    with pytest.raises(NondeterminismError):
        await Replayer(workflows=[ReorderedShard], workflow_runner=workflow_runner()).replay_workflow(history(path))
