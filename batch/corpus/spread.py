"""A few items out of a stream of unknown length, spread over all of it. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Spread(Generic[T]):
    """Cuts a stream into stretches of one length and keeps one item of each, by chance; never more than `most`.

    Each item is as likely as its neighbours, wherever the stream ends, and no rhythm of the stream (every second object
    a page, the other its picture) can hide from it. Whenever there are too many stretches, two become one.
    """

    def __init__(self, most: int, chance: random.Random) -> None:
        if most < 1:
            raise ValueError(f"{most} items are no spread")
        self._most, self._chance = most, chance
        self._whole: list[T] = []
        self._stretch = 1
        self._open: list[T] = []
        self._seen = 0

    def add(self, item: T) -> None:
        if len(self._whole) == self._most:
            self._halve()
        self._seen += 1
        if self._chance.random() * self._seen < 1:
            self._open = [item]
        if self._seen == self._stretch:
            self._whole += self._open
            self._open, self._seen = [], 0

    def _halve(self) -> None:
        """Two stretches become one, of which either item is as likely; an odd one is open again."""
        whole, pick = self._whole, self._chance.getrandbits
        if len(whole) % 2:
            self._open, self._seen = [whole[-1]], self._stretch
        self._whole = [whole[index + pick(1)] for index in range(0, len(whole) - 1, 2)]
        self._stretch *= 2

    def taken(self) -> list[tuple[T, int]]:
        """Returns the items in the stream's order, each with how many it stands for: together all that there were."""
        taken = [(item, self._stretch) for item in self._whole]
        return taken + [(item, self._seen) for item in self._open]


def evenly(items: Sequence[T], count: int) -> list[T]:
    """`count` of the items at even distances, all of them where there are no more."""
    if count >= len(items):
        return list(items)
    return [items[(2 * index + 1) * len(items) // (2 * count)] for index in range(count)]
