"""The connections to the model's endpoint: kept alive, not for ever, and by the environment's proxy if it names one."""

from __future__ import annotations

import random
import socket
import time
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

import aiohttp

IDLE_SECONDS = 30.0
"""After which an unused connection is closed."""
LIFE_SECONDS = 120.0
"""Of a connection at most, up to a fifth less: those that come after it find the replicas that DNS names by then."""
DNS_SECONDS = 30
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPALIVE": 30, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
"""Seconds, and probes: below the idle timeouts of NAT gateways and balancers (AWS 350 s, Azure 240 s), which forget a
connection on which a slow answer is awaited without telling either end. TCP_KEEPALIVE is macOS' TCP_KEEPIDLE."""

_reused: ContextVar[bool] = ContextVar("docbatch_connection_reused", default=False)
_fresh: ContextVar[bool] = ContextVar("docbatch_connection_fresh", default=False)


class Connector(aiohttp.TCPConnector):
    """The pool. Tells of each request's connection whether it was used before, and gives none past its life."""

    def __init__(self) -> None:
        super().__init__(
            limit=0, keepalive_timeout=IDLE_SECONDS, ttl_dns_cache=DNS_SECONDS, socket_factory=kept_alive_socket
        )
        self._until: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.connector.Connection:
        """Gives a connection from the pool, or a new one."""
        _reused.set(False)
        while True:
            connection = await super().connect(req, traces, timeout)
            until = self._until.get(connection.protocol)
            if until is None:
                self._until[connection.protocol] = time.monotonic() + LIFE_SECONDS * random.uniform(0.8, 1.0)
                return connection
            if not _fresh.get() and time.monotonic() < until:
                _reused.set(True)
                return connection
            connection.close()


def demand_fresh(fresh: bool) -> None:
    """Says whether the next requests of this task need a connection that was never used."""
    _fresh.set(fresh)


def was_reused() -> bool:
    """Tells whether the last request of this task went out on a connection that had been used before."""
    return _reused.get()


def kept_alive_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Gives a TCP socket whose peer is asked now and then whether it is still there."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made
