"""A text too long for one question -> pieces that each fit, cut at natural borders, with some overlap. Pure.

    reach as far as fits -> back to the best border in the last quarter -> the piece -> back by the overlap, on to the
    next border -> reach again

Borders, best first: a page or a heading, a paragraph, a sentence, a line, a word; else between two characters. The time
is linear in the text, also for one line of 20 MB: each piece is measured once, borders are looked for in its last
quarter, and its successor begins at least a quarter of a full piece after it. A character is never cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from workers.documents.token_estimate import Measure

STEP = 4096
"""Characters measured at one go."""

_PAGE = re.compile(r"\f|\n(?=\#{1,6}[ \t])")
_PARAGRAPH = re.compile(r"\n[ \t\r]*\n")
_SENTENCE = re.compile("[.!?\u2026][\"')\\]\u2019\u201d]*\\s|[\u3002\uff01\uff1f]")
_LINE = re.compile(r"\n")
_WORD = re.compile(r"\s")
_ENDS = (_PAGE, _PARAGRAPH, _SENTENCE, _LINE, _WORD)
_STARTS = (_SENTENCE, _LINE, _WORD)


def pieces(text: str, *, limit: int, overlap: int, measure: Measure) -> Iterator[tuple[int, int]]:
    """Start and end of each piece, in order, from the first character to the last.

    Args:
        limit: what a piece may weigh at most by `measure`; at least what four characters can weigh.
        overlap: of its weight, repeated at the beginning of the next piece; at most half of `limit`.
    """
    start = 0
    while True:
        end = first_end(text, limit=limit, measure=measure, start=start)
        yield start, end
        if end == len(text):
            return
        start = max(start + 1, _overlap_start(text, start, end, overlap, measure))


def first_end(text: str, *, limit: int, measure: Measure, start: int = 0) -> int:
    """Returns the end of the longest piece from `start` that fits, or of one a little shorter at a border."""
    high = _reach(text, start, limit, measure)
    if high == len(text):
        return high
    low = _reach(text, start, limit * 3 // 4, measure)
    for border in _ENDS:
        end = 0
        for found in border.finditer(text, low, high):
            end = found.end()
        if end:
            return end
    return high


def _overlap_start(text: str, start: int, end: int, overlap: int, measure: Measure) -> int:
    """Tells where the piece after that of `start` to `end` begins."""
    low = _reach_back(text, start, end, overlap, measure)
    for border in _STARTS:
        found = border.search(text, low, end)
        if found and found.end() < end:
            return found.end()
    return low


def _reach(text: str, start: int, limit: int, measure: Measure) -> int:
    """Returns the furthest end of a piece from `start` of at most `limit`."""
    end, left, step = start, limit, STEP
    while step:
        while end < len(text) and (weight := measure(text[end : end + step])) <= left:
            left -= weight
            end = min(end + step, len(text))
        step //= 2
    return end


def _reach_back(text: str, start: int, end: int, limit: int, measure: Measure) -> int:
    """Returns the first beginning, not before `start`, of a piece up to `end` of at most `limit`."""
    begin, left, step = end, limit, STEP
    while step:
        while begin > start and (weight := measure(text[max(start, begin - step) : begin])) <= left:
            left -= weight
            begin = max(start, begin - step)
        step //= 2
    return begin
