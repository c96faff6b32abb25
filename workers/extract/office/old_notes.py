"""Speaker notes of PPT presentations ([MS-PPT]), which the library leaves out.

The document says which notes it has, and where they are since it was saved last (2.1.2 and 2.4.14.6 there).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_DOCUMENT, _NOTES, _PERSISTS, _LIST, _EDIT, _DIRECTORY = 0x03E8, 0x03F0, 0x03F3, 0x0FF0, 0x0FF5, 0x1772
_TEXT_KIND, _LETTERS, _BYTES = 0x0F9F, 0x0FA0, 0x0FA8
_OF_NOTES = (2, 4)
"""Kinds of text: notes, and text boxes beside them; others are titles of the slide that the page shows."""
_NOTES_LIST = 2
_FIELD = "*"
"""In the place of a page's number or date."""
MOST_EDITS = 10_000


def notes_of(stream: bytes, current: bytes) -> list[str]:
    """Reads the notes in their order, empty ones left out; none where the file does not say where they are.

    Args:
        stream: `PowerPoint Document`.
        current: `Current User`.
    """
    try:
        places, document = _places(stream, struct.unpack_from("<I", current, 16)[0])
        listed = [each for each in _inside(stream, places[document], _DOCUMENT) if each[:2] == (_LIST, _NOTES_LIST)]
        persists = [
            struct.unpack_from("<I", stream, at)[0]
            for _, _, start, size in listed
            for kind, _, at, _ in _records(stream, start, start + size)
            if kind == _PERSISTS
        ]
        found = [_text(stream, places[each]) for each in dict.fromkeys(persists) if each in places]
    except (struct.error, KeyError):
        return []
    return [text for text in found if text]


def _places(stream: bytes, edit: int) -> tuple[dict[int, int], int]:
    """Tells where each part lies after all edits, the last one first, and which of them is the document."""
    places: dict[int, int] = {}
    document = None
    for _ in range(MOST_EDITS):
        kind, before, directory, part = struct.unpack_from("<2xH12xIII", stream, edit)
        if kind != _EDIT:
            break
        document = part if document is None else document
        kind, size = struct.unpack_from("<2xHI", stream, directory)
        at, end = directory + 8, directory + 8 + size
        while kind == _DIRECTORY and at + 4 <= end:
            (packed,) = struct.unpack_from("<I", stream, at)
            first, count = packed & 0xFFFFF, packed >> 20
            for number, place in enumerate(struct.unpack_from(f"<{count}I", stream, at + 4), first):
                places.setdefault(number, place)
            at += 4 + 4 * count
        if not 0 < before < edit:
            break
        edit = before
    if document is None:
        raise KeyError(edit)
    return places, document


def _text(stream: bytes, at: int) -> str:
    lines, kind_of_text = [], None
    opened = [_inside(stream, at, _NOTES)]
    while opened:
        record = next(opened[-1], None)
        if record is None:
            opened.pop()
            continue
        kind, _, start, size = record
        data = stream[start : start + size]
        if kind == _TEXT_KIND and size >= 4:
            (kind_of_text,) = struct.unpack_from("<I", data)
        elif kind in (_LETTERS, _BYTES) and kind_of_text in _OF_NOTES:
            text = data.decode("utf-16-le" if kind == _LETTERS else "latin-1", "replace")
            lines += [text.replace("\r", "\n").replace("\x0b", "\n").strip()]
        elif stream[start - 8] & 0xF == 0xF and len(opened) < 100:
            opened.append(_records(stream, start, start + size))
    return "\n".join(line for line in lines if line not in ("", _FIELD))


def _inside(stream: bytes, at: int, wanted: int) -> Iterator[tuple[int, int, int, int]]:
    """Yields the records of a container, if it is one of the kind `wanted`."""
    kind, size = struct.unpack_from("<2xHI", stream, at)
    return _records(stream, at + 8, at + 8 + size) if kind == wanted else iter(())


def _records(stream: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Kind, instance, start and size of each record's contents."""
    end = min(end, len(stream))
    while at + 8 <= end:
        head, kind, size = struct.unpack_from("<HHI", stream, at)
        yield kind, head >> 4, at + 8, min(size, end - at - 8)
        at += 8 + size
