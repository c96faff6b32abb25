"""What a report shows of a run's rows: counts, a timeline, latencies, error classes with examples, slow partitions.

Everything is aggregated while it streams by, so memory does not grow with the corpus, but for some 100 bytes a
partition.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import polars as pl

STEPS = 120
"""Steps of the timeline at most."""
WIDTHS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 28_800, 86_400)
"""Seconds of a step: the first of them with which the run has few enough steps."""
BINS_PER_DOUBLING = 16
"""Of the latencies: bins of 4 %, so a quantile is 2 % off at most."""
SHORTEST = 1e-4
"""Seconds; a shorter latency counts as this."""
EXAMPLES = 3
EXAMPLE_CHARACTERS = 300
SLOWEST = 10


@dataclass(frozen=True)
class Step:
    """A stretch of the timeline. Tokens and cost in US dollars are those of the documents that ended in it."""

    start: datetime
    ok: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0


@dataclass
class ErrorClass:
    """The error rows of one type. Examples are (document id, message): other people's text, not to be trusted."""

    kind: str
    count: int = 0
    retryable: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class SlowPartition:
    """`seconds` from the first question to the last answer of the partition's rows of one generation."""

    partition: int
    shard: int
    generation: int
    documents: int
    errors: int
    attempts: int
    mean_latency_seconds: float
    seconds: float


@dataclass(frozen=True)
class Latencies:
    """Of the calls that ended with a row: (lower bound in seconds, calls) of each bin, none left out between them."""

    bins: list[tuple[float, int]] = field(default_factory=list)

    def quantile(self, share: float) -> float | None:
        """Returns seconds within which `share` of the calls ended; None without calls."""
        wanted = share * sum(calls for _, calls in self.bins)
        seen = 0
        for lower, calls in self.bins:
            seen += calls
            if calls and seen >= wanted:
                return lower * 2 ** (0.5 / BINS_PER_DOUBLING)
        return None


@dataclass(frozen=True)
class Measures:
    """Numbers of all rows that a run has."""

    documents: int = 0
    ok: int = 0
    errors: int = 0
    retryable_errors: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    unpriced: int = 0
    """Answered rows without a cost, because the model's price is not known."""
    step_seconds: int = 1
    timeline: list[Step] = field(default_factory=list)
    latencies: Latencies = field(default_factory=Latencies)
    error_classes: list[ErrorClass] = field(default_factory=list)
    slowest: list[SlowPartition] = field(default_factory=list)


def own_work(frame: pl.LazyFrame, run_id: str) -> pl.LazyFrame:
    """Returns the rows of a run; of those that it carried forward, without what another run paid and when that was."""
    spent = ["prompt_tokens", "cached_tokens", "completion_tokens", "cost_usd", "latency_seconds", "processed_at"]
    return frame.with_columns(pl.when(pl.col("run_id") == run_id).then(pl.col(name)).alias(name) for name in spent)


def _is_unpriced() -> pl.Expr:
    """Of rows that a model answered in this run: no cost, because the price is not known, or the tokens (then null)."""
    completion = pl.col("completion_tokens")
    uncounted = completion.is_null() & pl.col("processed_at").is_not_null()
    return pl.col("cost_usd").is_null() & ((completion > 0).fill_null(value=False) | uncounted)


def measure(frame: pl.LazyFrame) -> Measures:
    """Reads the columns that are needed, three times over: the width of a step depends on the whole, and examples of
    errors are taken as they come by."""
    status = pl.col("status")
    row, latencies, slowest = (
        found.to_dicts()
        for found in pl.collect_all(
            [
                frame.select(
                    pl.len().alias("documents"),
                    (status == "ok").sum().alias("ok"),
                    (status == "error").sum().alias("errors"),
                    (pl.col("retryable") & (status == "error")).sum().alias("retryable_errors"),
                    *_sums("prompt_tokens", "cached_tokens", "completion_tokens", "cost_usd"),
                    _is_unpriced().sum().alias("unpriced"),
                    pl.col("processed_at").min().alias("first"),
                    pl.col("processed_at").max().alias("last"),
                ),
                _latencies(frame),
                _slowest(frame),
            ],
            engine="streaming",
        )
    )
    totals = row[0]
    first, last = totals.pop("first"), totals.pop("last")
    if first is None:
        return Measures(**totals, error_classes=_error_classes(frame))
    width = next((width for width in WIDTHS if (last - first).total_seconds() / width < STEPS - 1), None)
    if width is None:
        width = math.ceil((last - first).total_seconds() / (STEPS - 1))
    return Measures(
        **totals,
        step_seconds=width,
        timeline=_timeline(frame, width),
        latencies=Latencies(list(_filled(latencies))),
        error_classes=_error_classes(frame),
        slowest=[SlowPartition(**each) for each in slowest],
    )


