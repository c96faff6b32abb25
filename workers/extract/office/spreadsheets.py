"""Cells of XLSX sheets whose text the library does not get right, mended in the sheets before it reads them.

Times of day and durations are numbers of days, which the format of the cell tells apart from others (ISO/IEC 29500-1,
18.8.30); a formula may stand without its result, as libraries write it that do not calculate.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from xml.etree import ElementTree
from xml.sax.saxutils import escape, unescape

from batch.schema.error_types import ErrorType
from workers.extract.files.archives import Archive
from workers.extract.files.extracted import Unreadable
from workers.extract.files.packages import Package
from workers.extract.office.cell_formats import BUILT_IN_TIMES, as_digits, as_time, digits_code, plainer, time_code

_CELL = re.compile(rb"<((?:[\w.-]+:)?)c\s([^<>]*?[^<>/])>(.*?)</\1c\s*>", re.DOTALL)
_STYLE = re.compile(rb"""\bs=["'](\d+)["']""")
_TYPE = re.compile(rb"""\bt=["'](\w+)["']""")
_VALUE = re.compile(rb"<((?:[\w.-]+:)?)v(?:\s[^<>]*)?>([^<]*)</\1v\s*>")
_CODE = re.compile(rb"""(\sformatCode\s*=\s*)(["'])([^"'<>]*)\2""")
_FRACTION = re.compile(rb"""(<(?:[\w.-]+:)?xf\s[^<>]*?\bnumFmtId=["'])1[23](["'])""")
"""Cells by the fractions that have no code of their own (12 and 13): they show as other numbers do."""
_QUOTES = {"&quot;": '"', "&apos;": "'"}
_ESCAPES = {'"': "&quot;", "'": "&apos;"}
_Shows = Callable[[float], str | None]
_NOTHING = re.compile(rb"<((?:[\w.-]+:)?)v\s*(?:/>|></\1v\s*>)")


def mended_sheets(package: Package, archive: Archive) -> dict[str, bytes]:
    """Returns the sheets that have such cells, as the library reads them right. Raises `Unreadable`."""
    found = package.targets(package.main)
    styles = next(iter(found.get("styles", [])), None)
    changed = {}
    times: dict[int, _Shows] = {}
    if styles is not None:
        said = archive.read(styles)
        times = _times(said)
        plain = _plainer(said)
        if plain != said:
            changed[styles] = plain
    for name in found.get("worksheet", []):
        sheet = archive.read(name)
        if not found.get("sharedStrings") and b't="s"' in sheet:
            raise Unreadable(ErrorType.CORRUPT, "the XLSX lacks the part that has its texts")
        if times or ((b"<f" in sheet or b":f" in sheet) and _NOTHING.search(sheet) is not None):
            mended = _CELL.sub(lambda cell: _mended(cell, times), sheet)
            if mended != sheet:
                changed[name] = mended
    return changed


def _plainer(styles: bytes) -> bytes:
    """Returns the styles with codes that the library takes."""

    def plain(found: re.Match[bytes]) -> bytes:
        code = unescape(found[3].decode(errors="replace"), _QUOTES)
        made = plainer(code)
        return found[0] if made == code else found[1] + found[2] + escape(made, _ESCAPES).encode() + found[2]

    return _FRACTION.sub(rb"\g<1>0\g<2>", _CODE.sub(plain, styles))


def _times(styles: bytes) -> dict[int, _Shows]:
    """Styles of cells that show times, durations or set digits -> how."""
    if b"<!ENTITY" in styles:
        raise Unreadable(ErrorType.CORRUPT, "the styles of the XLSX declare entities, which no Office document needs")
    try:
        root = ElementTree.fromstring(styles)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise Unreadable(ErrorType.CORRUPT, f"the styles of the XLSX are damaged: {error}") from None
    codes = dict(BUILT_IN_TIMES)
    for each in root.iter():
        if each.tag.rpartition("}")[2] == "numFmt" and (each.get("numFmtId") or "").isdecimal():
            codes[int(each.get("numFmtId") or 0)] = each.get("formatCode") or ""
    formats = next((each for each in root if each.tag.rpartition("}")[2] == "cellXfs"), ())
    times: dict[int, _Shows] = {}
    for at, each in enumerate(formats):
        number = each.get("numFmtId") or ""
        said = codes.get(int(number), "") if number.isdecimal() else ""
        if (code := time_code(said)) is not None:
            times[at] = partial(as_time, code=code)
        elif (code := digits_code(said)) is not None:
            times[at] = partial(as_digits, code=code)
    return times


def _mended(cell: re.Match[bytes], times: dict[int, _Shows]) -> bytes:
    prefix, attributes, content = cell.groups()
    kind = _TYPE.search(attributes)
    if kind is not None and kind[1] != b"n":
        return cell[0]
    if b"f>" in content or b"f " in content:
        content = _NOTHING.sub(b"", content)
    value, style = _VALUE.search(content), _STYLE.search(attributes)
    shows = times.get(int(style[1])) if style is not None else None
    shown = _shown(value[2], shows) if value is not None and shows is not None else None
    if value is None or shown is None:
        return b"<%bc %b>%b</%bc>" % (prefix, attributes, content, prefix)
    attributes = _TYPE.sub(b"", _STYLE.sub(b"", attributes)) + b' t="str"'
    content = content[: value.start(2)] + shown.encode() + content[value.end(2) :]
    return b"<%bc %b>%b</%bc>" % (prefix, attributes, content, prefix)


def _shown(number: bytes, shows: _Shows) -> str | None:
    try:
        return shows(float(number))
    except ValueError:
        return None
