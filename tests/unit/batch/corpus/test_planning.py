"""Cutting documents into partitions, and which keys are documents."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch.corpus.hidden import Selection
from batch.corpus.planning import PlanFooter, PlannedDocument, ShardCutter, documents_of
from batch.files.plan_file import read_documents, read_footer
from batch.job.source import Source
from batch.storage.layout import RunLayout


def cutter(*, documents: int = 3, size: int = 100, partitions: int = 2) -> ShardCutter:
    return ShardCutter(
        shard=4, first_partition=10, start_cursor="k0", documents=documents, size=size, partitions=partitions
    )


def document(number: int, size: int = 10) -> PlannedDocument:
    return PlannedDocument(f"d{number}", f"s3://b/d{number}", f'"{number}"', size)


def fill(shard: ShardCutter, sizes: list[int]) -> int:
    """How many were taken."""
    for number, size in enumerate(sizes):
        if not shard.add(document(number, size), f"k{number + 1}"):
            return number
    return len(sizes)


@pytest.mark.parametrize(
    ("sizes", "taken", "groups"),
    [
        ([10] * 3, 3, [3]),
        ([10] * 4, 4, [3, 1]),
        ([10] * 7, 6, [3, 3]),
        ([60, 60, 60], 2, [1, 1]),
        ([500, 10], 2, [1, 1]),
        ([40, 60, 1], 3, [2, 1]),
    ],
)
def test_partitions_end_at_documents_or_bytes(sizes: list[int], taken: int, groups: list[int]) -> None:
    shard = cutter()
    assert fill(shard, sizes) == taken
    data, footer = shard.finish(last=False, planned_at="2026-11-23T00:00:00+00:00")
    file = pq.ParquetFile(io.BytesIO(data))
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == groups
    assert footer.documents == taken
    assert footer.end_cursor == f"k{taken}"
    assert PlanFooter.from_metadata(dict(file.metadata.metadata or {})) == footer
    assert documents_of(file.read_row_group(0))[0] == document(0, sizes[0])
    assert file.read_row_group(0).column("partition").to_pylist() == [10] * groups[0]


def test_a_plan_file_is_read_back() -> None:
    shard = cutter()
    fill(shard, [10] * 4)
    data, footer = shard.finish(last=True)
    layout = RunLayout.of("s3://results/x/", "r")
    asked: list[tuple[str, str]] = []

    @contextmanager
    def reading(bucket: str, key: str) -> Iterator[io.BytesIO]:
        asked.append((bucket, key))
        yield io.BytesIO(data)

    storage: Any = SimpleNamespace(reading=reading)
    assert read_footer(storage, "results", layout.plan(3)) == footer
    assert read_documents(storage, layout, 3, 1) == [document(3, 10)]
    assert asked == [("results", "x/runs/r/plan/shard-00003.parquet")] * 2


@pytest.mark.parametrize(
    ("include", "exclude", "key", "selected"),
    [
        (["**"], [], "p/a.txt", True),
        (["**"], [], "p/.hidden/a", True),
        (["**"], [], "p/folder/", False),
        (["**/*.txt"], [], "p/a.txt", True),
        (["**/*.txt"], [], "p/x/y/a.txt", True),
        (["**/*.txt"], [], "p/x/a.html", False),
        (["*.txt"], [], "p/x/a.txt", False),
        (["**/*.{txt,md}"], [], "p/x/a.md", True),
        (["**"], ["drafts/**"], "p/drafts/a.txt", False),
        (["**"], ["**/*.tmp"], "p/a.tmp", False),
    ],
)
def test_globs_choose_keys(include: list[str], exclude: list[str], key: str, selected: bool) -> None:
    source = Source(uri="s3://bucket/p/", include=include, exclude=exclude)
    assert Selection(source)(key) is selected


def test_plans_of_older_versions_are_read() -> None:
    """They lack columns and what an incremental run counts; a run goes on across a release."""
    older = pa.table({"document_id": ["d"], "uri": ["s3://b/d"], "etag": ["e"], "size": [1], "partition": [0]})
    assert documents_of(older) == [PlannedDocument("d", "s3://b/d", "e", 1)]
    said = {"shard": 0, "first_partition": 0, "partitions": 1, "documents": 1, "start_cursor": "", "end_cursor": "d"}
    metadata = {f"docbatch.{name}".encode(): str(value).encode() for name, value in {**said, "last": True}.items()}
    footer = PlanFooter.from_metadata(metadata | {b"ARROW:schema": b"\xff"})
    assert (footer.end_cursor, footer.last, footer.reasons) == ("d", True, {})
    assert (footer.deleted, footer.planned_at) == (0, "")
