"""Parquet: a row of the table each. Only the columns that the job needs are read, a batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from batch.places import Place
from batch.ranged_file import RangedFile
from workers.sources.objects import SourceObject
from workers.sources.row import Broken, SourceRow, Wanted

BATCH_ROWS, BATCH_BYTES = 1000, 8 * 2**20
"""Rows, and about bytes of them, that are decoded at once."""
BUFFER = 2**20
"""Bytes of a column that are fetched at once."""
UNREADABLE = (
    pa.ArrowException,
    ArithmeticError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What Arrow raises of what it cannot read, and Python of what it does not have: `KeyError` for a time zone."""


def parquet_rows(source: SourceObject, wanted: Wanted, start: Place) -> Iterator[SourceRow]:
    """The rows after `start`. Raises `Broken`, `StorageError`."""
    if not source.size:
        raise Broken("it is empty, no Parquet file")
    file = source.file()
    try:
        table = pq.ParquetFile(cast(IO[bytes], file), buffer_size=BUFFER, pre_buffer=False)
        yield from _rows(table, wanted, start)
    except UNREADABLE as error:
        raise _failure(file, error) from None


def _failure(file: RangedFile, error: Exception) -> Exception:
    """What stands behind an error of Arrow's."""
    return file.failure or Broken(f"it is no Parquet file that can be read: {' '.join(str(error).split())[:300]}")


def _rows(file: pq.ParquetFile, wanted: Wanted, start: Place) -> Iterator[SourceRow]:
    schema = file.schema_arrow
    _check(schema, wanted)
    names = [name for name in wanted.names if name in schema.names]
    number = 0
    for group in range(file.num_row_groups):
        metadata = file.metadata.row_group(group)
        if number + metadata.num_rows <= start.rows:
            number += metadata.num_rows
            continue
        for batch in file.iter_batches(_batch_size(metadata, names), [group], columns=names, use_threads=False):
            if number + batch.num_rows <= start.rows:
                number += batch.num_rows
                continue
            skip = max(0, start.rows - number)
            number += skip
            for values in _values(batch.slice(skip)):
                number += 1
                place = Place(number)
                if isinstance(values, str):
                    yield wanted.bad(f"row {number:,}: {values}", place, values.encode())
                else:
                    yield wanted.row(values, place, f"row {number:,}")


def _check(schema: pa.Schema, wanted: Wanted) -> None:
    """Whether there is a text at all. Raises `Broken`."""
    places = schema.get_all_field_indices(wanted.text)
    if len(places) != 1:
        listed = ", ".join(schema.names)[:300]
        number = "no column" if not places else "more than one column"
        raise Broken(f"it has {number} {wanted.text!r} (source.text_field); its columns are {listed}")
    found = schema.field(places[0]).type
    kind = found.value_type if pt.is_dictionary(found) else found
    if not (pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind)):
        raise Broken(f"its column {wanted.text!r} (source.text_field) holds {found}, not text")


def _batch_size(metadata: Any, names: list[str]) -> int:
    """Rows that make about BATCH_BYTES of these columns."""
    chunks = (metadata.column(index) for index in range(metadata.num_columns))
    size: int = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.split(".")[0] in names)
    return max(1, min(BATCH_ROWS, BATCH_BYTES * int(metadata.num_rows) // max(1, size)))


def _values(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | str]:
    """Each row's fields; where one cannot be had, what is wrong with it."""
    columns = [_in_microseconds(column) for column in batch.columns]
    batch = pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
    try:
        yield from batch.to_pylist()
    except UNREADABLE:
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UNREADABLE as error:
                yield f"it cannot be read: {' '.join(str(error).split())[:200]}"


def _in_microseconds(column: pa.Array[Any]) -> pa.Array[Any]:
    """Times in nanoseconds, which Python does not have, are cut; all else stays."""
    kind = column.type
    if pt.is_timestamp(kind) and kind.unit == "ns":
        return pc.cast(column, pa.timestamp("us", kind.tz), safe=False)
    if pt.is_time64(kind) and kind.unit == "ns":
        return pc.cast(column, pa.time64("us"), safe=False)
    if pt.is_duration(kind) and kind.unit == "ns":
        return pc.cast(column, pa.duration("us"), safe=False)
    return column
