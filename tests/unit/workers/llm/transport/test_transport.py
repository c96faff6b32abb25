"""What a request to the provider carries besides its body, on which connections, and what comes back of it."""

from __future__ import annotations

import asyncio
import base64
import gzip
import socket
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp.web
import pytest
from multidict import CIMultiDict

from workers.llm.transport import connections
from workers.llm.transport.keys import CredentialsMissing
from workers.llm.transport.transport import MAX_BODY_BYTES, Transport, TransportError

PROXIES = [f"{kind}_proxy" for kind in ("http", "https", "all", "no")]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, *map(str.upper, PROXIES), "OPENAI_API_KEY_FILE", "OPENAI_API_KEY_COMMAND"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "the-first-key-of-all")


@asynccontextmanager
async def serving(
    answer: Callable[[aiohttp.web.Request], Awaitable[aiohttp.web.StreamResponse]], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Transport]:
    """A transport to a server of that answer."""
    app = aiohttp.web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
    transport = Transport()
    try:
        yield transport
    finally:
        await transport.close()
        await runner.cleanup()


async def ask(transport: Transport) -> Any:
    return await transport.post("chat/completions", b"{}", timeout=5)


async def test_a_request_tells_who_sends_it_and_has_the_sdks_key(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[CIMultiDict[str]] = []

    async def answer(request: aiohttp.web.Request) -> aiohttp.web.Response:
        seen.append(request.headers.copy())
        return aiohttp.web.json_response({"text": await request.text()})

    app = aiohttp.web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://{host}:{port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    monkeypatch.setenv("OPENAI_ORG_ID", "an-organisation")
    transport = Transport()
    try:
        reply = await transport.post("chat/completions", b"{}", timeout=5)
    finally:
        await transport.close()
        await runner.cleanup()
    assert (reply.status, reply.body) == (200, {"text": "{}"})
    (headers,) = seen
    assert headers["User-Agent"] == f"docbatch/{version('docbatch')}"
    assert headers["Authorization"] == "Bearer a-key"
    assert headers["OpenAI-Organization"] == "an-organisation"
    assert headers["Content-Type"] == "application/json"
    assert not [name for name in headers if name.lower().startswith("x-stainless")]  # those are the SDK's own


async def test_a_key_that_is_refused_is_read_anew_and_the_request_sent_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, seen = tmp_path / "key", list[str]()
    file.write_text("an-hourly-key-of-nine")
    monkeypatch.setenv("OPENAI_API_KEY_FILE", str(file))

    async def answer(request: aiohttp.web.Request) -> aiohttp.web.Response:
        seen.append(request.headers["Authorization"].removeprefix("Bearer "))
        right = seen[-1] == file.read_text()
        return aiohttp.web.json_response({"error": {"message": f"key {seen[-1]}"}}, status=200 if right else 401)

    async with serving(answer, monkeypatch) as transport:
        assert (await ask(transport)).status == 200
        file.write_text("an-hourly-key-of-ten")
        assert [reply.status for reply in await asyncio.gather(*(ask(transport) for _ in range(5)))] == [200] * 5
        assert seen.count("an-hourly-key-of-nine") <= 6 and seen.count("an-hourly-key-of-ten") == 5
        file.write_text("an-hourly-key-of-ten")
        calls = len(seen)
        monkeypatch.setattr(file.__class__, "read_text", lambda _: "nobody has it")
        reply = await ask(transport)
    assert (reply.status, len(seen)) == (401, calls + 1), "without another key it is not sent again"
    assert reply.body == {"error": {"message": "key [key]"}}


async def test_a_connection_that_was_closed_while_idle_costs_nothing_but_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests = dict[Any, int]()

    async def answer(request: aiohttp.web.Request) -> aiohttp.web.Response:
        requests[request.protocol] = requests.get(request.protocol, 0) + 1
        if requests[request.protocol] > 1:
            assert request.transport is not None
            request.transport.abort()
        return aiohttp.web.json_response({})

    async with serving(answer, monkeypatch) as transport:
        for _ in range(4):
            assert (await ask(transport)).status == 200
        await asyncio.gather(*(ask(transport) for _ in range(8)))
    assert max(requests.values()) == 2


async def test_a_new_connection_that_breaks_may_have_been_billed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    async def answer(request: aiohttp.web.Request) -> aiohttp.web.Response:
        calls.append(1)
        assert request.transport is not None
        request.transport.abort()
        return aiohttp.web.json_response({})

    async with serving(answer, monkeypatch) as transport:
        with pytest.raises(TransportError) as error:
            await ask(transport)
    assert (error.value.kind, len(calls)) == ("connection", 1)


async def test_connections_are_kept_alive_and_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = connections.kept_alive_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1)))
    with made:
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_KEEPIDLE"):
            assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 60
    seen: list[Any] = []

    async def answer(request: aiohttp.web.Request) -> aiohttp.web.Response:
        seen.append(request.protocol)
        return aiohttp.web.json_response({})

    async with serving(answer, monkeypatch) as transport:
        for _ in range(3):
            await ask(transport)
        assert len(set(seen)) == 1
        monkeypatch.setattr(connections, "LIFE_SECONDS", -1.0)
        async with serving(answer, monkeypatch) as other:
            for _ in range(3):
                await ask(other)
    assert len(set(seen)) == 4


