"""The report: what is counted of rows, and a page that takes nobody's text for markup."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batch.client.status import RunResult
from batch.files.manifest import Manifest
from batch.report import Measures, Report, measure, own_work, render
from batch.workflows import contracts as c
from batch.workflows.states import State

START = datetime(2026, 1, 31, 22, 0, 7, tzinfo=UTC)
HOSTILE = '</td></script><script>document.title = "taken"</script><img src=x onerror=alert(1)>'
SCHEMA = {
    "document_id": pl.String,
    "shard": pl.Int64,
    "partition": pl.Int64,
    "status": pl.String,
    "error_type": pl.String,
    "error_message": pl.String,
    "retryable": pl.Boolean,
    "attempts": pl.Int64,
    "prompt_tokens": pl.Int64,
    "cached_tokens": pl.Int64,
    "completion_tokens": pl.Int64,
    "cost_usd": pl.Float64,
    "latency_seconds": pl.Float64,
    "generation": pl.Int64,
    "processed_at": pl.Datetime("us", "UTC"),
}


def row(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "document_id": f"tickets/{number}.txt",
        "shard": 0,
        "partition": number // 10,
        "status": "ok",
        "error_type": None,
        "error_message": None,
        "retryable": None,
        "attempts": 1,
        "prompt_tokens": 100,
        "cached_tokens": 10,
        "completion_tokens": 7,
        "cost_usd": 0.25,
        "latency_seconds": 0.1 * (number % 10 + 1),
        "generation": 1,
        "processed_at": START + timedelta(seconds=number),
        **fields,
    }


def error(number: int, kind: str, message: str, *, retryable: bool) -> dict[str, Any]:
    return row(number, status="error", error_type=kind, error_message=message, retryable=retryable)


ROWS = [
    *(row(number) for number in range(90)),
    *(error(number, "timeout", f"slow {number}", retryable=True) for number in range(90, 95)),
    error(95, "refusal", HOSTILE, retryable=False),
    error(96, "source_gone", "gone", retryable=True) | {"attempts": 0, "latency_seconds": 0.0},
    row(97, attempts=0, latency_seconds=None, cost_usd=None),
    row(98, processed_at=START + timedelta(hours=1), generation=2),
]


def frame(rows: list[dict[str, Any]]) -> pl.LazyFrame:
    return pl.LazyFrame(rows, schema=SCHEMA)


@pytest.fixture(scope="module")
def measures() -> Measures:
    return measure(frame(ROWS))


def test_counts_and_sums(measures: Measures) -> None:
    counts = (measures.documents, measures.ok, measures.errors, measures.retryable_errors)
    assert counts == (99, 92, 7, 6)
    assert (measures.prompt_tokens, measures.cached_tokens, measures.completion_tokens) == (9900, 990, 693)
    assert measures.cost_usd == pytest.approx(98 * 0.25)
    assert measures.unpriced == 1  # by its tokens it was answered


def test_the_timeline_is_bounded_and_whole(measures: Measures) -> None:
    assert measures.step_seconds == 60
    assert measures.timeline[0].start == datetime(2026, 1, 31, 22, 0, tzinfo=UTC)
    starts = [step.start for step in measures.timeline]
    assert all(after - before == timedelta(seconds=60) for before, after in pairwise(starts))
    assert len(measures.timeline) <= 120
    for name in ("ok", "errors", "prompt_tokens"):
        assert sum(getattr(step, name) for step in measures.timeline) == getattr(measures, name)
    years = measure(frame([row(0), row(1, processed_at=START + timedelta(days=700))]))
    assert len(years.timeline) <= 121


def test_what_another_run_paid_is_no_work_of_this_one() -> None:
    earlier = START - timedelta(days=30)
    rows = [row(0, run_id="r"), *(row(number, run_id="before", processed_at=earlier) for number in range(1, 9))]
    found = measure(own_work(pl.LazyFrame(rows), "r"))
    assert (found.documents, found.ok, found.prompt_tokens, found.cost_usd) == (9, 9, 100, 0.25)
    assert [step.ok for step in found.timeline] == [1] and len(found.slowest) == 1
    nothing = measure(own_work(pl.LazyFrame(rows[1:]), "r"))
    assert (nothing.documents, nothing.prompt_tokens, nothing.timeline) == (8, 0, [])


def test_quantiles_are_good_to_a_few_percent(measures: Measures) -> None:
    assert (
        sum(calls for _, calls in measures.latencies.bins) == 97
    )  # neither the one of unknown time nor the one never asked
    assert measures.latencies.quantile(0.5) == pytest.approx(0.5, rel=0.05)
    assert measures.latencies.quantile(1.0) == pytest.approx(1.0, rel=0.05)


def test_error_classes_have_few_examples(measures: Measures) -> None:
    found = [(each.kind, each.count, each.retryable, len(each.examples)) for each in measures.error_classes]
    assert found == [("timeout", 5, 5, 3), ("refusal", 1, 0, 1), ("source_gone", 1, 1, 1)]
    many = measure(frame([error(n, f"kind_{n % 2}", "x" * 5000, retryable=False) for n in range(25_000)]))
    assert [(each.count, len(each.examples)) for each in many.error_classes] == [(12_500, 3)] * 2
    assert all(len(message) == 300 for each in many.error_classes for _, message in each.examples)


def test_slowest_partitions_within_a_generation(measures: Measures) -> None:
    first = measures.slowest[0]
    assert len(measures.slowest) == 10
    assert first.seconds == pytest.approx(9.1)  # ten documents a second apart, the first of 0.1 s
    assert max(each.seconds for each in measures.slowest if each.partition == 9) < 10  # not the hour between both


# -- the page


def report(measures: Measures, **fields: Any) -> Report:
    totals = c.Totals(documents=99, ok=92, errors=7, prompt_tokens=9900, cached_tokens=990, completion_tokens=693)
    status = RunResult(
        run_id="tickets-1",
        state=State.COMPLETED_WITH_FAILURES,
        documents=99,
        ok=92,
        errors=7,
        prompt_tokens=9900,
        completion_tokens=693,
        cost_usd=24.5,
        results_uri="s3://results/tickets/runs/tickets-1/results/",
        manifest_uri="s3://results/tickets/runs/tickets-1/manifest.json",
        seconds=3600.0,
        planned=99,
        plan_done=True,
    )
    stored = Manifest(
        *("tickets-1", "tickets", "gpt-5-mini", "f", State.COMPLETED_WITH_FAILURES, "", 1, "e", "", "", 1.0, totals, 99)
    )
    made = Report(status, stored, measures, "tickets", "gpt-5-mini")
    return replace(made, **fields)


class Page(HTMLParser):
    """Tags of a page, texts by element id, numbers by name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.numbers: dict[str, float] = {}
        self.texts: dict[str, str] = {}
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        self._inside = given.get("id") or ""
        if "data-figure" in given:
            self.numbers[given["data-figure"] or ""] = float(given["data-value"] or "nan")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[self._inside] = self.texts.get(self._inside, "") + data


