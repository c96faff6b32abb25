"""Bytes to text: by byte order mark, as UTF-8, as the document declares, and at last by what the bytes look like.

Nothing is guessed that may be garbage: where the look says too little, the document is an error, `not_utf8`.
"""

from __future__ import annotations

import codecs
import re

from batch.schema.error_types import ErrorType
from workers.extract.files.extracted import Unreadable
from workers.extract.files.kinds import NEVER_TEXT, suffix_of, unsupported

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, which begins alike
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARED = re.compile(
    rb"""<meta[^>]{0,200}?\bcharset\s*=\s*["']?\s*([\w.:-]+)|\A\s*<\?xml[^>]{0,200}?\bencoding\s*=\s*["']([\w.:-]+)""",
    re.IGNORECASE,
)
_DECLARED_WITHIN = 4096
_AS_BROWSERS_DO = {"iso8859-1": "cp1252", "ascii": "cp1252", "iso8859-9": "cp1254", "shift_jis": "cp932",
                   "euc_kr": "cp949", "gb2312": "gb18030", "gbk": "gb18030"}  # fmt: skip
"""Declared, and what is meant: https://encoding.spec.whatwg.org/#names-and-labels."""
_ALIASES = {"iso-8859-8-i": "iso8859-8", "iso-8859-8-e": "iso8859-8", "x-sjis": "cp932", "x-gbk": "gbk",
            "x-mac-roman": "mac_roman", "x-mac-cyrillic": "mac_cyrillic", "x-cp1250": "cp1250", "x-cp1251": "cp1251",
            "x-euc-jp": "euc_jp", "unicode-1-1-utf-7": "utf-7", "unicode-1-1-utf-8": "utf-8", "utf8mb4": "utf-8",
            "windows-874": "cp874", "x-big5": "big5", "big5-hkscs": "big5hkscs", "unicode": "utf-16",
            "ansi": "cp1252"}  # fmt: skip
"""Names that documents give encodings and Python does not know."""
_SEVEN_BIT = frozenset({"utf-7", "hz", "iso2022_jp", "iso2022_jp_1", "iso2022_jp_2", "iso2022_jp_ext", "iso2022_kr"})
"""Encodings whose every byte is ASCII: what declares them is not UTF-8, though it could be."""
_WESTERN = frozenset({"cp1252", "cp1254", "cp1257", "iso8859-1", "iso8859-3", "iso8859-4", "iso8859-9", "iso8859-10",
                      "iso8859-13", "iso8859-14", "iso8859-15", "mac-roman"})  # fmt: skip

FEW_BROKEN = 0.01
"""Share of the characters beyond ASCII that may be broken in a text that is UTF-8 all the same."""
SURE, SURE_OF_WESTERN = 0.1, 0.05
"""Confidence of the detector from which on it was right in every text of 25 bytes and more that was tried (ten
languages, 14 encodings); Windows-1252, by far the most frequent, is believed sooner."""
MOST_ALIEN = 0.25
"""Share of the words beyond ASCII that may be such as no Western language has, in a text of a Western encoding: more of
them, and it is another encoding's bytes, read as Western."""
_WORD = re.compile(r"\w[\w\xa1-\xb6\xb8-\xbf\xd7\xf7\u02c6\u02dc\u2020\u2021\u2030]{1,60}")
_ALIEN = re.compile("[a-zß-ÿšžœ](?:[À-ÖØ-ÞŠŒŽŸ]|[^\\w\xb7\u2019][a-zß-ÿ])|^[^\x00-\x7f]{3,}$")
"""A capital or a sign after a small letter, as of old Macs' text; no letter of ASCII, as of Cyrillic and Greek."""
_LOOKED_AT = 200_000
PADDING = 4
"""NUL bytes at the end, or the beginning, from which on they are what a file system or a fixed length left there."""
_JAPANESE = "\x1b$"
"""How ISO-2022-JP, whose every byte is ASCII, begins what is not."""
_CONTROLS = frozenset(map(chr, range(32))) - set("\t\n\r\f\v\x1b\x08\x1a")


