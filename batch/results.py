"""Reading a run's results: one dataset of Parquet files, as a lazy polars frame or exported to one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from batch.layout import RunLayout
from batch.store import endpoint


def storage_options() -> dict[str, str]:
    """polars' settings for the same S3 that docbatch uses, resolved by boto3."""
    import boto3

    session = boto3.Session()
    credentials = session.get_credentials()
    options = {"aws_region": session.region_name or "us-east-1"}
    if credentials is not None:
        frozen = credentials.get_frozen_credentials()
        options["aws_access_key_id"] = frozen.access_key or ""
        options["aws_secret_access_key"] = frozen.secret_key or ""
        if frozen.token:
            options["aws_session_token"] = frozen.token
    url = endpoint()
    if url:
        options["aws_endpoint_url"] = url
        options["aws_allow_http"] = str(url.startswith("http://")).lower()
    return options


def scan(output_uri: str, run_id: str) -> pl.LazyFrame:
    """All rows of a run: the columns of `batch.schema.row_schema`, `result` typed by the job's JSON schema."""
    layout = RunLayout.of(output_uri, run_id)
    return pl.scan_parquet(f"{layout.uri(layout.results)}**/*.parquet", storage_options=storage_options())


class UnknownFormat(ValueError):
    """The export file's name does not end in .parquet, .csv or .jsonl."""


def export(frame: pl.LazyFrame, path: Path) -> None:
    """Writes one file, streamed; its format by its ending. In CSV the typed result stands as JSON text."""
    ending = path.suffix.lower()
    if ending == ".parquet":
        frame.sink_parquet(path)
    elif ending in (".jsonl", ".ndjson"):
        frame.sink_ndjson(path)
    elif ending == ".csv":
        frame.with_columns(_flat(frame)).sink_csv(path)
    else:
        raise UnknownFormat(f"{path}: the ending tells the format; use .parquet, .csv or .jsonl")


def _flat(frame: pl.LazyFrame) -> list[Any]:
    return [
        pl.col(name).struct.json_encode()
        for name, kind in frame.collect_schema().items()
        if isinstance(kind, pl.Struct)
    ]
