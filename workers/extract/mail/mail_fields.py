"""Headers and bodies of a message's parts as they are meant, whatever the program that wrote them took for right."""

from __future__ import annotations

import binascii
import codecs
import quopri
import re
from email.errors import MessageError
from email.message import Message

from batch.schema.error_types import ErrorType
from workers.extract.files.encodings import decode
from workers.extract.files.extracted import Unreadable

_FAULTS = (ValueError, LookupError, TypeError, AttributeError, AssertionError, MessageError)
"""What Python's parser of parameters raises of malformed ones."""
_ENCODED = re.compile(r"=\?([^?\s]{1,60})\?([bBqQ])\?([^?]*)\?=(?:\s+(?==\?[^?\s]+\?[bBqQ]\?[^?]*\?=))?")
"""An encoded word (RFC 2047), with the space before the next one, which is none."""
_BASE64_LINE = re.compile(rb"[A-Za-z0-9+/]*={0,2}\s*\Z")
_QUOTED = re.compile(rb"[> \t|]+(?=[A-Za-z0-9+/]{40})")
_BROKEN = re.compile(rb"(?<=[A-Za-z0-9+/]{40})[ \t!]+(?=\r?\n)")
"""Where a server broke a long line."""
_SHORTEST = 40
"""Characters that look like base64 before others, below which they are words."""


def header(message: Message, name: str) -> str:
    """Reads a header of a message; empty without one."""
    return next((words(value) for each, value in message.raw_items() if each.lower() == name.lower()), "")


def headers(message: Message) -> list[str]:
    """Reads all headers, a line each."""
    return [f"{name}: {words(value)}" for name, value in message.raw_items()]


def words(value: str) -> str:
    """Reads a header's value: folded lines joined, encoded words decoded, also such as are not where they may be."""
    text = " ".join(_eight_bit(str(value)).split())
    parts: list[tuple[str | bytes, str]] = []
    at = 0
    for found in _ENCODED.finditer(text):
        if found.start() > at:
            parts.append((text[at : found.start()], ""))
        charset, data = found[1].partition("*")[0].lower(), _of_word(found[2], found[3])
        if parts and parts[-1][1] == charset and isinstance(parts[-1][0], bytes):
            parts[-1] = (parts[-1][0] + data, charset)  # a character may be parted between two words
        else:
            parts.append((data, charset))
        at = found.end()
    parts.append((text[at:], ""))
    return " ".join("".join(part if isinstance(part, str) else _text(part, name) for part, name in parts).split())


def _of_word(coding: str, text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    if coding in "qQ":
        return quopri.decodestring(data, header=True)
    try:
        return binascii.a2b_base64(data + b"=" * (-len(data) % 4))
    except binascii.Error:
        return data


def _text(data: bytes, charset: str) -> str:
    try:
        return codecs.decode(data, charset)
    except (LookupError, ValueError, TypeError):
        return _guessed(data)


def _eight_bit(text: str) -> str:
    """Returns a header with bytes beyond ASCII in it, which Python hands out as surrogates."""
    try:
        data = text.encode("ascii", "surrogateescape")
    except UnicodeEncodeError:  # text already
        return text
    return text if data.isascii() else _guessed(data)


def _guessed(data: bytes) -> str:
    try:
        return decode("", data)
    except Unreadable:
        return data.decode("cp1252", "replace")


def name_of(part: Message) -> str:
    """Reads the name of an attachment; empty without one."""
    try:
        name = part.get_filename()
    except _FAULTS:
        name = "\ufffd"
    if name and "\ufffd" in name:  # malformed, or not in ASCII
        said = f"{header(part, 'Content-Disposition')};{header(part, 'Content-Type')}"
        found = re.search(r"""name\*?=\s*"?([^";]+)""", said)
        name = found[1] if found else name
    return words(name or "")[:255]


def charset_of(part: Message) -> str | None:
    """Reads the encoding that a part names."""
    try:
        return part.get_content_charset()
    except _FAULTS:
        return None


def body_bytes(part: Message) -> bytes:
    """Reads the body of a part that has no parts, by its transfer encoding if it is in that."""
    said = part.get("Content-Transfer-Encoding")
    coding = str(said or "").partition("(")[0].partition(";")[0].strip(' \t\r\n"').lower()
    if coding in ("uuencode", "x-uuencode", "uue", "x-uue"):
        return _payload(part)
    del part["Content-Transfer-Encoding"]  # the one way to the bytes as they are
    raw = _payload(part)
    if said is not None:
        part["Content-Transfer-Encoding"] = said
    if coding == "base64":
        return _base64(raw)
    if coding == "quoted-printable":
        return quopri.decodestring(raw)
    return raw


def _payload(part: Message) -> bytes:
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


def _base64(raw: bytes) -> bytes:
    """Mailing lists add plain lines to it, and what is called so is not always."""
    lines = [_BROKEN.sub(b"", line) for line in raw.splitlines(keepends=True)]
    if _QUOTED.match(raw.lstrip()):
        lines = [line.lstrip(b"> \t|") for line in lines]
    count = next((number for number, line in enumerate(lines) if not _BASE64_LINE.match(line)), len(lines))
    packed, rest = b"".join(lines[:count]), b"".join(lines[count:])
    packed = b"".join(packed.split())
    is_short = len(packed) < _SHORTEST
    if is_short and (rest.strip() or len(packed) % 4):
        return raw
    if len(packed.rstrip(b"=")) % 4 == 1:
        if is_short:
            return raw
        message = "a text of the message is damaged or cut: its base64 ends within a character"
        raise Unreadable(ErrorType.CORRUPT, message)
    return binascii.a2b_base64(packed + b"=" * (-len(packed) % 4)) + (b"\n\n" + rest if rest.strip() else b"")
