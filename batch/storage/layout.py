"""Where everything of a run lies in object storage: the one place that builds a key. Pure."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True)
class S3Uri:
    """`s3://bucket/prefix/`: `prefix` is "" or ends with a slash; a prefix is always a folder, never part of a name."""

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, uri: str, *, where: str = "uri") -> S3Uri:
        """Raises `ValueError` that begins with `where`."""
        match = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", uri)
        if not match:
            raise ValueError(f"{where}: {uri!r} is no S3 prefix; write s3://BUCKET/PREFIX/")
        prefix = (match[2] or "").rstrip("/")
        if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
            raise ValueError(f"{where}: {uri!r} has an empty, '.' or '..' step in its prefix")
        return cls(match[1], f"{prefix}/" if prefix else "")

    def contains(self, other: S3Uri) -> bool:
        """Whether `other` lies at or below this prefix."""
        return self.bucket == other.bucket and other.prefix.startswith(self.prefix)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


def parse_object_uri(uri: str, *, where: str) -> tuple[str, str]:
    """Bucket and key of one object. Raises `ValueError` that begins with `where`."""
    match = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/([^\x00-\x1f\x7f]+)", uri)
    if not match or any(step in ("", ".", "..") for step in match[2].split("/")):
        raise ValueError(f"{where}: {uri!r} is no object; write s3://BUCKET/KEY")
    return match[1], match[2]


def object_uri(bucket: str, key: str) -> str:
    """The URI of one object."""
    return f"s3://{bucket}/{key}"


def bucket_and_key(uri: str) -> tuple[str, str]:
    """What `object_uri` was made of."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


@dataclass(frozen=True)
class RunLayout:
    """The keys of one run, all below `s3://BUCKET/PREFIX/runs/RUN_ID/`, where RUN_ID has lost its colons.

    Temporal puts the time of a schedule's slot into a run's id, and colons in keys trouble Hadoop, Spark and Windows.
    """

    output: S3Uri
    run_id: str

    @classmethod
    def of(cls, output_uri: str, run_id: str) -> RunLayout:
        return cls(S3Uri.parse(output_uri, where="output.uri"), run_id)

    @property
    def runs(self) -> S3Uri:
        """Where all runs of this output are."""
        return S3Uri(self.output.bucket, f"{self.output.prefix}runs/")

    @property
    def root(self) -> str:
        return f"{self.runs.prefix}{self.run_id.replace(':', '')}/"

    @property
    def run_json(self) -> str:
        return f"{self.root}run.json"

    @property
    def control(self) -> str:
        return f"{self.root}control.json"

    @property
    def manifest(self) -> str:
        return f"{self.root}manifest.json"

    @property
    def plans(self) -> str:
        return f"{self.root}plan/"

    def deleted(self, shard: int) -> str:
        """What an incremental run found gone in a shard's stretch of the listing."""
        return f"{self.root}deleted/shard-{shard:05d}.parquet"

    @property
    def results(self) -> str:
        return f"{self.root}results/"

    @property
    def ledgers(self) -> str:
        return f"{self.root}ledger/"

    @property
    def texts(self) -> str:
        return f"{self.root}texts/"

    def text(self, digest: str) -> str:
        """Which document asks about the text of this hash."""
        return f"{self.texts}{digest}"

    def plan(self, shard: int) -> str:
        return f"{self.plans}shard-{shard:05d}.parquet"

    def result(self, shard: int, partition: int) -> str:
        return f"{self.results}shard-{shard:05d}/partition-{partition:08d}.parquet"

    def ledger(self, partition: int) -> str:
        return f"{self.ledgers}partition-{partition:08d}/"

    def segment(self, partition: int, generation: int, attempt: int, token: str, number: int) -> str:
        """A ledger segment; `token` is random for each attempt, so two attempts at once never name the same key."""
        return f"{self.ledger(partition)}g{generation}-a{attempt}-{token}-{number:04d}"

    def batch_records(self, partition: int | None = None) -> str:
        """Where the records of a partition's batches are; None: those of all partitions."""
        whose = "" if partition is None else f"partition-{partition:08d}/"
        return f"{self.ledgers}batches/{whose}"

    def batch_record(self, partition: int, generation: int, number: int) -> str:
        return f"{self.batch_records(partition)}g{generation}-{number:04d}"

    def uri(self, key: str) -> str:
        return object_uri(self.output.bucket, key)


@dataclass(frozen=True)
class PreviewLayout:
    """The keys of previews and estimates: one object each, below `s3://BUCKET/PREFIX/previews/`, for minutes."""

    output: S3Uri

    @classmethod
    def of(cls, output_uri: str) -> PreviewLayout:
        return cls(S3Uri.parse(output_uri, where="output.uri"))

    @property
    def folder(self) -> S3Uri:
        return S3Uri(self.output.bucket, f"{self.output.prefix}previews/")

    def file(self, token: str) -> str:
        return f"{self.folder.prefix}{token}.json"


@dataclass(frozen=True)
class StateLayout:
    """The keys of one job's state, see `batch.files.state`."""

    uri: S3Uri
    job_name: str

    @property
    def folder(self) -> str:
        return f"{self.uri.prefix}state/{self.job_name}/"

    @property
    def place(self) -> str:
        """The folder as people name it."""
        return object_uri(self.uri.bucket, self.folder)

    @property
    def current(self) -> str:
        return f"{self.folder}current.json"

    def version(self, name: str) -> str:
        return f"{self.folder}{name}/"

    def part(self, name: str, number: int) -> str:
        return f"{self.version(name)}part-{number:05d}.parquet"


_TOKEN = re.compile(r"/(\d{8}T\d{6}Z)-[0-9a-f]{12}\.json$")


def preview_token() -> str:
    """A new one: it says when it was made, and is random besides."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(6)}"


def preview_made_at(key: str) -> datetime | None:
    """When the preview of this key was asked for, None for any other key."""
    match = _TOKEN.search(key)
    try:
        return datetime.strptime(f"{match[1]}+0000", "%Y%m%dT%H%M%SZ%z") if match else None
    except ValueError:
        return None


_RUN_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._:-]{0,127}")


def check_run_id(run_id: str) -> str:
    """Returns `run_id`, or raises `ValueError`: it names a folder in S3 and a workflow."""
    if not _RUN_ID.fullmatch(run_id):
        raise ValueError(
            f"run id {run_id!r}: use 1 to 128 of the characters a-z A-Z 0-9 . _ : - and start with a letter or digit"
        )
    return run_id


def place_of_result(key: str) -> tuple[int, int] | None:
    """Shard and partition of a result file's key, None for any other key."""
    match = re.search(r"/shard-(\d{5,})/partition-(\d{8,})\.parquet$", key)
    return (int(match[1]), int(match[2])) if match else None


def place_of(key: str, *, by_folders: bool) -> Any:
    """Gives what sorts keys as the server lists them."""
    return key.split("/") if by_folders else key
