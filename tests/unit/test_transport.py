"""What a request to the provider carries besides its body."""

from __future__ import annotations

from importlib.metadata import version

import aiohttp.web
import pytest
from multidict import CIMultiDict

from workers.llm.transport import Transport


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
