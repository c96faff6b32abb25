"""Keys from all over a listing too long to be listed: it is asked what comes after keys that are only thought up.

S3 lists from any key on, forwards only, and says nothing of how many objects lie between two keys. So the widest gap
between known keys is halved, again and again, each time by one small listing from the gap's middle.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from batch.storage.listing import ObjectEntry

_BELOW, _ASCII, _TOP = 0x1F, 0x7F, 0x110000
"""Code points below the first and past the last of a key: of one in ASCII, and of any."""
_SURROGATES = range(0xD800, 0xE000)
_DEEPEST = 1024
"""Bytes of the longest key."""

After = Callable[[str], Awaitable[list[ObjectEntry]]]
"""A key -> the next few objects after it, in the order of the server."""


@dataclass(order=True)
class _Gap:
    """Keys after `low`, of which none is past `high`; the widest comes first."""

    width: tuple[int, int]
    number: int
    low: str = field(compare=False)
    high: str = field(compare=False)


async def probe(after: After, *, low: str, prefix: str, wanted: int, most: int) -> list[list[ObjectEntry]]:
    """Returns what lies after up to `wanted` keys that are spread over those after `low`, by `most` listings at most.

    Both bounds are those of a listing below `prefix`. Spread over the names: nobody knows how many lie between two.
    """
    found: list[list[ObjectEntry]] = []
    ascii_end = prefix + chr(_ASCII)
    beyond = await after(ascii_end) if low < ascii_end else []
    if beyond:
        found.append(beyond)
    end = ascii_end if low < ascii_end and not beyond else prefix + chr(_TOP - 1)
    gaps: list[_Gap] = []
    numbers = itertools.count()

    def push(low: str, high: str) -> None:
        heapq.heappush(gaps, _Gap(_width(low, high), next(numbers), low, high))

    push(low, end)
    for _ in range(most):
        if not gaps or len(found) >= wanted:
            break
        gap = heapq.heappop(gaps)
        middle = between(gap.low, gap.high)
        if middle is None:
            continue
        entries = await after(middle)
        push(gap.low, middle)
        if entries and middle < entries[0].key < gap.high:
            found.append(entries)
            if entries[-1].key < gap.high:
                push(entries[-1].key, gap.high)
    return found


def between(low: str, high: str) -> str | None:
    """A key after `low` and before `high`, about halfway by its first characters that differ; None if there is none."""
    at = _same(low, high)
    bottom, top = _digit(low, at, _BELOW), _digit(high, at, _BELOW)
    if top - bottom >= 2:
        return low[:at] + _middle(bottom, top)
    for deeper in range(at + 1, min(len(low) + 1, _DEEPEST)):
        bottom = _digit(low, deeper, _BELOW)
        top = _ASCII if bottom < _ASCII else _TOP
        if top - bottom >= 2:
            found = low[:deeper] + _middle(bottom, top)
            return found if low < found < high else None
    return None


def _middle(bottom: int, top: int) -> str:
    middle = (bottom + top) // 2
    return chr(_SURROGATES.stop if middle in _SURROGATES else middle)


def _same(one: str, other: str) -> int:
    """Tells how many characters both begin with."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _digit(key: str, at: int, none: int) -> int:
    return ord(key[at]) if at < len(key) else none


def _width(low: str, high: str) -> tuple[int, int]:
    """Of two gaps the wider sorts first: by the place of the first character that differs, then by how much."""
    at = _same(low, high)
    return at, _digit(low, at, _BELOW) - _digit(high, at, _BELOW)
