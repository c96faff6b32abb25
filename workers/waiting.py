"""A sleep that a stop ends."""

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
