"""Cells of XLSX sheets whose text the library does not get right, mended in the sheets before it reads them.

Times of day and durations are numbers of days, which the format of the cell tells apart from others (ISO/IEC 29500-1,
18.8.30); a formula may stand without its result, as libraries write it that do not calculate.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from workers.extract.archives import Archive
from workers.extract.cell_formats import BUILT_IN_TIMES, as_time, time_code
from workers.extract.packages import Package
from workers.extract.unreadable import Unreadable

_CELL = re.compile(rb"<((?:[\w.-]+:)?)c\s([^<>]*?[^<>/])>(.*?)</\1c\s*>", re.DOTALL)
_STYLE = re.compile(rb"""\bs=["'](\d+)["']""")
_TYPE = re.compile(rb"""\bt=["'](\w+)["']""")
_VALUE = re.compile(rb"<((?:[\w.-]+:)?)v\s*>([^<]*)</\1v\s*>")
_NOTHING = re.compile(rb"<((?:[\w.-]+:)?)v\s*(?:/>|></\1v\s*>)")


def mended_sheets(package: Package, archive: Archive) -> dict[str, bytes]:
    """The sheets that have such cells, as the library reads them right. Raises `Unreadable`."""
    found = package.targets(package.main)
    styles = next(iter(found.get("styles", [])), None)
    times = _times(archive.read(styles)) if styles is not None else {}
    changed = {}
    for name in found.get("worksheet", []):
        sheet = archive.read(name)
        if not found.get("sharedStrings") and b't="s"' in sheet:
            raise Unreadable("corrupt", "the XLSX lacks the part that has its texts")
        if times or ((b"<f" in sheet or b":f" in sheet) and _NOTHING.search(sheet) is not None):
            mended = _CELL.sub(lambda cell: _mended(cell, times), sheet)
            if mended != sheet:
                changed[name] = mended
    return changed


def _times(styles: bytes) -> dict[int, str]:
    """Styles of cells that show times or durations -> the code of their format, without its literals."""
    if b"<!ENTITY" in styles:
        raise Unreadable("corrupt", "the styles of the XLSX declare entities, which no Office document needs")
    try:
        root = ElementTree.fromstring(styles)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise Unreadable("corrupt", f"the styles of the XLSX are damaged: {error}") from None
    codes = dict(BUILT_IN_TIMES)
    for each in root.iter():
        if each.tag.rpartition("}")[2] == "numFmt" and (each.get("numFmtId") or "").isdecimal():
            codes[int(each.get("numFmtId") or 0)] = each.get("formatCode") or ""
    formats = next((each for each in root if each.tag.rpartition("}")[2] == "cellXfs"), ())
    times = {}
    for at, each in enumerate(formats):
        number = each.get("numFmtId") or ""
        code = time_code(codes.get(int(number), "") if number.isdecimal() else "")
        if code is not None:
            times[at] = code
    return times


def _mended(cell: re.Match[bytes], times: dict[int, str]) -> bytes:
    prefix, attributes, content = cell.groups()
    kind = _TYPE.search(attributes)
    if kind is not None and kind[1] != b"n":
        return cell[0]
    if b"f>" in content or b"f " in content:
        content = _NOTHING.sub(b"", content)
    value, style = _VALUE.search(content), _STYLE.search(attributes)
    code = times.get(int(style[1])) if style is not None else None
    shown = _shown(value[2], code) if value is not None and code is not None else None
    if value is None or shown is None:
        return b"<%bc %b>%b</%bc>" % (prefix, attributes, content, prefix)
    attributes = _TYPE.sub(b"", _STYLE.sub(b"", attributes)) + b' t="str"'
    content = content[: value.start(2)] + shown.encode() + content[value.end(2) :]
    return b"<%bc %b>%b</%bc>" % (prefix, attributes, content, prefix)


def _shown(number: bytes, code: str) -> str | None:
    try:
        return as_time(float(number), code)
    except ValueError:
        return None
