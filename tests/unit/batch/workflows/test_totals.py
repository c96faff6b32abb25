"""Totals add up by partition, shard and run, errors by type among them."""

from __future__ import annotations

from batch.files.result_file import totals_of
from batch.workflows.contracts import Totals

FIRST = Totals(documents=5, ok=2, errors=3, cost_usd=0.5, errors_by_type={"timeout": 2, "refusal": 1})
SECOND = Totals(documents=4, ok=3, errors=1, cost_usd=0.25, errors_by_type={"timeout": 1})


def test_sums_and_differences() -> None:
    both = FIRST + SECOND
    assert (both.documents, both.ok, both.errors, both.cost_usd) == (9, 5, 4, 0.75)
    assert both.errors_by_type == {"refusal": 1, "timeout": 3}
    assert both - SECOND == FIRST
    assert (both - both).errors_by_type == {}
    assert Totals() + FIRST == FIRST


def test_errors_by_type_are_those_of_the_rows() -> None:
    empty = dict.fromkeys(["prompt_tokens", "cached_tokens", "completion_tokens", "cost_usd", "retryable"])
    empty["run_id"] = "r"
    rows = [{**empty, "status": "ok", "error_type": None}]
    rows += [{**empty, "status": "error", "error_type": kind} for kind in ("timeout", "refusal", "timeout")]
    totals = totals_of(rows, "r")
    assert (totals.ok, totals.errors, totals.errors_by_type) == (1, 3, {"timeout": 2, "refusal": 1})


def test_what_another_run_paid_for_is_not_counted_again() -> None:
    paid = {"status": "ok", "retryable": None, "prompt_tokens": 3, "cached_tokens": 1, "completion_tokens": 2}
    rows = [{**paid, "cost_usd": 0.5, "run_id": run} for run in ("r", "earlier", "earlier")]
    totals = totals_of(rows, "r")
    assert (totals.documents, totals.ok, totals.carried) == (3, 3, 2)
    assert (totals.prompt_tokens, totals.completion_tokens, totals.cost_usd) == (3, 2, 0.5)
