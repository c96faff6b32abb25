"""Reading a shard's plan file (`batch.corpus.planning` writes it). Blocking, by ranges: for threads."""

from __future__ import annotations

import pyarrow.parquet as pq

from batch.corpus.planning import PlanFooter, PlannedDocument, documents_of
from batch.storage.layout import RunLayout
from batch.storage.store import Storage


def read_footer(storage: Storage, bucket: str, key: str) -> PlanFooter:
    """What the file says of itself. Raises `KeyError` or `ValueError` for a file that is no plan of ours."""
    with storage.reading(bucket, key) as file:
        return PlanFooter.from_metadata(dict(pq.read_metadata(file).metadata or {}))


def read_documents(storage: Storage, layout: RunLayout, shard: int, row_group: int) -> list[PlannedDocument]:
    """The documents of one partition: row group `row_group` of its shard's plan."""
    with storage.reading(layout.output.bucket, layout.plan(shard)) as file:
        return documents_of(pq.ParquetFile(file).read_row_group(row_group))
