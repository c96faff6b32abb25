"""Waiting for what has no event, until a stop; and what the cancellation of a wait for Temporal looks like."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


async def sleep_unless(stopped: Callable[[], bool], seconds: float) -> bool:
    """Sleeps, but at most until stopped, which is asked four times a second; tells which."""
    deadline = time.monotonic() + seconds
    while not stopped():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        await asyncio.sleep(min(left, 0.25))
    return True


async def sleep_while(held: Callable[[], bool], stopped: Callable[[], bool]) -> None:
    """Sleeps for as long as something holds, but at most until stopped; both are asked twice a second in the end."""
    pause = 0.05
    while held() and not stopped():
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, 0.5)


def raise_if_cancelled() -> None:
    """The SDK turns the cancellation of a task that waits for an update into an error of its own."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
