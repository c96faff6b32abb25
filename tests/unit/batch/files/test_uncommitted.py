"""What a run has cost whose coordinator left no account: its result files, and the ledgers of the other partitions."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from batch.files.ledger_segment import LedgerName, encode_segment
from batch.files.result_file import ResultFooter, encode
from batch.schema.row_schema import row_schema
from batch.storage.layout import RunLayout
from batch.workflows.contracts import Totals
from tests.memory_storage import MemoryStorage
from workers.plan.rerun import cost_so_far

LAYOUT = RunLayout.of("s3://results/x/", "run-1")


def answered(document: str, cost: float | None, at: str = "2026-01-01T00:00:00+00:00") -> dict[str, Any]:
    return {"document_id": document, "generation": 1, "processed_at": at, "cost_usd": cost}


async def test_each_partition_counts_once() -> None:
    storage = MemoryStorage()
    footer = ResultFooter("run-1", 0, 0, 1, "token", Totals(documents=2, ok=2, cost_usd=1.5))
    storage.objects[LAYOUT.result(0, 0)] = encode([], row_schema(None), footer)
    storage.objects[f"{LAYOUT.results}_SUCCESS"] = b""  # of a reader of the dataset; not ours
    for partition in (0, 1):
        name = LedgerName("run-1", "f00d", partition, 1, 1, 1)
        rows = [answered("a", 0.5), answered("b", None), answered("a", 0.25, "2026-01-02T00:00:00+00:00")]
        storage.objects[LAYOUT.segment(partition, 1, 1, "token", 0)] = encode_segment(name, rows)
    assert await cost_so_far(storage, LAYOUT, "f00d") == pytest.approx(1.5 + 0.25)  # type: ignore[arg-type]


async def test_of_a_cancelled_runs_partial_file_the_ledger_counts() -> None:
    storage = MemoryStorage()
    footer = ResultFooter("run-1", 0, 0, 1, "token", Totals(documents=1, ok=1, cost_usd=0.5), partial=True)
    storage.objects[LAYOUT.result(0, 0)] = encode([], row_schema(None), footer)
    name = LedgerName("run-1", "f00d", 0, 1, 1, 1)
    rows = [answered("a", 0.5), answered("b", 0.75)]
    storage.objects[LAYOUT.segment(0, 1, 1, "token", 0)] = encode_segment(name, rows)
    assert await cost_so_far(storage, LAYOUT, "f00d") == pytest.approx(1.25)  # type: ignore[arg-type]


async def test_what_a_partial_file_keeps_of_generations_whose_ledgers_are_gone_counts_too() -> None:
    """A rerun was cancelled: `old` was answered and committed before it, `new` in it, `late` after its account."""
    storage = MemoryStorage()
    schema = row_schema(None)
    blank = dict.fromkeys(schema.names)
    rows = [
        {**blank, "document_id": "old", "run_id": "run-1", "cost_usd": 2.0},
        {**blank, "document_id": "new", "run_id": "run-1", "cost_usd": 0.5},
        {**blank, "document_id": "carried", "run_id": "last-night-1", "cost_usd": 8.0},
    ]
    footer = ResultFooter("run-1", 0, 0, 2, "token", Totals(documents=3, ok=3, cost_usd=2.5), partial=True)
    storage.objects[LAYOUT.result(0, 0)] = encode(rows, pa.schema([f.with_nullable(True) for f in schema]), footer)
    name = LedgerName("run-1", "f00d", 0, 2, 1, 1)
    segment = encode_segment(name, [answered("new", 0.5), answered("late", 0.25)])
    storage.objects[LAYOUT.segment(0, 2, 1, "token", 0)] = segment
    assert await cost_so_far(storage, LAYOUT, "f00d") == pytest.approx(2.0 + 0.5 + 0.25)  # type: ignore[arg-type]
