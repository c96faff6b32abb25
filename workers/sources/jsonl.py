"""JSONL, plain or compressed: a row a line. Read as a stream; no line is held that is longer than a row may be.

Whether it is compressed, and whether its objects stand one a line at all, its first bytes say (`json_layout`). Each
line goes to a strict and fast parser first; what that does not take is looked at once more (`json_values`).
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import orjson

from batch.corpus.cursor import Place
from batch.job.formats import COMPRESSED
from batch.schema.error_types import ErrorType
from workers.sources.json_layout import by_lines, is_object, text_of
from workers.sources.json_values import (
    BadJson,
    EndOfValue,
    behind_separators,
    is_inexact,
    objects_of_line,
    tolerant,
    values,
)
from workers.sources.objects import SourceObject
from workers.sources.row import Broken, SourceRow, Wanted

MOST_WITHOUT_ROW = 256 * 2**20
"""Bytes that compressed JSONL may unfold to since its last row, or twice the longest row if that is more: a few KB of
Zstandard hold a line without end."""
MOST_LINES = 1000
"""Lines that one object may be written over, among objects that stand one a line."""
BLANK = 64
"""Bytes that a blank line counts for, as it takes longer than its own: millions of them are no rows either."""
_BOM = b"\xef\xbb\xbf"
_EXPONENT = re.compile(r"[0-9]e[0-9]")
"""How a number of 2^63 and more is written that was read as a float."""
_MAY_BE_SEVERAL = re.compile(rb"\}(?:[\s,\x1e]|\xef\xbb\xbf)*\{")


@dataclass(slots=True)
class Line:
    """A line without its newline, and the bytes from the stream's start to behind it. Of one that is too long, `data`
    is None, `digest` that of its bytes and `size` their number."""

    data: bytes | None
    end: int
    digest: str = ""
    size: int = 0
    start: int = field(default=0, compare=False)


def jsonl_rows(source: SourceObject, wanted: Wanted, start: Place) -> Iterator[SourceRow]:
    """Yields the rows after `start`; empty lines are none. Raises `Broken`, `StorageError`.

    A place counts lines, and each object of a line that holds several; where a row is no line, just the objects.
    """
    unfolded = _Unfolded(max(MOST_WITHOUT_ROW, 2 * wanted.limit))
    if start.offset:
        found = lines(source.chunks(start.offset), wanted.limit, start.offset)
        yield from _rows_of_lines(found, wanted, unfolded, start.rows, skip=0, as_stored=True)
        return
    as_stored, pieces = text_of(source.chunks())
    if not as_stored:
        pieces = unfolded.counted(pieces)
    elif source.key.lower().endswith(COMPRESSED):
        pieces = _json_after_all(pieces)
    has_lines, pieces = by_lines(pieces, wanted.limit)
    if has_lines:
        found = lines(pieces, wanted.limit)
        yield from _rows_of_lines(found, wanted, unfolded, 0, skip=start.rows, as_stored=as_stored)
    else:
        yield from _rows_of_values(pieces, wanted, unfolded, skip=start.rows)


class _Ahead:
    """Lines, of which some may be taken on trial and given back."""

    def __init__(self, found: Iterator[Line]) -> None:
        self._found, self._waiting = found, deque[Line]()
        self._failure: Exception | None = None

    def take(self) -> Line | None:
        """Returns the next one; None: there is no more. Raises what reading raises, once all before has been taken."""
        if self._waiting:
            return self._waiting.popleft()
        if self._failure is not None:
            raise self._failure
        return next(self._found, None)

    def object_from(self, line: Line, limit: int) -> list[Line]:
        """The lines of an object that begins with `line` and goes on over more; nothing: it is none. Takes those."""
        assert line.data is not None
        end, at = EndOfValue(), behind_separators(line.data)
        if line.data[at : at + 1] != b"{" or end.find(line.data, at) >= 0:
            return []
        taken, size = [line], len(line.data)
        while size <= limit and len(taken) < MOST_LINES:
            try:
                more = self.take()
            except Exception as error:  # what lies before a break stays
                self._failure = error
                break
            if more is None:
                break
            taken.append(more)
            if more.data is None or (more.data.startswith(b"{") and is_object(more.data)):
                break
            size += 1 + len(more.data)
            if (behind := end.find(more.data, 0)) >= 0:
                if more.data[behind:].strip(b" \t\r,"):
                    break
                return taken
        self._waiting.extendleft(reversed(taken[1:]))
        return []


def _rows_of_lines(
    found: Iterator[Line], wanted: Wanted, unfolded: _Unfolded, number: int, *, skip: int, as_stored: bool
) -> Iterator[SourceRow]:
    ahead, tries = _Ahead(found), True
    while (line := ahead.take()) is not None:
        looks_whole = line.data is not None and line.data[:1] == b"{" and line.data.rstrip()[-1:] == b"}"
        tries = tries or looks_whole
        if number < skip and (line.data is None or (looks_whole and not _MAY_BE_SEVERAL.search(line.data))):
            number += 1
            unfolded.since_row = 0
            continue
        where = f"line {number + 1:,}"
        if line.data is None:
            number += 1
            unfolded.since_row = 0
            problem = f"{ErrorType.TOO_LARGE}: {where} has {line.size:,} bytes; the limit is {wanted.limit:,}"
            place = Place(number, line.end if as_stored else 0)
            yield SourceRow(line.digest[:16], place, etag=line.digest, problem=problem)
            continue
        data = line.data.removeprefix(_BOM) if number == 0 else line.data
        if not data or data.isspace():
            number += 1
            unfolded.since_row += BLANK
            continue
        unfolded.since_row = 0
        if (row := _strict(data, wanted, Place(number + 1, line.end if as_stored else 0), where)) is not None:
            number += 1
            if number > skip:
                yield row
            continue
        parts = objects_of_line(line.data)
        if not parts and tries and not looks_whole:
            if of_object := ahead.object_from(line, wanted.limit):
                number += len(of_object)
                if number > skip:
                    whole = b"\n".join(each.data or b"" for each in of_object)
                    place = Place(number, of_object[-1].end if as_stored else 0)
                    yield _strict(whole, wanted, place, where) or _tolerant(whole, wanted, place, where)
                continue
            tries = False  # until a line looks sound again: each trial reads on
        for at, end in parts or [(0, len(line.data))]:
            number += 1
            if number <= skip:
                continue
            behind = line.start + end if parts and end != parts[-1][1] else line.end
            place = Place(number, behind if as_stored else 0)
            part = line.data[at:end] if len(parts) > 1 else data
            yield _strict(part, wanted, place, where) or _tolerant(part, wanted, place, where)


def _rows_of_values(pieces: Iterator[bytes], wanted: Wanted, unfolded: _Unfolded, *, skip: int) -> Iterator[SourceRow]:
    for number, value in enumerate(values(pieces, wanted.limit), 1):
        unfolded.since_row = 0
        if number <= skip:
            continue
        place, where = Place(number), f"object {number:,}"
        if value.data is None:
            problem = f"{ErrorType.TOO_LARGE}: {where} has {value.size:,} bytes; the limit is {wanted.limit:,}"
            yield SourceRow(value.digest[:16], place, etag=value.digest, problem=problem)
        else:
            yield _strict(value.data, wanted, place, where) or _tolerant(value.data, wanted, place, where)


def _json_after_all(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yields the pieces of what is called compressed, and is not. Raises `Broken` if it is no JSON either."""
    for number, piece in enumerate(pieces):
        if number == 0 and piece and not piece.lstrip().startswith((b"{", b"[", b"\x1e", _BOM)):
            raise Broken("by its name it is compressed, and it holds no compression that is read, and no JSON")
        yield piece


