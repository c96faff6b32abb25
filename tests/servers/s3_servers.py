"""S3 servers that nobody here wrote, as programs of their own: how each is started, and what it lacks."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import boto3
from botocore.config import Config

from batch.local.isolation import isolated_environment
from batch.local.ports import choose_ports
from batch.local.processes import Process, port_answers

TOOLS = Path(os.environ.get("DOCBATCH_S3_SERVERS", ".tools/s3/bin")).absolute()
Command = Callable[[Path, int, "Key"], list[str]]


@dataclass(frozen=True)
class Key:
    """What a request is signed with."""

    id: str
    secret: str

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Key:
        return cls(environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"])


@dataclass(frozen=True)
class S3Server:
    """A program that speaks S3.

    Attributes:
        command: how it is started: its folder, its port, the key.
        environment: the names of the variables that it takes its key from, if it does.
        lacks: what the check of an output says that it does.
        refuses: characters of keys with which it stores no object.
        one_etag: whether all objects have the same.
        prepare: what is run before its first start.
    """

    name: str
    command: Command
    lacks: str
    environment: tuple[str, str] | None = None
    refuses: str = ""
    one_etag: bool = False
    prepare: Callable[[Path], list[str]] | None = None


def _tool(name: str) -> str:
    return str(TOOLS / name)


def _rclone(folder: Path, port: int, key: Key) -> list[str]:
    served = folder / "served"
    served.mkdir(exist_ok=True)
    keys = f"{key.id},{key.secret}"
    return [_tool("rclone"), "serve", "s3", str(served), "--addr", f"127.0.0.1:{port}", "--auth-key", keys]


def _meta(folder: Path) -> str:
    return f"sqlite3://{folder}/meta.db"


def _juicefs_volume(folder: Path) -> list[str]:
    blocks = f"{folder}/blocks/"
    return [_tool("juicefs"), "format", _meta(folder), "test", "--storage", "file", "--bucket", blocks, "--no-update"]


def _juicefs(folder: Path, port: int, key: Key) -> list[str]:
    """MinIO's gateway code over JuiceFS' own storage."""
    metrics = choose_ports(["metrics"], taken=[port])["metrics"]
    return [
        *(_tool("juicefs"), "gateway", _meta(folder), f"127.0.0.1:{port}", "--multi-buckets", "--no-usage-report"),
        *("--log", f"{folder}/gateway.log", "--cache-dir", f"{folder}/cache", "--metrics", f"127.0.0.1:{metrics}"),
    ]


def _juicefs_with_etags(folder: Path, port: int, key: Key) -> list[str]:
    return [*_juicefs(folder, port, key), "--keep-etag"]


def _nanio(folder: Path, port: int, key: Key) -> list[str]:
    return [_tool("nanio"), "serve", "--data-dir", str(folder / "served"), "--host", "127.0.0.1", "--port", str(port)]


def _localbucket(folder: Path, port: int, key: Key) -> list[str]:
    return [_tool("localbucket"), str(folder / "served"), "--port", str(port)]


OVERWRITES = "overwritten in spite of If-None-Match"
MINIO_KEY = ("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD")
SERVERS = [
    S3Server("rclone", _rclone, OVERWRITES),
    S3Server("juicefs", _juicefs, OVERWRITES, MINIO_KEY, one_etag=True, prepare=_juicefs_volume),
    S3Server("juicefs-keep-etag", _juicefs_with_etags, OVERWRITES, MINIO_KEY, prepare=_juicefs_volume),
    S3Server("nanio", _nanio, OVERWRITES, ("NANIO_ACCESS_KEY", "NANIO_SECRET_KEY"), refuses="#%"),
    S3Server("localbucket", _localbucket, "overwritten in spite of If-Match with another etag"),
]
"""None of them can be an output. All can be a source."""


@contextmanager
def running(server: S3Server, folder: Path, port: int, key: Key) -> Iterator[None]:
    """The server on a port of loopback, with the buckets `corpus` and `results`."""
    environment = isolated_environment() | {"HOME": str(folder)}
    if server.environment:
        environment |= dict(zip(server.environment, (key.id, key.secret), strict=True))
    if server.prepare:
        subprocess.run(server.prepare(folder), env=environment, check=True, capture_output=True, timeout=60)
    process = Process(
        server.name,
        server.command(folder, port, key),
        log=folder / "server.log",
        environment=environment,
        healthy=partial(port_answers, port),
        healthy_timeout=60,
        grace=0,
    )
    process.start()
    try:
        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            aws_access_key_id=key.id,
            aws_secret_access_key=key.secret,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )
        for bucket in ("corpus", "results"):
            client.create_bucket(Bucket=bucket)
        yield
    finally:
        process.stop()
