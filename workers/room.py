"""How many documents, and how many bytes of them, a run may hold in a process' memory at once."""

from __future__ import annotations

import asyncio
from collections import deque

MOST_BYTES = 256 * 2**20
AHEAD = 128
"""Documents fetched and rendered ahead of those in flight, so that a freed permit finds one ready."""


class Room:
    """A semaphore over documents and bytes, first come first served; one document always fits into an empty room."""

    def __init__(self, *, documents: int, size: int = MOST_BYTES) -> None:
        self._most_documents = documents + AHEAD
        self._most_bytes = size
        self._documents = 0
        self._bytes = 0
        self._waiting: deque[tuple[asyncio.Future[None], int, int]] = deque()

    def _fits(self, size: int, documents: int) -> bool:
        return self._documents == 0 or (
            self._documents + documents <= self._most_documents and self._bytes + size <= self._most_bytes
        )

    async def enter(self, size: int, documents: int = 1) -> None:
        """Waits until `documents` of `size` bytes together fit, and takes their places."""
        if not self._waiting and self._fits(size, documents):
            self._take(size, documents)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((future, size, documents))
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
            future, wanted, count = self._waiting[0]
            if future.cancelled():
                self._waiting.popleft()
            elif self._fits(wanted, count):
                self._waiting.popleft()
                self._take(wanted, count)
                future.set_result(None)
            else:
                return

    def _take(self, size: int, documents: int) -> None:
        self._documents += documents
        self._bytes += size
