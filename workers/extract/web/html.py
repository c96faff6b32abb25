"""HTML -> the text that it shows: a line for each block, cells of a table row apart by tabs.

Which elements break lines is what HTML's own style sheet says (https://html.spec.whatwg.org/multipage/rendering.html):
inline elements join, so `un<b>believ</b>able` stays a word. The walk over the tree never recurses; 100 KB take a few
milliseconds. Web pages, chapters of e-books and HTML bodies of mails all come through here.
"""

from __future__ import annotations

import re

from selectolax.lexbor import LexborHTMLParser, LexborNode

from batch.schema.error_types import ErrorType
from workers.extract.files.extracted import Unreadable
from workers.extract.web.nesting import is_too_deep
from workers.extract.web.xhtml import as_html

_UNSHOWN = frozenset({
    "script", "style", "template", "noscript", "iframe", "noembed", "noframes", "head", "title", "datalist", "rp",
    "audio", "video", "canvas", "area", "base", "link", "meta", "param", "annotation", "annotation-xml", "-comment",
})  # fmt: skip
"""Elements of which a page shows nothing. `rp` holds brackets, which every `rt` gets here."""
_SPACE, _LINE, _BREAK, _CELL, _ROW = "\x01", "\x02", "\x03", "\x04", "\x05"
_RAISED, _LOWERED, _STRUCK = "\ufdd0", "\ufdd1", "\ufdd2"
"""Signs in what the walk writes: spaces and line ends that stay as they are, breaks between blocks, cells and rows;
raised and lowered beginnings, and the edge of what is struck out.
A page that has such characters itself gets a space, a break or nothing from them."""
_BLOCKS = """
    address article aside blockquote body caption center dd details dialog dir div dl dt fieldset figcaption figure
    footer form frameset h1 h2 h3 h4 h5 h6 header hgroup hr legend li listing main menu nav ol optgroup option p
    plaintext pre search section summary table textarea ul xmp
"""
_BOXES = "img image input button select meter progress object embed"
_EDGES: dict[str, tuple[str, str]] = {
    **dict.fromkeys(_BLOCKS.split(), (_BREAK, _BREAK)),
    **dict.fromkeys(("tr", "thead", "tbody", "tfoot"), (_ROW, _ROW)),
    **dict.fromkeys(("td", "th"), (_CELL, "")),
    **dict.fromkeys(_BOXES.split(), (" ", " ")),
    "br": (_BREAK, ""),
    "rt": ("(", ")"),
    "sup": (_RAISED, ""),
    "sub": (_LOWERED, ""),
    **dict.fromkeys(("s", "strike", "del"), ("", _STRUCK)),
    "ins": (_STRUCK, ""),
}
"""What comes before and after an element's text. Boxes in a line, such as pictures, part what is beside them."""
_NONE = ("", "")
"""Around elements that are not there: they join."""
_KEEP_LINES = frozenset({"pre", "textarea", "listing", "xmp", "plaintext"})
_VALUE_NOT_SHOWN = frozenset({"hidden", "password", "checkbox", "radio", "file", "image", "color", "range"})
"""Types of <input>; those of every other type show it."""
_FORMULAS = {"msup": "^", "msub": "_", "mfrac": "/", "msubsup": "_^", "munderover": "_^"}
"""Elements of MathML and what stands between their parts, lest a half be 12."""
_DRAWING = frozenset({"g", "a", "svg", "switch"})
"""Elements that lead to the words of a drawing, which are in <text>; its titles and descriptions are not shown."""
_STYLED = re.compile(
    r"(?:\A|;)\s*(?:(?P<hidden>display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse)|mso-hide\s*:\s*all)"
    r"|display\s*:\s*(?P<cell>table-cell)|display\s*:\s*(?P<block>block|flex|grid|table|list-item|flow-root))\b",
    re.IGNORECASE,
)
_KEPT = str.maketrans({" ": _SPACE, "\t": _SPACE * 4, "\n": _LINE, "\r": None})
_SEAM = re.compile(r"[ \x01]*[\x02-\x05][ \x02-\x05]*")
_SPACES = re.compile(" {2,}")
_EDGED = re.compile("[\ufdd0-\ufdd2]+")
_APART = {_RAISED: "^", _LOWERED: "_", _STRUCK: " "}
"""What parts two numbers: 10<sup>6</sup> is not 106, and <s>100</s>80 is neither 100 nor 10080."""
MOST_TAGS, MOST_CHARACTERS = 50_000, 4_000_000
"""Beyond either it may take more time and memory than a process has. Of 1,032 pages of the Web that were tried the
largest have 20,000 start and end tags, and 1.6 MB."""
_BREAKS = re.compile(r"\n{2,}")


