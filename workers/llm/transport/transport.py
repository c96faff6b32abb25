"""One HTTP request to an OpenAI-compatible endpoint, and its raw answer.

The openai SDK resolves endpoint, organisation and headers from its own environment names; the request itself goes over
aiohttp and orjson: of two bare loops the SDK's costs 3 to 4 ms of CPU a document and theirs 0.4 (`python -m
benchmarks efficiency`).
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import openai

from batch.network.proxies import PORTS, Proxy, ProxyUnusable, proxy_for
from batch.schema.error_types import ErrorType
from workers.llm.answers.json_text import decoded
from workers.llm.transport.connections import Connector, demand_fresh, was_reused
from workers.llm.transport.keys import KEY, KEY_COMMAND, KEY_FILE, CredentialsMissing, Keys

MAX_BODY_BYTES = 16 * 2**20
"""Of an answer, unpacked; nothing beyond it is unpacked."""
MAX_ERROR_BYTES = 2**18
"""Of what is no success: the rest tells nothing more."""
SHOWN_BYTES = 20_000
OF_THE_SDK = "X-Stainless-"
"""Headers in which the SDK tells of itself: these requests are not its own."""
SECRET_HEADER = re.compile(r"key|token|secret|authorization", re.IGNORECASE)
"""Names of headers that hold secrets, where `OPENAI_CUSTOM_HEADERS` adds some."""
STALE_WITHIN = 1.0
"""Seconds: a used connection that breaks so soon, without a word, was closed before the request came."""

log = logging.getLogger(__name__)


class TransportError(Exception):
    """No whole HTTP answer: connection refused or reset, timeout, a body cut off or past the limit.

    `kind` is the short word; `ErrorType.ANSWER_TOO_LARGE` for the last.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def sdk_client(keys: Keys, **options: Any) -> openai.AsyncOpenAI:
    """The SDK's client by the environment and `keys`, without retries of its own. Raises `CredentialsMissing`."""
    how = f"the worker's environment sets it: {KEY}, {KEY_FILE} or {KEY_COMMAND}"
    try:
        client = openai.AsyncOpenAI(api_key=keys.current or None, max_retries=0, **options)
    except openai.OpenAIError as error:
        raise CredentialsMissing(keys.secrets.clean(f"{error} ({how})")) from None
    if not keys.current:
        raise CredentialsMissing(f"there is no key for the model's endpoint ({how})")
    return client