def quickly(data: bytes) -> str | None:
    """Returns the text of UTF-8 without NUL; None for all that takes a closer look. As fast as the codec."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return None if "\x00" in text or ("\x1b" in text and _JAPANESE in text) else text.removeprefix("\ufeff")


def decode(key: str, data: bytes, *, declared: str | None = None) -> str:
    """Returns the text of a document that is text, whatever its encoding. Raises `Unreadable`.

    Args:
        declared: the encoding that the document's envelope names.
    """
    data = _unpadded(data)
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            text = _marked(data, encoding)
            if text is not None:
                return text
            data = data.removeprefix(codecs.BOM_UTF8)
    declared = _named(declared)
    text = (_as(declared, data) if declared in _SEVEN_BIT else None) or quickly(data)
    if text is not None:
        return text
    binary = unsupported(data)
    if binary is not None:
        raise Unreadable(ErrorType.UNSUPPORTED_FORMAT, f"the document is {binary}: no text is taken from that")
    suffix = suffix_of(key)
    if suffix in NEVER_TEXT:
        message = f"the document is called .{suffix}, but does not begin as one, and is no text either"
        raise Unreadable(ErrorType.CORRUPT, message)
    for name in filter(None, (declared, _named(_declaration(data)))):
        text = _as(name, data)
        if text is not None:
            return text
    text = _nearly_utf8(data) or _detected(data) or _utf8(data)
    if text is not None:
        return text
    if b"\x00" in data:
        raise Unreadable(ErrorType.NOT_TEXT, "the document holds NUL bytes: it is binary, not text")
    message = "the document is neither UTF-8 nor text of an encoding that it declares or lets see"
    raise Unreadable(ErrorType.NOT_UTF8, message)


def _unpadded(data: bytes) -> bytes:
    """Without the NULs around it. In UTF-16 and UTF-32 up to three are a character's."""
    if data.endswith(b"\x00" * PADDING):
        short = data.rstrip(b"\x00")
        data = data[: len(short) + (-len(short) % 4)] if b"\x00" in short[:64] else short
    if data.endswith(b"\x00") and len(data) > PADDING and data.isascii():
        short = data.rstrip(b"\x00")  # how C ends a text; UTF-16 of ASCII has more of them
        data = data if b"\x00" in short else short
    return data.lstrip(b"\x00") if data.startswith(b"\x00" * PADDING) else data


def _marked(data: bytes, encoding: str) -> str | None:
    """None where a mark of UTF-8 lies; an odd byte at the end of UTF-16 is a cut."""
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        text = data.decode(encoding, "replace")
        if text.count("\ufffd") > 1 + len(text) * FEW_BROKEN:
            if encoding == "utf-8-sig":
                return None
            message = f"the document begins as {encoding} and is not: {error.reason}"
            raise Unreadable(ErrorType.NOT_TEXT, message) from None
    text = text.strip("\x00")
    if "\x00" in text:
        raise Unreadable(ErrorType.NOT_TEXT, "the document holds NUL bytes: it is binary, not text")
    return text


def _declaration(data: bytes) -> str | None:
    found = _DECLARED.search(data[:_DECLARED_WITHIN])
    return (found[1] or found[2]).decode() if found else None


def _named(name: str | None) -> str | None:
    """Python's name of a declared encoding, as browsers take it; None for one that nobody knows."""
    if name is None:
        return None
    try:
        name = name.strip().lower()
        known = codecs.lookup(_ALIASES.get(name, name)).name
    except (LookupError, ValueError):
        return None
    return _AS_BROWSERS_DO.get(known, known)


def _as(name: str, data: bytes) -> str | None:
    """Returns the text in a declared encoding; None where that is not kept to."""
    try:
        text = data.decode(name)
    except (LookupError, ValueError, UnicodeError):  # LookupError for codecs that make no text, such as hex
        return None
    return text if _is_text(text) and (name not in _WESTERN or _is_western(text)) else None


def _is_western(text: str) -> bool:
    """Whether it looks like a language that Western encodings are for, and not like another's bytes taken for it."""
    found = [word for word in _WORD.findall(text[:_LOOKED_AT]) if not word.isascii()]
    return sum(_ALIEN.search(word) is not None for word in found) <= MOST_ALIEN * len(found)


def _utf8(data: bytes) -> str | None:
    """Such as a terminal's log, whose colours begin as ISO-2022-JP does."""
    return data.decode() if data.isascii() and b"\x00" not in data else None


def _nearly_utf8(data: bytes) -> str | None:
    """UTF-8 with a broken character here and there, which is shown as U+FFFD."""
    text = data.decode(errors="replace")
    broken = text.count("\ufffd")
    beyond_ascii = len(text) - sum(map(text.count, map(chr, range(128)))) if broken else 0
    return text if broken <= 1 + beyond_ascii * FEW_BROKEN and beyond_ascii > 10 * broken and _is_text(text) else None


def _detected(data: bytes) -> str | None:
    """Those of old Macs only where what looks Western cannot be: in short texts they look much the same."""
    import chardet

    eras = chardet.EncodingEra.MODERN_WEB | chardet.EncodingEra.LEGACY_ISO
    for sought in (eras, eras | chardet.EncodingEra.LEGACY_MAC):
        found = chardet.detect(data, encoding_era=sought)
        name, confidence = found["encoding"], found["confidence"]
        if name is None or confidence < (SURE_OF_WESTERN if name.lower() == "windows-1252" else SURE):
            return None
        try:
            text = data.decode(name)
        except (LookupError, UnicodeDecodeError):
            return None
        if not _is_text(text):
            return None
        if codecs.lookup(name).name not in _WESTERN or _is_western(text):
            return text
    return None


def _is_text(text: str) -> bool:
    return _CONTROLS.isdisjoint(text)
