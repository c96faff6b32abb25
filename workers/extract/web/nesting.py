"""How much work a page's nesting makes for the HTML parser: a linear look at the tags, before the parse.

Lexbor's time grows with the sum, over the tags, of the elements open at each (measured: 8 ns a piece, 40 ns one of
formatting), and elements of formatting that nobody closes are made anew in every block after them. So 25 KB of `<div>`
take 0.1 s, and 20 MB hours.
The look errs upwards: it leaves some elements open that the parser would close. Real pages stay far below the bound.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict

MOST_WORK = 200_000_000
"""Open elements, summed over the tags: at most about 2 s of parsing."""
OPEN_FORMATTING, REOPENED = 5, 150
"""What an open element of formatting costs at each tag, and one that is made anew, in looks at an open element."""

_SPACE = r"[\t\n\f\r ]"
_TAG = re.compile(
    rf"""<(/?)([a-z][^\t\n\f\r />]*+)(?:[\t\n\f\r /]++|[^\t\n\f\r />][^\t\n\f\r />=]*+(?:{_SPACE}*+={_SPACE}*+"""
    r"""(?:"[^"]*+"?+|'[^']*+'?+|[^\t\n\f\r >"'][^\t\n\f\r >]*+)?+)?+)*+>?|<!--(?:-?>|.*?(?:--!?>|\Z))""",
    re.IGNORECASE | re.DOTALL,
)
_VOID = frozenset({
    "area", "base", "basefont", "bgsound", "br", "col", "embed", "frame", "hr", "image", "img", "input", "keygen",
    "link", "meta", "param", "source", "track", "wbr",
})  # fmt: skip
_ENDED_BY_OTHERS = frozenset({
    "html", "head", "body", "p", "li", "dt", "dd", "option", "tr", "td", "th", "thead", "tbody", "tfoot", "colgroup",
    "caption",
})  # fmt: skip
"""Elements that the parser closes by itself before they can nest."""
_FORMATTING = frozenset({
    "a", "b", "big", "code", "em", "font", "i", "nobr", "s", "small", "strike", "strong", "tt", "u",
})  # fmt: skip
_RAW = frozenset(["script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes", "plaintext"])
_IDENTICAL = 3
"""Of identical formatting elements the parser makes so many anew."""


def is_too_deep(page: str) -> bool:
    """Tells whether parsing the page would take more than `MOST_WORK`."""
    count = page.count("<")
    if count * count * (1 + REOPENED) < 2 * MOST_WORK:
        return False
    opened: list[str] = []
    counts: Counter[str] = Counter()
    formatting: defaultdict[str, list[str]] = defaultdict(list)
    identical: Counter[str] = Counter()
    depth_of_formatting = reopened = work = 0

    def close_formatting(name: str) -> None:
        nonlocal depth_of_formatting, reopened
        if formatting[name]:
            text = formatting[name].pop()
            depth_of_formatting -= 1
            identical[text] -= 1
            reopened -= identical[text] < _IDENTICAL

    tags = _TAG.finditer(page)
    while (match := next(tags, None)) is not None:
        ends, name = match.groups()
        if name is None:  # a comment
            continue
        name = name.lower()
        work += len(opened) + OPEN_FORMATTING * depth_of_formatting
        if name in _FORMATTING:
            if ends or name in ("a", "nobr"):  # these two end the one before
                close_formatting(name)
            if not ends:
                text = match[0]
                formatting[name].append(text)
                depth_of_formatting += 1
                reopened += identical[text] < _IDENTICAL
                identical[text] += 1
        elif name in _ENDED_BY_OTHERS:
            work += REOPENED * reopened
        elif ends:
            work += REOPENED * reopened
            if counts[name]:
                while True:
                    last = opened.pop()
                    counts[last] -= 1
                    if last == name:
                        break
        elif name not in _VOID:
            foreign = counts["svg"] or counts["math"]
            if name in _RAW and not foreign:
                end = re.compile(rf"</{re.escape(name)}[\t\n\f\r />]", re.IGNORECASE).search(page, match.end())
                if end is None:
                    break
                tags = _TAG.finditer(page, end.end())
            elif not (foreign and match[0].endswith("/>")):
                opened.append(name)
                counts[name] += 1
        if work > MOST_WORK:
            return True
    return False
