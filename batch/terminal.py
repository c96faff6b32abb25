"""What a person sees of a run: live progress on a terminal, plain lines elsewhere, the account at its end, its rows.

Everything is readable in 80 columns. The numbers are those of `batch.client.RunResult`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from batch import contracts as c
from batch.local import SIMULATED_PREFIX

if TYPE_CHECKING:
    import polars as pl

    from batch.client import Run, RunResult

SPEED_WINDOW = 30.0
"""Seconds that the shown documents/s look back."""
PLAIN_EVERY = 5.0
"""Seconds between two lines where there is no terminal."""
AWAY_SECONDS = 2.0
"""Pause before a server that did not answer is asked again."""
CELL_LINES = 3
"""Lines that a value takes in a table of rows at most."""

_COLOURS = {
    c.COMPLETED: "green",
    c.COMPLETED_WITH_FAILURES: "yellow",
    c.PAUSED: "yellow",
    c.CANCELLED: "red",
    c.FAILED: "red",
}


# -- numbers


def tokens(count: int) -> str:
    """`987`, `12.3k`, `4.56M`, `7.89G`."""
    for factor, unit, digits in ((10**9, "G", 2), (10**6, "M", 2), (10**3, "k", 1)):
        if count >= factor:
            return f"{count / factor:.{digits}f}{unit}"
    return str(count)


def money(usd: float, *, simulated: bool = False, unpriced: int = 0) -> str:
    """US dollars: cents, or two significant digits below one cent; says where answers have no known price."""
    text = f"${usd:,.2f}" if usd >= 0.01 or usd == 0 else f"${usd:.2g}"
    if unpriced:
        text = f"{text} and {unpriced:,} answers of unknown price" if usd else "unknown: the model has no known price"
    return f"{text} (simulated)" if simulated else text


def duration(seconds: float) -> str:
    """`0:00:07`, `26:03:00`."""
    whole = round(max(0.0, seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def is_simulated(model: str) -> bool:
    return model.startswith(SIMULATED_PREFIX)


def done(status: RunResult) -> int:
    """Documents that are answered: those with a row, and those of partitions still at work."""
    return min(status.documents + status.in_progress, max(status.planned, status.documents))


def total(status: RunResult) -> str:
    """`5,000`, or `5,000+` while the plan still grows."""
    return f"{status.planned:,}{'' if status.plan_done else '+'}"


class Speed:
    """Documents a second over the last `SPEED_WINDOW` seconds.

    Args:
        clock: seconds that only rise; tests give their own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, documents: int) -> None:
        now = self._clock()
        if self._seen and documents < self._seen[-1][1]:  # heartbeats and commits are not read at one instant
            documents = self._seen[-1][1]
        self._seen.append((now, documents))
        while len(self._seen) > 2 and now - self._seen[1][0] >= SPEED_WINDOW:
            self._seen.popleft()

    @property
    def per_second(self) -> float | None:
        """None until there is something to tell."""
        if len(self._seen) < 2:
            return None
        (start, before), (end, after) = self._seen[0], self._seen[-1]
        return (after - before) / (end - start) if end > start else None

    def eta(self, status: RunResult) -> str:
        """Time until the documents planned so far are done: `0:01:30`, `>0:01:30` while the plan grows, or `-`."""
        speed = self.per_second
        if not speed or status.state == c.PAUSED:
            return "-"
        return ("" if status.plan_done else ">") + duration((status.planned - done(status)) / speed)


def _per_second(speed: Speed) -> str:
    value = speed.per_second
    return "-" if value is None else f"{value:,.{2 if value < 1 else 1 if value < 100 else 0}f}"


def why(status: RunResult) -> str:
    """Reason and message of a state that needs one, `by_user: maintenance`; empty when there is none."""
    return ": ".join(part for part in (status.reason, status.message) if part)


# -- progress


