"""iCalendar (RFC 5545), as invitations have it, to text: what, when, where, who."""

from __future__ import annotations

import re

_SHOWN = {
    "SUMMARY": "Event", "DTSTART": "Start", "DTEND": "End", "DUE": "Due", "DURATION": "Duration", "RRULE": "Repeats",
    "LOCATION": "Where", "ORGANIZER": "Organizer", "ATTENDEE": "Attendee", "STATUS": "Status", "METHOD": "Method",
    "DESCRIPTION": "Description", "COMMENT": "Comment",
}  # fmt: skip
_LINE = re.compile(
    r"""(?P<name>[A-Za-z-]+)(?P<parameters>(?:;[\w-]+=(?:"[^"]*"|[^";:,]*)(?:,(?:"[^"]*"|[^";:,]*))*)*):(?P<value>.*)"""
)
_PARAMETER = re.compile(r';(CN|TZID)="?([^";:]*)"?', re.IGNORECASE)
_TIME = re.compile(r"(\d{4})(\d\d)(\d\d)(?:T(\d\d)(\d\d)(\d\d)(Z?))?\Z")


def calendar_to_text(text: str) -> str:
    """Reads events and tasks; the text as it is where it has none that can be read."""
    lines: list[str] = []
    within: list[str] = []
    for line in re.sub(r"\r?\n[ \t]", "", text).splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        name, value = found["name"].upper(), found["value"]
        if name == "BEGIN":
            within.append(value.strip().upper())
        elif name == "END" and within:
            within.pop()
        elif name in _SHOWN and within and within[-1] in ("VEVENT", "VTODO", "VJOURNAL", "VFREEBUSY", "VCALENDAR"):
            lines.append(f"{_SHOWN[name]}: {_value(found)}")
    return "\n".join(lines) if lines else text


def _value(found: re.Match[str]) -> str:
    value = found["value"].strip()
    said = {name.upper(): text for name, text in _PARAMETER.findall(found["parameters"])}
    time = _TIME.match(value)
    if time is not None:
        day = f"{time[1]}-{time[2]}-{time[3]}"
        if time[4] is None:
            return day
        zone = " UTC" if time[7] else f" {said['TZID']}" if "TZID" in said else ""
        return f"{day} {time[4]}:{time[5]}{zone}"
    value = re.sub(r"\\([\\;,nN])", lambda each: "\n" if each[1] in "nN" else each[1], value)
    if value.lower().startswith("mailto:"):
        value = value[len("mailto:") :]
        return f"{said['CN']} <{value}>" if said.get("CN") else value
    return value