class _Unfolded:
    """How many bytes came out of the compression `since_row`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.since_row = 0

    def counted(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Yields the pieces. Raises `Broken` once they are more than may be without a row."""
        for piece in pieces:
            self.since_row += len(piece)
            if self.since_row > self._most:
                raise Broken(f"it unfolds to more than {self._most:,} bytes without a row")
            yield piece


def _strict(data: bytes, wanted: Wanted, place: Place, where: str) -> SourceRow | None:
    """Returns the row of a JSON object; None where the fast parser does not take it, or not exactly."""
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(found, dict):
        return wanted.bad(f"{where} is no JSON object", place, data)
    row = wanted.row(found, place, where, data)
    may_be_inexact = row.fields is not None and _EXPONENT.search(row.fields) is not None
    if not may_be_inexact and (wanted.id is None or type(found.get(wanted.id)) is not float):
        return row
    return None if any(is_inexact(found.get(name)) for name in wanted.others) else row


def _tolerant(data: bytes, wanted: Wanted, place: Place, where: str) -> SourceRow:
    try:
        found = tolerant(data, wanted)
    except BadJson as error:
        return wanted.bad(f"{where} is no JSON: {error}", place, data)
    return wanted.row(found, place, where, data)


def lines(pieces: Iterator[bytes], limit: int, at: int = 0) -> Iterator[Line]:
    """The lines of a stream whose first piece begins at byte `at`. Of a line past `limit` bytes only its hash is kept.

    What follows the last newline is a line too, unless the stream breaks.
    """
    held: list[bytes] = []
    size, start = 0, at
    passed = None
    for piece in pieces:
        *ends, rest = piece.split(b"\n")
        for end in ends:
            size += len(end)
            at += len(end) + 1
            if passed is None and size <= limit:
                yield Line(b"".join([*held, end]) if held else end, at, start=start)
            else:
                yield _too_long(passed, [*held, end], size, at)
            held, size, passed, start = [], 0, None, at
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
        yield Line(b"".join(held), at, start=start)


def _hashed(passed: hashlib.blake2b | None, parts: list[bytes]) -> hashlib.blake2b:
    passed = passed or hashlib.blake2b(digest_size=16)
    for part in parts:
        passed.update(part)
    return passed


def _too_long(passed: hashlib.blake2b | None, parts: list[bytes], size: int, at: int) -> Line:
    return Line(None, at, _hashed(passed, parts).hexdigest(), size)