class Display:
    """Progress of one run. A context manager; `update` as often as there is news."""

    def __init__(self, *, simulated: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._simulated = simulated
        self._clock = clock
        self._speed = Speed(clock)
        self.status: RunResult | None = None

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def update(self, status: RunResult) -> None:
        last = self.status
        if last is not None and status.generation == last.generation and status.documents < last.documents:
            # Rows never become fewer: coordinator and shard were asked while a report was between them.
            status = replace(last, state=status.state, reason=status.reason, message=status.message)
        self.status = status
        self._speed.add(done(status))

    def note(self, text: str) -> None:
        """Something about the watching itself, such as a server that does not answer; empty: all is well again."""


class PlainDisplay(Display):
    """A line every few seconds, and at once for each new state: for logs."""

    def __init__(
        self,
        write: Callable[[str], None],
        *,
        simulated: bool,
        every: float = PLAIN_EVERY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(simulated=simulated, clock=clock)
        self._write = write
        self._every = every
        self._shown = ("", "")
        self._due = 0.0
        self._note = ""

    def update(self, status: RunResult) -> None:
        super().update(status)
        status = self.status or status
        state = (status.state, why(status))
        if state == self._shown and self._clock() < self._due:
            return
        self._shown, self._due = state, self._clock() + self._every
        self._write(self.line(status))
        if why(status) and not status.ended:
            self._write(f"  {why(status)}")

    def line(self, status: RunResult) -> str:
        parts = [f"{status.state:<9}", f"{done(status):,}/{total(status)} documents", f"errors {status.errors:,}"]
        if not status.ended:
            parts.append(f"{_per_second(self._speed)}/s")
        parts.append(f"tokens {tokens(status.prompt_tokens + status.completion_tokens)}")
        if status.cost_usd:
            parts.append(money(status.cost_usd, simulated=self._simulated))
        if not status.ended:
            parts.append(f"ETA {self._speed.eta(status)}")
        return "  ".join(parts)

    def note(self, text: str) -> None:
        if text and text != self._note:
            self._write(text)
        self._note = text


class LiveDisplay(Display):
    """A bar and a few lines that are drawn over themselves; they go when the run has ended."""

    def __init__(self, console: Console, *, simulated: bool, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(simulated=simulated, clock=clock)
        self._updated = clock()
        self._note = ""
        self._live = Live(console=console, get_renderable=self.render, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveDisplay:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def update(self, status: RunResult) -> None:
        super().update(status)
        self._updated = self._clock()

    def note(self, text: str) -> None:
        self._note = text

    def render(self) -> RenderableType:
        status = self.status
        if status is None:
            return Text(self._note or "waiting for the first word of the run", style="dim")
        elapsed = status.seconds + (self._clock() - self._updated if status.seconds else 0.0)
        lines: list[RenderableType] = [
            _headline(status),
            _bar(status),
            Text(
                f"ok {status.ok:,}   errors {status.errors:,}   in progress {status.in_progress:,}   "
                f"{_per_second(self._speed)} documents/s",
                style="yellow" if status.errors else "",
            ),
            Text(f"elapsed {duration(elapsed)}   ETA {self._speed.eta(status)}"),
            Text(_money_and_tokens(status, self._simulated)),
            Text(_parts(status), style="dim"),
        ]
        for text in (why(status), self._note):
            if text:
                lines.append(Text(text, style="yellow"))
        return Group(*lines)


async def follow(run: Run, shown: Display, *, every: float = 1.0) -> RunResult:
    """Shows a run until it has ended; a server that is away for a while ends the watching as little as the run."""
    from temporalio.service import RPCError, RPCStatusCode

    from batch.store import StorageUnreachable

    away = (RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED)
    last: RunResult | None = None
    while last is None or not last.ended:
        try:
            async for last in run.watch(every=every):
                shown.note("")
                shown.update(last)
        except (RPCError, StorageUnreachable) as error:
            if isinstance(error, RPCError) and error.status not in away:
                raise
            last = None
            shown.note(f"no answer, asking again (the run goes on): {str(error)[:200]}")
            await asyncio.sleep(AWAY_SECONDS)
    return last


def display(console: Console, *, simulated: bool, plain_every: float = PLAIN_EVERY) -> Display:
    """The display that fits: live on a terminal, elsewhere a plain line every `plain_every` seconds."""
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveDisplay(console, simulated=simulated)
    return PlainDisplay(lambda line: plain(console, line), simulated=simulated, every=plain_every)


def _headline(status: RunResult) -> Text:
    text = Text(overflow="ellipsis", no_wrap=True)
    text.append(status.run_id, style="bold").append("  ").append(status.state, style=_COLOURS.get(status.state, "cyan"))
    if status.generation > 1:
        text.append(f"  generation {status.generation}", style="dim")
    return text


def _bar(status: RunResult) -> RenderableType:
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True, justify="right")
    share = f"  {100 * done(status) / status.planned:.0f} %" if status.planned and status.plan_done else ""
    grid.add_row(
        ProgressBar(total=status.planned or None, completed=done(status)), f"{done(status):,}/{total(status)}{share}"
    )
    return grid


def _money_and_tokens(status: RunResult, simulated: bool) -> str:
    return (
        f"tokens {tokens(status.prompt_tokens)} in, {tokens(status.completion_tokens)} out   "
        f"cost {money(status.cost_usd, simulated=simulated, unpriced=status.unpriced)}"
    )


def _parts(status: RunResult) -> str:
    partitions, shards = status.partitions, status.shards
    text = f"partitions {partitions.get('committed', 0):,} of {partitions.get('planned', 0):,}"
    text += "" if status.plan_done else "+"
    if partitions.get("failed"):
        text += f", {partitions['failed']:,} failed"
    return f"{text}   shards {shards.get('finished', 0):,} done, {shards.get('open', 0):,} open"


# -- the account


def equation(documents: int, ok: int, errors: int, skipped: int) -> str:
    """The line that every account of a run has."""
    return f"documents = ok + error + skipped: {documents} = {ok} + {errors} + {skipped}"


def account(status: RunResult, *, simulated: bool) -> list[str]:
    """Where a run stands, or how it ended: a line a fact."""
    lines = [_fact("run", status.run_id), _fact("state", status.state)]
    if why(status):
        lines.append(_fact("because", why(status)))
    if status.generation > 1:
        lines.append(_fact("generation", str(status.generation)))
    lines.append(equation(status.documents, status.ok, status.errors, status.skipped))
    missing = status.planned - status.documents
    if status.ended and missing > 0:
        lines.append(_fact("without row", f"{missing:,} of {total(status)} planned documents"))
    elif not status.ended:
        lines.append(_fact("planned", f"{total(status)}, {status.in_progress:,} in progress"))
        lines.append(_fact("parts", _parts(status)))
    if status.errors_by_type:
        counted = ", ".join(f"{kind} {count:,}" for kind, count in status.errors_by_type.items())
        lines.append(_fact("errors", f"{counted}; {status.retryable_errors:,} retryable"))
    lines += [
        _fact("tokens", f"{status.prompt_tokens:,} in, {status.completion_tokens:,} out"),
        _fact("cost", money(status.cost_usd, simulated=simulated, unpriced=status.unpriced)),
        _fact("seconds", f"{status.seconds:,.1f}"),
        _fact("results_uri", status.results_uri),
        _fact("manifest_uri", status.manifest_uri),
    ]
    lines += [_fact("problem", problem) for problem in status.problems]
    return lines


def _fact(name: str, value: str) -> str:
    return f"{name:<13}{value}"


def next_steps(status: RunResult) -> list[str]:
    """Commands that make sense now."""
    run_id = status.run_id
    if not status.ended:
        steps = [f"docbatch status {run_id} --watch"]
        return [*steps, f"docbatch resume {run_id}"] if status.state == c.PAUSED else steps
    steps = [f"docbatch results {run_id}"] if status.ok else []
    if status.errors:
        steps.append(f"docbatch results {run_id} --errors")
    if status.retryable_errors or status.documents < status.planned or status.state in (c.CANCELLED, c.FAILED):
        steps.append(f"docbatch rerun {run_id}")
    elif status.errors:
        steps.append(f"docbatch rerun {run_id} --all-errors   (none of the errors is retryable)")
    return steps


def print_account(console: Console, status: RunResult, *, simulated: bool) -> None:
    """The account and what to do next."""
    for line in account(status, simulated=simulated):
        plain(console, line, style=_COLOURS.get(status.state, "") if line.startswith("state ") else "")
    for number, step in enumerate(next_steps(status)):
        plain(console, f"{'' if number else 'next':<13}{step}", style="dim")


def plain(console: Console, text: str, *, style: str = "") -> None:
    """A line as it is: no markup, no wrapping, so that a URI can be copied."""
    console.print(Text(text, style=style), soft_wrap=True, highlight=False)


# -- tables


def field_types(columns: Mapping[str, pl.DataType]) -> dict[str, str]:
    """The fields of the typed result and their types, of the schema of a run's rows; empty for plain text answers."""
    import polars as pl

    result = columns.get("result")
    if isinstance(result, pl.Struct):
        return {field.name: _type_name(field.dtype) for field in result.fields}
    return {} if result is None else {"result": _type_name(result)}


def _type_name(kind: Any) -> str:
    import polars as pl

    if isinstance(kind, pl.List):
        return f"list[{_type_name(kind.inner)}]"
    return "struct" if isinstance(kind, pl.Struct) else str(kind).lower()


def rows_table(
    rows: Sequence[Mapping[str, Any]], types: Mapping[str, str], *, errors: bool = False, width: int = 80
) -> Table:
    """Rows of a run. `types` are the result's fields and their types; empty for plain text answers."""
    folder = _common_folder([str(row["document_id"]) for row in rows])
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        caption=f"documents under {folder}" if folder else None,
        caption_justify="left",
    )
    table.add_column("document", overflow="fold", max_width=32)
    with_status = not errors and any(row["status"] != "ok" for row in rows)
    if with_status:
        table.add_column("status", no_wrap=True)
    if errors:
        types = {"error_type": "", "retryable": "", "error_message": ""}
    for name, kind in (types or {"output_text": ""}).items():
        table.add_column(Text(f"{name}\n{kind}" if kind else name), overflow="fold")
    longest = 4 * width if errors else CELL_LINES * max(12, width // len(table.columns) - 2)
    for row in rows:
        shown = [Text(cell(str(row["document_id"])[len(folder) :], longest))]
        if with_status:
            shown.append(Text(row["status"]))
        if errors:
            shown += [Text(cell(row[name], longest)) for name in types]
        elif row["status"] != "ok":
            shown.append(Text(cell(f"{row['error_type'] or ''}: {row['error_message'] or ''}", longest), "yellow"))
        elif types:
            shown += [Text(cell(_field(row["result"], name), longest)) for name in types]
        else:
            shown.append(Text(cell(row["output_text"], longest)))
        table.add_row(*shown)
    return table


def _field(result: Any, name: str) -> Any:
    return result.get(name) if isinstance(result, dict) else result


def _common_folder(names: Sequence[str]) -> str:
    """The folder that all names share, so that it need not stand in every row."""
    if not names:
        return ""
    first, last = min(names), max(names)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[: first.rfind("/", 0, same) + 1]


def cell(value: Any, longest: int) -> str:
    """One value as text of at most `longest` characters."""
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        text = ", ".join(value)
    elif isinstance(value, (list, dict)):
        text = json.dumps(value, ensure_ascii=False, default=str)
    elif isinstance(value, bool):
        text = "true" if value else "false"
    else:
        text = str(value)
    text = " ".join(text.split())
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
