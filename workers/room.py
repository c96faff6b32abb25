"""How many documents, and how many bytes of them, a run may hold in a process' memory at once."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count

MOST_BYTES = 256 * 2**20
AHEAD = 128
"""Documents fetched and rendered ahead of those in flight, so that a freed permit finds one ready."""


class Room:
    """A semaphore over documents and bytes, the lowest turn first; one document always fits into an empty room.

    Partitions that share it take their first documents as they come and all others in `turn`: each soon has an answer
    that is durable, and then they end one after the other. Taking turns all the time, those that began together would
    end together: all results written at once, while calls wait, and a segment of the ledger from each every second.
    """

    def __init__(self, *, documents: int, size: int = MOST_BYTES) -> None:
        self._most_documents = documents + AHEAD
        self._most_bytes = size
        self._documents = 0
        self._bytes = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None], int, int]] = []
        """A heap: turn, place among those of the turn, then who waits for what."""
        self._turns, self._places = count(1), count()

    def turn(self) -> int:
        """After all those that were handed out, and after 0."""
        return next(self._turns)

    def _fits(self, size: int, documents: int) -> bool:
        return self._documents == 0 or (
            self._documents + documents <= self._most_documents and self._bytes + size <= self._most_bytes
        )

    async def enter(self, size: int, documents: int = 1, *, turn: int = 0) -> None:
        """Waits until `documents` of `size` bytes together fit and no lower turn waits, and takes their places."""
        if not self._waiting and self._fits(size, documents):
            self._take(size, documents)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (turn, next(self._places), future, size, documents))
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.leave(size, documents)
            raise

    def leave(self, size: int, documents: int = 1) -> None:
        """Gives the places back."""
        self._documents -= documents
        self._bytes -= size
        while self._waiting:
            _, _, future, wanted, many = self._waiting[0]
            if not future.cancelled():
                if not self._fits(wanted, many):
                    return
                self._take(wanted, many)
                future.set_result(None)
            heapq.heappop(self._waiting)

    def _take(self, size: int, documents: int) -> None:
        self._documents += documents
        self._bytes += size
