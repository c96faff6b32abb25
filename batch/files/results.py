"""Reading a run's results: one dataset of Parquet files, as a lazy polars frame or exported to one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from batch.files.state import StatePointer
from batch.files.whole_files import whole_file
from batch.storage.aws import storage_options
from batch.storage.layout import RunLayout, StateLayout, object_uri

_FILE = "_result_file"


def scan(output_uri: str, run_id: str) -> pl.LazyFrame:
    """Returns all rows of a run: the columns of `row_schema`, `result` typed by the job's JSON schema, lazily."""
    layout = RunLayout.of(output_uri, run_id)
    return pl.scan_parquet(f"{layout.uri(layout.results)}**/*.parquet", storage_options=storage_options())


def frame_of(rows: pa.Table) -> pl.DataFrame:
    """Rows of a run as polars reads them from its result files."""
    frame = pl.from_arrow(rows)
    assert isinstance(frame, pl.DataFrame)
    return frame


def current(layout: StateLayout, pointer: StatePointer) -> pl.LazyFrame:
    """The newest row of each document that an incremental job's source holds, whichever run answered it.

    Right after a run that is its own results; runs that overlapped, or the rerun of an older one, come together here.
    """
    options = storage_options()
    parts = [object_uri(layout.uri.bucket, layout.part(pointer.name, number)) for number in range(pointer.parts)]
    if not parts:
        return pl.LazyFrame(schema={"document_id": pl.String, "status": pl.String})
    state = pl.scan_parquet(parts, storage_options=options).select("document_id", "result", "listed_at")
    # The first file's columns are those of the frame: they should be the newest run's.
    newest = state.group_by("result").agg(pl.col("listed_at").max()).sort("listed_at", "result", descending=True)
    rows = pl.scan_parquet(
        newest.collect()["result"].to_list(),
        storage_options=options,
        include_file_paths=_FILE,
        missing_columns="insert",
        extra_columns="ignore",
        cast_options=pl.ScanCastOptions(missing_struct_fields="insert", extra_struct_fields="ignore"),
    )
    return rows.join(state, how="semi", left_on=["document_id", _FILE], right_on=["document_id", "result"]).drop(_FILE)


@dataclass(frozen=True)
class RerunScope:
    """What a rerun would ask again. The cost is an estimate in US dollars, by the run's mean cost of an answer."""

    partitions: int = 0
    documents: int = 0
    without_row: int = 0
    """Documents of the plan that have no row yet."""
    estimated_cost_usd: float = 0.0

    @property
    def empty(self) -> bool:
        return not self.documents and not self.without_row


def rerun_scope(frame: pl.LazyFrame, *, without_row: int, all_errors: bool, partitions: list[int]) -> RerunScope:
    """Counts the rows of a run that a rerun would ask again; no `partitions` means all of them."""
    wanted = (pl.col("status") == "error") & (pl.lit(all_errors) | pl.col("retryable"))
    if partitions:
        wanted &= pl.col("partition").is_in(partitions)
    row = (
        frame.select(
            documents=wanted.sum(),
            partitions=pl.col("partition").filter(wanted).n_unique(),
            cost=pl.col("cost_usd").filter(pl.col("status") == "ok").mean(),
        )
        .collect()
        .row(0, named=True)
    )
    cost = (row["documents"] + without_row) * (row["cost"] or 0.0)
    return RerunScope(row["partitions"], row["documents"], without_row, round(cost, 6))


class UnknownFormat(ValueError):
    """The export file's name does not end in .parquet, .csv or .jsonl."""


def export(frame: pl.LazyFrame, path: Path) -> None:
    """Writes one file, streamed, whole or not at all; its format by its ending. In CSV the result is JSON text.

    Raises:
        UnknownFormat: The ending names none.
        OSError: It cannot be written.
    """
    ending = path.suffix.lower()
    if ending not in (".parquet", ".jsonl", ".ndjson", ".csv"):
        raise UnknownFormat(f"{path}: the ending tells the format; use .parquet, .csv or .jsonl")
    with whole_file(path) as unfinished:
        if ending == ".parquet":
            frame.sink_parquet(unfinished)
        elif ending == ".csv":
            frame.with_columns(_flat(frame)).sink_csv(unfinished)
        else:
            frame.sink_ndjson(unfinished)


def _flat(frame: pl.LazyFrame) -> list[Any]:
    return [
        pl.col(name).struct.json_encode()
        for name, kind in frame.collect_schema().items()
        if isinstance(kind, pl.Struct)
    ]
