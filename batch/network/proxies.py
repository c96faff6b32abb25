"""The proxies of the environment: which one leads to an address, by the rules that curl, Go and requests share.

`HTTPS_PROXY`, `HTTP_PROXY` and `ALL_PROXY` name it, `NO_PROXY` what is reached directly; the lower-case name counts
before the upper-case one. Loopback is reached directly whatever they say, as in Go: another machine's proxy would
connect to itself. S3's clients (obstore, boto3) read the same variables themselves.
https://everything.curl.dev/usingcurl/proxies/env.html, https://pkg.go.dev/golang.org/x/net/http/httpproxy
"""

from __future__ import annotations

import ipaddress
import os
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

PORTS = {"http": 80, "https": 443}

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ProxyUnusable(ValueError):
    """The environment names a proxy that cannot be used. The message names the variable, and no password."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy, spoken to by `scheme` (http or https). `auth`: user and password."""

    scheme: str
    host: str
    port: int
    auth: tuple[str, str] | None = field(default=None, repr=False)
    named_by: str = ""

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Without user and password."""
        return f"{self.scheme}://{self.address}"

    @property
    def headers(self) -> dict[str, str]:
        """Returns what a request to the proxy itself says: its `Proxy-Authorization`, if it has any."""
        if self.auth is None:
            return {}
        return {"Proxy-Authorization": f"Basic {b64encode(':'.join(self.auth).encode()).decode()}"}


def proxy_for(url: str, environment: Mapping[str, str] | None = None) -> Proxy | None:
    """Gives the proxy that leads to an `http` or `https` URL, None where it is reached directly.

    Raises `ProxyUnusable`.
    """
    target = urlsplit(url)
    return _chosen((target.scheme, "all"), target.hostname or "", target.port or PORTS[target.scheme], environment)


def grpc_proxy_for(host: str, port: int, environment: Mapping[str, str] | None = None) -> Proxy | None:
    """Gives the proxy through which (CONNECT) a gRPC server is reached, with TLS or without; None where directly.

    As gRPC's own: `https_proxy` before `http_proxy`. Raises `ProxyUnusable`.
    https://github.com/grpc/grpc/blob/master/doc/environment_variables.md
    """
    return _chosen(("https", "all", "http"), host, port, environment)


def _chosen(kinds: tuple[str, ...], host: str, port: int, environment: Mapping[str, str] | None) -> Proxy | None:
    found = os.environ if environment is None else environment
    for kind in kinds:
        name, value = _variable(f"{kind}_proxy", found)
        if value:
            return None if is_direct(host, port, _variable("no_proxy", found)[1]) else _parsed(name, value)
    return None


def _variable(name: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """The variable that counts and what it says; an empty lower-case one counts too, and says that there is none."""
    if name not in environment:
        name = name.upper()
    return name, environment.get(name, "").strip()


def is_direct(host: str, port: int, no_proxy: str) -> bool:
    """Tells whether a host is reached directly: loopback, or named by `NO_PROXY`.

    That is a list, by commas or blanks, of hosts and domains (with everything below them, a leading dot or `*.` or
    not), addresses, ranges of them (`10.0.0.0/8`), each with a port or without; or `*`.
    """
    host = host.strip("[]").rstrip(".").lower()
    address = _address(host)
    if host == "localhost" or host.endswith(".localhost") or (address is not None and address.is_loopback):
        return True
    return any(_names(entry, host, address, port) for entry in no_proxy.replace(",", " ").lower().split())


def _names(entry: str, host: str, address: _Address | None, port: int) -> bool:
    if entry == "*":
        return True
    if "/" in entry:
        try:
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    name, _, number = entry.rpartition(":")
    if number.isdecimal() and name and (":" not in name or name.endswith("]")):
        if int(number) != port:
            return False
        entry = name
    entry = entry.strip("[]")
    if address is not None:
        return address == _address(entry)
    domain = entry.removeprefix("*").strip(".")
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))


def _address(host: str) -> _Address | None:
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(found, "ipv4_mapped", None)
    return mapped or found


def _parsed(name: str, value: str) -> Proxy:
    """Of `http://user:password@host:port`, or `host:port`. Messages show nothing of it but the scheme."""
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        port = parts.port or PORTS.get(parts.scheme, 0)
    except ValueError:
        raise ProxyUnusable(f"{name} is no URL of a proxy; write http://HOST:PORT") from None
    if parts.scheme not in PORTS:
        raise ProxyUnusable(
            f"{name} names a {parts.scheme} proxy, and only http and https ones are known: set HTTPS_PROXY and "
            "HTTP_PROXY to one of those, or NO_PROXY to what is reached without"
        )
    if not parts.hostname:
        raise ProxyUnusable(f"{name} names no host; write http://HOST:PORT")
    auth = None
    if parts.username is not None:
        auth = unquote(parts.username), unquote(parts.password or "")
    return Proxy(parts.scheme, parts.hostname, port, auth, name)
