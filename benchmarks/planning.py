"""Planning ten million keys: speed, memory of the planner, the first shard, and the coordinator's history.

The planner's own code, shard after shard as the coordinator asks for them, in a process of its own; another one serves
the listing as AWS does (see `benchmarks.listing_server`), each page 50 ms after it was asked for, a tenth of the
objects having the content of an earlier one. The histories are those of a real run of forty shards.

    python -m benchmarks.planning KEYS            the planner's process alone, against the S3 of the environment
    python -m benchmarks.planning KEYS --again    the next night's, held against the state that the first one left
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import uvloop
from temporalio.testing import ActivityEnvironment

from batch.corpus.planning import UNCHANGED, PlanFooter
from batch.files.run_file import RunFile
from batch.files.state import read_pointer
from batch.job.job import Job
from batch.job.logical_date import Nominal
from batch.local.stack import LocalStack
from batch.network.connection import connect_temporal
from batch.storage.layout import RunLayout
from batch.storage.store import Storage
from batch.workflows import contracts as c
from benchmarks.figures import Figure, same
from benchmarks.lab import job, measure, stack, upload
from benchmarks.listing_server import PREFIX
from workers.finish.state_writer import StateWriter
from workers.observe.metrics import Metrics
from workers.plan.planner import Planner

LATENCY = 0.05
"""Seconds that S3 takes for a page of a listing, at least."""
DUPLICATES = 0.1
SHARDS, SHARD = 40, 20
"""Shards of the run whose histories are counted, and partitions of each."""
MIB = 2**20


@dataclass(frozen=True)
class Planned:
    """What the planner's process says. Memory in bytes."""

    documents: int
    shards: int
    seconds: float
    first_shard_seconds: float
    cpu_seconds: float
    memory_before: int
    memory_peak: int
    largest_plan: int
    unchanged: int
    marked: int
    """Documents that share the answer of an earlier one."""


def run(quick: bool) -> list[Figure]:
    """Must show 4."""
    keys = 500_000 if quick else 10_000_000
    with _listing(keys) as url:
        found = _plan(keys, url)
        again = _plan(keys, url, "--again")
    shards = 10 if quick else SHARDS
    with stack(workers=1) as running:
        events = _events(running, shards)
    return [
        same("every key planned", found.documents == keys),
        Figure("keys a second", found.documents / found.seconds, at_least=20_000),
        Figure("CPU of the planner, a key", 1e6 * found.cpu_seconds / found.documents, "us"),
        Figure("peak memory of the planner", found.memory_peak / MIB, "MiB", at_most=500),
        Figure("of it before the first shard", found.memory_before / MIB, "MiB"),
        Figure("seconds until the first shard is planned", found.first_shard_seconds, "s", at_most=15),
        Figure("shards", found.shards),
        Figure("largest plan file", found.largest_plan / MIB, "MiB", at_most=40),
        Figure("documents that share an answer", found.marked / found.documents, "%"),
        Figure("next night: unchanged", again.unchanged, exactly=keys),
        Figure("next night: keys a second", again.documents / again.seconds),
        Figure("next night: peak memory of the planner", again.memory_peak / MIB, "MiB", at_most=500),
        Figure("next night: seconds until the first shard is planned", again.first_shard_seconds, "s", at_most=15),
        Figure(f"events of the coordinator's history, for {shards} shards", events, at_most=4_096),
        Figure("events a shard", events / shards),
    ]