def _sums(*names: str) -> list[pl.Expr]:
    return [pl.col(name).fill_null(0).sum() for name in names]


def _latencies(frame: pl.LazyFrame) -> pl.LazyFrame:
    seconds = pl.col("latency_seconds").clip(SHORTEST)
    return (
        frame.filter(pl.col("attempts") > 0, pl.col("latency_seconds").is_not_null())
        .group_by((seconds.log(2) * BINS_PER_DOUBLING).floor().cast(pl.Int64).alias("bin"))
        .agg(pl.len().alias("calls"))
        .sort("bin")
    )


def _filled(rows: list[dict[str, Any]]) -> Iterator[tuple[float, int]]:
    calls = {row["bin"]: row["calls"] for row in rows}
    for number in range(min(calls), max(calls) + 1) if calls else ():
        yield 2 ** (number / BINS_PER_DOUBLING), calls.get(number, 0)


def _slowest(frame: pl.LazyFrame) -> pl.LazyFrame:
    ended, latency = pl.col("processed_at"), pl.col("latency_seconds").fill_null(0)
    began = ended - pl.duration(microseconds=(latency * 1e6).cast(pl.Int64))
    return (
        frame.filter(ended.is_not_null())
        .group_by("partition", "shard", "generation")
        .agg(
            pl.len().alias("documents"),
            (pl.col("status") == "error").sum().alias("errors"),
            pl.col("attempts").fill_null(0).sum(),
            latency.mean().alias("mean_latency_seconds"),
            (ended.max() - began.min()).dt.total_microseconds().truediv(1e6).alias("seconds"),
        )
        .top_k(SLOWEST, by="seconds")
        .sort("seconds", descending=True)
    )


def _timeline(frame: pl.LazyFrame, width: int) -> list[Step]:
    status = pl.col("status")
    found = (
        frame.filter(pl.col("processed_at").is_not_null())
        .group_by((pl.col("processed_at").dt.epoch("s") // width * width).alias("at"))
        .agg(
            (status == "ok").sum().alias("ok"),
            (status == "error").sum().alias("errors"),
            *_sums("prompt_tokens", "completion_tokens", "cost_usd"),
        )
        .collect(engine="streaming")
    )
    steps = {row.pop("at"): row for row in found.to_dicts()}
    epoch = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
    return [
        Step(epoch + timedelta(seconds=at), **steps.get(at, {})) for at in range(min(steps), max(steps) + width, width)
    ]


def _error_classes(frame: pl.LazyFrame) -> list[ErrorClass]:
    """Counted row by row in batches, since only so the examples are few whatever the number of errors."""
    errors = frame.filter(pl.col("status") == "error").select(
        pl.col("error_type").fill_null("unknown"),
        pl.col("retryable").fill_null(False),
        pl.col("document_id"),
        pl.col("error_message").fill_null("").str.slice(0, EXAMPLE_CHARACTERS),
    )
    classes: dict[str, ErrorClass] = {}
    counts, retryable = Counter[str](), Counter[str]()
    for batch in errors.collect_batches(chunk_size=10_000, engine="streaming"):
        for (kind,), rows in batch.group_by("error_type"):
            name = str(kind)
            known = classes.setdefault(name, ErrorClass(name))
            counts[name] += rows.height
            retryable[name] += int(rows["retryable"].sum())
            for row in rows.head(EXAMPLES - len(known.examples)).to_dicts():
                known.examples.append((row["document_id"], row["error_message"]))
    for name, known in classes.items():
        known.count, known.retryable = counts[name], retryable[name]
    return sorted(classes.values(), key=lambda each: (-each.count, each.kind))
