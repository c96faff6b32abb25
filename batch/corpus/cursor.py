"""Where planning stands: a cursor is the last key that was taken whole, or a place within an object of rows. Pure.

A key stands for itself, as it always did. A place has a part that no listing gives as a key's end: a NUL.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

_WITHIN = re.compile(r"(.+)\x00(\d+),(\d+),([0-9a-f]{16})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Place:
    """Within an object: `rows` of it are taken, lines of JSONL; `offset` is where the next line begins, in bytes.

    `offset` stays 0 where it is no use: compressed JSONL, Parquet.
    """

    rows: int = 0
    offset: int = 0


def cursor_within(key: str, etag: str, place: Place) -> str:
    """Returns the cursor of a place in one version of an object."""
    return f"{key}\x00{place.rows},{place.offset},{_version(etag)}"


def parse_cursor(cursor: str) -> tuple[str, Place | None, str]:
    """Key, place within it (None: it was taken whole) and the version of the object, as `is_version` knows it."""
    match = _WITHIN.fullmatch(cursor)
    return (match[1], Place(int(match[2]), int(match[3])), match[4]) if match else (cursor, None, "")


def is_version(version: str, etag: str) -> bool:
    """Tells whether the object is still the one in which a place was noted."""
    return version == _version(etag)


def _version(etag: str) -> str:
    return hashlib.blake2b(etag.strip('"').encode(), digest_size=8).hexdigest()