def page_to_text(page: str, *, xml: bool = False) -> str:
    """Reads a page of any make: its title, then what its body shows.

    Args:
        xml: it is XHTML, whether it says so or not.

    Raises:
        Unreadable: `too_deep`.
    """
    page = as_html(page, xml=xml)
    if is_too_deep(page):
        raise Unreadable(ErrorType.TOO_DEEP, "the HTML page nests too deeply: to parse it would take seconds to hours")
    tree = LexborHTMLParser(page)
    heading, body = _title(tree), tree.body
    text = _Walk(tree).text_of(body) if body is not None else ""
    return f"{heading}\n{text}".strip("\n")


def title_of(page: str) -> str:
    """Reads the title, on one line; empty without one."""
    return _title(LexborHTMLParser(as_html(page)))


def _title(tree: LexborHTMLParser) -> str:
    for title in tree.css("title"):
        parent = title.parent
        if parent is None or parent.tag in ("head", "body", "html"):  # drawings have titles of their own
            return _tidy(title.text(deep=True))
    return ""


class _Walk:
    """One pass over a tree, in document order."""

    def __init__(self, tree: LexborHTMLParser) -> None:
        self._parts: list[str] = []
        self._hidden: set[int] = set()
        self._formulas = tree.css_first("math") is not None
        self._styled: dict[int, tuple[str, str]] = {}
        for node in tree.css("[hidden],[style],dialog"):
            self._note(node)

    def _note(self, node: LexborNode) -> None:
        """What an element's attributes make of it. A page that hides itself whole waits for its script: it is shown."""
        tag, attributes = node.tag, node.attributes
        styles = {each.lastgroup for each in _STYLED.finditer(attributes.get("style") or "")}
        hidden = "hidden" in attributes and (attributes["hidden"] or "").lower() != "until-found"
        if "hidden" in styles or hidden or (tag == "dialog" and "open" not in attributes):
            if tag not in ("html", "body"):
                self._hidden.add(node.mem_id)
        elif styles:
            self._styled[node.mem_id] = (_CELL, "") if "cell" in styles else (_BREAK, _BREAK)

    def text_of(self, root: LexborNode) -> str:
        """Returns the text of an element with all that is in it."""
        parts, hidden, styled = self._parts, self._hidden, self._styled
        looks, formulas = bool(hidden or styled), self._formulas
        opened: list[tuple[LexborNode, str, bool, bool]] = []
        """Elements around the present one: what ends each, and what held before it."""
        kept = drawn = False
        """Whether lines are kept here; whether this is a drawing, of which only words count."""
        node = root
        while True:
            tag = node.tag or ""
            if tag == "-text":
                if kept:
                    parts.append((node.text_content or "").translate(_KEPT))
                elif not drawn:
                    parts.append(node.text_content or "")
            elif not (tag in _UNSHOWN or (looks and node.mem_id in hidden)):
                words = drawn and tag in ("text", "foreignobject")
                if words or not drawn or tag in _DRAWING:
                    begins, ends = (_BREAK, _BREAK) if words else _EDGES.get(tag, _NONE)
                    if looks and not drawn:
                        begins, ends = styled.get(node.mem_id, (begins, ends))
                    if formulas and opened and (signs := _FORMULAS.get(opened[-1][0].tag or "")) is not None:
                        begins = _between(node, signs)
                        if tag == "mrow":
                            begins, ends = f"{begins}(", ")"
                    if begins:
                        parts.append(begins)
                    if tag == "input":
                        parts.append(_value(node))
                    child = node.first_child
                    if child is not None:
                        opened.append((node, ends, kept, drawn))
                        kept, drawn = kept or tag in _KEEP_LINES, (drawn and not words) or tag == "svg"
                        node = child
                        continue
                    parts.append(ends)
            while opened:
                following = node.next
                if following is not None:
                    node = following
                    break
                node, ends, kept, drawn = opened.pop()
                parts.append(ends)
            else:
                return _tidy("".join(parts))


