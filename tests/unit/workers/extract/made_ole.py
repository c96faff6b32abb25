"""OLE containers ([MS-CFB]) of a few streams, which no library here writes."""

from __future__ import annotations

import struct

SECTOR = 512
FREE, END, FAT = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD
SMALLEST = 4096
"""Bytes below which a stream would have to lie in small sectors: so each gets that many."""


def ole(streams: dict[str, bytes]) -> bytes:
    """The streams lie in the root, one after the other."""
    body, table, places = b"", [], []
    for data in streams.values():
        padded = data.ljust(max(SMALLEST, -(-len(data) // SECTOR) * SECTOR), b"\0")
        places.append((len(table), len(padded)))
        count = len(padded) // SECTOR
        table += [*range(len(table) + 1, len(table) + count), END]
        body += padded
    entries = [_entry("Root Entry", 5, child=1, start=END, size=0)]
    for at, (name, (start, size)) in enumerate(zip(streams, places, strict=True), 1):
        right = at + 1 if at < len(streams) else FREE
        entries.append(_entry(name, 2, right=right, start=start, size=size))
    directory = b"".join(entries)
    directory += bytes(-len(directory) % SECTOR)
    first, count = len(table), len(directory) // SECTOR
    table += [*range(first + 1, first + count), END, FAT]
    assert len(table) <= SECTOR // 4
    head = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack("<HHHHH6x", 0x3E, 3, 0xFFFE, 9, 6)
    head += struct.pack("<IIIIIIIII", 0, 1, first, 0, SMALLEST, END, 0, END, 0)
    head += struct.pack("<I", len(table) - 1) + b"\xff" * 4 * 108
    return head + body + directory + struct.pack(f"<{len(table)}I", *table).ljust(SECTOR, b"\xff")


def _entry(name: str, kind: int, *, right: int = FREE, child: int = FREE, start: int, size: int) -> bytes:
    raw = name.encode("utf-16-le")
    return (
        raw.ljust(64, b"\0")
        + struct.pack("<HBBIII", len(raw) + 2, kind, 1, FREE, right, child)
        + bytes(36)
        + struct.pack("<IQ", start, size)
    )
