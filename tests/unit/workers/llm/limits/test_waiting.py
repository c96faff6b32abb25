"""Pauses that grow."""

from __future__ import annotations

import pytest

from workers.llm.limits.waiting import doubled


@pytest.mark.parametrize(("times", "seconds"), [(1, 0.5), (2, 1.0), (3, 2.0), (7, 20.0), (1_025, 20.0), (10**6, 20.0)])
def test_a_pause_is_bounded_however_often_it_doubles(times: int, seconds: float) -> None:
    """2.0 ** 1024 is too large for a number: after four hours of 429 an attempt would die of it."""
    assert doubled(0.5, times, 20.0) == seconds
