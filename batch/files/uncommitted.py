"""What a run has answered and not committed: read from the ledgers in object storage, by who looks at the run.

It costs listings and GETs, so examples of errors come from a few segments only; whole rows from all ledgers of
partitions that have no result file.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batch.files.kept_text import unpack
from batch.files.ledger_segment import LedgerName, Newest, decode_segment
from batch.files.result_file import ERROR, OK
from batch.files.run_file import RunFile
from batch.schema.answer_reader import AnswerReader, InvalidAnswer
from batch.schema.row_schema import TEXT
from batch.storage.layout import RunLayout, place_of_result
from batch.storage.store import ObjectMissing, Storage

EXAMPLES, OF_A_TYPE = 5, 2
"""Examples at most, in all and of one type while there are others."""
PARTITIONS, SEGMENTS, SEGMENT_BYTES = 4, 12, 8 * 2**20
"""What is looked through for examples: the last segments of a few partitions, none that is larger."""
FILES = 8
"""Result files that are looked through for examples, the last ones."""
MESSAGE, NAME = 300, 200
"""Characters of an example's message, and of its document's id."""
AT_ONCE, LEDGERS_AT_ONCE = 16, 4
"""Segments of a ledger, and ledgers, that are read at once."""


@dataclass(frozen=True)
class ErrorExample:
    """One document that could not be answered; texts are short, and free of control characters."""

    document_id: str
    error_type: str
    message: str


async def error_examples(storage: Storage, layout: RunLayout, partitions: Iterable[int]) -> list[ErrorExample]:
    """A few errors from the ledgers of these partitions, of as many types as there are. Raises `StorageError`."""
    found: list[ErrorExample] = []
    for partition in list(partitions)[:PARTITIONS]:
        newest = Newest()
        entries = await storage.list_all(layout.output.bucket, layout.ledger(partition))
        keys = [entry.key for entry in entries if entry.size <= SEGMENT_BYTES][-SEGMENTS:]
        async for _, rows in _segments(storage, layout, keys):
            newest.add(rows)
        found += [_example(row) for row in newest.rows.values() if row["status"] == ERROR]
    return _chosen(found)


async def committed_error_examples(storage: Storage, layout: RunLayout) -> list[ErrorExample]:
    """A few errors from the result files of the partitions that come last. Raises `StorageError`."""
    bucket, keys = layout.output.bucket, list[str]()
    # From the last shard back: a large run has more result files than there is time to list.
    for folder in sorted(await storage.folders(bucket, layout.results), reverse=True):
        entries = await storage.list_all(bucket, f"{folder.rstrip('/')}/")
        keys += sorted((entry.key for entry in entries if place_of_result(entry.key) is not None), reverse=True)
        if len(keys) >= FILES:
            break
    read = [asyncio.to_thread(_errors_at, storage, bucket, key) for key in sorted(keys[:FILES])]
    return _chosen([_example(row) for rows in await asyncio.gather(*read) for row in rows])


def _errors_at(storage: Storage, bucket: str, key: str) -> list[dict[str, Any]]:
    """Of each error in a result file what an example shows; its other columns, which may be large, are not read."""
    try:
        with storage.reading(bucket, key) as file:
            table = pq.read_table(file, columns=["document_id", "status", "error_type", "error_message"])
    except (ObjectMissing, FileNotFoundError, pa.ArrowException):
        return []
    rows: list[dict[str, Any]] = table.filter(pc.field("status") == ERROR).to_pylist()
    return rows


def _example(row: dict[str, Any]) -> ErrorExample:
    return ErrorExample(
        _clean(row["document_id"], NAME), row["error_type"] or "", _clean(row["error_message"] or "", MESSAGE)
    )


def _clean(text: str, longest: int) -> str:
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text[: 2 * longest]).split())
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _chosen(found: list[ErrorExample]) -> list[ErrorExample]:
    """The last ones first, but not more of a type than others leave room for."""
    counts = Counter[str]()
    first: list[ErrorExample] = []
    rest: list[ErrorExample] = []
    for example in reversed(found):
        counts[example.error_type] += 1
        (first if counts[example.error_type] <= OF_A_TYPE else rest).append(example)
    return [*first, *rest][:EXAMPLES]


async def uncommitted_rows(storage: Storage, layout: RunLayout, file: RunFile) -> pa.Table:
    """The answered rows of all partitions that have no result file yet, with the run's columns.

    What an attempt made without asking, such as rows that share another document's answer, is not there before its
    commit. Raises `StorageError`.
    """
    bucket = layout.output.bucket
    begun = {
        int(found[1]) for each in await storage.folders(bucket, layout.ledgers) if (found := _PARTITION.search(each))
    }
    if begun:
        async for page in storage.pages(bucket, layout.results):
            begun -= {place[1] for entry in page if (place := place_of_result(entry.key)) is not None}
    schema = file.job.output.json_schema
    reader = AnswerReader(schema) if schema is not None else None

    async def answered(partition: int) -> pa.Table:
        name = LedgerName(layout.run_id, file.fingerprint, partition, 0, 0, 0)
        newest = Newest()
        keys = [entry.key for entry in await storage.list_all(bucket, layout.ledger(partition))]
        async for written_by, rows in _segments(storage, layout, keys):
            if name.is_beside(written_by):
                newest.add(rows)
        made = [row for each in newest.rows.values() if (row := _row(each, reader)) is not None]
        return pa.Table.from_pylist(made, schema=file.schema)

    tables, partitions = [file.schema.empty_table()], sorted(begun)
    for start in range(0, len(partitions), LEDGERS_AT_ONCE):
        tables += await asyncio.gather(*map(answered, partitions[start : start + LEDGERS_AT_ONCE]))
    return pa.concat_tables(tables)


_PARTITION = re.compile(r"/partition-(\d+)/?$")


def _row(kept: dict[str, Any], reader: AnswerReader | None) -> dict[str, Any] | None:
    row = {**kept, "processed_at": datetime.fromisoformat(kept["processed_at"])}
    if row.get(TEXT) is not None:
        row[TEXT] = unpack(row[TEXT])
    if reader is not None and row["status"] == OK:
        try:
            row["result"] = reader.read(row["output_text"])
        except InvalidAnswer:
            return None
    return row


async def _segments(
    storage: Storage, layout: RunLayout, keys: list[str]
) -> AsyncIterator[tuple[LedgerName, list[dict[str, Any]]]]:
    """Whole segments; those that went since the listing, or are torn, are left out."""

    async def fetch(key: str) -> bytes | None:
        try:
            return await storage.get(layout.output.bucket, key)
        except ObjectMissing:
            return None

    for start in range(0, len(keys), AT_ONCE):
        for data in await asyncio.gather(*map(fetch, keys[start : start + AT_ONCE])):
            segment = decode_segment(data) if data is not None else None
            if segment is not None:
                yield segment
