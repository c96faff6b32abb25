"""Documents that were stored gzipped, whether their name or the store says so or not: unpacked, within bounds."""

from __future__ import annotations

import zlib

from workers.extract.files.kinds import Kind, kind_of
from workers.extract.files.unreadable import Unreadable

MOST_UNPACKED = 64 * 2**20
"""Bytes; a process that extracts has 384 MiB."""


def unpacked(key: str, data: bytes, kind: Kind) -> tuple[str, bytes, Kind]:
    """Unpacks a document, of one gzip member or several.

    Args:
        kind: `GZIP_MAIN` where of an HTML page the main text alone is wanted.

    Returns:
        The key without its `.gz`, the bytes, and what they are.

    Raises:
        Unreadable: `decompression_bomb`, `corrupt`, `empty`, `unsupported_format` for what is packed twice.
    """
    data = _gunzipped(data)
    if not data or data.isspace():
        raise Unreadable("empty", "the document is gzip data, and empty")
    if key.lower().endswith(".gz"):
        key = key[: -len(".gz")]
    within = kind_of(key, data)
    if within is Kind.GZIP:
        raise Unreadable("unsupported_format", "the document is gzip data within gzip data")
    if within is Kind.HTML and kind is Kind.GZIP_MAIN:
        within = Kind.HTML_MAIN
    return key, data, within


def _gunzipped(data: bytes) -> bytes:
    parts: list[bytes] = []
    left = MOST_UNPACKED
    while data.startswith(b"\x1f\x8b"):  # what follows the last member is padding, as gunzip takes it
        member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        try:
            parts.append(member.decompress(data, left + 1))
        except zlib.error as error:
            raise Unreadable("corrupt", f"the document is gzip data, and damaged: {error}") from None
        left -= len(parts[-1])
        if left < 0:
            raise Unreadable(
                "decompression_bomb", f"the document is gzip data that unpacks to more than {MOST_UNPACKED:,} bytes"
            )
        if not member.eof:
            raise Unreadable("corrupt", "the document is gzip data, and ends too early")
        data = member.unused_data
    return b"".join(parts)
