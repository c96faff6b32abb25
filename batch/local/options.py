"""What to start of the local stack, and why it may not start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


class StackError(RuntimeError):
    """The stack cannot start as asked: a port or the data folder is taken, or a program is missing."""


@dataclass(frozen=True, kw_only=True)
class StackOptions:
    """What to start.

    Attributes:
        data: Folder of all that the servers store, kept between starts with its credentials and ports; one stack at a
            time. None: a temporary folder, removed at the end unless that end is an error.
        logs: Folder of the log files, one a child. None: `logs` in the data folder.
        workers: Worker processes to start; more can be started later.
        worker_args: Further arguments of every worker.
        worker_grace: Seconds that a worker has to end its work on stop.
        provider: Whether to start a provider. Without, workers have no `OPENAI_*` but what `environment` says.
        provider_args: Further arguments of the simulated provider.
        provider_command: A provider to start instead, OpenAI's HTTP at `/v1`; `{port}` in it becomes the port.
        provider_health: Path on the provider that answers 200 once it is ready.
        ui: Whether to serve Temporal's web UI. It asks nobody for a password: see docs/operations.md.
        scrape_seconds: Time between two scrapes of the workers by a Prometheus of the stack's own, where one is
            installed. None: no Prometheus.
        temporal_args: Further arguments of `temporal server start-dev`, such as `--dynamic-config-value`.
        s3_args: Further arguments of SeaweedFS' `weed mini`, such as `-metricsPort`.
        temporal_port, temporal_ui_port, s3_port, provider_port: Fixed ports. None: those that the data folder had last
            time, else free ones.
        s3_server: `auto` is SeaweedFS where it is installed, else moto's server, which keeps objects in memory only.
        environment: Further variables for `environment()` and the children; they win over the stack's own.
    """

    data: Path | None = None
    logs: Path | None = None
    workers: int = 0
    worker_args: Sequence[str] = ()
    worker_grace: float = 30.0
    provider: bool = True
    provider_args: Sequence[str] = ()
    provider_command: Sequence[str] | None = None
    provider_health: str = "/healthz"
    ui: bool = False
    scrape_seconds: float | None = None
    temporal_args: Sequence[str] = ()
    s3_args: Sequence[str] = ()
    temporal_port: int | None = None
    temporal_ui_port: int | None = None
    s3_port: int | None = None
    provider_port: int | None = None
    s3_server: Literal["auto", "seaweedfs", "moto"] = "auto"
    environment: Mapping[str, str] | None = None
