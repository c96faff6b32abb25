"""How many documents, and how many bytes of them, a run may hold in a process' memory at once."""

from __future__ import annotations

import asyncio
from collections import deque

MOST_BYTES = 256 * 2**20
AHEAD = 32
"""Documents fetched and rendered ahead of those in flight, so that a freed permit finds one ready."""


class Room:
    """A semaphore over documents and bytes, first come first served; one document always fits into an empty room."""

    def __init__(self, *, documents: int, size: int = MOST_BYTES) -> None:
        self._most_documents = documents + AHEAD
        self._most_bytes = size
        self._documents = 0
        self._bytes = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    def _fits(self, size: int) -> bool:
        return self._documents == 0 or (
            self._documents < self._most_documents and self._bytes + size <= self._most_bytes
        )

    async def enter(self, size: int) -> None:
        """Waits until a document of `size` bytes fits, and takes its place."""
        if not self._waiting and self._fits(size):
            self._take(size)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((future, size))
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.leave(size)
            raise

    def leave(self, size: int) -> None:
        """Gives the place back."""
        self._documents -= 1
        self._bytes -= size
        while self._waiting:
            future, wanted = self._waiting[0]
            if future.cancelled():
                self._waiting.popleft()
            elif self._fits(wanted):
                self._waiting.popleft()
                self._take(wanted)
                future.set_result(None)
            else:
                return

    def _take(self, size: int) -> None:
        self._documents += 1
        self._bytes += size
