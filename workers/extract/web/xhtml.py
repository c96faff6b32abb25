"""XHTML, which a parser of HTML misreads: what XML says of it, said as HTML says it.

To HTML `<script src="k.js"/>` opens a script that goes on to the next end tag, and `<title/>` a title: of such a page
nothing else is left. Pages of e-books and what XML tools write are full of them.
"""

from __future__ import annotations

import re
from html import escape

_RAW = "script|style|title|textarea|iframe|noframes|noembed|xmp|noscript"
_VOID = frozenset({
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr",
})  # fmt: skip
_SAYS_XML = re.compile(
    r"""\A\ufeff?\s*+(?:<\?xml\s|(?:<!--(?:(?!-->).)*+-->\s*+)*+(?:<!doctype[^>\[]{0,500}(?:\[[^\]]{0,4000}\]\s*)?>\s*+)?"""
    r"""<(?:\w+:)?html\s[^>]{0,500}\bxmlns(?::\w+)?\s*=\s*["']http://www\.w3\.org/1999/xhtml["'])""",
    re.IGNORECASE | re.DOTALL,
)
_ATTRIBUTES = r"""(?:\s++[^\s"'<>/=]++(?:\s*+=\s*+(?:"[^"]*+"|'[^']*+'|[^\s"'<>]++))?+)*+"""
_SELF_CLOSED_RAW = re.compile(rf"<(?:{_RAW}){_ATTRIBUTES}\s*+/>", re.IGNORECASE)
_PIECE = re.compile(
    rf"""<!--.*?(?:-->|\Z)|<!\[CDATA\[(?P<cdata>.*?)(?:\]\]>|\Z)|<(?P<empty>[a-z][\w:.-]*+){_ATTRIBUTES}\s*+/>"""
    rf"""|<(?P<raw>script|style|textarea|title|iframe|xmp|noframes|noembed)\b[^<>]*+>.*?(?:</(?P=raw)\s*+>|\Z)""",
    re.IGNORECASE | re.DOTALL,
)
_SUBSET = re.compile(r"<!DOCTYPE[^\[>]*+\[[^\]]*+\]\s*>", re.IGNORECASE)
_PROLOGUE = 5000
_PREFIX = re.compile(r"""\sxmlns:(\w+)\s*=\s*["']http://www\.w3\.org/1999/xhtml["']""")


def as_html(page: str, *, xml: bool = False) -> str:
    """Gives elements that end in `/>` an end tag of their own, where the page is XHTML or that hides the page.

    Args:
        xml: it is XHTML, whether it says so or not.
    """
    if "/>" not in page and "<![CDATA[" not in page and "xmlns:" not in page:
        return page
    xml = xml or _SAYS_XML.match(page) is not None
    if not xml:
        return _PIECE.sub(_raw_as_html, page) if _SELF_CLOSED_RAW.search(page) else page
    began = page[:_PROLOGUE].lower().find("<!doctype")
    subset = _SUBSET.match(page, began) if began >= 0 else None
    if subset is not None:
        page = page[:began] + "<!DOCTYPE html>" + page[subset.end() :]
    prefix = _PREFIX.search(page, 0, _PROLOGUE)
    if prefix is not None:
        page = re.sub(rf"<(/?){prefix[1]}:", r"<\1", page)
    return _PIECE.sub(_as_html, page)


def _as_html(piece: re.Match[str]) -> str:
    if piece["cdata"] is not None:
        return escape(piece["cdata"], quote=False)
    name = piece["empty"]
    if name is None or name.lower() in _VOID:
        return piece[0]
    return f"{piece[0][:-2]}></{name}>"


def _raw_as_html(piece: re.Match[str]) -> str:
    name = piece["empty"]
    return f"{piece[0][:-2]}></{name}>" if name is not None and name.lower() in _RAW.split("|") else piece[0]