@pytest.mark.parametrize(
    "echo",
    [
        "the-first-key-of-all",
        base64.b64encode(b"user:the-first-key-of-all").decode(),
        "\\u0074he-first-key-of-all",
    ],
)
@pytest.mark.parametrize("status", [200, 400, 401])
async def test_a_key_that_is_echoed_never_arrives(echo: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(request: aiohttp.web.Request) -> aiohttp.web.Response:
        text = f'{{"error": {{"message": "wrong: {echo}"}}}}'
        return aiohttp.web.Response(text=text, status=status, content_type="application/json")

    async with serving(answer, monkeypatch) as transport:
        assert (await ask(transport)).body == {"error": {"message": "wrong: [key]"}}


async def test_what_cannot_be_reached_is_not_billed_and_shows_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:a-secret-password@127.0.0.1:1")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://model.example/v1")
    transport = Transport()
    try:
        with pytest.raises(TransportError) as error:
            await ask(transport)
    finally:
        await transport.close()
    assert error.value.kind == "unreachable"
    assert "by the proxy http://127.0.0.1:1 of HTTP_PROXY" in str(error.value)
    assert "a-secret-password" not in str(error.value)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_is_told_who_asks(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain request goes to it whole, one by TLS by CONNECT, without the key; its refusal is not the provider's."""
    heads: list[str] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://user:a-secret%40password@127.0.0.1:{port}")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{scheme}://model.example/v1")
    transport = Transport()
    try:
        with pytest.raises(TransportError) as error:
            await ask(transport)
    finally:
        await transport.close()
        server.close()
    assert error.value.kind == "unreachable"
    first, _, rest = heads[0].partition("\r\n")
    target = "POST http://model.example/v1/chat/completions" if scheme == "http" else "CONNECT model.example:443"
    assert first == f"{target} HTTP/1.1"
    assert f"Proxy-Authorization: Basic {base64.b64encode(b'user:a-secret@password').decode()}" in rest
    assert ("the-first-key-of-all" in rest) is (scheme == "http")


def test_an_endpoint_with_a_password_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "https://user:topsecret@model.example/v1")
    with pytest.raises(CredentialsMissing, match="OPENAI_BASE_URL holds a user or password") as error:
        Transport()
    assert "topsecret" not in str(error.value)


@pytest.mark.parametrize("url", ["localhost:8000/v1", "model.example/v1", "ftp://model.example/v1"])
def test_an_endpoint_that_is_no_url_of_a_server_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(CredentialsMissing, match="OPENAI_BASE_URL is no URL"):
        Transport()


def packed(encoding: str, megabytes: int) -> bytes:
    block = b" " * 2**20
    if encoding == "br":
        brotli = pytest.importorskip("brotli")
        compressor = brotli.Compressor()
        return b"".join(compressor.process(block) for _ in range(megabytes)) + bytes(compressor.finish())
    if encoding == "zstd":
        zstd = pytest.importorskip("backports.zstd")
        compressor = zstd.ZstdCompressor()
        return b"".join(compressor.compress(block) for _ in range(megabytes)) + bytes(compressor.flush())
    made = zlib.compressobj(9, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
    return b"".join(made.compress(block) for _ in range(megabytes)) + made.flush()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_what_a_body_unpacks_to_is_bounded_before_it_is_in_memory(
    encoding: str, chunked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = packed(encoding, 200)

    async def answer(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
        if not chunked:
            return aiohttp.web.Response(body=bomb, headers=headers)
        response = aiohttp.web.StreamResponse(headers=headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(bomb)
        await response.write_eof()
        return response

    async with serving(answer, monkeypatch) as transport:
        tracemalloc.start()
        try:
            with pytest.raises(TransportError) as found:
                await transport.post("chat/completions", b"{}", timeout=60)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert found.value.kind == "answer_too_large"
    assert peak < 3 * MAX_BODY_BYTES, f"{peak:,} bytes at most in memory"


async def test_bodies_of_any_framing_and_status_are_read_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    page = "<html><title>Sign in</title>" + "x" * 2**20

    async def answer(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        asked = await request.text()
        if asked == "gzip":
            body = gzip.compress(b'{"a": "\\ud83d"}')
            return aiohttp.web.Response(body=body, headers={"Content-Encoding": "gzip"})
        if asked == "page":
            return aiohttp.web.Response(text=page, content_type="text/html")
        if asked == "long error":
            return aiohttp.web.Response(status=500, body=b"y" * (2 * MAX_BODY_BYTES))
        return aiohttp.web.Response(body=b" " * (MAX_BODY_BYTES + 1))

    async with serving(answer, monkeypatch) as transport:
        reply = await transport.post("chat/completions", b"gzip", timeout=30)
        assert (reply.body, reply.text) == ({"a": "\ufffd"}, "")
        reply = await transport.post("chat/completions", b"page", timeout=30)
        assert reply.body is None and reply.text.startswith("<html><title>Sign in") and len(reply.text) < 30_000
        reply = await transport.post("chat/completions", b"long error", timeout=30)
        assert reply.status == 500 and reply.text.startswith("yyy")
        with pytest.raises(TransportError) as found:
            await transport.post("chat/completions", b"too long", timeout=30)
        assert found.value.kind == "answer_too_large"
        reply = await transport.post("chat/completions", b"gzip", timeout=30)
        assert reply.status == 200, "the pool is as good as before"
