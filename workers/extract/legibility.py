"""The judge that every text passes before a model sees it, whatever it came from: is there anything to read in it?

Parsers hand out glyph numbers, undecodable bytes and blanks without complaint. What has no visible character is empty;
what is largely characters that no writer writes is `unreadable_text`; and what passes holds no control characters but
line ends and tabs. A text without anything odd, as nearly all are, costs about a microsecond per KB.
"""

from __future__ import annotations

import re
import unicodedata

from batch.schema.error_types import ErrorType
from workers.extract.files.extracted import Unreadable

MOST_ODD = 0.05
"""Share of a text's visible characters that may be odd: PDFs with a ligature that has no Unicode have 1 %, bytes taken
for Windows-1252 twenty, glyph numbers ninety."""
FEW, MOST_OF_FEW = 5, 0.3
"""Fewer odd characters than this are borne up to that share: a name that lost its umlaut is still a name. One alone is
always borne beside others."""
_TERMINAL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x9b[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]{0,4096}(?:\x07|\x1b\\)"
    r"|\x1b[PX^_][^\x1b\n]{0,4096}\x1b\\|\x1b[ -/]+[0-~]|\x1b[0-~]"
)
"""Escape sequences (ECMA-48): colours and moves of the cursor in logs, titles of windows, sets of characters."""
_STEPS = re.compile(r"\x08+|[^\x08]+")
"""Steps back: manual pages print bold as a letter, a step back, and the letter again; progress is printed over."""
_LINES = re.compile(r"[\x0b\x0c]")
_SEPARATORS = str.maketrans({"\x01": "\t", "\x1f": "\t", "\x1c": "\n", "\x1d": "\n", "\x1e": "\n"})
"""What parts fields and records in FIX, MARC and Hive's files. Where there is no other control character."""
MOST_SEPARATORS = 0.3
_BULLETS = str.maketrans(dict.fromkeys("\uf06c\uf06e\uf071\uf076\uf0a7\uf0a8\uf0b7\uf0d8\uf0fc", "•"))
"""Of the fonts Symbol and Wingdings, by which office programs list."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_NEXT_LINE = "\x85"
"""Unicode's own line end, as U+2028 is: it stays where it is the only control character. Beside others it is a byte of
Windows-1252."""
_WINDOWS = {code: bytes([code]).decode("cp1252", "ignore") or chr(code) for code in range(0x80, 0xA0)}
"""What somebody wrote who meant Windows-1252 by them, as HTML takes it too."""
_LOST = re.compile(r"(?<=\w)[\x00-\x08\x0b-\x1f\x7f-\x9f]+(?=\w)")
"""Within a word, where something was: a ligature of a font without Unicode as a rule."""
_REPLACED = re.compile("[\ufffd\ud800-\udfff]")
_NO_CHARACTER = re.compile("[\ufdd0-\ufdef\ufffe\uffff]")
_PRIVATE = re.compile("[\ue000-\uf8ff\U000f0000-\U0010fffd]{2,}")
"""One alone is an icon or a bullet; text whose font has no Unicode comes in runs."""
_GROWS = re.compile("[\U0001f000-\U0001faff\U00020000-\U0003fffd]")
"""Emoji and Chinese characters, of which each Unicode has new ones, which people use before this Python knows them."""
MOST_LOOKED_AT = 10_000
"""Characters, beyond which each of a text is looked at once, however often it has it."""
_LOOKS_BLANK = frozenset("\u115f\u1160\u3164\uffa0\u2800")
"""Fillers: letters and symbols without a shape."""


def legible(text: str) -> str:
    """Cleans a text and judges it.

    Returns:
        The text without control characters other than line feed and tab; empty where it has no visible character.

    Raises:
        Unreadable: `unreadable_text`, with numbers.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\ufffd" not in text and _is_plain(text):
        return text if _shows(text) else ""
    text = _cleaned(text)
    controls = _CONTROL.findall(text)
    odd = {
        "replacement characters (U+FFFD)": len(_REPLACED.findall(text)),
        "control characters": len(controls) if set(controls) != {_NEXT_LINE} else 0,
        "private-use characters": sum(map(len, _PRIVATE.findall(text))),
        "unassigned code points": _unassigned(text),
    }
    visible, count = sum(map(len, text.split())), sum(odd.values())
    few = count < FEW and (count <= visible * MOST_OF_FEW or count == 1 < visible)
    if count > visible * MOST_ODD and not few:
        if not _shows(_CONTROL.sub("", text)):
            return ""
        said = ", ".join(f"{number:,} {name}" for name, number in odd.items() if number)
        message = f"the text is not readable: of {visible:,} characters {100 * count / visible:.0f} % are {said}"
        raise Unreadable(ErrorType.UNREADABLE_TEXT, message)
    if odd["control characters"]:
        text = _CONTROL.sub("", _LOST.sub("\ufffd", text.translate(_WINDOWS)))
    text = _NO_CHARACTER.sub("", _REPLACED.sub("\ufffd", text))
    return text if _shows(text) else ""


def _is_plain(text: str) -> bool:
    """Tells whether all characters are assigned and have a shape, spaces and line ends apart: in one fast look."""
    return text.replace("\n", "").replace("\t", "").replace("\xa0", "").isprintable()


def _cleaned(text: str) -> str:
    """Without what is odd and harmless, as it would be seen."""
    text = text.strip("\x00").replace("\ufeff", "").replace("\x1a", "")
    if "\x1b" in text or "\x9b" in text:
        text = _TERMINAL.sub("", text)
    if "\x08" in text:
        text = _stepped_back(text)
    text = _LINES.sub("\n", text).translate(_BULLETS)
    found = _CONTROL.findall(text)
    if found and len(found) < MOST_SEPARATORS * len(text) and set(found) <= set("\x01\x1c\x1d\x1e\x1f"):
        text = text.translate(_SEPARATORS)
    return text


def _stepped_back(text: str) -> str:
    """Without what a terminal would have printed over; a step never leaves its line."""
    kept: list[tuple[str, int]] = []
    for found in _STEPS.finditer(text):
        piece, steps = found[0], len(found[0])
        if piece[0] != "\x08":
            kept.append((piece, steps))
            continue
        while steps and kept:
            piece, end = kept.pop()
            start = max(piece.rfind("\n", end - steps if end > steps else 0, end) + 1, end - steps, 0)
            steps = 0 if start and piece[start - 1] == "\n" else steps - (end - start)
            if start:
                kept.append((piece, start))
                break
    return "".join(piece[:end] for piece, end in kept)


def _shows(text: str) -> bool:
    """Tells whether any character can be seen: not only spaces, marks that need a letter, and what has no width."""
    start = text.lstrip()[:1]
    if start.isascii() and start.isprintable():
        return bool(start)
    return any(
        unicodedata.category(each)[0] in "LNPSC"
        and unicodedata.category(each) not in ("Cc", "Cf")
        and each not in _LOOKS_BLANK
        for each in (text if len(text) < MOST_LOOKED_AT else set(text))
    )


def _unassigned(text: str) -> int:
    """Counts code points that are no characters, where none newer than this Python are to be expected."""
    if _is_plain(text):
        return 0
    odd = {
        ord(each)
        for each in set(text)
        if not each.isprintable() and unicodedata.category(each) == "Cn" and not _GROWS.match(each)
    }
    return len(text) - len(text.translate(dict.fromkeys(odd))) if odd else 0
