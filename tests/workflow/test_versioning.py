"""A release of the workers under a run: pinned executions end where they began, the run goes on with the new version."""

from __future__ import annotations

import uuid
from collections import defaultdict

from temporalio.api.workflowservice.v1 import SetWorkerDeploymentCurrentVersionRequest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import WorkerDeploymentConfig

from batch import contracts as c
from tests.workflow.standin import StandIns, until
from workers.versioning import deployment_config


def version(name: str, build_id: str) -> WorkerDeploymentConfig | None:
    return deployment_config({"TEMPORAL_DEPLOYMENT_NAME": name, "TEMPORAL_WORKER_BUILD_ID": build_id})


async def make_current(client: Client, name: str, build_id: str) -> None:
    """As the Worker Controller does it, once the version's workers poll."""

    async def accepted() -> bool:
        request = SetWorkerDeploymentCurrentVersionRequest(
            namespace=client.namespace, deployment_name=name, build_id=build_id
        )
        try:
            await client.workflow_service.set_worker_deployment_current_version(request)
        except RPCError:
            return False
        return True

    await until(accepted)


async def test_a_run_moves_to_a_new_version_and_its_old_shards_end_on_theirs(temporal: Client) -> None:
    name = f"batches/control-{uuid.uuid4()}"
    tuning = c.Tuning(shard_partitions=8, window=4, upgrade_after=0.5)
    work = StandIns(shards=8, partitions=8, seconds=0.3, in_flight=8)
    other_process = await Client.connect(temporal.service_client.config.target_host)
    async with work.worker(temporal, slots=8, control=version(name, "one")) as queue:
        await make_current(temporal, name, "one")
        handle = await work.start(temporal, queue, tuning)
        await until(lambda: len(work.begun) > 8)
        async with work.worker(other_process, slots=8, queue=queue, control=version(name, "two")):
            await make_current(temporal, name, "two")
            finished = await handle.result()
    assert finished.state == c.COMPLETED
    assert work.begun == dict.fromkeys(range(64), 1)

    builds = defaultdict(set)
    for workflow_type in (c.RUN_WORKFLOW, c.SHARD_WORKFLOW):
        async for execution in temporal.list_workflows(f"WorkflowType = '{workflow_type}'"):
            described = await temporal.get_workflow_handle(execution.id, run_id=execution.run_id).describe()
            info = described.raw_description.workflow_execution_info.versioning_info
            assert info.behavior == 1, "pinned"
            builds[workflow_type].add(info.deployment_version.build_id)
    assert builds == {c.RUN_WORKFLOW: {"one", "two"}, c.SHARD_WORKFLOW: {"one", "two"}}
