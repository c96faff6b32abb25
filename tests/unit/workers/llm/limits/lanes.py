"""A lane of a limiter, for tests of what is let out by it."""

from __future__ import annotations

import time
from collections.abc import Callable

from workers.llm.limits.limiter import Lane, Limiter


def open_lane(*, concurrency: int = 1000, clock: Callable[[], float] = time.monotonic) -> Lane:
    """Alone in its limiter, without minute limits."""
    limiter = Limiter(clock)
    limiter.said({})
    lane = Lane(limiter, concurrency=concurrency, weight=1.0)
    limiter.open(lane)
    return lane
