"""How fast a run goes, and when it will be done at that speed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from batch.terminal.quantities import duration
from batch.workflows.states import State

if TYPE_CHECKING:
    from batch.client.run import RunResult

WINDOW = 30.0
"""Seconds that the shown documents/s look back."""


class Speed:
    """Documents a second over the last `WINDOW` seconds.

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
        while len(self._seen) > 2 and now - self._seen[1][0] >= WINDOW:
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
        if not speed or status.state == State.PAUSED:
            return "-"
        return ("" if status.plan_done else ">") + duration((status.planned - status.documents) / speed)


def per_second(speed: Speed) -> str:
    """`0.25`, `10.0`, `1,234`, or `-` while there is nothing to tell."""
    value = speed.per_second
    return "-" if value is None else f"{value:,.{2 if value < 1 else 1 if value < 100 else 0}f}"
