"""RTF to text: what the document shows, notes and text boxes with it.

A reader of its own because those that Python has lose text without a word: of 38 documents that try what RTF can do
(pictures, notes, surrogate pairs, bytes by the font's character set, hidden text) striprtf reads 25 right and
firecrawl-anydoc 24; pyth3 knows fewer still. It never recurses, and takes a microsecond a word of control. The words
are those of the RTF specification 1.9.1.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, replace

from batch.schema.error_types import ErrorType
from workers.extract.files.extracted import Unreadable
from workers.extract.office.symbol_fonts import OTHER, shown

_TOKEN = re.compile(
    rb"\\(?P<word>[a-zA-Z]{1,32})(?P<number>-?[0-9]{1,10})? ?|\\'(?P<hex>[0-9a-fA-F]{2})|\\(?P<symbol>[^a-zA-Z])"
    rb"|(?P<brace>[{}])|(?P<text>[^\\{}\r\n]+)|[\r\n]+|\\",
    re.DOTALL,
)
_CHARSETS = {
    0: "cp1252", 77: "mac_roman", 78: "cp932", 79: "cp949", 80: "cp936", 81: "cp950", 83: "mac_arabic", 85: "mac_greek",
    86: "mac_turkish", 88: "mac_latin2", 89: "mac_cyrillic", 128: "cp932", 129: "cp949", 130: "johab", 134: "cp936",
    136: "cp950", 161: "cp1253", 162: "cp1254", 163: "cp1258", 177: "cp1255", 178: "cp1256", 186: "cp1257",
    204: "cp1251", 222: "cp874", 238: "cp1250", 254: "cp437", 255: "cp850",
}  # fmt: skip
"""Of fonts (`\\fcharset`), and their encodings; 1 is the document's own, 2 that of symbols."""
_SYMBOLS = 2
_CODE_PAGES = {65001: "utf-8", 10000: "mac_roman", 10007: "mac_cyrillic", 54936: "gb18030"}
"""Of Windows that Python has by other names."""
_OF_DOCUMENT = {"ansi": "cp1252", "mac": "mac_roman", "pc": "cp437", "pca": "cp850"}
_TWO_BYTES = frozenset({"cp932", "cp936", "cp949", "cp950", "johab"})

_WRITES = {
    **dict.fromkeys(("par", "line", "sect", "page", "column", "softline", "softpage", "row", "nestrow"), "\n"),
    **dict.fromkeys(("tab", "cell", "nestcell"), "\t"),
    "emdash": "—", "endash": "\u2013", "bullet": "•", "lquote": "\u2018", "rquote": "\u2019", "ldblquote": "“",
    "rdblquote": "”",
    "emspace": " ", "enspace": " ", "qmspace": " ", "zwj": "\u200d", "zwnj": "\u200c", "ltrmark": "\u200e",
    "rtlmark": "\u200f",
}  # fmt: skip
_SYMBOL_WRITES = {b"~": " ", b"_": "-", b"\n": "\n", b"\r": "\n", b"\t": "\t", b"{": "{", b"}": "}", b"\\": "\\"}

_UNSHOWN_WORDS = """
    colortbl stylesheet info pict objdata objclass objname themedata colorschememapping datastore latentstyles generator
    xmlnstbl rsidtbl listtable listoverridetable revtbl filetbl pgptbl fldinst bkmkstart bkmkend nonesttables sp picprop
    shprslt nonshppict xe tc tcn txe rxe template mmathPict atnid atnauthor atndate atnref atntime atnparent atnicn
    ftnsep ftnsepc ftncn aftnsep aftnsepc aftncn pnseclvl pn docvar userprops private mhtmltag htmltag
    datafield formfield falt panose fname fontemb fontfile blipuid operator xmlopen wgrffmtfilter listpicture
"""
_UNSHOWN = frozenset(_UNSHOWN_WORDS.split())
"""Destinations whose contents a document does not show. One marked `\\*` that is in no list here is unshown too."""
_QUIET = frozenset({"shp", "shpinst", "shpgrp", "do", "dptxbx", "upr", "nesttableprops", "background"})
"""Destinations that only lead to what is shown."""
_SHOWN = frozenset({"shptxt", "dptxbxtext", "ud", "annotation", "moMath", "moMathPara", "result", "shppict", "revised"})
_PARAGRAPHS = frozenset({
    "header", "headerl", "headerr", "headerf", "footer", "footerl", "footerr", "footerf", "shptxt", "dptxbxtext",
    "annotation",
})  # fmt: skip
"""Destinations with paragraphs of their own."""


