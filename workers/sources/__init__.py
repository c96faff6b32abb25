"""Objects of rows (JSONL, Parquet) to the documents of a plan; an object of another kind is one document as it is.

Rows travel in the plan: the planner has to read every row anyway, for ids are hashes of their texts; a compressed file
cannot be entered in its middle; and a plan that holds the rows is a snapshot that nobody moves under a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from batch.corpus.cursor import Place
from batch.job.formats import JSONL, PARQUET
from workers.sources.jsonl import jsonl_rows
from workers.sources.objects import SourceObject
from workers.sources.parquet import parquet_rows
from workers.sources.row import SourceRow, Wanted

Reader = Callable[[SourceObject, Wanted, Place], Iterator[SourceRow]]

READERS: dict[str, Reader] = {JSONL: jsonl_rows, PARQUET: parquet_rows}
"""By what an object holds (`batch.job.formats`)."""
