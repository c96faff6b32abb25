"""Formats of cells (ISO/IEC 29500-1, 18.8.30) by which a number is not what the library makes of it, in XLSX and XLS.

Times and durations are numbers of days; digits may have zeros before them and signs between them, as phone numbers and
post codes do. Fractions and digits that show only where there are some the library loses: those are said otherwise.
"""

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
_PLACES = re.compile(r"\.[0#?]*[#?][0#?]*")
_MASK = re.compile(r"[0#][0#()/. \-]*[0#]|\([0#() \-]*[0#]")
_QUOTED = re.compile(r"""\\(.)|"([^"]*)"|\[(?!<)[^\]]*\]|_.|\*.""")
_BELOW = re.compile(r"\[<(=?)(\d{1,15})\]")
_DAY = 86_400


def time_code(code: str) -> str | None:
    """What of a format's code tells how it shows times; None for one that shows days of the calendar, or no time."""
    bare = _LITERALS.sub("", code).split(";")[0].lower()
    return bare if re.search(r"[hs]|\[m", bare) and not re.search("[yd]|mmm", bare) and "general" not in bare else None


def as_time(number: float, code: str) -> str | None:
    """Returns a number of days as hours, minutes and seconds; None for one that is a day of the calendar, too.

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


def plainer(code: str) -> str:
    """A code of numbers as the library takes it: places behind the point that are always there, no fractions."""
    bare = _LITERALS.sub("", code).lower()
    if re.search("[ymdhs]", bare.replace("general", "")):
        return code
    if "/" in bare or ("general" in bare and code.strip().lower() != "general"):
        return "General"
    return _PLACES.sub(lambda found: "." + "0" * (len(found[0]) - 1), code)


def digits_code(code: str) -> str | None:
    """A code that sets digits, such as `00000` or `000-00-0000`, in plain characters; None for one of amounts."""
    sections = [_QUOTED.sub(lambda found: found[1] or found[2] or "", each) for each in code.split(";")[:2]]
    bare = _BELOW.sub("", sections[0])
    sets = _MASK.fullmatch(bare) is not None and "." not in bare and (bare.startswith("00") or re.search("[^0#]", bare))
    return ";".join(sections) if sets and "/" not in bare else None


def as_digits(number: float, code: str) -> str | None:
    """Returns a whole number set as `digits_code` says; None for any other.

    Args:
        code: as `digits_code` gives it.
    """
    if not (number.is_integer() and 0 <= number < 1e15):
        return None
    mask, _, other = code.partition(";")
    below = _BELOW.match(mask)
    if below is not None:
        limit = int(below[2])
        mask = mask[below.end() :] if number < limit or (below[1] and number == limit) else other
    left, shown = list(str(int(number))), []
    first = next((at for at, each in enumerate(mask) if each in "0#"), None)
    if first is None:
        return None
    for at in range(len(mask) - 1, -1, -1):
        if mask[at] not in "0#":
            shown.append(mask[at])
        elif left or mask[at] == "0":
            shown.append(left.pop() if left else "0")
        if at == first:
            shown += reversed(left)
    return "".join(reversed(shown)).strip()
