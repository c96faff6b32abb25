"""The HTTP client of the openai SDK, which speaks the Batch API here: its proxy, its certificates, its key."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator

import httpx2
import openai

from batch.network.proxies import Proxy
from workers.llm.transport.keys import Keys


def http_client(keys: Keys, proxy: Proxy | None) -> httpx2.AsyncClient:
    """Gives a client whose proxy and certificates are those of the online calls, and whose key is the current one."""
    tls = ssl.create_default_context()
    return openai.DefaultAsyncHttpxClient(
        auth=_CurrentKey(keys),
        verify=tls,
        proxy=None if proxy is None else httpx2.Proxy(proxy.url, auth=proxy.auth),
        trust_env=False,
    )


class _CurrentKey(httpx2.Auth):
    """Sends the current key; one that is refused is read anew, and the request sent once more if there is another."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        """Yields the request, once or twice."""
        key = self._keys.current
        request.headers["Authorization"] = f"Bearer {key}"
        response = yield request
        if response.status_code == 401 and await self._keys.renew(key):
            request.headers["Authorization"] = f"Bearer {self._keys.current}"
            yield request
