"""Bytes of an object -> the text that the prompt shows, by the kind of object.

Small text and HTML is read where it arrives (`inline`); all else in processes of their own (`workers.extract.pool`),
where a bomb, a hang or a crash of a parser costs that document alone. Every text passes `legible` before it leaves.
"""

from __future__ import annotations

from dataclasses import replace

from batch.schema.error_types import ErrorType
from workers.extract.files.encodings import decode, quickly
from workers.extract.files.extracted import Extracted, Unreadable
from workers.extract.files.kinds import Kind, kind_of, suffix_of
from workers.extract.legibility import legible
from workers.extract.web.html import page_to_text

__all__ = ["INLINE_BYTES", "Extracted", "Kind", "Unreadable", "extract", "inline", "kind_of", "legible", "suffix_of"]

INLINE_BYTES = 16 * 1024
"""HTML of more bytes takes a millisecond and more."""


def inline(key: str, data: bytes, kind: Kind) -> str | None:
    """Reads what takes no time and no risk: UTF-8 of any size, small HTML; None for all else. Raises `Unreadable`."""
    if not data or data.isspace():
        raise Unreadable(ErrorType.EMPTY, "the document is empty")
    if kind is Kind.TEXT or (kind is Kind.HTML and len(data) <= INLINE_BYTES):
        text = quickly(data)
        if text is not None:
            return _judged(page_to_text(text) if kind is Kind.HTML else text, kind)
    return None


def extract(key: str, data: bytes, kind: Kind, most: int) -> Extracted:
    """Reads a document of any kind; what the parsers raise of their own passes.

    Args:
        most: characters beyond which a parser that can stop may do so.

    Returns:
        Its text, and its pages where it has some.

    Raises:
        Unreadable: no text can be had from these bytes.
    """
    if kind in (Kind.GZIP, Kind.GZIP_MAIN):
        from workers.extract.packed import unpacked

        key, data, kind = unpacked(key, data, kind)
    if kind is Kind.PDF:
        from workers.extract.pdf.pdf import pdf_to_text

        found = pdf_to_text(data, most)
    else:
        found = Extracted(_text_of(key, data, kind))
    return replace(found, text=_judged(found.text, kind))


def _text_of(key: str, data: bytes, kind: Kind) -> str:
    if kind is Kind.TEXT:
        return decode(key, data)
    if kind is Kind.HTML:
        return page_to_text(decode(key, data))
    if kind is Kind.HTML_MAIN:
        from workers.extract.web.html import page_to_main_text

        return page_to_main_text(decode(key, data))
    if kind is Kind.MAIL:
        from workers.extract.mail.mail import mail_to_text

        return mail_to_text(key, data)
    if kind is Kind.RTF:
        from workers.extract.office.rtf import rtf_to_text

        return rtf_to_text(data)
    if kind is Kind.OLE:
        from workers.extract.office.office import ole_to_text

        return ole_to_text(data)
    return _archive(data)


_WITHOUT_TEXT = {
    Kind.TEXT: (ErrorType.EMPTY, "the document holds nothing that can be seen"),
    Kind.HTML: (ErrorType.EMPTY, "the HTML page holds no text"),
    Kind.HTML_MAIN: (ErrorType.EMPTY, "the HTML page holds no text"),
    Kind.MAIL: (ErrorType.NO_TEXT, "the document is a message without text"),
    Kind.RTF: (ErrorType.NO_TEXT, "the document is an RTF document without text"),
    Kind.OLE: (ErrorType.NO_TEXT, "the document is an Office document without text"),
    Kind.ZIP: (ErrorType.NO_TEXT, "the document is an Office document or e-book without text"),
    Kind.PDF: (ErrorType.NO_TEXT, "the document is a PDF without text"),
}


def _judged(text: str, kind: Kind) -> str:
    text = legible(text)
    if not text:
        raise Unreadable(*_WITHOUT_TEXT[kind])
    return text


def _archive(data: bytes) -> str:
    from workers.extract.files.archives import Archive
    from workers.extract.office.office import package_to_text
    from workers.extract.packed import is_epub
    from workers.extract.web.epub import epub_to_text

    archive = Archive(data)
    return epub_to_text(archive) if is_epub(archive) else package_to_text(archive, data)
