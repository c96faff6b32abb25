"""E-mail (.eml, .mht, mbox) to text: who, to whom, when, about what, what is attached, and every text in its order.

Of alternatives one is shown. Forwarded messages, reports of delivery, invitations and attached texts follow where they
stand. Headers and parts of any make are read: what is malformed is text, never nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import Message

from batch.schema.error_types import ErrorType
from workers.extract.files.encodings import decode
from workers.extract.files.extracted import Unreadable
from workers.extract.mail.mail_fields import body_bytes, charset_of, header, headers, name_of
from workers.extract.web.html import page_to_text

_HEADERS = ("From", "To", "Cc", "Date", "Subject")
_MBOX = re.compile(rb"From \S+[^\r\n]*\d{4}[^\r\n]*\r?\n(?=>?[A-Za-z][\w-]*:|>From )")
_BETWEEN = re.compile(
    rb"\n\r?\n(?=From \S+[^\r\n]*\d{4}[^\r\n]*\r?\n(?:>?[A-Za-z][\w-]*:|>From ))"
    rb"|\n(?=From \S+ +(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} [ \d]\d \d\d:\d\d[^\r\n]{0,40}\d{4}"
    rb"[^\r\n]{0,40}\r?\n[A-Za-z][\w-]*:)"
)
"""The line before each message of an mbox file; some programs leave no empty one."""
_BOUNDARY = re.compile(rb"^--([^\r\n]{1,200}?)[ \t]*\r?\n(?=[A-Za-z][\w-]*:|\r?\n)", re.MULTILINE)
_MESSAGES = frozenset({"message/rfc822", "message/news", "message/global"})
_PAGES = frozenset({"text/html", "application/xhtml+xml"})
_NOT_READ = frozenset({"text/css", "text/javascript", "text/x-amp-html", "text/x-vcard", "text/vcard"})
_SEALED = {"application/pkcs7-mime", "application/x-pkcs7-mime"}
_STUB = 3
"""Times the words that an HTML alternative has, of the plain one, from which on that is a pointer to it at best."""
_ARMOURED = "-----BEGIN PGP MESSAGE-----"
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


def mail_to_text(key: str, data: bytes) -> str:
    """Reads a message, or all of an mbox file; as it is what has no header of one. Raises `Unreadable`."""
    data = data.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n")
    if b"\n" not in data:
        data = data.replace(b"\r", b"\n")
    if not _MBOX.match(data):
        return _message(key, data)
    return "\n\n".join(_message(key, each.replace(b"\n>From ", b"\nFrom ")) for each in _BETWEEN.split(data))


def _message(key: str, data: bytes) -> str:
    """Returns one message; without headers of one, the text that it is."""
    message = _parsed(data)
    if not any(name in message for name in (*_HEADERS, "Content-Type", "MIME-Version")):
        return decode(key, data)
    return _Reader(key).text_of(message)


def _parsed(data: bytes) -> Message:
    """By the policy that never interprets a header, and so fails at none."""
    return message_from_bytes(data, policy=policy.compat32)


class _Reader:
    """Reads one message with all that is in it."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._attached: list[str] = []

    def text_of(self, message: Message) -> str:
        texts = [text for each in self._texts(message, alone=True) if (text := each.strip())]
        lines = [f"{name}: {value}" for name in _HEADERS if (value := header(message, name))]
        if self._attached:
            lines.append(f"Attached: {', '.join(self._attached)}")
        if texts and texts[0].startswith(_ARMOURED) and len(texts) == 1:
            raise Unreadable(ErrorType.ENCRYPTED, "the message is encrypted (PGP)")
        return "\n".join([*lines, "", "\n\n".join(texts)]).strip()

    def _texts(self, part: Message, *, alone: bool = False) -> Iterator[str]:
        """Yields the texts of a part and of those in it. `alone`: it is a message's only one, or holds all others."""
        kind = part.get_content_type()
        if part.get_content_maintype() == "multipart":
            yield from self._parts(part, kind, alone)
        elif part.get_content_maintype() == "message":
            yield from self._enclosed(part, kind)
        elif kind in _SEALED:
            if alone:
                signed = "signed-data" in str(part.get("Content-Type", "")).lower()
                if signed:
                    message = "the message's text is within its signature (S/MIME)"
                    raise Unreadable(ErrorType.UNSUPPORTED_FORMAT, message)
                raise Unreadable(ErrorType.ENCRYPTED, "the message is encrypted (S/MIME)")
            self._note(part)
        elif part.get_content_maintype() == "text" or kind in _PAGES:
            yield from self._text(part, kind, alone)
        else:
            self._note(part)

    def _parts(self, part: Message, kind: str, alone: bool) -> Iterator[str]:
        payload = part.get_payload()
        if not isinstance(payload, list):
            yield from self._without_boundary(part, kind)
            return
        children = [child for child in payload if isinstance(child, Message)]
        if kind == "multipart/encrypted":
            if alone:
                raise Unreadable(ErrorType.ENCRYPTED, "the message is encrypted (PGP or S/MIME)")
            self._note(part)
            return
        if kind == "multipart/alternative":
            texts = self._alternative(children)
        else:
            only = alone and len(children) == 1
            texts = [text for child in children for text in self._texts(child, alone=only)]
        yield from texts
        if not any(text.strip() for text in texts) and not self._attached:
            for outside in (part.preamble, part.epilogue):
                if outside and outside.strip():
                    yield _decoded(self._key, outside.encode("ascii", "surrogateescape"), None)

    def _without_boundary(self, part: Message, kind: str) -> Iterator[str]:
        """Of a part that says it has parts and names no boundary that stands in it: its own lines may show another."""
        data = body_bytes(part)
        boundary = _BOUNDARY.search(data)
        if boundary is not None:
            head = f'Content-Type: {kind}; boundary="'.encode() + boundary[1].replace(b'"', b"") + b'"\r\n\r\n'
            again = _parsed(head + data)
            if again.is_multipart():
                yield from self._texts(again)
                return
        yield _decoded(self._key, data, charset_of(part))

    def _alternative(self, children: list[Message]) -> list[str]:
        """Plain text unless it is none or a stub; then the last that has text. Invitations add when and where."""
        plain: list[str] = []
        rich: list[str] = []
        events: list[str] = []
        for child in children:
            kind = child.get_content_type()
            if kind == "text/calendar":
                events.append(calendar_to_text(_decoded(self._key, body_bytes(child), charset_of(child))))
                continue
            found = [text for text in self._texts(child) if text.strip()]
            if kind == "text/plain":
                plain += found
            elif found:
                rich = found
        chosen = plain if plain and _words_in(plain) * _STUB >= _words_in(rich) else rich or plain
        return [*chosen, *events]

    def _enclosed(self, part: Message, kind: str) -> Iterator[str]:
        """Yields a message, or a report, in a part of its own."""
        payload = part.get_payload()
        enclosed = [each for each in payload if isinstance(each, Message)] if isinstance(payload, list) else []
        if not enclosed:
            yield _decoded(self._key, body_bytes(part), charset_of(part))
            return
        if kind not in _MESSAGES:
            for each in enclosed:
                yield "\n".join([*headers(each), "", *self._texts(each)]).strip()
            return
        for found in enclosed:
            each = found
            coded = str(part.get("Content-Transfer-Encoding", "")).strip().lower()
            if coded in ("base64", "quoted-printable") and not each.keys():
                each["Content-Transfer-Encoding"] = coded
                each = _parsed(body_bytes(each))
            reader = _Reader(self._key)
            yield f"---- Message ----\n{reader.text_of(each)}"

    def _text(self, part: Message, kind: str, alone: bool) -> Iterator[str]:
        name, data = name_of(part), body_bytes(part)
        is_attached = part.get_content_disposition() == "attachment"
        if is_attached or name:
            self._note(part)
        if not data.strip():
            return
        if kind in _NOT_READ and not alone:
            if not (is_attached or name):
                self._note(part)
            return
        try:
            text = _decoded(self._key, data, charset_of(part))
            if kind in _PAGES:
                text = page_to_text(text)
            elif kind == "text/calendar":
                text = calendar_to_text(text)
            elif kind in ("text/rtf", "text/richtext") and data.startswith(b"{\\rtf"):
                from workers.extract.office.rtf import rtf_to_text

                text = rtf_to_text(data)
        except Unreadable:
            if not is_attached:
                raise
            return  # its name says that it is there
        yield f"---- {name} ----\n{text.strip()}" if is_attached and name else text

    def _note(self, part: Message) -> None:
        """An attachment by its name; one without, that is no picture of a page, by what it is."""
        name = name_of(part)
        if not name and part.get_content_maintype() not in ("image", "audio", "video", "font"):
            name = part.get_content_type()
        if name and part.get_content_type() not in ("text/css", "text/javascript"):
            self._attached.append(name)


def _decoded(key: str, data: bytes, charset: str | None) -> str:
    return decode(key, data, declared=charset).replace("\r\n", "\n")


def _words_in(texts: list[str]) -> int:
    return sum(len(text.split()) for text in texts)


def calendar_to_text(text: str) -> str:
    """Reads events and tasks of iCalendar (RFC 5545); the text as it is where it has none that can be read."""
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
