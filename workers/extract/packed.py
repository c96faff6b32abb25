"""Documents within gzip data, unpacked within bounds, whether names say so or not; and what a zip archive is."""

from __future__ import annotations

import zlib

from batch.schema.error_types import ErrorType
from workers.extract.files.archives import Archive
from workers.extract.files.extracted import Unreadable
from workers.extract.files.kinds import Kind, kind_of
from workers.extract.files.packages import MAIN

MOST_UNPACKED = 64 * 2**20
"""Bytes; a process that extracts has 384 MiB."""
_EPUB = "application/epub+zip"
_OPEN_DOCUMENT = {
    "opendocument.text": "an OpenDocument text (ODT)",
    "opendocument.spreadsheet": "an OpenDocument spreadsheet (ODS)",
    "opendocument.presentation": "an OpenDocument presentation (ODP)",
    "opendocument.graphics": "an OpenDocument drawing (ODG)",
}
_KNOWN = {
    "index/document.iwa": "an iWork document (Pages, Numbers or Keynote)",
    "index.xml": "an iWork document (Pages, Numbers or Keynote)",
    "index.apxl": "an iWork document (Pages, Numbers or Keynote)",
    "content.xml": "an OpenDocument document",
    "meta-inf/manifest.mf": "a Java archive",
}
"""Archives that say what they are by a part alone, in small letters."""


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
        raise Unreadable(ErrorType.EMPTY, "the document is gzip data, and empty")
    if key.lower().endswith(".gz"):
        key = key[: -len(".gz")]
    within = kind_of(key, data)
    if within is Kind.GZIP:
        raise Unreadable(ErrorType.UNSUPPORTED_FORMAT, "the document is gzip data within gzip data")
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
            raise Unreadable(ErrorType.CORRUPT, f"the document is gzip data, and damaged: {error}") from None
        left -= len(parts[-1])
        if left < 0:
            message = f"the document is gzip data that unpacks to more than {MOST_UNPACKED:,} bytes"
            raise Unreadable(ErrorType.DECOMPRESSION_BOMB, message)
        if not member.eof:
            raise Unreadable(ErrorType.CORRUPT, "the document is gzip data, and ends too early")
        data = member.unused_data
    return b"".join(parts)


def is_epub(archive: Archive) -> bool:
    """Tells whether an archive is an EPUB, as its type says; one without a type may be a package of Office.

    Raises `Unreadable` for archives of other types, and for those that are neither.
    """
    names = {name.lower() for name in archive.names}
    is_package = "[content_types].xml" in names or not names.isdisjoint(MAIN.values())
    if "mimetype" in archive.names and not is_package:
        kind = archive.read("mimetype").strip()[:80].decode("latin-1")
        if kind == _EPUB:
            return True
        name = next((name for word, name in _OPEN_DOCUMENT.items() if word in kind), f"an archive of the type {kind}")
        raise Unreadable(ErrorType.UNSUPPORTED_FORMAT, f"the document is {name}")
    if is_package:
        return False
    if "meta-inf/container.xml" in names:
        return True
    known = (name for part, name in _KNOWN.items() if part in names)
    name = next(known, "a zip archive, but no DOCX, PPTX, XLSX or EPUB")
    raise Unreadable(ErrorType.UNSUPPORTED_FORMAT, f"the document is {name}")
