"""E-mail (.eml, .mht) to text: who, to whom, when, about what, the body, and the names of what is attached."""

from __future__ import annotations

from email import policy
from email.message import EmailMessage
from email.parser import BytesParser

from workers.extract.encodings import decode
from workers.extract.html import page_to_text

_HEADERS = ("From", "To", "Cc", "Date", "Subject")


def mail_to_text(key: str, data: bytes) -> str:
    """The message; as it is where it has no header of one. Raises `Unreadable`."""
    message = BytesParser(EmailMessage, policy=policy.default).parsebytes(data)
    headers = [f"{name}: {value}" for name in _HEADERS if (value := _header(message, name))]
    if not headers:
        return decode(key, data)
    body = message.get_body(("plain", "html"))
    text = _body(key, body).strip() if isinstance(body, EmailMessage) else ""
    attached = [name for part in message.iter_attachments() if (name := part.get_filename())]
    named = [f"Attached: {', '.join(attached)}"] if attached else []
    return "\n".join([*headers, *named, "", text]).strip()


def _header(message: EmailMessage, name: str) -> str:
    try:
        return " ".join(str(message.get(name, "")).split())
    except (ValueError, LookupError, TypeError, AttributeError):  # the parser of addresses and dates has its bugs
        return ""


def _body(key: str, part: EmailMessage) -> str:
    payload = part.get_payload(decode=True)
    if not isinstance(payload, bytes) or not payload.strip():
        return ""
    text = decode(key, payload, declared=part.get_content_charset())
    return page_to_text(text) if part.get_content_subtype() == "html" else text.replace("\r\n", "\n")
