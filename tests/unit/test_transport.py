"""What a request to the provider carries besides its body."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version

import aiohttp.web
import pytest
from multidict import CIMultiDict

from workers.llm.transport import MAX_BODY_BYTES, TOO_LARGE, Transport, TransportError


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


Handler = Callable[[aiohttp.web.Request], Awaitable[aiohttp.web.StreamResponse]]


@asynccontextmanager
async def serving(answer: Handler, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Transport]:
    app = aiohttp.web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://{host}:{port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    transport = Transport()
    try:
        yield transport
    finally:
        await transport.close()
        await runner.cleanup()


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
    assert found.value.kind == TOO_LARGE
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
        assert found.value.kind == TOO_LARGE
        reply = await transport.post("chat/completions", b"gzip", timeout=30)
        assert reply.status == 200, "the pool is as good as before"