def test_page_reconciles_and_escapes(measures: Measures) -> None:
    text = render(report(measures))
    page = Page(text)
    assert page.texts["equation"] == "documents = ok + error: 99 = 92 + 7"
    assert page.texts["verdict"] == "as in the manifest"
    wanted = {"documents": 99, "ok": 92, "errors": 7, "prompt_tokens": 9900, "cost_usd": 24.5}
    assert wanted.items() <= page.numbers.items()
    assert "simulated" not in page.texts
    # Three scripts, the figures', plotly's and ours, however much markup the documents bring along.
    assert [tag for tag, _ in page.tags].count("script") == 3
    assert "img" not in [tag for tag, _ in page.tags]
    assert "&lt;/script&gt;&lt;script&gt;document.title" in text
    figures = json.loads(page.texts["figures"])
    assert set(figures) == {"throughput", "latency", "tokens", "errors", "partitions"}
    assert sum(figures["throughput"]["data"][0]["y"]) == 92


def test_page_has_no_control_characters(measures: Measures) -> None:
    """Of a key, say: HTML allows them nowhere, and a page that is looked at in a terminal would be obeyed."""
    found = report(measures)
    found = replace(found, status=replace(found.status, message="no \x1b]0;x\x07 such \u202e model"))
    text = render(found)
    assert "no \\x1b]0;x\\x07 such \\u202e model" in text
    assert not set(text.partition("<script")[0]) & set("\x1b\x07\u202e")


def test_page_fetches_nothing(measures: Measures) -> None:
    page = Page(render(report(measures)))
    policy = next(given["content"] for tag, given in page.tags if given.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-inline'" not in policy.partition("style-src")[0] and "http" not in policy
    for tag, given in page.tags:
        assert not given.get("src"), tag
        assert (given.get("href") or "data:").startswith("data:")


def test_page_says_what_is_not_as_in_the_manifest(measures: Measures) -> None:
    text = render(report(replace(measures, ok=90)))
    assert Page(text).texts["verdict"] == "the manifest says 92 ok; docbatch verify tickets-1"


def test_page_of_a_run_without_rows() -> None:
    made = report(measure(frame([])), manifest=None, model="simulated-small")
    made = replace(made, status=replace(made.status, state=State.RUNNING, documents=0, ok=0, errors=0))
    text = render(made)
    page = Page(text)
    assert page.texts["empty"] == "No partition is committed yet, so there is nothing to draw."
    assert len(text) < 20_000
    assert page.texts["verdict"].startswith("the run has not ended")
    assert page.texts["simulated"].startswith("simulated")


def test_rows_are_streamed_from_files(tmp_path: Path) -> None:
    for number in range(3):
        frame(ROWS[number * 33 : number * 33 + 33]).sink_parquet(tmp_path / f"{number}.parquet")
    found = measure(pl.scan_parquet(tmp_path / "*.parquet"))
    assert (found.documents, found.errors, len(found.error_classes)) == (99, 7, 3)
    assert re.fullmatch(r"slow \d+", found.error_classes[0].examples[0][1])
