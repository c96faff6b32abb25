"""Whether it is one document that its source does not give, or the whole source."""

from __future__ import annotations

import time

from batch.storage.store import Storage, StorageError


class Reads:
    """The last document that one run could read from its source in this process."""

    def __init__(self) -> None:
        self._at = 0.0
        self._where: tuple[str, str] | None = None

    def note(self, bucket: str, key: str) -> None:
        self._at, self._where = time.monotonic(), (bucket, key)

    async def others_work(self, storage: Storage, since: float) -> bool:
        """Whether another document was read since (monotonic seconds), or the last one that was is still there."""
        if self._at > since:
            return True
        if self._where is None:
            return False
        try:
            return await storage.head(*self._where) is not None
        except StorageError:
            return False
