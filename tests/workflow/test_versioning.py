"""A release of the workers under a run: executions end on the version they began on, the run moves to the new one."""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict

from temporalio.client import Client
from temporalio.worker import WorkerDeploymentConfig

from batch.workflows import contracts as c
from batch.workflows.states import State
from tests.workflow.releases import make_current
from tests.workflow.standin import StandIns, until
from workers.process.versioning import deployment_config


def version(name: str, build_id: str) -> WorkerDeploymentConfig:
    return deployment_config({"TEMPORAL_DEPLOYMENT_NAME": name, "TEMPORAL_WORKER_BUILD_ID": build_id})


async def test_a_run_moves_to_a_new_version_and_its_old_shards_end_on_theirs(temporal: Client) -> None:
    name = f"batches/control-{uuid.uuid4()}"
    tuning = c.Tuning(shard_partitions=8, window=4, upgrade_after=0.5)
    work = StandIns(shards=8, partitions=8, in_flight=8)
    released = asyncio.Event()

    async def process(task: c.PartitionInput) -> c.PartitionOutcome:
        while task.partition >= 16 and not released.is_set():
            await work.work(0.1)
        return work.committed(task)

    work.process = process
    other_process = await Client.connect(temporal.service_client.config.target_host)
    async with work.worker(temporal, control=version(name, "one")) as queue:
        await make_current(temporal, name, "one")
        handle = await work.start(temporal, queue, tuning)
        await until(lambda: len(work.begun) > 16)
        async with work.worker(other_process, queue=queue, control=version(name, "two")):
            await make_current(temporal, name, "two")
            released.set()
            finished = await handle.result()
    assert finished.state == State.COMPLETED
    assert work.begun == dict.fromkeys(range(64), 1)

    builds = defaultdict(set)
    for workflow_type in (c.RUN_WORKFLOW, c.SHARD_WORKFLOW):
        async for execution in temporal.list_workflows(f"WorkflowType = '{workflow_type}'"):
            described = await temporal.get_workflow_handle(execution.id, run_id=execution.run_id).describe()
            info = described.raw_description.workflow_execution_info.versioning_info
            assert info.behavior == 1, "pinned"
            builds[workflow_type].add(info.deployment_version.build_id)
    assert builds == {c.RUN_WORKFLOW: {"one", "two"}, c.SHARD_WORKFLOW: {"one", "two"}}


async def test_the_first_version_takes_over_a_run_of_workers_without_versions(temporal: Client) -> None:
    name = f"batches/control-{uuid.uuid4()}"
    work = StandIns(shards=2, partitions=10, seconds=0.3, in_flight=4)
    async with work.worker(temporal, control=deployment_config({})) as queue:
        handle = await work.start(temporal, queue, c.Tuning(shard_partitions=10, window=4, heartbeat_timeout=3.0))
        await until(lambda: len(work.begun) > 4)
    async with work.worker(temporal, queue=queue, control=version(name, "one")):
        await make_current(temporal, name, "one")
        finished = await handle.result()
    assert finished.state == State.COMPLETED
    info = (await handle.describe()).raw_description.workflow_execution_info.versioning_info
    assert info.deployment_version.build_id == "one"
