"""How many documents, and how many bytes of them, a run may hold in a process' memory at once."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count

MOST_BYTES = 256 * 2**20
AHEAD = 128
"""Documents fetched and rendered ahead of those in flight, so that a freed permit finds one ready."""
LOOK_EVERY = 1.0
"""Seconds between two looks at whether who waits is still wanted."""


class Room:
    """A semaphore over documents and bytes, the lowest turn first; one document always fits into an empty room.

    Partitions that share it come at turn 0 until they have an answer, so that each soon made progress; after that the
    lowest number goes first, and they end one after the other. Taking turns all the time, those that began together
    would end together: all results written at once, while calls wait, and each with its ledger's segment every second.
    """

    def __init__(self, *, documents: int, size: int = MOST_BYTES) -> None:
        self._most_documents = documents + AHEAD
        self._most_bytes = size
        self._documents = 0
        self._bytes = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None], int, int]] = []
        """A heap: turn, place among those of the turn, then who waits for what."""
        self._places = count()

    def _fits(self, size: int, documents: int) -> bool:
        return self._documents == 0 or (
            self._documents + documents <= self._most_documents and self._bytes + size <= self._most_bytes
        )

    async def enter(
        self, size: int, documents: int = 1, *, turn: int = 0, stopped: Callable[[], bool] = lambda: False
    ) -> bool:
        """Waits until `documents` of `size` bytes together fit and no lower turn waits, and takes their places.

        False if it was stopped before: then it has none.
        """
        if not self._waiting and self._fits(size, documents):
            self._take(size, documents)
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (turn, next(self._places), future, size, documents))
        self._let_in()
        try:
            while not (future.done() or stopped()):
                await asyncio.wait([future], timeout=LOOK_EVERY)
            return future.done()
        except asyncio.CancelledError:
            if future.done():
                self.leave(size, documents)
            raise
        finally:
            if future.cancel():
                self._let_in()  # who stood behind it may fit

    def leave(self, size: int, documents: int = 1) -> None:
        """Gives the places back."""
        self._documents -= documents
        self._bytes -= size
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting:
            _, _, future, size, documents = self._waiting[0]
            if not future.cancelled():
                if not self._fits(size, documents):
                    return
                self._take(size, documents)
                future.set_result(None)
            heapq.heappop(self._waiting)

    def _take(self, size: int, documents: int) -> None:
        self._documents += documents
        self._bytes += size