def _value(node: LexborNode) -> str:
    """Tells what an <input> shows."""
    attributes = node.attributes
    if (attributes.get("type") or "").strip().lower() in _VALUE_NOT_SHOWN:
        return ""
    return attributes.get("value") or ""


def _between(node: LexborNode, signs: str) -> str:
    """Tells what stands before a part of a formula: the sign that is for it, none before the first."""
    count, before = 0, node.prev
    while before is not None and count < len(signs):
        count += not (before.tag or "").startswith("-")
        before = before.prev
    return signs[count - 1] if count else ""


def _tidy(text: str) -> str:
    """White space folded, signs made lines and tabs: what is at the edge of a cell or row ends it no second time."""
    for white in ("\n", "\t", "\r", "\f", "\xa0"):
        text = text.replace(white, " ")
    text = _EDGED.sub(_apart, text.replace(_STRUCK + _STRUCK, " "))
    text = _SPACES.sub(" ", text.replace("\xad", ""))
    return _SEAM.sub(_seam, text).strip("\n\t ").replace(_SPACE, " ")


def _apart(found: re.Match[str]) -> str:
    text, at = found.string, found.end()
    sign, follows = found[0][-1], text[at : at + 2]
    if sign == _RAISED:
        follows = follows.lstrip("-+\u2212")
    return _APART[sign] if follows[:1].isdigit() and text[found.start() - 1 : found.start()].isdigit() else ""


def _seam(found: re.Match[str]) -> str:
    signs = found[0]
    if _ROW in signs:
        return "\n" + "\t" * (signs.count(_CELL, signs.rindex(_ROW)) - 1)
    if _CELL in signs:
        return "\t" * signs.count(_CELL)
    return "\n" if _BREAK in signs else "\n" * signs.count(_LINE)


def page_to_main_text(page: str) -> str:
    """Reads the title, then what the page is there for: no navigation, cookie banners, side columns, footers, comments.

    What that is trafilatura decides (docs/extraction.md has what it was compared with). A page in which it finds
    nothing is read whole, as is one so large that it would take too much time or memory. Only for the processes of
    `pool`: it takes milliseconds for a page as a rule, but nothing bounds what it may take. Raises `Unreadable`.
    """
    page = as_html(page)
    if is_too_deep(page):
        raise Unreadable(ErrorType.TOO_DEEP, "the HTML page nests too deeply: to parse it would take seconds to hours")
    text = _main(page) if len(page) <= MOST_CHARACTERS and page.count("<") <= MOST_TAGS else ""
    if not text:
        return page_to_text(page)
    heading = title_of(page)
    return text if not heading or text.startswith(heading) else f"{heading}\n{text}"


def _main(page: str) -> str:
    """Finds the main text; empty also where the library fails: its bugs cost the choice, not the document."""
    from trafilatura import extract  # 0.5 s and 30 MB, for jobs that ask for it

    try:
        text = extract(page, include_comments=False, include_tables=True, include_formatting=False) or ""
    except MemoryError:
        raise
    except Exception:
        return ""
    return _BREAKS.sub("\n", text).strip()
