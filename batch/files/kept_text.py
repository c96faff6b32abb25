"""The text of a document on its way to the result column `text` (`output.keep_text`): packed, in rows and ledgers.

A partition's rows stay in memory until its commit, several partitions at once, so text waits there at a third of its
size. Only a result file has it plain.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any


def pack(text: str) -> str:
    """A short form, in ASCII, for a row's `text`; takes about 15 ms a megabyte."""
    return base64.b64encode(zlib.compress(text.encode(errors="replace"), 1)).decode("ascii")


def packed(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a result file as rows on their way have it."""
    return row if row.get("text") is None else {**row, "text": pack(row["text"])}


def unpack(packed: str) -> str:
    """The text. Raises `ValueError` or `zlib.error` for what `pack` did not make."""
    return zlib.decompress(base64.b64decode(packed, validate=True)).decode()
