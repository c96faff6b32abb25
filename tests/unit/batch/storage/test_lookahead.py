"""A listing read ahead: every key once and in order, whatever is guessed; and guessed well enough to be of use."""

from __future__ import annotations

import asyncio
import bisect
import random
import uuid
from contextlib import aclosing

import pytest

from batch.storage.listing import ObjectEntry, Page, Position
from batch.storage.lookahead import STRETCHES, KeySpace, pages_ahead


class Server:
    """Lists `keys`, by default as S3 does, and counts what is asked of it."""

    def __init__(self, keys: list[str], *, by_key: bool = True, size: int = 10, breaks_at: int | None = None) -> None:
        self.keys = sorted(keys) if by_key else keys
        self._by_key, self._size, self._breaks_at = by_key, size, breaks_at
        self.requests = self.in_flight = self.most_in_flight = 0

    async def fetch(self, after: str, position: Position | None) -> Page:
        self.requests += 1
        if self.requests == self._breaks_at:
            raise ConnectionError("gone")
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0.0005)
        self.in_flight -= 1
        if position is not None:
            start = int(position.token or 0)
        elif self._by_key:
            start = bisect.bisect_right(self.keys, after)
        else:
            start = self.keys.index(after) + 1 if after else 0
        end = start + self._size
        entries = [ObjectEntry(key, 1, "e") for key in self.keys[start:end]]
        return Page(entries, Position(token=str(end)) if end < len(self.keys) else None, self._by_key)

    async def listed(self, *, prefix: str = "p/", after: str = "") -> list[str]:
        pages = [page async for page in pages_ahead(self.fetch, prefix=prefix, after=after)]
        assert all(pages), "no page is empty"
        return [entry.key for page in pages for entry in page]


NUMBERS = [f"p/{number // 100:03d}/{number:06d}.txt" for number in range(3000)]
CORPORA = {
    "numbers": NUMBERS,
    "numbers of growing length": [f"p/doc{number}" for number in range(3000)],
    "hashes": [f"p/{uuid.UUID(int=random.Random(number).getrandbits(128))}" for number in range(3000)],
    "words": [f"p/{random.Random(n).choice('xyzé+% ')}{random.Random(n).random()}" for n in range(3000)],
    "days": [f"p/{year}/{month:02d}/{day:02d}/{n}" for year in (2019, 2026) for month in (1, 12) for day in range(1, 29)
             for n in range(9)],
    "lopsided": [f"p/a{n:05d}" for n in range(2000)] + [f"p/zz/{'y' * n}" for n in range(90)],
    "one page": NUMBERS[:9],
    "two pages": NUMBERS[:11],
    "nothing": [],
}  # fmt: skip


@pytest.mark.parametrize("name", CORPORA)
async def test_every_key_comes_once_and_in_order(name: str) -> None:
    server = Server(CORPORA[name])
    assert await server.listed() == server.keys
    for after in server.keys[:: max(1, len(server.keys) // 5)]:
        assert await server.listed(after=after) == server.keys[server.keys.index(after) + 1 :]


@pytest.mark.parametrize("name", ["numbers", "hashes"])
async def test_several_stretches_are_listed_at_once_with_little_waste(name: str) -> None:
    server = Server(CORPORA[name])
    await server.listed()
    assert server.most_in_flight >= STRETCHES - 1
    assert server.requests < 300 / 0.7


async def test_a_server_with_an_order_of_its_own_is_listed_in_that_order() -> None:
    shuffled = random.Random(1).sample(NUMBERS, 500)
    server = Server(shuffled, by_key=False)
    assert await server.listed() == shuffled
    assert server.most_in_flight == 1 and server.requests == 50


async def test_who_takes_one_page_asks_for_one() -> None:
    server = Server(NUMBERS)
    async with aclosing(pages_ahead(server.fetch, prefix="p/", after="")) as pages:
        await anext(pages)
        await asyncio.sleep(0.01)
    assert server.requests == 1


async def test_what_waits_for_a_slow_reader_is_bounded_and_ends_when_it_leaves() -> None:
    server = Server(NUMBERS)
    async with aclosing(pages_ahead(server.fetch, prefix="p/", after="")) as pages:
        await anext(pages)
        await anext(pages)
        await asyncio.sleep(0.2)
        asked = server.requests
        assert asked < 80
    await asyncio.sleep(0.05)
    assert server.requests == asked and server.in_flight == 0


@pytest.mark.parametrize("breaks_at", [1, 2, 7, 40])
async def test_an_error_comes_in_its_turn_after_the_keys_before_it(breaks_at: int) -> None:
    server = Server(NUMBERS, breaks_at=breaks_at)
    found: list[str] = []
    with pytest.raises(ConnectionError):
        async for page in pages_ahead(server.fetch, prefix="p/", after=""):
            found += [entry.key for entry in page]
    assert found == server.keys[: len(found)]


def test_keys_further_on_are_guessed_by_the_characters_in_use() -> None:
    keys = KeySpace(2)
    keys.learn(["p/000", "p/099"])
    assert keys.beyond("p/000", "p/099", 3) == "p/396"
    assert keys.beyond("p/000", "p/099", 10) is None, "past the last number"
    assert keys.beyond("p/099", "p/000", 1) is None
    assert keys.beyond("p/0x0", "p/0x9", 1) is None, "a character that was not learnt"
