"""JSON objects that do not stand one a line: where each ends, and what it holds where a strict parser gives up. Pure.

Where an object ends, brackets and strings tell, without a parse: so a stream of objects is cut in bounded memory,
whatever stands between them (nothing, spaces, new lines of any kind, commas, the record separators of RFC 7464).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from workers.sources.row import Broken, Wanted

_BETWEEN = re.compile(rb"(?:[\s,\x1e]|\xef\xbb\xbf)*")
_IN_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_TO_BRACKET = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_QUOTE, _BACKSLASH, _OPEN, _CLOSE = b'"'[0], b"\\"[0], b"{["[:2], b"}]"[:2]
_LONGEST_INTEGER = 4000
"""Digits, near to where Python refuses to read them."""
_SURROGATES = re.compile("[\ud800-\udfff]")
_UNDECODED = re.compile("[\udc80-\udcff]")
"""What stands for bytes that are no UTF-8."""


class BadJson(ValueError):
    """It is no JSON. The message says why."""


class EndOfValue:
    """Looks for the end of a value that begins with a bracket, piece after piece."""

    def __init__(self) -> None:
        self._depth, self._in_string, self._escaped = 0, False, False

    def find(self, data: bytes | bytearray, at: int) -> int:
        """Behind the value's last byte; -1: it goes on after this piece, of which `at` is the first byte not seen."""
        size = len(data)
        while at < size:
            if self._in_string:
                if self._escaped:
                    at, self._escaped = at + 1, False
                    continue
                match = _IN_STRING.match(data, at)
                assert match is not None
                at = match.end()
                if at == size:
                    return -1
                self._escaped = data[at] == _BACKSLASH
                self._in_string = self._escaped
                at += 1
                continue
            match = _TO_BRACKET.match(data, at)
            assert match is not None
            at = match.end()
            if at == size:
                return -1
            byte = data[at]
            at += 1
            if byte == _QUOTE:
                self._in_string = True
            elif byte in _OPEN:
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth <= 0:
                    return at
        return -1


def end_of_value(data: bytes, at: int) -> int:
    """Tells where the value ends that begins with the bracket at `at`; -1: not within these bytes."""
    return EndOfValue().find(data, at)


def behind_separators(data: bytes | bytearray, at: int = 0) -> int:
    """Returns the first byte from `at` on that may begin a value."""
    match = _BETWEEN.match(data, at)
    assert match is not None
    return match.end()


def objects_of_line(data: bytes) -> list[tuple[int, int]]:
    """Tells where the objects of a line begin and end, if it is one or more of them and nothing else; else nothing."""
    found: list[tuple[int, int]] = []
    at = behind_separators(data)
    while at < len(data):
        end = end_of_value(data, at) if data[at] == _OPEN[0] else -1
        if end < 0:
            return []
        found.append((at, end))
        at = behind_separators(data, end)
    return found


@dataclass(slots=True)
class Value:
    """One object of a stream. Of one too long, `data` is None, `digest` that of its bytes, `size` their number."""

    data: bytes | None
    digest: str = ""
    size: int = 0


