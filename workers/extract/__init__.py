"""Bytes of an object -> the text that the prompt shows, by the kind of object.

Small text and HTML is read where it arrives (`inline`); all else in processes of their own (`workers.extract.pool`),
where a bomb, a hang or a crash of a parser costs that document alone.
"""

from __future__ import annotations

from workers.extract.encodings import decode, quickly
from workers.extract.html import page_to_text
from workers.extract.kinds import Kind, kind_of, suffix_of
from workers.extract.legibility import legible
from workers.extract.unreadable import Unreadable

__all__ = ["INLINE_BYTES", "Kind", "Unreadable", "extract", "inline", "kind_of", "legible", "suffix_of"]

INLINE_BYTES = 16 * 1024
"""HTML of more bytes takes a millisecond and more."""


def inline(key: str, data: bytes, kind: Kind) -> str | None:
    """The text of what takes no time and no risk: UTF-8 of any size, small HTML; else None. Raises `Unreadable`."""
    if not data or data.isspace():
        raise Unreadable("empty", "the document is empty")
    if kind is Kind.TEXT:
        return quickly(data)
    if kind is Kind.HTML and len(data) <= INLINE_BYTES:
        text = quickly(data)
        return None if text is None else _page(page_to_text(text))
    return None


def extract(key: str, data: bytes, kind: Kind, most: int) -> str:
    """The text of a document of any kind; what the parsers raise of their own passes.

    Args:
        most: characters beyond which a parser that can stop may do so.

    Raises:
        Unreadable: no text can be had from these bytes.
    """
    if kind is Kind.TEXT:
        text = decode(key, data)
    elif kind is Kind.HTML:
        return _page(page_to_text(decode(key, data)))
    elif kind is Kind.HTML_MAIN:
        from workers.extract.main_text import page_to_main_text

        return _page(page_to_main_text(decode(key, data)))
    elif kind is Kind.PDF:
        from workers.extract.pdf import pdf_to_text

        text = pdf_to_text(data, most)
    elif kind is Kind.MAIL:
        from workers.extract.mail import mail_to_text

        text = mail_to_text(key, data)
    elif kind is Kind.RTF:
        from striprtf.striprtf import rtf_to_text

        text = rtf_to_text(  # type: ignore[no-untyped-call]
            data.decode("latin-1"), errors="replace"
        )
    elif kind is Kind.OLE:
        from workers.extract.office import ole_to_text

        text = ole_to_text(data)
    else:
        text = _archive(data)
    if not text or text.isspace():
        raise Unreadable("no_text", f"the document is {_A[kind]} without text")
    return text


_A = {
    Kind.TEXT: "a file",
    Kind.MAIL: "a message",
    Kind.RTF: "an RTF document",
    Kind.OLE: "an Office document",
    Kind.ZIP: "an Office document or e-book",
    Kind.PDF: "a PDF",
}


def _page(text: str) -> str:
    if not text:
        raise Unreadable("empty", "the HTML page holds no text")
    return text


def _archive(data: bytes) -> str:
    from workers.extract.archives import Archive
    from workers.extract.epub import epub_to_text
    from workers.extract.office import archive_to_text

    archive = Archive(data)
    kind = archive.format()
    return epub_to_text(archive) if kind == "epub" else archive_to_text(archive, data, kind)
