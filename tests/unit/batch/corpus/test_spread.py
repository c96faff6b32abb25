"""Items out of a stream: spread over all of it, each as likely as any other, together standing for all."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.corpus.spread import Spread, evenly


def spread(count: int, most: int, seed: int = 0) -> list[tuple[int, int]]:
    found = Spread[int](most, random.Random(seed))
    for number in range(count):
        found.add(number)
    return found.taken()


@given(count=st.integers(0, 3000), most=st.integers(1, 60), seed=st.integers(0, 5))
def test_the_items_stand_for_stretches_that_make_up_the_stream(count: int, most: int, seed: int) -> None:
    taken = spread(count, most, seed)
    assert len(taken) <= most
    assert len(taken) >= min(count, most // 2)
    assert sum(weight for _, weight in taken) == count
    begin = 0
    for item, weight in taken:
        assert begin <= item < begin + weight
        begin += weight


def test_all_are_kept_where_there_is_room() -> None:
    assert spread(60, 60) == [(number, 1) for number in range(60)]


def test_no_item_is_likelier_than_another() -> None:
    """Also near both ends, and in no rhythm: the expected share of each is its weight's."""
    share = Counter[int]()
    for seed in range(4000):
        for item, weight in spread(11, 4, seed):
            share[item] += weight
    assert all(3600 < count < 4400 for count in share.values()), share
    assert len(share) == 11


def test_none_is_no_spread() -> None:
    with pytest.raises(ValueError, match="0 items are no spread"):
        Spread[int](0, random.Random())


@given(count=st.integers(0, 200), wanted=st.integers(0, 50))
def test_evenly(count: int, wanted: int) -> None:
    picked = evenly(range(count), wanted)
    assert len(picked) == min(count, wanted)
    assert picked == sorted(set(picked))
    gaps = {after - before for before, after in pairwise(picked)}
    assert not gaps or max(gaps) - min(gaps) <= 1
