"""Parquet: a row of the table each. Only the columns that the job needs are read, a batch of rows at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO, Any, cast
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from batch.corpus.cursor import Place
from batch.storage.ranged_file import RangedFile
from workers.sources.objects import SourceObject
from workers.sources.row import Broken, SourceRow, Wanted

BATCH_ROWS, BATCH_BYTES = 1000, 8 * 2**20
"""Rows, and about bytes of them, that are decoded at once."""
UNFOLDED = 128 * 2**20
"""Bytes that a batch may have, were each of its texts the largest that their dictionary may hold."""
BUFFER = 2**20
"""Bytes of a column that are fetched at once."""
LARGEST_PAGE = 2**31
"""Bytes of a page, by the format."""
_DATA_PAGES = (b"\x15\x00", b"\x15\x06")
_DICTIONARY_PAGE = re.compile(rb"\x15\x04\x15([\x80-\xff]{0,4}[\x00-\x7f])")
"""How a page's header begins (Thrift's compact protocol): its type, and its size once unpacked, as a varint."""
_MAGIC = b"PAR1"
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
    """Yields the rows after `start`. Raises `Broken`, `StorageError`."""
    if not source.size:
        raise Broken("it is empty, no Parquet file")
    file = source.file()
    try:
        table = pq.ParquetFile(cast(IO[bytes], file), buffer_size=BUFFER, pre_buffer=False)
        yield from _rows(file, table, wanted, start)
    except UNREADABLE as error:
        raise _failure(file, error) from None


def _failure(file: RangedFile, error: Exception) -> Exception:
    """Returns what stands behind an error of Arrow's."""
    if file.failure is not None:
        return file.failure
    why = " ".join(str(error).split())[:300]
    if "crypt" in why:
        return Broken(f"it is an encrypted Parquet file, whose keys docbatch does not have: {why}")
    if _is_cut_off(file):
        return Broken(f"it is a Parquet file that is cut off: it does not end as one: {why}")
    return Broken(f"it is no Parquet file that can be read: {why}")


def _is_cut_off(file: RangedFile) -> bool:
    """Tells whether it begins as Parquet and does not end so."""
    file.seek(0)
    begins = file.read(len(_MAGIC))
    file.seek(-len(_MAGIC), 2)
    return begins == _MAGIC and file.read() != _MAGIC


def _rows(file: RangedFile, table: pq.ParquetFile, wanted: Wanted, start: Place) -> Iterator[SourceRow]:
    schema = table.schema_arrow
    _check(schema, wanted)
    names = [name for name in wanted.names if name in schema.names]
    number = 0
    for group in range(table.num_row_groups):
        metadata = table.metadata.row_group(group)
        if number + metadata.num_rows <= start.rows:
            number += metadata.num_rows
            continue
        size = _batch_size(file, metadata, names)
        for batch in table.iter_batches(size, [group], columns=names, use_threads=False):
            if number + batch.num_rows <= start.rows:
                number += batch.num_rows
                continue
            skip = max(0, start.rows - number)
            number += skip
            for values in _values(batch.slice(skip), wanted.id):
                number += 1
                place = Place(number)
                if isinstance(values, str):
                    yield wanted.bad(f"row {number:,}: {values}", place, values.encode())
                else:
                    yield wanted.row(values, place, f"row {number:,}")


_TEXTS = (
    *(pt.is_string, pt.is_large_string, pt.is_string_view),
    *(pt.is_binary, pt.is_large_binary, pt.is_binary_view),  # Spark's and Impala's texts, without their annotation
    pt.is_null,  # of a file in which no row has one
)


def _check(schema: pa.Schema, wanted: Wanted) -> None:
    """Whether there is a text at all. Raises `Broken`."""
    places = schema.get_all_field_indices(wanted.text)
    if len(places) != 1:
        listed = ", ".join(schema.names)[:300]
        number = "no column" if not places else "more than one column"
        raise Broken(f"it has {number} {wanted.text!r} (source.text_field); its columns are {listed}")
    found = schema.field(places[0]).type
    kind = found.value_type if pt.is_dictionary(found) else found
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    if not any(is_kind(kind) for is_kind in _TEXTS):
        raise Broken(f"its column {wanted.text!r} (source.text_field) holds {found}, not text")


def _batch_size(file: RangedFile, group: Any, names: list[str]) -> int:
    """Rows of a row group that make about BATCH_BYTES of these columns, and do not unfold to more than UNFOLDED."""
    chunks = [group.column(index) for index in range(group.num_columns)]
    chunks = [chunk for chunk in chunks if any(f"{chunk.path_in_schema}.".startswith(f"{name}.") for name in names)]
    rows = max(1, int(group.num_rows))
    encoded = sum(int(chunk.total_uncompressed_size) for chunk in chunks)
    texts = [chunk for chunk in chunks if chunk.physical_type.endswith("BYTE_ARRAY")]
    heads = file.ahead([_beginning(chunk) for chunk in texts])
    dictionaries = zip(map(_dictionary_size, heads), texts, strict=True)
    largest = sum(size * max(1, -(-int(chunk.num_values) // rows)) for size, chunk in dictionaries)
    return max(1, min(BATCH_ROWS, BATCH_BYTES * rows // max(1, encoded), UNFOLDED // max(1, largest)))


def _beginning(chunk: Any) -> tuple[int, int]:
    """Returns the range of a column's bytes that Arrow reads first."""
    start, dictionary = int(chunk.data_page_offset), chunk.dictionary_page_offset
    if dictionary is not None and 0 < dictionary < start:
        start = int(dictionary)
    return start, start + min(BUFFER, int(chunk.total_compressed_size))


def _dictionary_size(head: bytes) -> int:
    """Returns bytes of the dictionary that a column begins with, 0 without one: no text of it is larger.

    Each row may be a reference to the same huge text, and Arrow unfolds a batch as a whole. The file's metadata do not
    say how large it is, the first page's header does.
    """
    if head.startswith(_DATA_PAGES):
        return 0
    found = _DICTIONARY_PAGE.match(head)
    if found is None:
        return LARGEST_PAGE
    digits: bytes = found[1]
    return sum((byte & 0x7F) << 7 * place for place, byte in enumerate(digits)) >> 1


def _values(batch: pa.RecordBatch, id_field: str | None = None) -> Iterator[dict[str, Any] | str]:
    """Yields each row's fields; where one cannot be had, what is wrong with it."""
    columns = [
        _as_uuids(column) if name == id_field and _holds_uuids(column.type) else _in_microseconds(column)
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    ]
    batch = pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
    try:
        yield from batch.to_pylist()
    except UNREADABLE:
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UNREADABLE as error:
                yield f"it cannot be read: {' '.join(str(error).split())[:200]}"


def _holds_uuids(kind: pa.DataType) -> bool:
    """Tells whether it is 16 bytes wide: so are UUIDs written that have no annotation."""
    return pt.is_fixed_size_binary(kind) and kind.byte_width == 16


def _as_uuids(column: pa.Array[Any]) -> pa.Array[Any]:
    texts = [None if value is None else str(UUID(bytes=value)) for value in column.to_pylist()]
    return pa.array(texts, pa.string())


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
