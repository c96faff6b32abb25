"""Heartbeats: an attempt says that it lives, and learns from its own clock when another may have taken over.

A heartbeat is no checkpoint (the SDK throttles it, and it dies with the process): a retry resumes from the ledger.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from temporalio import activity

BEAT_EVERY = 1.0
"""Seconds between two beats; the SDK sends far fewer."""
FENCE_SHARE = 0.8
"""Share of the heartbeat timeout without a beat after which an attempt takes itself for superseded."""


class Pulse:
    """Beats for as long as its context lasts. `details` is asked for what each heartbeat carries: a few counters."""

    def __init__(self) -> None:
        timeout = activity.info().heartbeat_timeout
        self._fence_after = (timeout.total_seconds() if timeout else 60.0) * FENCE_SHARE
        self._last = time.monotonic()
        self._late = False
        self.details: Callable[[], Any] = dict

    def superseded(self) -> bool:
        """Whether this process once stood still for so long that another attempt may be at work."""
        self._late = self._late or time.monotonic() - self._last > self._fence_after
        return self._late

    async def __aenter__(self) -> Pulse:
        self._task = asyncio.create_task(self._beat())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        # What beat, and what it told of, go at once: as a cycle they would stay until the collector's next full round.
        del self._task
        self.details = dict

    async def _beat(self) -> None:
        while True:
            # Not at once: the SDK sends the first beat and then none for most of a minute, so it should have numbers.
            await asyncio.sleep(min(BEAT_EVERY, self._fence_after / 4))
            self.superseded()
            self._last = time.monotonic()
            activity.heartbeat(self.details())
