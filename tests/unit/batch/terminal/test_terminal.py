"""What a person sees: numbers, progress on a terminal and in a log, the account, tables in 80 columns."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
from rich.console import Console
from temporalio.service import RPCError, RPCStatusCode

from batch.client.status import RunResult
from batch.files.uncommitted import ErrorExample
from batch.terminal import ending, progress, quantities, row_tables
from batch.terminal.progress import LiveDisplay, PlainDisplay, Speed
from batch.workflows.states import Reason, State


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def result(**fields: Any) -> RunResult:
    return replace(
        RunResult(
            run_id="tickets-1",
            state=State.RUNNING,
            documents=1200,
            ok=1166,
            errors=34,
            prompt_tokens=1_234_567,
            completion_tokens=98_765,
            cost_usd=1.2345,
            results_uri="s3://results/tickets/runs/tickets-1/results/",
            manifest_uri="s3://results/tickets/runs/tickets-1/manifest.json",
            seconds=61.2,
            planned=5000,
            in_progress=34,
            in_flight=32,
            shards={"open": 2, "finished": 1},
            partitions={"planned": 50, "committed": 12, "failed": 1},
        ),
        **fields,
    )


def text_of(renderable: Any, *, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (987, "987"), (12_345, "12.3k"), (4_560_000, "4.56M"), (7_890_000_000, "7.89G")]
)
def test_tokens(count: int, text: str) -> None:
    assert quantities.tokens(count) == text


@pytest.mark.parametrize(
    ("usd", "text"), [(0, "$0.00"), (0.00123, "$0.0012"), (1.239, "$1.24"), (12345.6, "$12,345.60")]
)
def test_money(usd: float, text: str) -> None:
    assert quantities.money(usd) == text
    assert quantities.money(0.0, unpriced=3) == "unknown: the model has no known price"
    assert quantities.money(1.5, unpriced=3) == "$1.50 and 3 answers of unknown price"
    assert quantities.money(usd, simulated=True) == f"{text} (simulated)"


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00:00"), (67, "0:01:07"), (93_600, "26:00:00")])
def test_duration(seconds: float, text: str) -> None:
    assert quantities.duration(seconds) == text


def test_total() -> None:
    assert quantities.total(result()) == "5,000+"
    assert quantities.total(result(plan_done=True)) == "5,000"
    assert quantities.total(result(state=State.WAITING, planned=0)) == "?"


def test_speed_looks_back_a_while_only() -> None:
    clock = Clock()
    speed = Speed(clock)
    speed.add(0)
    assert speed.per_second is None
    assert speed.eta(result()) == "-"
    for _ in range(60):
        clock.now += 1
        speed.add(int(clock.now - 100) * 2)
    assert speed.per_second == pytest.approx(2)
    for _ in range(40):
        clock.now += 1
        speed.add(120)
    assert speed.per_second == 0
    assert speed.eta(result()) == "-"


def test_eta_counts_what_is_planned_so_far() -> None:
    clock = Clock()
    speed = Speed(clock)
    speed.add(1100)
    clock.now += 10
    speed.add(1200)
    assert speed.eta(result(plan_done=True)) == "0:06:20"
    assert speed.eta(result()) == ">0:06:20"
    assert speed.eta(result(state=State.PAUSED)) == "-"


def test_plain_lines_come_every_few_seconds_and_for_each_state() -> None:
    clock, lines = Clock(), list[str]()
    display = PlainDisplay(lines.append, simulated=True, clock=clock)
    display.update(result(state=State.PLANNING, documents=0, in_progress=0, planned=0, errors=0))
    assert len(lines) == 1
    display.update(result())
    assert len(lines) == 2  # at once: another state
    clock.now += 2
    display.update(result(documents=1300))
    assert len(lines) == 2
    clock.now += 4
    display.update(result(documents=1400))
    assert lines[-1].startswith("running    1,400/5,000+ documents  ok 1,166  errors 34  in flight 32  ")
    assert "$1.23 (simulated)" in lines[-1]
    display.update(result(documents=1400, state=State.PAUSED, reason="by_user", message="lunch"))
    assert lines[-3].startswith("paused") and lines[-2].strip() == "by_user: lunch"
    assert lines[-1].startswith("  docbatch resume ") and lines[-1].endswith("ends it")
    display.note("no answer")
    display.note("no answer")
    display.note("")
    assert lines.count("no answer") == 1
    failing = result(documents=1400, errors_by_type={"refusal": 2, "timeout": 30}, errors_in_progress={"http_500": 2})
    clock.now += 6
    display.update(failing)
    assert lines[-1] == "  errors: timeout 30, refusal 2; in progress: http_500 2"
    clock.now += 6
    display.update(failing)
    assert lines[-1].startswith("running")  # the same types and counts are not said again


def test_rows_never_become_fewer() -> None:
    """Coordinator and shard are asked one after the other: a report between them is in neither answer."""
    display = PlainDisplay(lambda line: None, simulated=False)
    display.update(result(documents=1200))
    display.update(result(documents=200, state=State.PAUSED))
    assert display.status is not None
    assert (display.status.documents, display.status.state) == (1200, State.PAUSED)
    display.update(result(documents=10, generation=2))
    assert display.status.documents == 10


def test_live_display_fits_80_columns() -> None:
    clock = Clock()
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    display = LiveDisplay(console, simulated=True, clock=clock)
    assert "waiting" in text_of(display.render())
    display.update(result())
    clock.now += 10
    display.update(result(documents=1300, seconds=71.2))
    clock.now += 1
    shown = text_of(display.render())
    assert max(len(line) for line in shown.splitlines()) <= 80
    for part in (
        "tickets-1  running",
        "1,300/5,000+",
        "ok 1,166   errors 34   in progress 34",
        "10.0 documents/s   in flight 32   elapsed 0:01:12   ETA >0:06:10",
        "tokens 1.23M in, 98.8k out   cost $1.23 (simulated)",
        "partitions 12 of 50+, 1 failed   shards 1 done, 2 open",
    ):
        assert part in shown
    types = {f"http_5{number:02}": 10 - number for number in range(9)}
    display.update(result(documents=1300, errors_by_type=types))
    lines = text_of(display.render()).splitlines()
    assert lines[-1] == "errors: http_500 10, http_501 9, http_502 8, http_503 7, http_504 6, http_505 5…"
    huge = {"documents": 9_876_543, "ok": 9_753_086, "errors": 123_457, "in_progress": 123_456}
    display.update(result(planned=100_000_000, in_flight=4096, seconds=93_600, **huge))
    assert max(len(line) for line in text_of(display.render()).splitlines()) <= 80
    assert len(text_of(display.render()).splitlines()) == 6
    display.update(result(generation=2, state=State.PAUSED, reason="provider_unreachable", message="no answer from p"))
    assert "provider_unreachable: no answer from p" in text_of(display.render())


def test_display_follows_the_console() -> None:
    assert isinstance(progress.display(Console(file=io.StringIO()), simulated=True), PlainDisplay)
    forced = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "xterm"})
    assert isinstance(progress.display(forced, simulated=True), LiveDisplay)


def test_account_of_a_run_with_failures() -> None:
    ended = result(
        state=State.COMPLETED_WITH_FAILURES,
        documents=100,
        ok=98,
        errors=2,
        planned=100,
        plan_done=True,
        retryable_errors=1,
        errors_by_type={"timeout": 1, "refusal": 1},
    )
    lines = ending.account(ended, simulated=True)
    assert "documents = ok + error: 100 = 98 + 2" in lines
    assert "errors       timeout 1, refusal 1; 1 retryable" in lines
    assert "cost         $1.23 (simulated)" in lines
    assert "results_uri  s3://results/tickets/runs/tickets-1/results/" in lines
    assert "manifest_uri s3://results/tickets/runs/tickets-1/manifest.json" in lines
    assert ending.next_steps(ended) == [
        "docbatch results tickets-1",
        "docbatch results tickets-1 --errors",
        "docbatch rerun tickets-1",
    ]


def test_account_of_a_live_run() -> None:
    lines = ending.account(result(errors_by_type={"refusal": 3}, errors_in_progress={"timeout": 2}), simulated=False)
    assert "planned      5,000+, 34 in progress, 32 in flight" in lines
    assert "errors       refusal 3; 0 retryable" in lines
    assert "of these     timeout 2 in partitions not committed yet" in lines


def test_a_paused_run_says_what_failed() -> None:
    examples = [ErrorExample("t/1.txt", "refusal", "I cannot help"), ErrorExample("t/2.txt", "timeout", "120 s")]
    paused = result(state=State.PAUSED, reason=Reason.ERROR_RATE, error_examples=examples)
    shown = ["refusal t/1.txt: I cannot help", "timeout t/2.txt: 120 s"]
    assert [f"for example  {line}" for line in shown] == [
        line for line in ending.account(paused, simulated=False) if line.startswith("for example")
    ]
    lines: list[str] = []
    display = PlainDisplay(lines.append, simulated=False, every=0.0)
    display.update(paused)
    display.update(paused)
    assert [line.strip() for line in lines if line.strip() in shown] == shown, "once"
    live = LiveDisplay(Console(file=io.StringIO()), simulated=False)
    live.update(paused)
    assert all(line in text_of(live.render()) for line in shown)
    assert "docbatch results tickets-1 --errors" in ending.next_steps(paused)


def test_account_of_a_cancelled_run_says_what_lacks() -> None:
    ended = result(state=State.CANCELLED, documents=1200, plan_done=True)
    assert "without row  3,800 of 5,000 planned documents" in ending.account(ended, simulated=False)
    assert "docbatch rerun tickets-1" in ending.next_steps(ended)


def test_next_steps_of_others() -> None:
    clean = result(state=State.COMPLETED, documents=10, ok=10, errors=0, planned=10, plan_done=True)
    assert ending.next_steps(clean) == ["docbatch results tickets-1"]
    final = replace(clean, state=State.COMPLETED_WITH_FAILURES, ok=9, errors=1)
    assert "docbatch rerun tickets-1 --all-errors" in ending.next_steps(final)[-1]
    assert ending.next_steps(result()) == ["docbatch status tickets-1 --watch"]
    assert ending.next_steps(result(state=State.PAUSED))[-1] == "docbatch resume tickets-1"


def test_long_uris_are_not_wrapped() -> None:
    console = Console(file=io.StringIO(), width=80)
    uri = f"s3://results/{'x' * 120}/"
    ending.print_account(console, result(results_uri=uri), simulated=False)
    assert isinstance(console.file, io.StringIO)
    assert f"results_uri  {uri}\n" in console.file.getvalue()


def row(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "document_id": f"tickets/2025/{name}",
        "status": "ok",
        "result": {"label": "bug", "urgent": True, "tags": ["a", "b"]},
        "output_text": '{"label": "bug"}',
        "error_type": None,
        "error_message": None,
        "retryable": None,
        **fields,
    }


TYPES = {"label": "string", "urgent": "boolean", "tags": "list[string]"}


def test_table_of_typed_rows() -> None:
    shown = text_of(row_tables.rows_table([row("a.txt"), row("b.txt")], TYPES))
    assert "documents under tickets/2025/" in shown
    assert "a.txt" in shown and "list[string]" in shown and "a, b" in shown and "true" in shown
    assert "status" not in shown


def test_table_with_errors_among_the_rows() -> None:
    bad = row("b.txt", status="error", result=None, error_type="refusal", error_message="no [markup] here")
    shown = text_of(row_tables.rows_table([row("a.txt"), bad], TYPES))
    assert "status" in shown and "refusal: no" in shown and "[markup]" in shown


def test_table_of_errors_and_of_text() -> None:
    bad = row("b.txt", status="error", error_type="refusal", error_message="x" * 300, retryable=False)
    shown = text_of(row_tables.rows_table([bad], TYPES, errors=True))
    assert shown.count("x") >= 300 and "false" in shown
    plain = {name: value for name, value in row("a.txt", output_text="An answer.").items() if name != "result"}
    assert "An answer." in text_of(row_tables.rows_table([plain], {}))


def test_wide_values_do_not_make_tall_tables() -> None:
    long = row("a.txt", result={"label": "word " * 500, "urgent": False, "tags": ["t" * 400]})
    assert len(text_of(row_tables.rows_table([long], TYPES)).splitlines()) < 14


def test_types_of_the_result() -> None:
    columns = {"result": pl.Struct({"a": pl.String, "b": pl.List(pl.Int64), "c": pl.Struct({"d": pl.Boolean})})}
    assert row_tables.field_types(columns) == {"a": "string", "b": "list[int64]", "c": "struct"}
    assert row_tables.field_types({"result": pl.List(pl.String())}) == {"result": "list[string]"}
    assert row_tables.field_types({}) == {}


class FlakyRun:
    """Answers once, is away once, then has ended."""

    def __init__(self, error: Exception) -> None:
        self._error: Exception | None = error

    async def watch(self, *, every: float, every_shard: float) -> AsyncIterator[RunResult]:
        if self._error is not None:
            yield result()
            error, self._error = self._error, None
            raise error
        yield result(state=State.COMPLETED)


async def test_following_outlives_a_server_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = list[str]()
    monkeypatch.setattr(progress, "AWAY_SECONDS", 0)
    away = FlakyRun(RPCError("connection refused", RPCStatusCode.UNAVAILABLE, b""))
    ended = await progress.follow(away, PlainDisplay(lines.append, simulated=False))  # type: ignore[arg-type]
    assert ended.state == State.COMPLETED
    assert "no answer, asking again (the run goes on): connection refused" in lines
    refused = FlakyRun(RPCError("not allowed", RPCStatusCode.PERMISSION_DENIED, b""))
    with pytest.raises(RPCError, match="not allowed"):
        await progress.follow(refused, PlainDisplay(lines.append, simulated=False))  # type: ignore[arg-type]


def test_a_budget_is_shown_wherever_cost_is() -> None:
    status = result(max_cost_usd=10.0, charged_usd=2.5)
    assert "budget       $2.50 of $10.00 (25 %)" in ending.account(status, simulated=False)
    lines: list[str] = []
    PlainDisplay(lines.append, simulated=False).update(status)
    assert "budget $2.50 of $10.00 (25 %)" in lines[0]
    display = LiveDisplay(Console(file=io.StringIO()), simulated=False)
    display.update(status)
    assert "budget $2.50 of $10.00 (25 %)" in text_of(display.render())
    assert "budget" not in "".join(ending.account(result(), simulated=False))
    spent = result(state=State.PAUSED, reason=Reason.MAX_COST, max_cost_usd=10.0, charged_usd=10.0)
    assert ending.next_steps(spent)[-1] == "docbatch resume tickets-1 --max-cost-usd X   (higher than now)"