def values(pieces: Iterator[bytes], limit: int) -> Iterator[Value]:
    """Yields the objects of a stream, those of arrays among them. Raises `Broken` at what is no object, and at a cut.

    An array within an array is given as it is.
    """
    buffer, at, before, in_array = b"", 0, 0, False
    while True:
        at = behind_separators(buffer, at)
        if at == len(buffer):
            before += len(buffer)
            buffer, at = next(pieces, b""), 0
            if not buffer:
                break
            continue
        byte = buffer[at]
        if not in_array and byte == _OPEN[1]:
            in_array, at = True, at + 1
        elif in_array and byte == _CLOSE[1]:
            in_array, at = False, at + 1
        elif byte in _OPEN:
            begins = before + at
            end, passed, size = EndOfValue(), None, 0
            seen = at
            while (found := end.find(buffer, seen)) < 0:
                if passed is not None or len(buffer) - at > limit:
                    passed = passed or hashlib.blake2b(digest_size=16)
                    passed.update(buffer[at:])
                    size += len(buffer) - at
                    before, buffer, at = before + len(buffer), b"", 0
                seen = len(buffer)
                piece = next(pieces, b"")
                if not piece:
                    raise Broken(
                        f"the JSON value that begins at byte {begins:,} has no end: the object is cut off, or no JSON"
                    )
                before, buffer, at, seen = before + at, buffer[at:] + piece, 0, seen - at
            if passed is None and found - at <= limit:
                yield Value(buffer[at:found])
            else:
                passed = passed or hashlib.blake2b(digest_size=16)
                passed.update(buffer[at:found])
                yield Value(None, passed.hexdigest(), size + found - at)
            at = found
        else:
            what = "an element of its JSON array is no object" if in_array else "no JSON object begins"
            raise Broken(f"{what} at byte {before + at:,}: {shown(buffer[at : at + 40])}")
    if in_array:
        raise Broken("its JSON array has no end: the object is cut off")


def shown(data: bytes) -> str:
    """Returns the beginning of some bytes, for a message."""
    return repr(data[:40].decode(errors="replace"))


def tolerant(data: bytes, wanted: Wanted) -> dict[str, Any]:
    """The fields of an object that a strict parser does not take, those that are wanted made whole. Raises `BadJson`.

    Taken are what other programs write: NaN (null) and Infinity (text), numbers of any size (integers of more than 64
    bits and what no float holds are text), control characters in strings, halves of surrogate pairs (U+FFFD, as JSON's
    own RFC 8259 leaves them to us). Bytes that are no UTF-8 matter only in a wanted field.
    """
    text = data.decode(errors="surrogateescape")
    is_utf8 = not _UNDECODED.search(text)
    try:
        values = _DECODER.decode(text.strip("\ufeff\x1e \t\r\n\0,"))
    except RecursionError:
        raise BadJson("it nests too deeply") from None
    except ValueError as error:
        if not is_utf8:
            raise BadJson(_not_utf8(data)) from None
        raise BadJson(_strict_reason(data) or str(error)) from None
    if not isinstance(values, dict):
        raise BadJson("no JSON object")
    for name in wanted.names:
        if name in values:
            values[name] = _whole(values[name], data, is_utf8)
    return values


def _strict_reason(data: bytes) -> str:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError as error:
        return f"{error.msg} at byte {error.pos}"
    return ""


def _not_utf8(data: bytes) -> str:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return f"it is not UTF-8: byte {data[error.start]:#04x} at {error.start}"
    return "it is not UTF-8"


def _whole(value: Any, data: bytes, is_utf8: bool) -> Any:
    if isinstance(value, str):
        if _SURROGATES.search(value):
            if not is_utf8 and _UNDECODED.search(value):
                raise BadJson(_not_utf8(data))
            return _SURROGATES.sub("\ufffd", value)
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return value if -(2**63) <= value < 2**64 else str(value)
    if isinstance(value, list):
        return [_whole(each, data, is_utf8) for each in value]
    if isinstance(value, dict):
        return {_whole(name, data, is_utf8): _whole(each, data, is_utf8) for name, each in value.items()}
    return value


def _number(digits: str) -> float | str:
    found = float(digits)
    return digits if found in (float("inf"), float("-inf")) else found


_DECODER = json.JSONDecoder(
    strict=False,
    parse_constant=lambda name: None if name == "NaN" else name,
    parse_int=lambda digits: int(digits) if len(digits) <= _LONGEST_INTEGER else digits,
    parse_float=_number,
)


def is_inexact(value: object) -> bool:
    """Tells whether a number in it may be an integer that was too large to be read exactly."""
    kind = type(value)
    if kind is float:
        return abs(value) >= 2**63  # type: ignore[arg-type]
    if kind is dict:
        return any(map(is_inexact, value.values()))  # type: ignore[attr-defined]
    return kind is list and any(map(is_inexact, value))  # type: ignore[call-overload]
