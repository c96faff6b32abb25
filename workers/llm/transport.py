"""One HTTP request to an OpenAI-compatible endpoint, and its raw answer.

The openai SDK resolves endpoint, key, organisation and headers from its own environment names; the request itself goes
over aiohttp and orjson: of two bare loops the SDK's costs 3 to 4 ms of CPU a document and theirs 0.4 (`python -m
benchmarks efficiency`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import aiohttp
import openai

from workers.llm.json_text import decoded

MAX_BODY_BYTES = 16 * 2**20
"""Of an answer, unpacked; nothing beyond it is unpacked."""
MAX_ERROR_BYTES = 2**18
"""Of what is no success: the rest tells nothing more."""
SHOWN_BYTES = 20_000
TOO_LARGE = "answer_too_large"
OF_THE_SDK = "X-Stainless-"
"""Headers in which the SDK tells of itself: these requests are not its own."""


class TransportError(Exception):
    """No whole HTTP answer: connection refused or reset, timeout, a body cut off or past the limit.

    `kind` is the short word; `TOO_LARGE` for the last.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class CredentialsMissing(Exception):
    """The worker's environment holds no key for the provider."""


def sdk_client() -> openai.AsyncOpenAI:
    """The SDK's client by the environment, without retries of its own. Raises `CredentialsMissing`."""
    try:
        return openai.AsyncOpenAI(max_retries=0)
    except openai.OpenAIError as error:
        raise CredentialsMissing(f"{error} (the worker's environment sets it: OPENAI_API_KEY)") from None


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer of any status; `body` is decoded JSON, None where it is none: then `text` is its beginning."""

    status: int
    headers: Any
    body: Any
    text: str = ""


class Transport:
    """A connection pool to the provider of this process' environment (`OPENAI_BASE_URL`, `OPENAI_API_KEY`)."""

    def __init__(self) -> None:
        client = sdk_client()
        self.base_url = str(client.base_url)
        self.key = client.api_key
        headers = {**client.default_headers, **client.auth_headers, "User-Agent": f"docbatch/{version('docbatch')}"}
        self._headers = {
            name: value for name, value in headers.items() if isinstance(value, str) and not name.startswith(OF_THE_SDK)
        }
        self._session: aiohttp.ClientSession | None = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30, ttl_dns_cache=60)
            self._session = aiohttp.ClientSession(
                connector=connector, headers=self._headers, timeout=aiohttp.ClientTimeout(total=None, sock_connect=10)
            )
        return self._session

    async def post(self, path: str, payload: bytes, *, timeout: float) -> Reply:
        """Sends JSON once; raises `TransportError` when no whole answer comes within `timeout` seconds."""
        url = self.base_url + path
        try:
            async with (
                asyncio.timeout(timeout),
                self._open().post(url, data=payload, allow_redirects=False) as response,
            ):
                raw = await _read(response)
                body = decoded(raw)
                text = raw[:SHOWN_BYTES].decode(errors="replace") if body is None else ""
                return Reply(response.status, response.headers, body, text)
        except TimeoutError:
            raise TransportError("timeout", f"{url}: no answer within {timeout:g} s") from None
        except aiohttp.ClientConnectorError as error:
            raise TransportError("unreachable", f"{url}: cannot connect (OPENAI_BASE_URL sets it): {error}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise TransportError("connection", f"{url}: {type(error).__name__}: {error}") from None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body, unpacked; of an error only its beginning. aiohttp unpacks no faster than it is read."""
    is_error = response.status >= 300
    most = MAX_ERROR_BYTES if is_error else MAX_BODY_BYTES
    if response.content_length is not None and "Content-Encoding" not in response.headers:
        if response.content_length <= most:
            return await response.content.read(-1)
        if not is_error:
            raise TransportError(TOO_LARGE, f"an answer of {response.content_length:,} bytes is past the limit")
    parts: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        parts.append(chunk)
        if size > most:
            response.close()  # the connection too: the rest of the body would come by it
            if is_error:
                break
            raise TransportError(TOO_LARGE, f"an answer of more than {most:,} bytes is past the limit")
    return b"".join(parts)
