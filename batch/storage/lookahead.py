"""A long listing, read ahead: the next pages are asked for while the last one is worked on, several stretches at once.

S3 gives a page of 1,000 objects in 50 to 150 ms, and the token of the next page only with it: 10,000 keys a second at
most, one after the other. But it lists from any key on, be there such a key or not. So as soon as a stretch has its
first page, a key is guessed some pages further on, and what follows that key is listed at the same time as another
stretch. A bad guess costs requests, never a key: a stretch ends just where the next one begins.
"""

from __future__ import annotations

import asyncio
import string
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Set
from dataclasses import dataclass, field

from batch.storage.listing import ObjectEntry, Page, Position

STRETCHES = 6
"""Stretches that are listed at once, at most."""
STRETCH_PAGES = 8
"""Pages that a stretch should have, and that wait for the reader at most: all together some 20 MB."""
USEFUL = 0.75
"""Share of the objects listed that has to be of use, or no key is guessed for a while."""
_TRUSTED = 20_000
"""Objects listed before that share is looked at."""
_SAMPLES = 16
"""Keys of a page that are looked at for the characters in use."""
_CLASSES = tuple(map(frozenset, (string.digits, "0123456789abcdef", "0123456789ABCDEF")))

Fetch = Callable[[str, Position | None], Awaitable[Page]]
"""(key to start after, where the page begins, None for the first one) -> the page."""


async def pages_ahead(fetch: Fetch, *, prefix: str, after: str) -> AsyncGenerator[list[ObjectEntry], None]:
    """All pages after the key `after`, in the order of the server. Nobody looks ahead until a second page is wanted."""
    first = await fetch(after, None)
    if first.entries:
        yield first.entries
    if first.next is None:
        return
    lookahead = Lookahead(fetch, prefix, first)
    try:
        while (entries := await lookahead.next()) is not None:
            if entries:
                yield entries
    finally:
        await lookahead.close()


@dataclass
class _Stretch:
    """Keys after `after` up to `until`, that one included; None: to the end."""

    after: str
    until: str | None
    position: Position | None = None
    pages: asyncio.Queue[list[ObjectEntry] | Exception | None] = field(
        default_factory=lambda: asyncio.Queue(STRETCH_PAGES)
    )
    """In order; None ends them."""
    taken: int = 0
    split_at: int = 1
    """Pages after which the rest goes to another stretch, if it may."""
    task: asyncio.Task[None] | None = None


class Lookahead:
    """The stretches of one listing, the one that is being read first."""

    def __init__(self, fetch: Fetch, prefix: str, first: Page) -> None:
        self._fetch, self._prefix = fetch, prefix
        self._keys = KeySpace(len(prefix))
        self._listed = self._used = 0
        self._stretches: deque[_Stretch] = deque()
        stretch = _Stretch("", None, first.next, taken=1)
        self._begin(0, stretch)
        self._note(first)
        self._used = self._listed
        self._split(stretch, first)

    async def next(self) -> list[ObjectEntry] | None:
        """A page, None at the end. Raises what a request raised, in its turn."""
        while self._stretches:
            found = await self._stretches[0].pages.get()
            if isinstance(found, Exception):
                raise found
            if found is not None:
                return found
            self._stretches.popleft()
        return None

    async def close(self) -> None:
        tasks = [stretch.task for stretch in self._stretches if stretch.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, place: int, stretch: _Stretch) -> None:
        self._stretches.insert(place, stretch)
        stretch.task = asyncio.create_task(self._read(stretch))

    async def _read(self, stretch: _Stretch) -> None:
        try:
            while True:
                page = await self._fetch(stretch.after, stretch.position)
                self._note(page)
                entries = page.entries
                if stretch.until is not None and entries and entries[-1].key > stretch.until:
                    entries = [entry for entry in entries if entry.key <= stretch.until]
                self._used += len(entries)
                stretch.position, stretch.taken = page.next, stretch.taken + 1
                ended = page.next is None or len(entries) < len(page.entries)
                if not ended:
                    self._split(stretch, page)
                await stretch.pages.put(entries)
                if ended:
                    await stretch.pages.put(None)
                    return
        except Exception as error:
            await stretch.pages.put(error)

    def _note(self, page: Page) -> None:
        self._listed += len(page.entries)
        if page.by_key:
            step = max(1, len(page.entries) // _SAMPLES)
            self._keys.learn(entry.key for entry in (*page.entries[::step], *page.entries[-1:]))

    def _split(self, stretch: _Stretch, page: Page) -> None:
        """Gives what lies further on than some pages to another stretch, if a key for it can be guessed."""
        if not page.by_key or not page.entries or stretch.taken < stretch.split_at:
            return
        if len(self._stretches) >= STRETCHES or (self._listed > _TRUSTED and self._used < USEFUL * self._listed):
            return
        last = page.entries[-1].key
        guess = self._keys.beyond(page.entries[0].key, last, STRETCH_PAGES - 1)
        if guess is None or guess <= last or not guess.startswith(self._prefix):
            return
        if stretch.until is not None and guess >= stretch.until:
            return
        place = self._stretches.index(stretch) + 1
        following = _Stretch(guess, stretch.until)
        stretch.until, stretch.split_at = guess, stretch.taken + STRETCH_PAGES
        self._begin(place, following)


class KeySpace:
    """Keys as numbers, by the characters that were seen at each place, so that the next ones can be guessed."""

    def __init__(self, start: int) -> None:
        """`start`: the characters that all keys begin with."""
        self._start = start
        self._seen: list[set[str]] = []
        self._shortest = 2**31

    def learn(self, keys: Iterable[str]) -> None:
        for key in keys:
            rest = key[self._start :]
            self._shortest = min(self._shortest, len(rest))
            while len(self._seen) < len(rest):
                self._seen.append(set())
            for characters, character in zip(self._seen, rest, strict=False):
                characters.add(character)

    def beyond(self, first: str, last: str, times: int) -> str | None:
        """The key that lies `times` as far after `last` as that lies after `first`; None where nobody can say."""
        digits = [self._digits(place) for place in range(len(self._seen))]
        low, high = self._number(first, digits), self._number(last, digits)
        if low is None or high is None or high <= low:
            return None
        number = high + times * (high - low)
        found: list[str] = []
        for characters in reversed(digits):
            number, digit = divmod(number, len(characters))
            found.append(characters[digit])
        return None if number else last[: self._start] + "".join(reversed(found))

    def _digits(self, place: int) -> list[str]:
        """In order; "" where keys may have ended."""
        seen: Set[str] = self._seen[place]
        if len(seen) > 1 or seen <= _CLASSES[0]:
            seen = next((each for each in _CLASSES if seen <= each), seen)
        return [*([""] if place >= self._shortest else []), *sorted(seen)]

    def _number(self, key: str, digits: list[list[str]]) -> int | None:
        number = 0
        for place, characters in enumerate(digits, self._start):
            character = key[place] if place < len(key) else ""
            if character not in characters:
                return None
            number = number * len(characters) + characters.index(character)
        return number
