"""DOCX, PPTX and XLSX, and the old binary DOC, PPT and XLS, to text: by office-oxide, which leaves nothing out."""

from __future__ import annotations

from typing import Literal

from office_oxide import Document, OfficeOxideError

from workers.extract.archives import Archive
from workers.extract.unreadable import Unreadable

Format = Literal["docx", "pptx", "xlsx", "doc", "ppt", "xls"]

_CUT = "levels not shown"
"""Of the sentence that the parser leaves in the place of what nests too deeply for it."""
_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
_OLD: dict[Format, str] = {"doc": "WordDocument", "ppt": "PowerPoint Document", "xls": "Workbook"}
"""Formats and the stream by which each is known."""


def archive_to_text(archive: Archive, data: bytes, kind: Format) -> str:
    """Of a DOCX, PPTX or XLSX. Raises `Unreadable`."""
    archive.check((".xml", ".rels", ".bin"))
    return _text(data, kind)


def ole_to_text(data: bytes) -> str:
    """Of an old binary document. Raises `Unreadable`, also for encrypted ones of today, which are packed like that."""
    if _ENCRYPTED in data:
        raise Unreadable("encrypted", "the Office document is protected by a password")
    kind = next((kind for kind, stream in _OLD.items() if stream.encode("utf-16-le") in data), None)
    if kind is None:
        raise Unreadable("unsupported_format", "the document is an OLE container, but no DOC, PPT or XLS")
    return _text(data, kind)


def _text(data: bytes, kind: Format) -> str:
    try:
        text = Document.from_bytes(data, kind).plain_text()
    except OfficeOxideError as error:
        said = str(error)
        if "decompression limit" in said:
            raise Unreadable("decompression_bomb", f"the {kind.upper()} unpacks to too much: {said}") from None
        if "encrypt" in said.lower() or "password" in said.lower():
            raise Unreadable("encrypted", f"the {kind.upper()} is protected by a password") from None
        raise Unreadable("corrupt", f"the {kind.upper()} cannot be read: {said}") from None
    if _CUT in text:
        raise Unreadable("too_deep", f"the {kind.upper()} nests too deeply")
    return text
