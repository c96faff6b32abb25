"""Progress of a run, live on a terminal and in plain lines elsewhere. The numbers are those of `RunResult`."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from batch.terminal.ending import error_lines, plain
from batch.terminal.printable import printable
from batch.terminal.quantities import (
    COLOURS,
    budget,
    by_type,
    duration,
    money,
    partitions_and_shards,
    tokens,
    total,
    why,
)
from batch.workflows.states import State

if TYPE_CHECKING:
    from batch.client.run import Run
    from batch.client.status import RunResult

PLAIN_EVERY = 5.0
"""Seconds between two lines where there is no terminal."""
EVERY_SHARD = 0.25
"""Seconds more between two looks for each open shard of the run: watching asks 4 queries a second at most."""
AWAY_SECONDS = 2.0
"""Pause before a server that did not answer is asked again."""

if TYPE_CHECKING:
    from batch.client.status import RunResult
SPEED_WINDOW = 30.0
"""Seconds that the shown documents/s look back."""


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
        if last is not None and status.generation == last.generation and _committed(status) < _committed(last):
            # Rows never become fewer: coordinator and shard were asked while a report was between them.
            status = replace(
                last,
                state=status.state,
                reason=status.reason,
                message=status.message,
                error_examples=status.error_examples,
            )
        self.status = status
        self._speed.add(status.documents)

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
        self._write_line = write
        self._every = every
        self._shown = ("", "")
        self._due = 0.0
        self._note = ""
        self._errors = ""
        self._examples: list[str] = []

    def update(self, status: RunResult) -> None:
        super().update(status)
        status = self.status or status
        state = (status.state, why(status))
        if state == self._shown and self._clock() < self._due:
            return
        begins, self._shown, self._due = state != self._shown, state, self._clock() + self._every
        self._write(self.line(status))
        if why(status) and not status.ended:
            self._write(f"  {why(status)}")
        if begins and status.state == State.PAUSED:
            self._write(f"  docbatch resume {status.run_id} goes on with it, docbatch cancel {status.run_id} ends it")
        errors = _errors(status)
        if errors != self._errors:
            self._errors = errors
            self._write(f"  {errors}")
        examples = error_lines(status)
        if examples and examples != self._examples:
            self._examples = examples
            for line in examples:
                self._write(f"  {line}")

    def _write(self, line: str) -> None:
        self._write_line(printable(line))

    def line(self, status: RunResult) -> str:
        parts = [
            f"{status.state:<9}",
            f"{status.documents:,}/{total(status)} documents",
            f"ok {status.ok:,}",
            f"errors {status.errors:,}",
        ]
        if not status.ended:
            parts += [f"in flight {status.in_flight:,}", f"{per_second(self._speed)}/s"]
        parts.append(f"tokens {tokens(status.prompt_tokens + status.completion_tokens)}")
        if status.cost_usd:
            parts.append(money(status.cost_usd, simulated=self._simulated))
        if budget(status):
            parts.append(f"budget {budget(status)}")
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
            return Text(printable(self._note) or "waiting for the first word of the run", style="dim")
        elapsed = status.seconds + (self._clock() - self._updated if status.seconds else 0.0)
        lines: list[RenderableType] = [
            _headline(status),
            _bar(status),
            Text(
                f"ok {status.ok:,}   errors {status.errors:,}   in progress {status.in_progress:,}",
                style="yellow" if status.errors else "",
            ),
            Text(
                f"{per_second(self._speed)} documents/s   in flight {status.in_flight:,}   "
                f"elapsed {duration(elapsed)}   ETA {self._speed.eta(status)}"
            ),
            Text(
                f"tokens {tokens(status.prompt_tokens)} in, {tokens(status.completion_tokens)} out   "
                f"cost {money(status.cost_usd, simulated=self._simulated, unpriced=status.unpriced)}"
            ),
            *([Text(f"budget {budget(status)}")] if budget(status) else []),
            Text(partitions_and_shards(status), style="dim"),
        ]
        errors = _errors(status)
        if errors:
            lines.append(Text(printable(errors), style="yellow", overflow="ellipsis", no_wrap=True))
        lines += [
            Text(printable(line), style="yellow", overflow="ellipsis", no_wrap=True) for line in error_lines(status)
        ]
        for text in (why(status), self._note):
            if text:
                lines.append(Text(printable(text), style="yellow"))
        return Group(*lines)


async def follow(run: Run, shown: Display, *, every: float = 1.0) -> RunResult:
    """Shows a run until it has ended; a server that is away for a while ends the watching as little as the run."""
    from temporalio.service import RPCError, RPCStatusCode

    from batch.storage.store import StorageUnreachable

    away = (RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED)
    last: RunResult | None = None
    while last is None or not last.ended:
        try:
            async for last in run.watch(every=every, every_shard=EVERY_SHARD):
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
    """Returns the display that fits: live on a terminal, elsewhere a plain line every `plain_every` seconds."""
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveDisplay(console, simulated=simulated)
    return PlainDisplay(lambda line: plain(console, line), simulated=simulated, every=plain_every)


def _headline(status: RunResult) -> Text:
    text = Text(overflow="ellipsis", no_wrap=True)
    text.append(printable(status.run_id), style="bold").append("  ")
    text.append(printable(status.state), style=COLOURS.get(status.state, "cyan"))
    if status.generation > 1:
        text.append(f"  generation {status.generation}", style="dim")
    return text


def _bar(status: RunResult) -> RenderableType:
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True, justify="right")
    share = f"  {100 * status.documents / status.planned:.0f} %" if status.planned and status.plan_done else ""
    grid.add_row(
        ProgressBar(total=status.planned or None, completed=status.documents),
        f"{status.documents:,}/{total(status)}{share}",
    )
    return grid


def _committed(status: RunResult) -> int:
    return status.documents - status.in_progress


def _errors(status: RunResult) -> str:
    """Returns the types of the errors so far, those of partitions still at work apart; empty when there are none."""
    known = f"errors: {by_type(status.errors_by_type)}" if status.errors_by_type else ""
    new = f"in progress: {by_type(status.errors_in_progress)}" if status.errors_in_progress else ""
    return "; ".join(part for part in (known, new) if part)


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
        """Returns None until there is something to tell."""
        if len(self._seen) < 2:
            return None
        (start, before), (end, after) = self._seen[0], self._seen[-1]
        return (after - before) / (end - start) if end > start else None

    def eta(self, status: RunResult) -> str:
        """Time until the documents planned so far are done: `0:01:30`, `>0:01:30` while the plan grows, or `-`."""
        speed = self.per_second
        if not speed or status.state == State.PAUSED:
            return "-"
        return ("" if status.plan_done else ">") + duration((status.planned - status.documents) / speed)


def per_second(speed: Speed) -> str:
    """`0.25`, `10.0`, `1,234`, or `-` while there is nothing to tell."""
    value = speed.per_second
    return "-" if value is None else f"{value:,.{2 if value < 1 else 1 if value < 100 else 0}f}"
