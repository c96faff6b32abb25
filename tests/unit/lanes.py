"""A lane of a limiter, for tests of what is let out by it."""

from __future__ import annotations

from workers.llm.limiter import Lane, Limiter


def open_lane(*, concurrency: int = 1000) -> Lane:
    """Alone in its limiter, without minute limits."""
    limiter = Limiter()
    lane = Lane(limiter, concurrency=concurrency, weight=1.0)
    limiter.open(lane)
    return lane
