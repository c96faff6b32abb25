"""What the library leaves out of DOCX, or joins into other words and numbers, said in the parts before it reads them.

Ruby (it has neither base nor reading), symbols by font and code, tabs by position, and formulas, of which it has all
characters and no sign of what is raised or divided: 10 to the power of 6 is not 106.
"""

from __future__ import annotations

import re
from xml.sax.saxutils import escape

from workers.extract.files.archives import Archive
from workers.extract.files.packages import Package
from workers.extract.office.symbol_fonts import shown

_TEXTS = ("header", "footer", "footnotes", "endnotes", "comments")
_RUBY = re.compile(rb"<((?:[\w.-]+:)?)ruby(?:\s[^<>]*)?>(.*?)</\1ruby\s*>", re.DOTALL)
_BASE = re.compile(rb"<(?:[\w.-]+:)?rubyBase(?:\s[^<>]*)?>(.*?)</(?:[\w.-]+:)?rubyBase\s*>", re.DOTALL)
_READING = re.compile(rb"<(?:[\w.-]+:)?rt(?:\s[^<>]*)?>(.*?)</(?:[\w.-]+:)?rt\s*>", re.DOTALL)
_TEXT = re.compile(rb"<(?:[\w.-]+:)?t(?:\s[^<>]*)?>([^<]*)</")
_TAB = re.compile(rb"<((?:[\w.-]+:)?)ptab\s[^<>]*/>")
_SYMBOL = re.compile(rb"<((?:[\w.-]+:)?)sym\s([^<>]*)/>")
_FONT = re.compile(rb"""font=["']([^"'<>]*)["']""")
_CODE = re.compile(rb"""char=["']([0-9A-Fa-f]{1,6})["']""")
_NOTHING = re.compile(rb"<((?:[\w.-]+:)?)(?:sup|sub|deg)>\s*</\1(?:sup|sub|deg)>")
_FORMULA = re.compile(rb"<(/?)((?:[\w.-]+:)?)(num|den|sup|sub|rad|d)>")
_SIGNS = {
    b"num": ("(", ")/"),
    b"den": ("(", ")"),
    b"d": ("(", ")"),
    b"sup": ("^(", ")"),
    b"sub": ("_(", ")"),
    b"rad": ("√(", ")"),
}


def mended_texts(package: Package, archive: Archive) -> dict[str, bytes]:
    """Returns the parts of a DOCX that have such, as the library reads them right. Raises `Unreadable`."""
    found = package.targets(package.main)
    changed = {}
    for name in text_parts(package, found):
        part = mended = archive.read(name)
        if b"ruby" in part:
            mended = _RUBY.sub(_ruby, mended)
        if b"ptab" in part:
            mended = _TAB.sub(rb"<\1tab/>", mended)
        if b"sym " in part:
            mended = _SYMBOL.sub(_symbol, mended)
        if b"oMath" in part:
            mended = _FORMULA.sub(_formula, _NOTHING.sub(b"", mended))
        if mended != part:
            changed[name] = mended
    return changed


def text_parts(package: Package, found: dict[str, list[str]]) -> list[str]:
    """Returns the main part, and those that it names which have text."""
    return [package.main, *(name for kind in _TEXTS for name in found.get(kind, []))]


def _ruby(ruby: re.Match[bytes]) -> bytes:
    base, reading = (
        b"".join(_TEXT.findall(inside[1])) if (inside := each.search(ruby[2])) is not None else b""
        for each in (_BASE, _READING)
    )
    text = b"%b(%b)" % (base, reading) if reading.strip() else base
    return b'<%bt xml:space="preserve">%b</%bt>' % (ruby[1], text, ruby[1])


def _symbol(symbol: re.Match[bytes]) -> bytes:
    font, code = _FONT.search(symbol[2]), _CODE.search(symbol[2])
    text = shown(font[1].decode(errors="replace"), int(code[1], 16)) if font is not None and code is not None else None
    return symbol[0] if text is None else b"<%bt>%b</%bt>" % (symbol[1], escape(text).encode(), symbol[1])


def _formula(tag: re.Match[bytes]) -> bytes:
    ends, prefix, name = tag.groups()
    sign = b"<%br><%bt>%b</%bt></%br>" % (prefix, prefix, _SIGNS[name][bool(ends)].encode(), prefix, prefix)
    return sign + tag[0] if ends else tag[0] + sign
