"""Input files of batches, on this machine's disk until the provider has taken them; bounded as it bounds them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from workers.llm.batches import MOST_BYTES, MOST_REQUESTS

BYTES_A_TOKEN = 4


@dataclass
class Spool:
    """One input file. `places`: of its lines' documents in the plan; see `workers.batch_records.BatchRecord`."""

    path: Path
    places: list[int] = field(default_factory=list)
    etags: dict[str, str] = field(default_factory=dict)
    in_words: list[int] = field(default_factory=list)
    size: int = 0

    @property
    def tokens(self) -> int:
        """Of its prompts, about."""
        return self.size // BYTES_A_TOKEN

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


class SpoolWriter:
    """Writes lines into as few files as the bounds allow; a context manager.

    Args:
        folder: where to.
        number: of the first file, in its name.
        tokens: at most in a file, None where no limit of enqueued tokens is known.
    """

    def __init__(
        self,
        folder: Path,
        number: int,
        *,
        tokens: int | None,
        requests: int = MOST_REQUESTS,
        size: int = MOST_BYTES,
    ) -> None:
        self._folder, self._number, self._requests = folder, number, requests
        self._size = size if tokens is None else min(size, tokens * BYTES_A_TOKEN)
        self._file: BinaryIO | None = None
        self.spools: list[Spool] = []

    def __enter__(self) -> SpoolWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, place: int, line: bytes, *, etag: str | None, in_words: bool) -> None:
        """Takes a document's line; `etag` where it is not the planned one."""
        spool = self.spools[-1] if self.spools else None
        if spool is None or len(spool.places) == self._requests or spool.size + len(line) > self._size:
            spool = self._open()
        assert self._file is not None
        self._file.write(line)
        spool.size += len(line)
        spool.places.append(place)
        if etag is not None:
            spool.etags[str(place)] = etag
        if in_words:
            spool.in_words.append(place)

    def _open(self) -> Spool:
        if self._file is not None:
            self._file.close()
        spool = Spool(self._folder / f"input-{self._number + len(self.spools):04d}.jsonl")
        self._file = spool.path.open("wb")
        self.spools.append(spool)
        return spool
