"""Speaker notes of PPT presentations: those that the last save has, in their order."""

from __future__ import annotations

import struct

from workers.extract.office.old_notes import notes_of

DOCUMENT, NOTES, PERSISTS, LIST, EDIT, DIRECTORY = 0x03E8, 0x03F0, 0x03F3, 0x0FF0, 0x0FF5, 0x1772
TEXT_KIND, LETTERS, BYTES = 0x0F9F, 0x0FA0, 0x0FA8


def record(kind: int, data: bytes, *, instance: int = 0, holds: bool = False) -> bytes:
    return struct.pack("<HHI", instance << 4 | 0xF * holds, kind, len(data)) + data


def page(text: bytes, *, kind: int = LETTERS, of: int = 2) -> bytes:
    within = record(TEXT_KIND, struct.pack("<I", of)) + record(kind, text)
    return record(NOTES, record(0xF00C, record(0xF00D, within, holds=True), holds=True), holds=True)


def presentation(*edits: dict[int, bytes]) -> tuple[bytes, bytes]:
    """`edits`: what each save wrote anew, by its number; 1 is the document."""
    stream, edit = b"", 0
    for parts in edits:
        directory = b""
        for number, part in parts.items():
            directory += struct.pack("<II", 1 << 20 | number, len(stream))
            stream += part
        where = len(stream)
        stream += record(DIRECTORY, directory)
        before, edit = edit, len(stream)
        stream += record(EDIT, struct.pack("<IIIII", 0, 0, before, where, 1) + bytes(8))
    return stream, record(0x0FF6, struct.pack("<III", 20, 0xE391C05F, edit))


def listing(*numbers: int) -> bytes:
    persists = b"".join(record(PERSISTS, struct.pack("<I", number) + bytes(16)) for number in numbers)
    return record(DOCUMENT, record(LIST, persists, instance=2, holds=True), holds=True)


def test_notes_are_those_of_the_last_save_in_their_order() -> None:
    first = {1: listing(2, 3), 2: page("Say hello ☺".encode("utf-16-le")), 3: page(b"an old one", kind=BYTES)}
    second = {
        1: listing(3, 2, 4),
        3: page(b"Caf\xe9\rat ten", kind=BYTES),
        4: page(b"A slide's title", kind=BYTES, of=0),
    }
    assert notes_of(*presentation(first, second)) == ["Café\nat ten", "Say hello ☺"]


def test_what_is_damaged_has_no_notes_and_costs_no_slides() -> None:
    stream, current = presentation({1: listing(2), 2: page(b"notes", kind=BYTES)})
    assert notes_of(stream, current) == ["notes"]
    assert notes_of(stream, b"") == notes_of(b"", current) == notes_of(stream[:-40], current) == []
    for at in range(len(stream)):
        notes_of(stream[:at] + b"\xff" + stream[at + 1 :], current)
