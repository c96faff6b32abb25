"""Formats of cells that show a number of days as a time or a duration (ISO/IEC 29500-1, 18.8.30), in XLSX and XLS."""

from __future__ import annotations

import re

BUILT_IN_TIMES = {
    18: "h:mm AM/PM",
    19: "h:mm:ss AM/PM",
    20: "h:mm",
    21: "h:mm:ss",
    45: "mm:ss",
    46: "[h]:mm:ss",
    47: "mmss.0",
}
"""Those that have a number of their own."""
_LITERALS = re.compile(r'"[^"]*"|\\.|_.|\*.|\[(?!(?:h+|m+|s+)\])[^\]]*\]|AM/PM|A/P', re.IGNORECASE)
"""Of a format's code: texts, spaces, colours, conditions, locales, marks of half days."""
_DAY = 86_400


def time_code(code: str) -> str | None:
    """What of a format's code tells how it shows times; None for one that shows days of the calendar, or no time."""
    bare = _LITERALS.sub("", code).split(";")[0].lower()
    return bare if re.search(r"[hs]|\[m", bare) and not re.search("[yd]|mmm", bare) and "general" not in bare else None


def as_time(number: float, code: str) -> str | None:
    """A number of days as hours, minutes and seconds; None for one that is a day of the calendar, too.

    Args:
        code: as `time_code` gives it.
    """
    seconds = number * _DAY
    lasts = "[" in code
    if not abs(seconds) < 1e12 or not (lasts or 0 <= seconds < _DAY):
        return None
    rounded = round(abs(seconds))
    hours, minutes = divmod(rounded // 60, 60)
    shown = f"{'-' if seconds < 0 else ''}{hours:02}:{minutes:02}"
    return f"{shown}:{rounded % 60:02}" if "s" in code or rounded % 60 else shown
