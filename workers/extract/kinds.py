"""What a document is: by what its bytes begin with, and only where that says nothing by its name.

A wrong name is common (a server's error page saved as a PDF, a DOCX called `.doc`), wrong first bytes are not.
"""

from __future__ import annotations

import re
from enum import StrEnum


class Kind(StrEnum):
    """A way from bytes to text. `ZIP`: DOCX, PPTX, XLSX or EPUB, which its entries tell.

    `HTML_MAIN` is HTML of which a job wants the main text alone: `kind_of` never says that.
    """

    TEXT = "text"
    HTML = "html"
    HTML_MAIN = "html-main"
    PDF = "pdf"
    ZIP = "zip"
    OLE = "ole"
    RTF = "rtf"
    MAIL = "mail"


_PDF, _ZIP, _RTF, _OLE = b"%PDF-", b"PK\x03\x04", b"{\\rtf", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_MAGIC = {_PDF: Kind.PDF, _ZIP: Kind.ZIP, _RTF: Kind.RTF, _OLE: Kind.OLE}
_BEGINNINGS = tuple(_MAGIC)
_PDF_WITHIN = 1024
"""Bytes within which a PDF may begin: readers take that much of something else before it."""

_BY_NAME = {
    **dict.fromkeys(("html", "htm", "xhtml"), Kind.HTML),
    **dict.fromkeys(("eml", "mht", "mhtml"), Kind.MAIL),
}
_PAGE = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*+<(?:!doctype\s+html|html)[\s>]",
    re.IGNORECASE | re.DOTALL,
)
"""A page without one of its usual names. A comment that was passed is never looked at again: to look twice at each of
many would take days."""

NEVER_TEXT = frozenset(
    {"pdf", "docx", "docm", "dotx", "pptx", "pptm", "ppsx", "xlsx", "xlsm", "epub", "doc", "xls", "ppt"}
)
"""Names of formats that are never text: bytes that are called so and are neither that nor UTF-8 are damaged."""

_UNSUPPORTED = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    (b"BM", "a bitmap image"),
    (b"RIFF", "a WebP image, or audio or video"),
    (b"\x1f\x8b", "gzip data"),
    (b"\x28\xb5\x2f\xfd", "zstd data"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ", "xz data"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"PAR1", "a Parquet file"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"ID3", "audio"),
    (b"OggS", "audio"),
    (b"fLaC", "audio"),
    (b"%!PS", "PostScript"),
    (b"AT&TFORM", "a DjVu document"),
)


def kind_of(key: str, data: bytes) -> Kind:
    """How to read these bytes; `key` is the object's key or URI. Takes a microsecond, or 0.2 ms before comments."""
    if data.startswith(_BEGINNINGS):
        return next(kind for beginning, kind in _MAGIC.items() if data.startswith(beginning))
    suffix = suffix_of(key)
    if suffix == "pdf" and _PDF in data[:_PDF_WITHIN]:
        return Kind.PDF
    named = _BY_NAME.get(suffix)
    if named is None and b"<" in data[:64] and _PAGE.match(data[:4096]):
        return Kind.HTML
    return named or Kind.TEXT


def suffix_of(key: str) -> str:
    """What follows the last dot of the name, in small letters; empty without one."""
    name = key.rpartition("/")[2]
    return name.rpartition(".")[2].lower() if "." in name else ""


def unsupported(data: bytes) -> str | None:
    """The name of a binary format that no text is taken from, for bytes that are known to be no text."""
    if data[4:8] == b"ftyp":
        return "an MP4 video or a HEIC image"
    return next((name for beginning, name in _UNSUPPORTED if data.startswith(beginning)), None)
