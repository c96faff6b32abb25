"""Previews and estimates for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from batch.files.result_file import OK
from batch.previews.exchange import UNANSWERED, PreviewedDocument, PreviewResult, cut
from batch.terminal.ending import fact, plain
from batch.terminal.printable import printable
from batch.terminal.quantities import by_type, duration, money, tokens
from batch.terminal.row_tables import cell, field_types

if TYPE_CHECKING:
    from batch.job.job import Job
    from batch.previews.estimation import Estimate, Range

WIDTH = 80
SHOWN = 600
"""Characters of a message or an answer, unless it is to be whole."""
COLOURS = {OK: "green", UNANSWERED: "red"}


def print_preview(console: Console, found: PreviewResult, job: Job, *, simulated: bool, full: bool) -> None:
    """Each document from prompt to row, and what all of it came to."""
    types = _types(job)
    most = 10**9 if full else SHOWN
    system = ""
    for number, document in enumerate(found.documents, 1):
        heading = Text(f"{number} of {len(found.documents)}  {printable(document.document_id)}  ", style="bold")
        heading.append(printable(document.status), style=COLOURS.get(document.status, "yellow"))
        console.print(heading)
        table = Table.grid(padding=(0, 1))
        table.add_column(style="dim", no_wrap=True, min_width=8)
        table.add_column(overflow="fold")
        for message in document.messages:
            text = message["content"]
            if message["role"] == "system":
                text, system = "(as above)" if text == system else text, text
            table.add_row(message["role"], Text(printable(cut(text, most).rstrip(), lines=True)))
        _add_answer(table, document, types, most)
        if document.status != UNANSWERED:
            table.add_row("", Text(_spent(document, simulated=simulated), style="dim"))
        console.print(table)
        console.print()
    for line in preview_summary(found, simulated=simulated):
        plain(console, line)


def _types(job: Job) -> dict[str, str]:
    """Returns the fields of the typed result and their types."""
    if job.output.json_schema is None:
        return {}
    import polars as pl

    from batch.schema.arrow import row_schema

    return field_types(pl.DataFrame(row_schema(job.output.json_schema).empty_table()).schema)


def _add_answer(table: Table, document: PreviewedDocument, types: dict[str, str], most: int) -> None:
    if document.output_text is not None:
        table.add_row("answer", Text(printable(cut(document.output_text, most), lines=True)))
    if document.result is not None:
        fields = Table.grid(padding=(0, 2))
        fields.add_column(overflow="fold")
        fields.add_column(style="dim", overflow="fold")
        fields.add_column(overflow="fold")
        for name, kind in types.items():
            fields.add_row(Text(printable(name)), Text(kind), Text(cell(document.result.get(name), most)))
        table.add_row("result", fields)
    if document.error_type is not None:
        again = "retryable" if document.retryable else "not retryable"
        text = printable(f"{document.error_type} ({again}): {document.error_message}", lines=True)
        table.add_row("error", Text(text, style="yellow"))


def _spent(document: PreviewedDocument, *, simulated: bool) -> str:
    if not document.attempts:
        return "never sent to the model"
    parts = [
        _tokens(document),
        money(document.cost_usd or 0.0, simulated=simulated, unpriced=int(document.cost_usd is None)),
        f"{document.latency_seconds:.2f} s",
    ]
    parts += [f"{document.attempts} calls"] if document.attempts > 1 else []
    parts += [f"{document.chunks} chunks, the first is shown"] if document.chunks else []
    parts += ["truncated"] if document.truncated else []
    return "   ".join(parts)


def _tokens(of: PreviewedDocument | PreviewResult) -> str:
    return f"tokens {of.prompt_tokens:,} in ({of.cached_tokens:,} cached), {of.completion_tokens:,} out"


def preview_summary(found: PreviewResult, *, simulated: bool) -> list[str]:
    """Returns what was asked, what it came to, and where in the source it is from."""
    parts = [f"{found.ok:,} ok", f"{found.errors:,} error"]
    parts += [f"{found.unanswered:,} unanswered"] if found.unanswered else []
    cost = money(found.cost_usd, simulated=simulated, unpriced=found.unpriced)
    lines = [f"{len(found.documents):,} documents: {', '.join(parts)}   {_tokens(found)}   cost {cost}"]
    if found.stopped:
        lines.append(f"stopped early: {printable(found.stopped)}")
    if not found.whole:
        lines.append(
            f"the source has more than {found.listed:,} keys: the documents are spread over their names, in no known "
            "proportion"
        )
    elif found.listed:
        lines.append(f"spread over all {found.listed:,} keys of the source")
    return lines


def print_estimate(console: Console, found: Estimate, *, source: str, simulated: bool) -> None:
    """What a run takes: a line a fact."""
    for line in estimate_account(found, source=source, simulated=simulated):
        plain(console, line)


def estimate_account(found: Estimate, *, source: str, simulated: bool) -> list[str]:
    """Returns what was counted, what is estimated from which sample, and what is not known."""
    lines = [
        fact("job", f"{found.job_name}, model {found.model}"),
        fact("documents", f"{found.documents:,} of {_bytes(found.bytes)} under {source} (counted)"),
    ]
    if found.too_large:
        lines.append(fact("", f"and {found.too_large:,} past source.max_document_bytes: error rows"))
    unreadable = sum(found.unreadable.values())
    about = f"{found.sampled:,} documents read"
    if unreadable:
        about += f"; {unreadable:,} of them will be error rows: {by_type(found.unreadable)}"
    lines.append(fact("sample", about))
    if found.asked:
        spent = money(found.asked_cost_usd, simulated=simulated)
        tokens_spent = f"{found.asked_prompt_tokens:,} tokens in, {found.asked_completion_tokens:,} out"
        lines.append(fact("asked", f"{found.asked:,} documents, {found.answered:,} answered, {tokens_spent}, {spent}"))
    lines += [
        fact("questions", f"about {_range(found.answerable, lambda count: f'{count:,.0f}')}"),
        fact("tokens in", f"about {_range(found.prompt_tokens, lambda count: tokens(round(count)))}"),
        fact("tokens out", f"about {_range(found.completion_tokens, lambda count: tokens(round(count)))}"),
        fact("cost", _cost(found.cost_usd, simulated=simulated)),
        fact("batch cost", f"{_cost(found.batch_cost_usd, simulated=simulated)} by the Batch API, within a day"),
        fact("time", _time(found)),
    ]
    for note in found.notes:
        first, *rest = textwrap.wrap(note, WIDTH - len(fact("", "")))
        lines += [fact("note", first), *(fact("", line) for line in rest)]
    return lines


def _range(of: Range, text: Callable[[float], str]) -> str:
    low, value, high = text(of.low), text(of.value), text(of.high)
    return value if low == value == high else f"{value} ({low} to {high})"


def _cost(of: Range | None, *, simulated: bool) -> str:
    if of is None:
        return "unknown"
    return f"about {_range(of, money)}{' of a simulated model' if simulated else ''}"


def _time(found: Estimate) -> str:
    if found.seconds is None:
        return "unknown"
    workers = f"{found.processes:,} worker process{'' if found.processes == 1 else 'es'}"
    return f"about {_range(found.seconds, duration)}, bound by {found.bound_by}, with {workers}"


def _bytes(count: int) -> str:
    """`987 B`, `12.3 kB`, `4.56 GB`."""
    for factor, unit in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count} B"
