"""Where a run stands, or how it ended, and what to do next: plain lines, each a fact, that can be copied."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from batch.corpus.hidden import TABLE_LOGS
from batch.terminal.printable import printable
from batch.terminal.quantities import COLOURS, budget, by_type, money, partitions_and_shards, total, why
from batch.workflows.states import Reason, State

if TYPE_CHECKING:
    from batch.client.status import RunResult


def equation(documents: int, ok: int, errors: int) -> str:
    """Returns the line that every account of a run has."""
    return f"documents = ok + error: {documents} = {ok} + {errors}"


def account(status: RunResult, *, simulated: bool) -> list[str]:
    """Tells where a run stands, or how it ended: a line a fact."""
    lines = [fact("run", status.run_id), fact("state", status.state)]
    if why(status):
        lines.append(fact("because", why(status)))
    if status.generation > 1:
        lines.append(fact("generation", str(status.generation)))
    lines.append(equation(status.documents, status.ok, status.errors))
    if status.reasons:
        lines.append(fact("incremental", f"{by_type(status.reasons)}; {status.deleted:,} deleted"))
    if status.left_out:
        lines.append(fact("left out", f"{by_type(status.left_out)} (source.hidden: true takes them)"))
        if TABLE_LOGS in status.left_out:
            lines.append(fact("tables", "files are read as they lie there, old versions too: docs/sources.md"))
    missing = status.planned - status.documents
    if status.ended and missing > 0:
        lines.append(fact("without row", f"{missing:,} of {total(status)} planned documents"))
    elif not status.ended:
        lines.append(
            fact("planned", f"{total(status)}, {status.in_progress:,} in progress, {status.in_flight:,} in flight")
        )
        lines.append(fact("parts", partitions_and_shards(status)))
    if status.errors_by_type:
        lines.append(fact("errors", f"{by_type(status.errors_by_type)}; {status.retryable_errors:,} retryable"))
    if status.errors_in_progress:
        lines.append(fact("of these", f"{by_type(status.errors_in_progress)} in partitions not committed yet"))
    lines += [fact("for example", line) for line in error_lines(status)]
    lines += [
        *(
            [fact("carried", f"{status.carried:,} rows of earlier runs, copied without a call")]
            if status.carried
            else []
        ),
        fact("tokens", f"{status.prompt_tokens:,} in, {status.completion_tokens:,} out"),
        fact("cost", money(status.cost_usd, simulated=simulated, unpriced=status.unpriced)),
        *([fact("budget", budget(status))] if budget(status) else []),
        fact("seconds", f"{status.seconds:,.1f}"),
        fact("results_uri", status.results_uri),
        fact("manifest_uri", status.manifest_uri),
    ]
    lines += [fact("problem", problem) for problem in status.problems]
    return lines


def fact(name: str, value: str) -> str:
    """Returns a line of an account."""
    return f"{name:<13}{printable(value)}"


def error_lines(status: RunResult) -> list[str]:
    """Returns a few documents that failed, a line each: type, document, message."""
    return [f"{each.error_type} {each.document_id}: {each.message}" for each in status.error_examples]


def next_steps(status: RunResult) -> list[str]:
    """Commands that make sense now."""
    run_id = status.run_id
    if not status.ended:
        steps = [f"docbatch status {run_id} --watch"]
        if status.state == State.PAUSED:
            higher = " --max-cost-usd X   (higher than now)" if status.reason == Reason.MAX_COST else ""
            steps += [f"docbatch results {run_id} --errors"] if status.errors else []
            steps.append(f"docbatch resume {run_id}{higher}")
        return steps
    steps = [f"docbatch results {run_id}"] if status.ok else []
    if status.errors:
        steps.append(f"docbatch results {run_id} --errors")
    if status.retryable_errors or status.documents < status.planned or status.state in (State.CANCELLED, State.FAILED):
        steps.append(f"docbatch rerun {run_id}")
    elif status.errors:
        steps.append(f"docbatch rerun {run_id} --all-errors   (none is retryable)")
    return steps


def print_account(console: Console, status: RunResult, *, simulated: bool) -> None:
    """The account and what to do next."""
    for line in account(status, simulated=simulated):
        plain(console, line, style=COLOURS.get(status.state, "") if line.startswith("state ") else "")
    for number, step in enumerate(next_steps(status)):
        plain(console, f"{'' if number else 'next':<13}{step}", style="dim")


def plain(console: Console, text: str, *, style: str = "") -> None:
    """A line as it is: no markup, no wrapping, so that a URI can be copied."""
    console.print(Text(printable(text), style=style), soft_wrap=True, highlight=False)
