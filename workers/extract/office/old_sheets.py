"""Times and durations in cells of XLS sheets ([MS-XLS]), which the library shows as parts of days or as days of 1900.

The sheets' records say which numbers those are; in the text they are known again by what the library makes of them. So
a plain 0.5 before a time of 0.5 may be taken for it; whole numbers are left as they are.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta

from workers.extract.office.cell_formats import BUILT_IN_TIMES, as_time, time_code

_FORMAT, _XF, _BOF, _FILEPASS = 0x041E, 0x00E0, 0x0809, 0x002F
_NUMBER, _RK, _MULRK, _FORMULA = 0x0203, 0x027E, 0x00BD, 0x0006
_DAY_ZERO = (datetime(1899, 12, 31), datetime(1899, 12, 30), datetime(1904, 1, 1))
"""Of dates before March 1900, after it, and in books that count from 1904."""


def with_times(text: str, stream: bytes) -> str:
    """The text of an XLS with its times and durations as such. `stream`: its records, from the stream `Workbook`."""
    shown: defaultdict[str, list[str]] = defaultdict(list)
    for number, code in _timed_numbers(stream):
        time = as_time(number, code)
        if time is not None:
            names = _names(number)
            for name in names:
                shown[name].append(time)
    if not shown:
        return text
    lines = []
    for line in text.split("\n"):
        cells = line.split("\t")
        for at, cell in enumerate(cells):
            if shown.get(cell):
                cells[at] = shown[cell].pop(0)
        lines.append("\t".join(cells))
    return "\n".join(lines)


def _names(number: float) -> list[str]:
    """Returns what the library may show for a number of days; a whole number would be taken for others, and is left."""
    names = [] if number.is_integer() else [repr(number)]
    for zero in _DAY_ZERO if 0 <= number < 100_000 else ():
        day = zero + timedelta(seconds=round(number * 86_400))
        names += [day.isoformat(" "), *([day.date().isoformat()] if number.is_integer() else [])]
    return names


def _timed_numbers(stream: bytes) -> Iterator[tuple[float, str]]:
    """Yields the numbers of cells whose format is one of times, with its code."""
    codes: dict[int, str] = dict(BUILT_IN_TIMES)
    times: dict[int, str] = {}
    styles = 0
    for kind, data in _records(stream):
        if kind == _FILEPASS:
            return
        if kind == _FORMAT and len(data) > 5:
            wide, letters = data[4] & 1, data[5:]
            codes[struct.unpack_from("<H", data)[0]] = letters.decode("utf-16-le" if wide else "latin-1", "replace")
        elif kind == _XF and len(data) >= 4:
            code = time_code(codes.get(struct.unpack_from("<H", data, 2)[0], ""))
            if code is not None:
                times[styles] = code
            styles += 1
        elif kind in (_NUMBER, _RK, _MULRK, _FORMULA) and times:
            for style, number in _cells(kind, data):
                if style in times:
                    yield number, times[style]


def _records(stream: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(stream):
        kind, size = struct.unpack_from("<HH", stream, at)
        yield kind, stream[at + 4 : at + 4 + size]
        at += 4 + size


def _cells(kind: int, data: bytes) -> Iterator[tuple[int, float]]:
    """Styles and numbers of one record."""
    if kind in (_NUMBER, _FORMULA) and len(data) >= 14:
        if kind == _NUMBER or data[12:14] != b"\xff\xff":  # else the result is no number
            yield struct.unpack_from("<4xHd", data)
    elif kind == _RK and len(data) >= 10:
        style, packed = struct.unpack_from("<4xHI", data)
        yield style, _unpacked(packed)
    elif kind == _MULRK:
        for at in range(4, len(data) - 7, 6):
            style, packed = struct.unpack_from("<HI", data, at)
            yield style, _unpacked(packed)


def _unpacked(packed: int) -> float:
    """Returns the number of an RkNumber ([MS-XLS] 2.5.217)."""
    if packed & 2:
        number = float(packed >> 2 if packed < 2**31 else (packed >> 2) - 2**30)
    else:
        number = struct.unpack("<d", struct.pack("<Q", (packed & ~3) << 32))[0]
    return number / 100 if packed & 1 else number
