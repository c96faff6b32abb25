"""Bytes of an object -> the text that the prompt shows, by the kind of object."""

from __future__ import annotations

from workers.extract.html import html_to_text
from workers.extract.nesting import is_too_deep

HTML = (".html", ".htm", ".xhtml")
SLOW_BYTES = 16 * 1024
"""HTML of more bytes takes a millisecond and more: for a thread (the parser lets go of the interpreter's lock)."""


class Unreadable(ValueError):
    """No text can be had from these bytes; `error_type` is the word for the row."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type


def extract(key: str, data: bytes) -> str:
    """The text of a UTF-8 text, Markdown or HTML document. Raises `Unreadable`."""
    if not data.strip():
        raise Unreadable("empty", "the document is empty")
    try:
        text = data.decode().removeprefix("\ufeff")  # as utf-8-sig does, without its codec in Python
    except UnicodeDecodeError as error:
        raise Unreadable("not_utf8", f"not UTF-8 text: byte {error.start} is {data[error.start]:#04x}") from None
    if "\x00" in text:
        raise Unreadable("not_text", "the document holds NUL bytes: it is binary, not text")
    if key.lower().endswith(HTML):
        if is_too_deep(text):
            raise Unreadable("too_deep", "the HTML page nests too deeply: to parse it would take seconds to hours")
        text = html_to_text(text)
        if not text:
            raise Unreadable("empty", "the HTML page holds no text")
    return text


def is_slow(key: str, size: int) -> bool:
    """Whether `extract` takes so long for so many bytes that it belongs into a thread."""
    return size > SLOW_BYTES and key.lower().endswith(HTML)
