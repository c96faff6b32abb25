"""An object as a file: each read is one ranged GET. Parquet readers ask for few and large ranges."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence


class RangedFile(io.RawIOBase):
    """Seekable, of `size` bytes; `read_range` gives those from a start up to an end. Blocking: for threads."""

    def __init__(self, size: int, read_range: Callable[[int, int], bytes]) -> None:
        super().__init__()
        self._size, self._read_range, self._at = size, read_range, 0
        self._ahead: dict[tuple[int, int], bytes] = {}
        self.failure: Exception | None = None
        """What the last read that failed failed of: some readers say only that the file is broken."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._size, self._at + size)
        if end <= self._at:
            return b""
        data = self._ahead.pop((self._at, end), None) or self._fetch(self._at, end)
        self._at += len(data)
        return data

    def ahead(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of each, from a start up to an end. Held until just these are read, or the next call."""
        within = [(max(0, start), min(self._size, end)) for start, end in ranges]
        self._ahead = {(start, end): self._fetch(start, end) for start, end in within if start < end}
        return [self._ahead.get(each, b"") for each in within]

    def _fetch(self, start: int, end: int) -> bytes:
        try:
            return self._read_range(start, end)
        except Exception as error:
            self.failure = error
            raise
