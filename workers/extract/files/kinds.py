"""What a document is: by what its bytes begin with, and only where that says nothing by its name.

A wrong name is common (a server's error page saved as a PDF, a DOCX called `.doc`), wrong first bytes are not.
"""

from __future__ import annotations

import re
from enum import StrEnum


class Kind(StrEnum):
    """A way from bytes to text. `ZIP`: DOCX, PPTX, XLSX or EPUB, which its entries tell.

    `HTML_MAIN` is HTML of which a job wants the main text alone, `GZIP_MAIN` gzip data that may hold such: `kind_of`
    never says these.
    """

    TEXT = "text"
    HTML = "html"
    HTML_MAIN = "html-main"
    PDF = "pdf"
    ZIP = "zip"
    OLE = "ole"
    RTF = "rtf"
    MAIL = "mail"
    GZIP = "gzip"
    GZIP_MAIN = "gzip-main"


_PDF, _ZIP, _RTF, _OLE = b"%PDF-", b"PK\x03\x04", b"{\\rtf", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_GZIP = b"\x1f\x8b\x08"
_MAGIC = {_PDF: Kind.PDF, _ZIP: Kind.ZIP, _RTF: Kind.RTF, _OLE: Kind.OLE, _GZIP: Kind.GZIP}
_BEGINNINGS = tuple(_MAGIC)
_PDF_WITHIN = 1024
"""Bytes within which a PDF may begin: readers take that much of something else before it."""

_BY_NAME = {
    **dict.fromkeys(("html", "htm", "xhtml", "xht", "shtml"), Kind.HTML),
    **dict.fromkeys(("eml", "mht", "mhtml", "mbox", "mbx"), Kind.MAIL),
}
_PAGE = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*+<(?:!doctype\s+html|html)[\s>]",
    re.IGNORECASE | re.DOTALL,
)
"""A page without one of its usual names. A comment that was passed is never looked at again: to look twice at each of
many would take days."""

_FRAGMENT = re.compile(
    rb"\s*(?:<!--.*?-->\s*)*+<(?:head|body|title|meta|table|div|p|h[1-6]|center|font|span|ul|ol|form|style|script|br|a)"
    rb"[\s/>]",
    re.IGNORECASE | re.DOTALL,
)
"""A page without <html>, where the name says nothing or that a program wrote it (a table called .xls, a .php)."""
_OF_PROGRAMS = frozenset({"", "php", "asp", "aspx", "jsp", "cgi", "cfm", "do", "dhtml"})
_MAIL_BEGINS = re.compile(rb"(?:\xef\xbb\xbf)?\s{0,8}(?:From [^\r\n]+\r?\n|[A-Za-z][\w-]{1,60}:[ \t\r\n])")
_HEADERS = re.compile(
    rb"(?:\xef\xbb\xbf)?\s{0,8}(?:>?From [^\r\n]+\r?\n)?"
    rb"(?:[A-Za-z][\w-]*+:[^\r\n]*+(?:\r?\n[ \t][^\r\n]*+)*+(?:\r?\n|\Z))++"
)
_ONLY_MAILS_HAVE = re.compile(
    rb"^(?:MIME-Version:\s*1\.|Message-ID:\s*<|Received:\s*(?:from|by|\()|Return-Path:\s*<"
    rb"|Content-Type:\s*(?:multipart|message)/)",
    re.IGNORECASE | re.MULTILINE,
)
_MAIL_WITHIN = 16_384

NEVER_TEXT = frozenset({
    "pdf", "epub", "doc", "dot", "docx", "docm", "dotx", "dotm", "ppt", "pps", "pptx", "pptm", "ppsx", "potx", "xls",
    "xlsx", "xlsm", "xltx", "xlsb", "msg", "odt", "ods", "odp",
})  # fmt: skip
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
    (b"\x1f\x9d", "compressed data"),
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
    if _PDF in data[:_PDF_WITHIN] and (suffix == "pdf" or not _is_utf8(data)):
        return Kind.PDF
    named, start = _BY_NAME.get(suffix), data[:64]
    if named is not Kind.HTML and b"<" in start and _is_page(suffix, data):
        return Kind.HTML
    if named is not Kind.MAIL and _MAIL_BEGINS.match(start) and _is_mail(data):
        return Kind.MAIL
    if _RTF in start and not start[: start.index(_RTF)].strip(b"\xef\xbb\xbf \t\r\n\x00"):
        return Kind.RTF
    return named or Kind.TEXT


def _is_utf8(data: bytes) -> bool:
    """Tells whether it may be a text that tells of PDFs."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_page(suffix: str, data: bytes) -> bool:
    start = data[:4096]
    if start[1:2] == b"\x00" or start.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00<")):  # UTF-16
        start = start.replace(b"\x00", b"").removeprefix(b"\xff\xfe").removeprefix(b"\xfe\xff")
    if _PAGE.match(start):
        return True
    return (suffix in _OF_PROGRAMS or suffix in NEVER_TEXT) and _FRAGMENT.match(start) is not None


def _is_mail(data: bytes) -> bool:
    """Tells whether it begins with headers, and one that nothing but a message has."""
    headers = _HEADERS.match(data[:_MAIL_WITHIN])
    return headers is not None and _ONLY_MAILS_HAVE.search(headers[0]) is not None


def suffix_of(key: str) -> str:
    """Returns what follows the last dot of the name, in small letters; empty without one."""
    name = key.rpartition("/")[2]
    return name.rpartition(".")[2].lower() if "." in name else ""


def unsupported(data: bytes) -> str | None:
    """Returns the name of a binary format that no text is taken from, for bytes that are known to be no text."""
    if data[257:262] == b"ustar":
        return "a tar archive"
    if data[4:8] == b"ftyp":
        return "an MP4 video or a HEIC image"
    return next((name for beginning, name in _UNSUPPORTED if data.startswith(beginning)), None)
