"""HTML -> its visible text, one block a line."""

from __future__ import annotations

import re

from selectolax.lexbor import LexborHTMLParser

from workers.extract.nesting import is_too_deep
from workers.extract.unreadable import Unreadable

INVISIBLE = ["script", "style", "template", "noscript", "svg", "iframe"]


def page_to_text(page: str) -> str:
    """`html_to_text` for a page of any make. Raises `Unreadable`."""
    if is_too_deep(page):
        raise Unreadable("too_deep", "the HTML page nests too deeply: to parse it would take seconds to hours")
    return html_to_text(page)


def html_to_text(page: str) -> str:
    """Title first, then the body without scripts and styles; runs of white space folded."""
    tree = LexborHTMLParser(page)
    heading = _title(tree)
    tree.strip_tags(INVISIBLE)
    body = tree.body
    text = body.text(separator="\n", strip=True) if body is not None else ""
    lines = (_folded(line) for line in f"{heading}\n{text}".splitlines())
    return "\n".join(line for line in lines if line)


def title_of(page: str) -> str:
    """On one line; empty without one."""
    return _folded(_title(LexborHTMLParser(page)))


def _title(tree: LexborHTMLParser) -> str:
    title = tree.css_first("title")
    return title.text(strip=True) if title is not None else ""


def _folded(line: str) -> str:
    return re.sub(r"\s+", " ", line).strip()