def endpoint_proxy(base_url: str, keys: Keys) -> Proxy | None:
    """Returns the environment's proxy to the endpoint, whose password is a secret from here on; None for none.

    Raises `CredentialsMissing` for an endpoint or a proxy that cannot be used.
    """
    endpoint = urlsplit(base_url)
    if endpoint.scheme not in PORTS or not endpoint.hostname:
        raise CredentialsMissing("OPENAI_BASE_URL is no URL of a server; it begins with http:// or https://")
    if endpoint.username is not None:
        raise CredentialsMissing("OPENAI_BASE_URL holds a user or password; the key alone says who asks")
    try:
        proxy = proxy_for(base_url)
    except ProxyUnusable as error:
        raise CredentialsMissing(f"no way to the model's endpoint: {error}") from None
    if proxy is not None and proxy.auth is not None:
        keys.secrets.add(proxy.auth[1])
        log.info("the model's endpoint is reached by the proxy %s (%s)", proxy.url, proxy.named_by)
    return proxy


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer of any status; `body` is decoded JSON, None where it is none: then `text` is its beginning."""

    status: int
    headers: Any
    body: Any
    text: str = ""


class Transport:
    """A connection pool to the provider of this process' environment (`OPENAI_BASE_URL`, and what `Keys` reads).

    Raises `CredentialsMissing`.
    """

    def __init__(self, keys: Keys | None = None) -> None:
        self._keys = keys or Keys()
        client = sdk_client(self._keys)
        self.base_url = str(client.base_url)
        self._proxy = endpoint_proxy(self.base_url, self._keys)
        self._tunnels = self.base_url.startswith("https:")
        headers = {**client.default_headers, **client.auth_headers, "User-Agent": f"docbatch/{version('docbatch')}"}
        self._headers = {
            name: value
            for name, value in headers.items()
            if isinstance(value, str) and not name.startswith(OF_THE_SDK) and name != "Authorization"
        }
        for name, value in self._headers.items():
            if SECRET_HEADER.search(name):
                self._keys.secrets.add(value)
        if self._proxy is not None and not self._tunnels:
            self._headers |= self._proxy.headers
        self._session: aiohttp.ClientSession | None = None
        self._asks_as = ""
        """The key in the headers."""

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            # No headers of the session's own: aiohttp sends those to a proxy too, the key among them.
            self._session = aiohttp.ClientSession(
                connector=Connector(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
                proxy=self._proxy.url if self._proxy is not None else None,
            )
        if self._asks_as != self._keys.current:
            self._asks_as = self._keys.current
            self._headers["Authorization"] = f"Bearer {self._asks_as}"
        return self._session

    async def post(self, path: str, payload: bytes, *, timeout: float) -> Reply:
        """Sends JSON; raises `TransportError` when no whole answer comes within `timeout` seconds.

        Sent once, but again where nothing was done with it: when the key is refused and there is another one by now,
        and when a connection turns out to have been closed while nobody used it. No secret is in what comes back.
        """
        url, secrets = self.base_url + path, self._keys.secrets
        try:
            async with asyncio.timeout(timeout):
                reply, key = await self._once(url, payload)
                if reply.status == 401 and await self._keys.renew(key):
                    reply, _ = await self._once(url, payload)
                return reply
        except aiohttp.ConnectionTimeoutError as error:
            message = f"{url}: cannot connect in time (OPENAI_BASE_URL sets it{self._by_proxy()}): {error}"
            raise TransportError(ErrorType.UNREACHABLE, secrets.clean(message)) from None
        except TimeoutError:
            raise TransportError(ErrorType.TIMEOUT, f"{url}: no answer within {timeout:g} s") from None
        except (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError) as error:
            message = f"{url}: cannot connect (OPENAI_BASE_URL sets it{self._by_proxy()}): {error}"
            raise TransportError(ErrorType.UNREACHABLE, secrets.clean(message)) from None
        except (aiohttp.ClientError, OSError) as error:
            message = secrets.clean(f"{url}: {type(error).__name__}: {error}")
            raise TransportError(ErrorType.CONNECTION, message) from None

    async def _once(self, url: str, payload: bytes) -> tuple[Reply, str]:
        """Returns the answer to a request, and the key that went with it."""
        session, key = self._open(), self._asks_as
        to_proxy = self._proxy.headers if self._proxy is not None and self._tunnels else None
        demand_fresh(False)
        began = time.monotonic()
        answers = False
        while True:
            try:
                async with session.post(
                    url, data=payload, headers=self._headers, allow_redirects=False, proxy_headers=to_proxy
                ) as response:
                    answers = True
                    raw = await _read(response)
                    return self._cleaned(response.status, response.headers, raw, response.charset), key
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                # A server that works on an answer is silent for longer before it breaks, and may have billed it.
                if answers or not was_reused() or time.monotonic() - began > STALE_WITHIN:
                    raise
                demand_fresh(True)

    def _cleaned(self, status: int, headers: Any, raw: bytes, charset: str | None) -> Reply:
        """Returns an answer without secrets. Raises `TransportError` for a proxy's own refusal."""
        if status == 407 and self._proxy is not None:
            message = f"{self.base_url}: HTTP 407: the proxy wants a password{self._by_proxy()}"
            raise TransportError(ErrorType.UNREACHABLE, message)
        secrets = self._keys.secrets
        raw = secrets.clean_bytes(raw)
        if 300 <= status < 400:
            headers = headers.copy()
            for name in set(headers):
                headers[name] = secrets.clean(headers[name])
        body = decoded(raw, charset)
        text = raw[:SHOWN_BYTES].decode(errors="replace") if body is None else ""
        return Reply(status, headers, secrets.clean_json(raw, body), text)

    def _by_proxy(self) -> str:
        return f", by the proxy {self._proxy.url} of {self._proxy.named_by}" if self._proxy is not None else ""

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Returns the body, unpacked; of an error only its beginning. aiohttp unpacks no faster than it is read."""
    is_error = response.status >= 300
    most = MAX_ERROR_BYTES if is_error else MAX_BODY_BYTES
    if response.content_length is not None and "Content-Encoding" not in response.headers:
        if response.content_length <= most:
            return await response.content.read(-1)
        if not is_error:
            message = f"an answer of {response.content_length:,} bytes is past the limit"
            raise TransportError(ErrorType.ANSWER_TOO_LARGE, message)
    parts: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        parts.append(chunk)
        if size > most:
            response.close()  # the connection too: the rest of the body would come by it
            if is_error:
                break
            raise TransportError(ErrorType.ANSWER_TOO_LARGE, f"an answer of more than {most:,} bytes is past the limit")
    return b"".join(parts)
