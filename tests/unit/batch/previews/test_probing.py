"""Keys from all over a listing of which only what comes after a key can be asked."""

from __future__ import annotations

import asyncio
import bisect
import random
import uuid
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.previews.probing import between, probe
from batch.storage.listing import ObjectEntry

KEY = st.text(st.characters(min_codepoint=0x20, exclude_categories=["Cs"]), max_size=8)


@given(one=KEY, other=KEY)
def test_between_two_keys(one: str, other: str) -> None:
    low, high = sorted((one, other))
    found = between(low, high)
    assert found is None or low < found < high
    if found is not None:
        assert low.encode() < found.encode() < high.encode(), "S3 sorts by bytes"


@pytest.mark.parametrize(("low", "high"), [("t/0", "t/9"), ("t/0zz", "t/1"), ("t/", "t/\x7f"), ("a", "b"), ("é", "ö")])
def test_there_is_a_key_between(low: str, high: str) -> None:
    assert between(low, high) is not None


class Listing:
    """As a server answers: a few keys after any key. Counts how often it was asked."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = sorted(keys)
        self.asked = 0

    async def after(self, key: str) -> list[ObjectEntry]:
        self.asked += 1
        at = bisect.bisect_right(self.keys, key)
        return [ObjectEntry(each, 1, "") for each in self.keys[at : at + 20]]


def random_uuids(count: int) -> list[str]:
    chance = random.Random(1)
    return [f"t/{uuid.UUID(int=chance.getrandbits(128))}.json" for _ in range(count)]


CORPORA = {
    "numbered": [f"tickets/{number:08d}.txt" for number in range(100_000)],
    "uuids": random_uuids(50_000),
    "by day": [f"logs/2026/{n // 4200 + 1:02d}/{n // 150 % 28 + 1:02d}/{n % 150:03d}.txt" for n in range(50_400)],
    "not ASCII": [f"t/{chr(0x4E00 + number)}" for number in range(20_000)],
}


@pytest.mark.parametrize("name", CORPORA)
def test_what_is_found_lies_all_over_the_rest(name: str) -> None:
    listing = Listing(CORPORA[name])
    prefix = listing.keys[0][: listing.keys[0].index("/") + 1]
    found = asyncio.run(probe(listing.after, low=prefix, prefix=prefix, wanted=20, most=120))
    assert listing.asked <= 121
    places = sorted({bisect.bisect(listing.keys, entries[0].key) / len(listing.keys) for entries in found})
    assert len(places) >= 10
    assert max(after - before for before, after in pairwise([0.0, *places, 1.0])) < 0.35, places


def test_a_listing_that_ends_there_is_found_out() -> None:
    listing = Listing(["t/a", "t/b"])
    assert asyncio.run(probe(listing.after, low="t/b", prefix="t/", wanted=5, most=40)) == []
    assert listing.asked <= 41


def test_a_server_with_an_order_of_its_own_does_no_harm() -> None:
    async def after(key: str) -> list[ObjectEntry]:
        return [ObjectEntry("t/0", 1, "")]

    assert len(asyncio.run(probe(after, low="t/5", prefix="t/", wanted=5, most=40))) <= 5
