"""One partition's result file: its rows as Parquet bytes, and the footer by which a commit is recognised. Pure.

The footer says run, partition, generation, the committing attempt's token and the partition's totals; whoever finds
the file there already (a repeated attempt, a loser of the race) returns those totals and pays nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batch.files.kept_text import unpack
from batch.schema.arrow import ROW_SCHEMA_VERSION, TEXT
from batch.storage.records import read_record
from batch.workflows.contracts import Totals

OK, ERROR = "ok", "error"
_KEY = b"docbatch.result"
GROUP_CHARACTERS = 16 * 2**20
"""Of kept text, about, in one row group."""
_WRITER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="parquet")
"""One, for 9 ms a file: Arrow keeps the memory of every thread that ever wrote (26 MB more with six, measured)."""


class NotOurs(ValueError):
    """The bytes are no result file of this run: torn, foreign or doctored."""


@dataclass(frozen=True)
class ResultFooter:
    """What a result file says of itself."""

    run_id: str
    shard: int
    partition: int
    generation: int
    token: str
    totals: Totals
    partial: bool = False
    """Whether it was written for a cancelled run: documents of the partition may have no row, and its ledger stays."""

    @property
    def settles(self) -> bool:
        """Whether each document of the partition has its row here, and was asked about: ledgers before it may go."""
        return not self.partial and not self.totals.partitions_failed


class Tally:
    """Counts rows one by one. Of rows that another run paid for, tokens and cost do not count."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._documents = self._ok = self._errors = self._retryable = self._carried = 0
        self._prompt = self._cached = self._completion = self._unpriced = 0
        self._cost = 0.0
        self._types: dict[str, int] = {}

    def add(self, row: dict[str, Any]) -> None:
        """Counts one more row."""
        self._documents += 1
        status = row["status"]
        if status == OK:
            self._ok += 1
        elif status == ERROR:
            self._errors += 1
            self._types[row["error_type"]] = self._types.get(row["error_type"], 0) + 1
            self._retryable += bool(row["retryable"])
        if row["run_id"] != self._run_id:
            self._carried += 1
            return
        self._prompt += row["prompt_tokens"] or 0
        self._cached += row["cached_tokens"] or 0
        self._completion += row["completion_tokens"] or 0
        self._cost += row["cost_usd"] or 0.0
        uncounted = row["completion_tokens"] is None
        self._unpriced += row["cost_usd"] is None and (uncounted or bool(row["completion_tokens"]))

    def totals(self, *, partitions: int) -> Totals:
        """The counters so far, of so many partitions."""
        return Totals(
            documents=self._documents,
            ok=self._ok,
            errors=self._errors,
            retryable_errors=self._retryable,
            partitions=partitions,
            prompt_tokens=self._prompt,
            cached_tokens=self._cached,
            completion_tokens=self._completion,
            cost_usd=self._cost,
            unpriced=self._unpriced,
            errors_by_type=dict(self._types),
            carried=self._carried,
        )


def totals_of(rows: Iterable[dict[str, Any]], run_id: str) -> Totals:
    """The counters of one partition's rows."""
    tally = Tally(run_id)
    for row in rows:
        tally.add(row)
    return tally.totals(partitions=1)


async def encode_in_thread(rows: list[dict[str, Any]], schema: pa.Schema, footer: ResultFooter) -> bytes:
    """`encode`, beside the event loop."""
    return await asyncio.get_running_loop().run_in_executor(_WRITER, encode, rows, schema, footer)


def encode(rows: list[dict[str, Any]], schema: pa.Schema, footer: ResultFooter) -> bytes:
    """The file: every column of the run's one schema, also when a whole column is null. Kept text comes packed."""
    text = json.dumps({**asdict(footer), "row_schema_version": ROW_SCHEMA_VERSION})
    schema = schema.with_metadata({**(schema.metadata or {}), _KEY: text.encode()})
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for group in _groups(rows) if TEXT in schema.names else [rows]:
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
    return sink.getvalue().to_pybytes()


def _groups(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows with their text unpacked, so many at a time that it stays small; at least one group."""
    group: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        text = unpack(row[TEXT]) if row.get(TEXT) is not None else None
        group.append({**row, TEXT: text})
        size += len(text or "")
        if size > GROUP_CHARACTERS:
            yield group
            group, size = [], 0
    yield group


def read_footer(source: Any) -> ResultFooter:
    """The footer of a file (bytes, or a seekable file object). Raises `NotOurs`."""
    try:
        metadata = pq.read_metadata(pa.BufferReader(source) if isinstance(source, bytes) else source)
        return read_record(ResultFooter, json.loads((metadata.metadata or {})[_KEY]))
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise NotOurs(f"no result file of docbatch: {error}") from None


def decode(data: bytes) -> tuple[pa.Table, ResultFooter]:
    """Rows and footer. Raises `NotOurs`."""
    footer = read_footer(data)
    try:
        return pq.read_table(pa.BufferReader(data)), footer
    except (pa.ArrowException, OSError, ValueError) as error:
        raise NotOurs(f"no readable result file: {error}") from None
