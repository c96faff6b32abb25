"""What a JSONL object is made of, by its first bytes: packed or not, which encoding, lines or just objects.

Names do not tell: HTTP clients and S3 tools unpack on the way, PowerShell writes UTF-16, Firehose puts no newline
between its records, and what is called `.jsonl` may be one array.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from itertools import chain, islice

import orjson

from workers.sources.compression import PACKINGS, refused_packing, unpacked
from workers.sources.json_values import behind_separators, end_of_value, shown
from workers.sources.objects import SourceObject
from workers.sources.row import Broken

HEAD = 64 * 2**10
"""Bytes by which the layout is judged, or more where the first object is larger."""
BEGINNING = 32
"""Bytes that tell a compression and an encoding."""
LAYERS = 3
"""Compressions within one another, at most: what is packed on upload and once more by the client."""
_UTF32, _UTF16 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE), (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
FIRST_LOOK, SECOND_LOOK = 16 * 2**10, 2**20
"""Bytes of the object that are read; the second time where the first object is larger, and stands in one line."""


def text_of(chunks: Iterator[bytes]) -> tuple[bool, Iterator[bytes]]:
    """Whether the text is stored as it is, and its pieces in UTF-8. Raises `Broken` for packings that are not read."""
    as_stored, pieces = True, chunks
    for _ in range(LAYERS):
        first, pieces = _begun(pieces)
        if (refused := refused_packing(first)) is not None:
            raise Broken(f"it is {refused}, which is not read: write gzip, Zstandard, bzip2, xz, or no compression")
        if not first.startswith(PACKINGS):
            break
        as_stored, pieces = False, unpacked(first, pieces)
    else:
        raise Broken(f"it is compressed more than {LAYERS - 1} times")
    encoding = _encoding(first)
    return (as_stored, pieces) if encoding is None else (False, _decoded(pieces, encoding))


def _begun(pieces: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """Returns the beginning of a stream, enough to tell what it is, and all of it."""
    first = b""
    try:
        while len(first) < BEGINNING and (piece := next(pieces, None)) is not None:
            first += piece
    except Exception as error:  # what lies before a break stays
        return first, chain([first], _raising(error))
    return first, chain([first], pieces)


def _encoding(first: bytes) -> str | None:
    """Another one than UTF-8, told by its byte order mark, or by the zeros beside its first character."""
    if first.startswith(_UTF32):
        return "utf-32"
    if first.startswith(_UTF16):
        return "utf-16"
    head = first[:4]
    if len(head) == 4 and (head[:1] in b"{[\r\n " and head[1] == 0 and head[2] and head[3] == 0):
        return "utf-16-le"
    if len(head) == 4 and (head[0] == 0 and head[1:2] in b"{[\r\n " and head[2] == 0 and head[3]):
        return "utf-16-be"
    return None


def _decoded(pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    for piece in pieces:
        if text := decoder.decode(piece):
            yield text.encode(errors="replace")
    if text := decoder.decode(b"", final=True):
        yield text.encode(errors="replace")


def by_lines(pieces: Iterator[bytes], limit: int) -> tuple[bool, Iterator[bytes]]:
    """Tells whether each line is a row, else objects follow one another somehow; and the pieces, of which none is lost.

    Raises `Broken` where no line of the beginning is JSON.
    """
    head, ended, size = b"", False, 0
    failure: Exception | None = None
    while not ended:
        taken: list[bytes] = [head]
        have = len(head)
        while have < size or have == len(head):
            try:
                piece = next(pieces, None)
            except Exception as error:  # what lies before a break stays
                failure, piece = error, None
            if piece is None:
                ended = True
                break
            taken.append(piece)
            have += len(piece)
        head = b"".join(taken)
        verdict = _verdict(head, ended=ended or len(head) > limit)
        if verdict is not None:
            break
        size = 2 * len(head)
    else:
        verdict = True
    rest = pieces if failure is None else _raising(failure)
    return verdict, chain([head] if head else [], rest)


def _verdict(head: bytes, *, ended: bool) -> bool | None:
    """None: more of it has to be seen."""
    at = behind_separators(head)
    if at == len(head):
        return True if ended or at >= HEAD else None
    if head[at : at + 1] == b"[":
        return False
    if head[at : at + 1] != b"{":
        return _of_other_beginning(head, at, ended=ended)
    end, newline = end_of_value(head, at), head.find(b"\n", at)
    if newline < 0 or (0 <= end <= newline):
        if end < 0:
            return True if ended else None
        if newline >= 0:
            return True
        rest = head[behind_separators(head, end) :]
        if rest:
            return not rest.startswith(b"{")
        return True if ended else None
    if end >= 0 and is_object(head[at:end]):
        return False
    lines = [line for line in head[newline + 1 :].split(b"\n", 8)[:8] if line.strip()]
    if any(map(is_object, lines[:1])):
        return True
    if end < 0 and not ended:
        return None
    return bool(lines) and lines[0].lstrip().startswith(b"{")


def _of_other_beginning(head: bytes, at: int, *, ended: bool) -> bool | None:
    lines = head[at:].split(b"\n")
    if any(line.lstrip(b" \t\x1e").startswith(b"{") for line in lines[1:]) or (ended and len(lines) == 1):
        return True
    if not ended and len(head) < HEAD:
        return None
    raise Broken(f"it is no JSON: it begins with {shown(head[at:])}")


def is_object(data: bytes) -> bool:
    """Tells whether it is one JSON object, with a comma behind it at most."""
    try:
        return isinstance(orjson.loads(data.strip().removesuffix(b",")), dict)
    except orjson.JSONDecodeError:
        return False


def _raising(error: Exception) -> Iterator[bytes]:
    raise error
    yield b""


def holds_json_lines(source: SourceObject) -> bool:
    """Tells whether an object that is called `.json` holds JSON Lines, as Spark, BigQuery and Athena write them.

    Behind the first whole object another one begins then. One object alone, or an array, is a document. Blocking. Of an
    object that cannot be unpacked False: who reads it as a document says why.

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
    """Returns the text of an object's first bytes; what breaks off breaks off."""
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