@contextmanager
def _listing(keys: int) -> Iterator[str]:
    options = ["--latency", str(LATENCY), "--duplicates", str(DUPLICATES)]
    command = [sys.executable, "-m", "benchmarks.listing_server", str(keys), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.terminate()


def _plan(keys: int, url: str, *options: str) -> Planned:
    environment = {
        **os.environ,
        "AWS_ENDPOINT_URL_S3": url,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "NO_PROXY": "*",
    }
    command = [sys.executable, "-m", "benchmarks.planning", str(keys), *options]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as planner:
        assert planner.stdout is not None
        line = ""
        for line in planner.stdout:
            if not line.startswith("{"):
                print(f"  {line}", end="", flush=True)
    return Planned(**json.loads(line))


def _events(running: LocalStack, shards: int) -> int:
    """Of the coordinator of a run whose shards report as often as large ones do."""
    work = job(upload(running, shards * SHARD), concurrency=64, partition=1)
    tuning = c.Tuning(shard_partitions=SHARD)
    measure(running, work, run_id="forty", tuning=tuning)
    return asyncio.run(_longest_history("forty"))


async def _longest_history(run_id: str) -> int:
    client = await connect_temporal()
    longest = 0
    async for execution in client.list_workflows(f"WorkflowId = '{run_id}'"):
        handle = client.get_workflow_handle(execution.id, run_id=execution.run_id)
        longest = max(longest, len((await handle.fetch_history()).events))
    return longest


# -- the planner's process --------------------------------------------------------------------------------------------


async def _plan_all(keys: int, *, again: bool) -> Planned:
    storage, planner = Storage(), Planner(Storage(), Metrics())
    work = Job.parse(
        {**json.loads(job(f"s3://corpus/{PREFIX}", concurrency=1).to_json()), "name": "planning", "incremental": True}
    )
    run = c.RunRef("again" if again else "planning", work.output.uri)
    layout = RunLayout.of(work.output.uri, run.run_id)
    found = await read_pointer(storage, work.state_layout)
    file = RunFile.of(
        run.run_id, work, "execution", "2026-01-01T00:00:00+00:00", Nominal.now(), state=found[0] if found else None
    )
    await storage.create(layout.output.bucket, layout.run_json, file.to_bytes())
    tuning, before = c.Tuning(), _peak()
    cpu, began = time.process_time(), time.monotonic()
    shard = partition = documents = largest = unchanged = 0
    first, cursor, last = 0.0, "", False
    while not last:
        task = c.PlanInput(run, shard, partition, cursor, tuning.partitions_of(shard))
        planned = await ActivityEnvironment().run(planner.plan_shard, task)
        first = first or time.monotonic() - began
        stored = await storage.head(layout.output.bucket, layout.plan(shard))
        assert stored is not None
        largest = max(largest, stored.size)
        documents += planned.documents
        unchanged += planned.reasons.get(UNCHANGED, 0)
        seconds = time.monotonic() - began
        print(
            f"shard {shard}: {documents:,} of {keys:,} keys, {documents / seconds:,.0f}/s, "
            f"{stored.size / MIB:.1f} MiB, peak memory {_peak() / MIB:.0f} MiB",
            flush=True,
        )
        shard, cursor, last = shard + 1, planned.cursor, planned.last
        partition += planned.partitions
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    peak = _peak()
    marked = await asyncio.to_thread(_marked, storage, layout, shard)
    if not again:
        await _leave_state(storage, layout, file, shard)
    return Planned(documents, shard, seconds, first, cpu, before, peak, largest, unchanged, marked)


async def _leave_state(storage: Storage, layout: RunLayout, file: RunFile, shards: int) -> None:
    """What the run would have left had it answered all documents of its plan."""
    writer = StateWriter(storage, layout, file, 1)
    for shard in range(shards):
        with storage.reading(layout.output.bucket, layout.plan(shard)) as plan:
            parquet = pq.ParquetFile(plan)
            footer = PlanFooter.from_metadata(dict(parquet.metadata.metadata or {}))
            table = await asyncio.to_thread(parquet.read, columns=["document_id", "uri", "etag"])
        rows = table.num_rows
        constant = {"content_hash": "0" * 32, "fingerprint": file.fingerprint, "status": "ok", "retryable": None}
        made = {**constant, "processed_at": datetime.now(UTC), "run_id": file.run_id, "generation": 1, "attempts": 1}
        for name, value in made.items():
            table = table.append_column(name, pa.array([value] * rows, file.schema.field(name).type))
        await writer.add(footer, footer.first_partition, table)
    await writer.move(complete=True)


def _marked(storage: Storage, layout: RunLayout, shards: int) -> int:
    count = 0
    for shard in range(shards):
        with storage.reading(layout.output.bucket, layout.plan(shard)) as file:
            column = pq.ParquetFile(file).read(columns=["same_as"]).column(0)
            count += len(column) - column.null_count
    return count


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """One planner, and its figures as JSON on the last line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planning", description=__doc__)
    parser.add_argument("keys", type=int)
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    print(json.dumps(asdict(uvloop.run(_plan_all(options.keys, again=options.again)))))


if __name__ == "__main__":
    main()
