"""Input files of batches, on this machine's disk until the provider has taken them; bounded as it bounds them.

They have no name there: the system removes them with the process, however that ends.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from typing import IO

from workers.batch_mode.api import MOST_BYTES, MOST_REQUESTS

BYTES_A_TOKEN = 4
QUEUE_TRIES = 3
"""Times that a file must find no room before it is cut in two, where it may be the tokens' estimate that is wrong."""
TOKENS_SHARE, MOST_PIECES = 0.8, 20
"""Of the enqueued tokens that a file may take at most, by their estimate; pieces that halves of halves may come to."""


@dataclass
class Spool:
    """One input file. `places`: of its lines' documents in the plan; see
    `workers.batch_mode.batch_records.BatchRecord`."""

    file: IO[bytes] = field(default_factory=tempfile.TemporaryFile)
    places: list[int] = field(default_factory=list)
    etags: dict[str, str] = field(default_factory=dict)
    in_words: list[int] = field(default_factory=list)
    truncated: list[int] = field(default_factory=list)
    pages: dict[str, dict[str, int | None]] = field(default_factory=dict)
    size: int = 0

    @property
    def tokens(self) -> int:
        """Of its prompts, about."""
        return self.size // BYTES_A_TOKEN

    def remove(self) -> None:
        self.file.close()


class SpoolWriter:
    """Writes lines into as few files as the bounds allow.

    Args:
        tokens: at most in a file, None where no limit of enqueued tokens is known.
    """

    def __init__(self, *, tokens: int | None, requests: int = MOST_REQUESTS, size: int = MOST_BYTES) -> None:
        self._requests = requests
        self._size = size if tokens is None else min(size, tokens * BYTES_A_TOKEN)
        self.spools: list[Spool] = []

    def add(
        self,
        place: int,
        line: bytes,
        *,
        etag: str | None,
        in_words: bool,
        truncated: bool = False,
        pages: dict[str, int | None] | None = None,
    ) -> None:
        """Takes a document's line; `etag` where it is not the planned one, `pages` where it has any."""
        spool = self.spools[-1] if self.spools else None
        if spool is None or len(spool.places) == self._requests or spool.size + len(line) > self._size:
            spool = Spool()
            self.spools.append(spool)
        spool.file.write(line)
        spool.size += len(line)
        spool.places.append(place)
        if etag is not None:
            spool.etags[str(place)] = etag
        if in_words:
            spool.in_words.append(place)
        if truncated:
            spool.truncated.append(place)
        if pages is not None:
            spool.pages[str(place)] = pages


def fitting(spool: Spool, *, limit: int | None, tries: int, largest: int) -> int | None:
    """Tokens of the pieces into which to cut a file that finds no room; None to wait with it as it is.

    Args:
        limit: tokens that may be enqueued at once, where the provider says so.
        tries: times in a row that files of its partition found no room.
        largest: tokens of the largest file that did not.
    """
    if limit is not None and spool.tokens > limit * TOKENS_SHARE:
        return max(1, int(limit * TOKENS_SHARE))
    others = limit is not None and spool.tokens < limit // 4  # then it is theirs that fill the queue
    half = max(spool.tokens // 2, largest // MOST_PIECES)
    if others or tries % QUEUE_TRIES or half >= spool.tokens:
        return None
    return half
