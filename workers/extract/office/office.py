"""DOCX, PPTX and XLSX, and the old binary DOC, PPT and XLS, to text: by office-oxide, which leaves nothing out."""

from __future__ import annotations

import io
import json
from typing import Literal

import olefile
from office_oxide import Document, OfficeOxideError

from batch.schema.error_types import ErrorType
from workers.extract.files.archives import Archive
from workers.extract.files.extracted import Unreadable
from workers.extract.files.packages import Package
from workers.extract.office.old_notes import notes_of
from workers.extract.office.old_sheets import with_times
from workers.extract.office.spreadsheets import mended_sheets
from workers.extract.office.word_parts import mended_texts, text_parts

Format = Literal["docx", "pptx", "xlsx", "doc", "ppt", "xls"]

MOST_LINES = 1_000
"""Of text, up to which it is looked at whether a workbook has any cells."""
_CUT = "levels not shown"
"""Of the sentence that the parser leaves in the place of what nests too deeply for it."""
_OLD: dict[str, Format] = {"worddocument": "doc", "powerpoint document": "ppt", "workbook": "xls"}
"""Streams by which a format is known, if it is not one of `_OTHERS`, which may have them too."""
_OTHERS = {
    "__properties_version1.0": "an Outlook message (MSG)",
    "visiodocument": "a Visio drawing",
    "quill": "a Publisher document",
    "pp40": "a presentation of PowerPoint 4, a format that is not read",
    "pp97_dualstorage": "a presentation of PowerPoint 95, a format that is not read",
    "mmmail": "a Works document",
}
_WORD_95 = 104
"""The last version (nFib, [MS-DOC] 2.5.2) of a DOC that is another format: Word 6 has 101, Word 97 has 193."""


def package_to_text(archive: Archive, data: bytes) -> str:
    """Of a DOCX, PPTX or XLSX. Raises `Unreadable`."""
    package = Package(archive)
    sheets = package.targets(package.main).get("worksheet", []) if package.kind == "xlsx" else []
    texts = text_parts(package, package.targets(package.main)) if package.kind == "docx" else []
    for name in archive.names.difference(sheets, texts):  # none is larger than it says; those are read below
        if name.lower().endswith((".xml", ".bin")):
            archive.read(name)
    changed = mended_sheets(package, archive) if sheets else mended_texts(package, archive) if texts else {}
    return _text(package.rewritten(changed, data), package.kind)


def ole_to_text(data: bytes) -> str:
    """Of an old binary document. Raises `Unreadable`, also for encrypted ones of today, which are packed like that."""
    try:
        with olefile.OleFileIO(io.BytesIO(data)) as file:
            entries = {path[0].lower(): path[0] for path in file.listdir(streams=True, storages=True)}
            other = next((name for stream, name in _OTHERS.items() if stream in entries), None)
            old = next((stream for stream in _OLD if stream in entries and other is None), None)
            stream = file.openstream(entries[old]).read() if old is not None else b""
            current = file.openstream(entries["current user"]).read() if "current user" in entries else b""
    except (OSError, ValueError, IndexError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise Unreadable(ErrorType.CORRUPT, f"the OLE container is damaged or truncated: {error}") from None
    if "encryptedpackage" in entries:
        raise Unreadable(ErrorType.ENCRYPTED, "the Office document is protected by a password")
    if old is None:
        if "book" in entries and other is None:  # one for both, of Excel 97, has a stream of either kind
            other = "a workbook of Excel 95 or older, a format that is not read"
        message = f"the document is {other or 'an OLE container, but no DOC, PPT or XLS'}"
        raise Unreadable(ErrorType.UNSUPPORTED_FORMAT, message)
    if old == "worddocument":
        if stream[10:12] and stream[11] & 1:
            raise Unreadable(ErrorType.ENCRYPTED, "the DOC is protected by a password")
        if int.from_bytes(stream[2:4], "little") <= _WORD_95:
            message = "the document is a DOC of Word 95 or older, a format that is not read"
            raise Unreadable(ErrorType.UNSUPPORTED_FORMAT, message)
    text = _text(data, _OLD[old])
    if old == "powerpoint document":
        return "\n\n".join([text, *(f"[Notes]\n{each}" for each in notes_of(stream, current))])
    return with_times(text, stream) if old == "workbook" else text


def _text(data: bytes, kind: Format) -> str:
    try:
        document = Document.from_bytes(data, kind)
        text = document.plain_text()
        if kind in ("xlsx", "xls") and _is_empty(document, text):
            return ""
    except OfficeOxideError as error:
        said = str(error)
        if "decompression limit" in said:
            raise Unreadable(ErrorType.DECOMPRESSION_BOMB, f"the {kind.upper()} unpacks to too much: {said}") from None
        if "encrypt" in said.lower() or "password" in said.lower():
            raise Unreadable(ErrorType.ENCRYPTED, f"the {kind.upper()} is protected by a password") from None
        raise Unreadable(ErrorType.CORRUPT, f"the {kind.upper()} cannot be read: {said}") from None
    if _CUT in text:
        raise Unreadable(ErrorType.TOO_DEEP, f"the {kind.upper()} nests too deeply")
    return text


def _is_empty(document: Document, text: str) -> bool:
    """Tells whether a workbook's text is nothing but the names of its sheets."""
    if text.count("\n") > MOST_LINES:
        return False
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    sheets = json.loads(document.to_ir_json())["sections"]
    return len(lines) == len(sheets) and lines == [(each.get("title") or "").strip() for each in sheets]
