"""JSONL, plain or compressed: a row a line. Read as a stream; no line is held that is longer than a row may be.

Whether it is compressed the first bytes say, not the name: HTTP clients and S3 tools unpack on the way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import orjson

from batch.kinds import COMPRESSED
from batch.places import Place
from workers.sources.compression import GZIP, ZSTD, gunzip, unzstd
from workers.sources.objects import SourceObject
from workers.sources.row import TOO_LARGE, Broken, SourceRow, Wanted

MOST_WITHOUT_ROW = 256 * 2**20
"""Bytes that compressed JSONL may unfold to since its last row, or twice the longest row if that is more: a few KB of
Zstandard hold a line without end."""
BLANK = 64
"""Bytes that a blank line counts for, as it takes longer than its own: millions of them are no rows either."""
_BOM = b"\xef\xbb\xbf"


@dataclass(slots=True)
class Line:
    """A line without its newline, and the bytes from the stream's start to behind it. Of one that is too long, `data`
    is None, `digest` that of its bytes and `size` their number."""

    data: bytes | None
    end: int
    digest: str = ""
    size: int = 0


def jsonl_rows(source: SourceObject, wanted: Wanted, start: Place) -> Iterator[SourceRow]:
    """The rows after `start`; empty lines are none. Raises `Broken`, `StorageError`."""
    number, unfolded = start.rows, _Unfolded(max(MOST_WITHOUT_ROW, 2 * wanted.limit))
    if start.offset:
        found = lines(source.chunks(start.offset), wanted.limit, start.offset)
        plain, skip = True, 0
    else:
        plain, pieces = _opened(source)
        found, skip = lines(pieces if plain else unfolded.counted(pieces), wanted.limit), start.rows
        number = 0
    for line in found:
        number += 1
        if number <= skip:
            unfolded.since_row = 0
            continue
        place = Place(number, line.end if plain else 0)
        where = f"line {number:,}"
        if line.data is None:
            unfolded.since_row = 0
            problem = f"{TOO_LARGE}: {where} has {line.size:,} bytes; the limit is {wanted.limit:,}"
            yield SourceRow(line.digest[:16], place, etag=line.digest, problem=problem)
            continue
        data = line.data.removeprefix(_BOM) if number == 1 else line.data
        if data and not data.isspace():
            unfolded.since_row = 0
            yield _row(data, wanted, place, where)
        else:
            unfolded.since_row += BLANK


class _Unfolded:
    """How many bytes came out of the compression `since_row`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.since_row = 0

    def counted(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The pieces. Raises `Broken` once they are more than may be without a row."""
        for piece in pieces:
            self.since_row += len(piece)
            if self.since_row > self._most:
                raise Broken(f"it unfolds to more than {self._most:,} bytes without a row")
            yield piece


def _opened(source: SourceObject) -> tuple[bool, Iterator[bytes]]:
    """Whether its bytes are the text itself, and the pieces of the text."""
    chunks = source.chunks()
    first = next(chunks, b"")
    whole = chain([first], chunks)
    if first.startswith(GZIP):
        return False, gunzip(whole)
    if first.startswith(ZSTD):
        return False, unzstd(whole)
    if source.key.lower().endswith(COMPRESSED) and first and not first.lstrip().startswith((b"{", _BOM)):
        raise Broken("by its name it is compressed, and it holds neither gzip nor Zstandard nor JSON")
    return True, whole


def _row(data: bytes, wanted: Wanted, place: Place, where: str) -> SourceRow:
    try:
        values = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        return wanted.bad(f"{where} is no JSON: {error.msg} at byte {error.pos}", place, data)
    if not isinstance(values, dict):
        return wanted.bad(f"{where} is no JSON object", place, data)
    return wanted.row(values, place, where, data)


def lines(pieces: Iterator[bytes], limit: int, at: int = 0) -> Iterator[Line]:
    """The lines of a stream whose first piece begins at byte `at`. Of a line past `limit` bytes only its hash is kept.

    What follows the last newline is a line too, unless the stream breaks.
    """
    held: list[bytes] = []
    size = 0
    passed = None
    for piece in pieces:
        *ends, rest = piece.split(b"\n")
        for end in ends:
            size += len(end)
            at += len(end) + 1
            if passed is None and size <= limit:
                yield Line(b"".join([*held, end]) if held else end, at)
            else:
                yield _too_long(passed, [*held, end], size, at)
            held, size, passed = [], 0, None
        if rest:
            size += len(rest)
            at += len(rest)
            held.append(rest)
            if passed is not None or size > limit:
                passed = _hashed(passed, held)
                held = []
    if passed is not None:
        yield _too_long(passed, held, size, at)
    elif held:
        yield Line(b"".join(held), at)


def _hashed(passed: hashlib.blake2b | None, parts: list[bytes]) -> hashlib.blake2b:
    passed = passed or hashlib.blake2b(digest_size=16)
    for part in parts:
        passed.update(part)
    return passed


def _too_long(passed: hashlib.blake2b | None, parts: list[bytes], size: int, at: int) -> Line:
    return Line(None, at, _hashed(passed, parts).hexdigest(), size)
