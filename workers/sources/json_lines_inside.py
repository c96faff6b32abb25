"""Whether an object that is called `.json` holds one JSON document, or JSON Lines, as Spark, BigQuery and Athena do.

Its first bytes tell: behind the first whole object another one begins. One object alone, or an array, is a document.
"""

from __future__ import annotations

from itertools import islice

from workers.sources.json_layout import text_of
from workers.sources.json_values import behind_separators, end_of_value
from workers.sources.objects import SourceObject
from workers.sources.row import Broken

FIRST_LOOK, SECOND_LOOK = 16 * 2**10, 2**20
"""Bytes of the object that are read; the second time where the first object is larger, and stands in one line."""


def holds_json_lines(source: SourceObject) -> bool:
    """Blocking. Of an object that cannot be unpacked False: who reads it as a document says why.

    Raises `StorageError` of one that cannot be read: what it holds is not known, and rows are no document.
    """
    for most in (FIRST_LOOK, SECOND_LOOK):
        size = min(source.size, most)
        if not size:
            return False
        text = _beginning(source.read_any(0, size), most)
        at = behind_separators(text)
        if text[at : at + 1] != b"{":
            return False
        end = end_of_value(text, at)
        if end >= 0:
            follows = behind_separators(text, end)
            if follows < len(text):
                return text[follows : follows + 1] == b"{"
        elif b"\n" in text[at:]:
            return False  # written over several lines: a document, or the first of objects of more than a line each
        if size == source.size:
            return False
    return False


def _beginning(data: bytes, most: int) -> bytes:
    """The text of an object's first bytes; what breaks off breaks off."""
    pieces: list[bytes] = []
    try:
        _, text = text_of(iter([data]))
        for piece in islice(text, 1 + most // 1024):
            pieces.append(piece)
            if sum(map(len, pieces)) >= most:
                break
    except Broken:
        pass
    return b"".join(pieces)
