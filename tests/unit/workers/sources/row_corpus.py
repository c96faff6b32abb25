"""A source of rows in memory, and its plan, made by the real planner in shards of any size."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from backports import zstd
from temporalio.testing import ActivityEnvironment

from batch.corpus.planning import PlannedDocument, documents_of
from batch.files.run_file import RunFile
from batch.job.job import Job
from batch.job.logical_date import Nominal
from batch.storage.layout import RunLayout, bucket_and_key
from batch.workflows import contracts as c
from tests.memory_storage import MemoryStorage
from workers.observe.metrics import Metrics
from workers.plan.planner import Planner

LAYOUT = RunLayout.of("s3://results/x/", "r")


def job(*, prompt: str = "{{ text }}", documents: int = 10, **source: Any) -> Job:
    return Job.parse(
        {
            "name": "rows",
            "source": {"uri": "s3://corpus/in/", **source},
            "prompt": {"user": prompt},
            "model": {"name": "simulated-small"},
            "output": {"uri": "s3://results/x/"},
            "partitions": {"documents": documents},
        }
    )


async def plan(
    memory: MemoryStorage, of: Job, *, partitions: int = 1000, anew: bool = False, attempt: int = 1
) -> list[PlannedDocument]:
    """The documents of all shards; `anew`: each shard by another planner, which has nothing open."""
    cut = shards(memory, of, partitions=partitions, anew=anew, attempt=attempt)
    documents = [document async for shard in cut for document in shard]
    assert len({document.document_id for document in documents}) == len(documents)
    return documents


async def shards(
    memory: MemoryStorage, of: Job, *, partitions: int, anew: bool = False, attempt: int = 1
) -> AsyncIterator[list[PlannedDocument]]:
    """The documents of one shard after the other."""
    for key in [key for key in memory.objects if key.startswith(LAYOUT.root)]:
        del memory.objects[key]
    named = of.source.manifest
    etag = memory.entry(bucket_and_key(named)[1]).etag if named is not None else ""
    file = RunFile.of("r", of, "e", "2026-01-01T00:00:00+00:00", Nominal.now(), manifest_etag=etag)
    memory.objects[LAYOUT.run_json] = file.to_bytes()
    planner = Planner(memory, Metrics())
    shard, partition, cursor, last = 0, 0, "", False
    while not last:
        if anew:
            planner = Planner(memory, Metrics())
        task = c.PlanInput(c.RunRef("r", "s3://results/x/"), shard, partition, cursor, partitions)
        environment = ActivityEnvironment()
        environment.info = dataclasses.replace(environment.info, attempt=attempt)
        planned = await environment.run(planner.plan_shard, task)
        assert planned.partitions <= partitions
        found = documents_of(pq.read_table(io.BytesIO(memory.objects[LAYOUT.plan(shard)])))
        assert len(found) == planned.documents
        yield found
        shard, partition, cursor, last = shard + 1, partition + planned.partitions, planned.cursor, planned.last


def jsonl(rows: list[Any], packed: str = "") -> bytes:
    data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    return {"": data, ".gz": gzip.compress(data, mtime=0), ".zst": zstd.compress(data)}[packed]


def parquet(rows: list[dict[str, Any]], group: int = 100, schema: pa.Schema | None = None) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, row_group_size=group)
    return sink.getvalue()
