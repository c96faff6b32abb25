"""The ledger of a partition, and rows for it."""

from __future__ import annotations

from typing import Any

from batch.files.ledger_segment import LedgerName
from batch.storage.layout import RunLayout

LAYOUT = RunLayout.of("s3://results/x/", "run-1")


NAME = LedgerName("run-1", "f00d", 7, 1, 1, 1)


def row(number: int, *, generation: int = 1, at: str = "2026-01-01T00:00:00+00:00") -> dict[str, Any]:
    return {"document_id": f"d{number}", "output_text": f"t{number}", "generation": generation, "processed_at": at}
