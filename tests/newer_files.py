"""Files as a newer version of docbatch may write them: with fields, and columns, that this one does not know."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq

NEWER = {"of_a_newer_version": {"a": [1]}}


def newer(data: bytes, *records: str) -> bytes:
    """The JSON with a field more: at the top, and in what stands at each dotted path `records`."""
    found = json.loads(data)
    for path in ("", *records):
        part = found
        for step in path.split(".") if path else ():
            part = part[int(step)] if isinstance(part, list) else part[step]
        part.update(NEWER)
    return json.dumps(found).encode()


def newer_parquet(data: bytes) -> bytes:
    """The result file with a field more in its footer, and in the totals there. (Its columns are the run's.)"""
    key = b"docbatch.result"
    return with_metadata(
        data, key, newer((pq.read_metadata(pa.BufferReader(data)).metadata or {})[key], "totals"), columns=0
    )


def with_metadata(data: bytes, key: bytes, value: bytes, *, columns: int = 1) -> bytes:
    """The Parquet file with such metadata, and so many columns more; its row groups stay."""
    file = pq.ParquetFile(pa.BufferReader(data))
    metadata = {**(file.metadata.metadata or {}), key: value}
    metadata.pop(b"ARROW:schema", None)
    added = [pa.field(f"of_a_newer_version_{number}", pa.int64()) for number in range(columns)]
    schema = pa.schema([*file.schema_arrow, *added], metadata=metadata)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema) as writer:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            more = [pa.array([1] * table.num_rows, pa.int64())] * columns
            writer.write_table(pa.Table.from_arrays([*table.columns, *more], schema=schema))
    return sink.getvalue().to_pybytes()
