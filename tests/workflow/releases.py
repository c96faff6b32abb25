"""What Temporal's Worker Controller does for a release: makes a version of the workers the current one."""

from __future__ import annotations

from temporalio.api.workflowservice.v1 import SetWorkerDeploymentCurrentVersionRequest
from temporalio.client import Client
from temporalio.service import RPCError

from tests.workflow.standin import until


async def make_current(client: Client, deployment_name: str, build_id: str) -> None:
    """Waits until workers of the version poll; then new executions go to them."""

    async def accepted() -> bool:
        request = SetWorkerDeploymentCurrentVersionRequest(
            namespace=client.namespace, deployment_name=deployment_name, build_id=build_id
        )
        try:
            await client.workflow_service.set_worker_deployment_current_version(request)
        except RPCError:
            return False
        return True

    await until(accepted, 60)
