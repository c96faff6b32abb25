"""Which requests to a server on this machine may have come from a web page, and are refused.

A browser connects to 127.0.0.1 for any page: it sends what is no more than a form could send without asking, and lets
a page read answers once the page's own name resolves to 127.0.0.1 (DNS rebinding). Such requests give themselves away:
by `Origin` or `Sec-Fetch-Site` (https://www.w3.org/TR/fetch-metadata/), the rebound ones by the name in `Host`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from email.message import Message
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Tells whether a host name or address, without port, is this machine's own and never resolved by a stranger."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refusal(headers: Mapping[str, str] | Message, *, bound_to: str) -> str | None:
    """Says why a request is refused, None where it is not.

    Args:
        headers: the request's, looked up whatever their case.
        bound_to: address that the server listens on; if it is no loopback address, `Host` may be any.
    """
    if headers.get("Origin") is not None or headers.get("Sec-Fetch-Site", "none") != "none":
        return "requests of web pages are not answered"
    host = headers.get("Host")
    if host and is_loopback(bound_to):
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            name = ""
        if not is_loopback(name):
            return "only requests to this machine by its own name are answered: use 127.0.0.1 or localhost"
    return None
