"""Which Worker Deployment version this process is, by the environment that Temporal's Worker Controller injects.

Every workflow is pinned: an execution ends on the code that it began on, so no release can break its replay. That does
not chain a run of days to old pods, because shards are short and the coordinator continues as new on the version that
is current then.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version

from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.worker import WorkerDeploymentConfig

DEPLOYMENT_NAME = "TEMPORAL_DEPLOYMENT_NAME"
BUILD_ID = "TEMPORAL_WORKER_BUILD_ID"
UNVERSIONED = "docbatch-unversioned"
"""What workers without versioning tell: one name must not be used with it and without."""


class VersionIncomplete(Exception):
    """One of the two variables is set without the other."""


def deployment_config(environment: Mapping[str, str]) -> WorkerDeploymentConfig:
    """The version to poll as. Where neither variable is set, a worker without versioning that tells docbatch's own.

    (Told nothing, the SDK hashes the bytecode of every loaded module for it: 0.8 s of each start, measured.)

    Raises `VersionIncomplete`.
    """
    name, build_id = environment.get(DEPLOYMENT_NAME, ""), environment.get(BUILD_ID, "")
    if not name and not build_id:
        return WorkerDeploymentConfig(
            version=WorkerDeploymentVersion(deployment_name=UNVERSIONED, build_id=version("docbatch")),
            use_worker_versioning=False,
        )
    if not name or not build_id:
        there, missing = (DEPLOYMENT_NAME, BUILD_ID) if name else (BUILD_ID, DEPLOYMENT_NAME)
        raise VersionIncomplete(f"{there} is set and {missing} is not: set both for a versioned worker, or neither")
    return WorkerDeploymentConfig(
        version=WorkerDeploymentVersion(deployment_name=name, build_id=build_id),
        use_worker_versioning=True,
        default_versioning_behavior=VersioningBehavior.PINNED,
    )
