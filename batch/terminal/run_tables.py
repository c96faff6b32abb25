"""Tables of runs and the account of a schedule, for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from batch.terminal.ending import fact
from batch.terminal.printable import printable
from batch.terminal.quantities import COLOURS, duration, money, tokens
from batch.terminal.row_tables import cell
from batch.workflows.states import State

if TYPE_CHECKING:
    from batch.client.schedules import ScheduleStatus

_SHORT: dict[str, str] = {State.COMPLETED_WITH_FAILURES: "with failures"}
"""Of the one state whose name takes the room of the others."""
GAP = 2
NARROWEST_JOB = 6


def age(since: str, now: datetime) -> str:
    """Returns the time since an ISO 8601 moment: `42s`, `17m`, `5h`, `12d`."""
    seconds = max(0, int((now - datetime.fromisoformat(since)).total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def runs_table(runs: Sequence[Mapping[str, Any]], *, width: int, now: datetime | None = None) -> Table:
    """`docbatch list`. Run ids stay whole, so that they can be copied; job names give way."""
    now = now or datetime.now(UTC)
    rows = [_row(run, now) for run in runs]
    headings = ("run", "job", "state", "age", "docs", "cost")
    table = _table()
    widths = [max([len(heading), *(len(row[column]) for row in rows)]) for column, heading in enumerate(headings)]
    others = sum(widths) - widths[1] + GAP * (len(headings) - 1)
    job_width = max(NARROWEST_JOB, min(widths[1], width - others))
    table.add_column("run", overflow="fold")
    for heading in headings[1:]:
        table.add_column(heading, no_wrap=True, justify="right" if heading in ("age", "docs", "cost") else "left")
    for run, (run_id, job, state, *numbers) in zip(runs, rows, strict=True):
        colour = COLOURS.get(run["state"], "cyan")
        table.add_row(Text(run_id), Text(cell(job, job_width)), Text(state, style=colour), *map(Text, numbers))
    return table


def _table() -> Table:
    """Without lines: the room is for run ids."""
    return Table(box=None, pad_edge=False, padding=(0, 1))


def _row(run: Mapping[str, Any], now: datetime) -> list[str]:
    return [
        printable(str(run["run_id"])),
        printable(str(run["job_name"])),
        printable(_SHORT.get(run["state"], str(run["state"]))),
        age(run["started_at"], now),
        _number(run["documents"]),
        _cost(run["cost_usd"]),
    ]


def _number(count: Any) -> str:
    return "-" if count is None else tokens(count) if count >= 10**6 else f"{count:,}"


def _cost(usd: Any) -> str:
    return "-" if usd is None else money(usd)


# -- schedules


def when(status: ScheduleStatus) -> str:
    """`0 2 * * * Europe/Berlin`, `every 0:00:05`."""
    timing = status.timing
    if timing.cron is not None:
        return f"{timing.cron} {timing.time_zone}"
    offset = f" offset {_span(timing.offset)}" if timing.offset else ""
    return f"every {_span(timing.every or timedelta())}{offset}"


def schedules_table(statuses: Iterable[ScheduleStatus]) -> Table:
    """`docbatch schedule list`."""
    table = _table()
    for heading in ("schedule", "job", "when", "next", "last run"):
        table.add_column(heading, overflow="fold")
    for status in statuses:
        upcoming = f"{status.next_times[0]:%Y-%m-%d %H:%M}" if status.next_times else "never"
        last = status.runs[0]["state"] if status.runs else "-"
        table.add_row(
            *(Text(printable(text)) for text in (status.name, status.job.name, when(status))),
            Text("paused" if status.paused else upcoming, style="yellow" if status.paused else ""),
            Text(printable(_SHORT.get(last, last)), style=COLOURS.get(last, "")),
        )
    return table


def schedule_account(status: ScheduleStatus) -> list[str]:
    """`docbatch schedule show`, but for its runs: a line a fact."""
    timing, job = status.timing, status.job
    policy = f"{timing.overlap}, catch-up window {_span(timing.catch_up)}"
    facts = [
        ("schedule", status.name),
        ("job", f"{job.name}, model {job.model.name}"),
        ("source", job.source.place),
        ("output", job.output.uri),
        ("when", when(status) + (f", late by up to {_span(timing.jitter)}" if timing.jitter else "")),
        ("overlap", policy),
        ("state", f"paused ({status.note})" if status.paused else "active"),
        ("slots", f"{status.started:,} started, {_skipped(status)}, {status.missed:,} missed"),
    ]
    if status.next_times:
        zone = f" {timing.time_zone}"
        facts += [
            ("next" if not number else "", f"{at:%a %Y-%m-%d %H:%M:%S}{zone}")
            for number, at in enumerate(status.next_times)
        ]
    else:
        facts.append(("next", "never: no slot lies ahead"))
    return [fact(name, value) for name, value in facts]


def _skipped(status: ScheduleStatus) -> str:
    return f"{status.skipped:,} skipped" + (" (the run before was still going)" if status.skipped else "")


def scheduled_runs_table(runs: Sequence[Mapping[str, Any]], *, now: datetime | None = None) -> Table:
    """Returns the last runs of a schedule, newest first."""
    now = now or datetime.now(UTC)
    table = _table()
    table.add_column("last runs", overflow="fold")
    table.add_column("state", no_wrap=True)
    for heading in ("begun", "docs", "errors", "cost"):
        table.add_column(heading, no_wrap=True, justify="right")
    for run in runs:
        state = Text(printable(_SHORT.get(run["state"], run["state"])), style=COLOURS.get(run["state"], "cyan"))
        started = run.get("started_at")
        numbers = [_number(run.get("documents")), _number(run.get("errors")), _cost(run.get("cost_usd"))]
        table.add_row(Text(printable(run["run_id"])), state, f"{age(started, now)} ago" if started else "-", *numbers)
    return table


def _span(span: timedelta) -> str:
    return duration(span.total_seconds())