@dataclass(frozen=True, slots=True)
class _State:
    """What a group's end brings back. `unshown` is final for all that is within, `quiet` is not."""

    unshown: bool = False
    quiet: bool = False
    hidden: bool = False
    deleted: bool = False
    fonts: bool = False
    note: bool = False
    paragraphs: bool = False
    font: int | None = None
    fallback: int = 1
    """Characters after each `\\u` that stand in for it."""


def rtf_to_text(data: bytes) -> str:
    """Reads what the document shows; cells are parted by tabs, notes follow their paragraph. Raises `Unreadable`."""
    return _Reader(data).text()


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._parts: list[str] = []
        self._notes: list[str] = []
        self._bytes = bytearray()
        """Of the text, not decoded yet: a character may take two of them, written apart."""
        self._state = _State()
        self._opened: list[_State] = []
        self._codec = "cp1252"
        self._charsets: dict[int, int] = {}
        self._fonts: dict[int, str] = {}
        self._font_defined = 0
        self._default_font: int | None = None
        self._skip = 0
        self._count = 0

    def text(self) -> str:
        at, data, starred = 0, self._data, False
        began = data.find(b"{\\rtf")
        at = max(began, 0)
        while at < len(data):
            token = _TOKEN.match(data, at)
            assert token is not None  # every byte is in one of its branches
            at = token.end()
            kind = token.lastgroup
            if kind == "brace":
                starred, self._skip = False, 0
                if token["brace"] == b"{":
                    self._opened.append(self._state)
                elif not self._leave():
                    return self._whole()
                continue
            if kind in ("word", "number"):
                word, number = token["word"].decode(), int(token["number"]) if token["number"] else None
                if word == "bin":
                    at += max(number or 0, 0)
                    if at > len(data):
                        break
                if self._state.unshown:
                    continue
                if self._skip:
                    self._skip -= 1
                    continue
                self._word(word, number, starred)
                starred = False
            elif self._state.unshown:
                continue
            elif kind == "symbol":
                if token["symbol"] == b"*":
                    starred = True
                elif self._skip:
                    self._skip -= 1
                else:
                    self._write(_SYMBOL_WRITES.get(token["symbol"], ""))
            elif kind == "hex":
                self._take(bytes.fromhex(token["hex"].decode()))
            elif kind == "text":
                self._take(token["text"])
                if at < len(data) and data[at] in b"\\{}" and self._is_half(token["text"]):
                    self._bytes.append(data[at])  # the second byte of a character that the writer did not escape
                    at += 1
        message = f"the RTF document is truncated: {len(self._opened):,} of its groups have no end"
        raise Unreadable(ErrorType.CORRUPT, message)

    def _leave(self) -> bool:
        """Ends a group; False at the document's end."""
        self._flush()
        was = self._state
        if self._opened:
            self._state = self._opened.pop()
        if not was.unshown and was.paragraphs and not self._state.paragraphs:
            self._write("\n", always=True)
        return bool(self._opened)

    def _word(self, word: str, number: int | None, starred: bool) -> None:
        state = self._state
        if word == "u" and number is not None:
            self._write(_character(number))
            self._skip = state.fallback
        elif word in _WRITES:
            self._write(_WRITES[word], always=word == "nestrow")
            if word in ("par", "row", "sect", "page") and not state.note:
                self._end_paragraph()
        elif word == "f":
            if state.fonts:
                self._font_defined = number or 0
            else:
                self._change(font=number)
        elif word == "fcharset" and state.fonts:
            self._charsets[self._font_defined] = number or 0
        elif word == "uc":
            self._change(fallback=max(0, min(number if number is not None else 1, 10)))
        elif word == "v":
            self._change(hidden=number != 0)
        elif word == "deleted":
            self._change(deleted=number != 0)
        elif word == "plain":
            self._change(font=self._default_font, hidden=False, deleted=False)
        elif word == "deff":
            self._default_font = number
            self._change(font=number)
        elif word in _OF_DOCUMENT:
            self._codec = _OF_DOCUMENT[word]
        elif word == "ansicpg":
            self._codec = _code_page(number) or self._codec
        elif word == "chftn":
            self._write(f"[{self._count if state.note else self._count + 1}]")
        elif word == "fonttbl":
            self._change(fonts=True, quiet=True)
        elif word == "footnote":
            self._flush()
            self._count += 1
            self._change(note=True, quiet=False)
        elif word in _UNSHOWN:
            self._change(unshown=True)
        elif word in _QUIET:
            self._change(quiet=True)
        elif word in _PARAGRAPHS or word in _SHOWN:
            if word in _PARAGRAPHS:
                self._write("\n", always=True)
            self._change(quiet=False, paragraphs=state.paragraphs or word in _PARAGRAPHS)
        elif starred:
            self._change(unshown=True)

    def _change(self, **changes: bool | int | None) -> None:
        self._flush()
        self._state = replace(self._state, **changes)  # type: ignore[arg-type]

    def _take(self, data: bytes) -> None:
        """Bytes of the text, less those that stand in for a character that was given by number."""
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        self._bytes += data

    def _encoding(self) -> str:
        font = self._state.font
        charset = self._charsets.get(font, 1) if font is not None else 1
        return _CHARSETS.get(charset, self._codec)

    def _is_half(self, data: bytes) -> bool:
        """Tells whether the last of the bytes begins a character of two."""
        encoding = self._encoding()
        if data[-1] < 0x80 or encoding not in _TWO_BYTES:
            return False
        try:
            data.decode(encoding)
        except UnicodeDecodeError as error:
            return error.start == len(data) - 1
        return False

    def _flush(self) -> None:
        if self._bytes:
            data = bytes(self._bytes)
            self._bytes.clear()
            state = self._state
            if state.fonts and not state.unshown:
                self._fonts.setdefault(self._font_defined, data.decode("latin-1").strip(" ;"))
            if not (state.unshown or state.quiet or state.hidden or state.deleted):
                if state.font is not None and self._charsets.get(state.font) == _SYMBOLS:
                    name = self._fonts.get(state.font, "")
                    text = "".join(shown(name, byte) or (chr(byte) if byte < 0x80 else OTHER) for byte in data)
                else:
                    text = data.decode(self._encoding(), "replace")
                (self._notes if state.note else self._parts).append(text)

    def _write(self, text: str, *, always: bool = False) -> None:
        """`always`: also where only what is further within is shown."""
        self._flush()
        state = self._state
        if text and not (state.unshown or state.hidden or state.deleted) and (always or not state.quiet):
            (self._notes if state.note else self._parts).append(text)

    def _end_paragraph(self) -> None:
        if self._notes:
            self._parts.append("".join(self._notes).strip() + "\n")
            self._notes.clear()

    def _whole(self) -> str:
        self._flush()
        self._parts.append("\n")
        self._end_paragraph()
        text = "".join(self._parts)
        if not text.isascii():
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        lines = (line.rstrip() for line in text.split("\n"))
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def _character(number: int) -> str:
    """Of `\\u`: a code unit of UTF-16, signed; some writers put whole code points there."""
    number += 0x10000 if number < 0 else 0
    return chr(number) if 0 < number < 0x110000 else ""


def _code_page(number: int | None) -> str | None:
    try:
        return codecs.lookup(_CODE_PAGES.get(number or 0, f"cp{number}")).name
    except LookupError:
        return None
