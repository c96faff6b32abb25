"""A corpus goes through two workers: a row for each document, each answer paid once, one schema for every reader."""

from __future__ import annotations

import polars as pl
import pyarrow.dataset as ds
import pyarrow.fs

from batch.storage.aws import storage_options
from batch.storage.layout import RunLayout
from benchmarks.figures import Figure, same
from benchmarks.lab import Measured, job, measure, stack, upload


def run(quick: bool) -> list[Figure]:
    """Must show 2."""
    count = 1_000 if quick else 5_000
    with stack(workers=2, provider_args=["--latency", "0.05"]) as running:
        work = job(upload(running, count), concurrency=32, partition=100 if quick else 250)
        found = measure(running, work, run_id="spine")
        figures = _account(found, count) + _read(RunLayout.of(work.output.uri, "spine"), count)
    return [*figures, Figure("documents a second, start to end", found.wall_rate)]


def _account(found: Measured, count: int) -> list[Figure]:
    result, stats = found.result, found.stats
    return [
        same("run completed, documents = ok + error", _reconciled(found)),
        Figure("ok", result.ok, exactly=count),
        Figure("requests that the provider answered", stats["answered"], exactly=count),
        Figure("requests that it was paid for", stats["paid"], exactly=count),
        Figure("documents paid more than once", stats["paid_more_than_once"], exactly=0),
        Figure("calls in flight at once, most", stats["max_in_flight"]),
    ]


def _reconciled(found: Measured) -> bool:
    result = found.result
    return result.state == "completed" and result.documents == result.ok + result.errors


def _read(layout: RunLayout, count: int) -> list[Figure]:
    """What two readers that know nothing of docbatch find in `results/`."""
    options = storage_options()
    frame = pl.scan_parquet(f"{layout.uri(layout.results)}**/*.parquet", storage_options=options)
    rows, ids = frame.select(pl.len(), pl.col("document_id").n_unique().alias("ids")).collect().row(0)
    s3 = pyarrow.fs.S3FileSystem(
        access_key=options["aws_access_key_id"],
        secret_key=options["aws_secret_access_key"],
        region=options["aws_region"],
        endpoint_override=options["aws_endpoint_url"].removeprefix("http://"),
        scheme="http",
    )
    dataset = ds.dataset(f"{layout.output.bucket}/{layout.results}", format="parquet", filesystem=s3)
    files = list(dataset.get_fragments())
    one_schema = all(file.physical_schema.equals(dataset.schema, check_metadata=False) for file in files)
    arrow = {name: str(kind) for name, kind in frame.collect_schema().items()}
    return [
        Figure("rows by polars.scan_parquet", rows, exactly=count),
        Figure("distinct document ids by polars.scan_parquet", ids, exactly=count),
        Figure("rows by pyarrow.dataset", dataset.count_rows(), exactly=count),
        same(f"{len(files)} result files, one schema in pyarrow.dataset", one_schema),
        same("polars names the same columns", list(arrow) == dataset.schema.names),
    ]
