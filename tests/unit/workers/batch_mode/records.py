"""Where a run keeps the records of its batches."""

from __future__ import annotations

from batch.storage.layout import RunLayout

LAYOUT = RunLayout.of("s3://results/x/", "run-1")
