"""The Batch API's client with keys that change and servers that echo them."""

from __future__ import annotations

import io
from pathlib import Path

import aiohttp.web
import pytest

from workers.batch_mode.api import BatchApi, BatchApiError, read_lines

OLD, NEW = "an-hourly-key-of-nine", "an-hourly-key-of-ten"


async def test_a_refused_key_is_read_anew_and_no_key_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, uploads = tmp_path / "key", list[tuple[str, bool]]()
    file.write_text(OLD)
    monkeypatch.setenv("OPENAI_API_KEY_FILE", str(file))

    async def upload(request: aiohttp.web.Request) -> aiohttp.web.Response:
        key = request.headers["Authorization"].removeprefix("Bearer ")
        uploads.append((key, b"the lines" in await request.read()))
        if key == OLD:
            return aiohttp.web.json_response({"error": {"message": f"{key} has expired"}}, status=401)
        return aiohttp.web.json_response(
            {"id": "file-1", "object": "file", "bytes": 9, "created_at": 5, "filename": "f", "purpose": "batch"}
            | {"status": "pending"}
        )

    async def refuse(request: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.json_response({"error": {"message": f"{NEW} and {OLD} may not"}}, status=403)

    async def content(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        response = aiohttp.web.StreamResponse()
        await response.prepare(request)
        line = b'{"custom_id": "d%d", "response": {"status_code": 400, "body": {"error": "by %s"}}}\n'
        lines = b"".join(line % (number, NEW.encode()) for number in range(20_000))
        for at in range(0, len(lines), 7_777):
            await response.write(lines[at : at + 7_777])
        return response

    app = aiohttp.web.Application(client_max_size=2**30)
    app.router.add_post("/v1/files", upload)
    app.router.add_post("/v1/batches", refuse)
    app.router.add_get("/v1/files/file-1/content", content)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
    api = BatchApi()
    try:
        file.write_text(NEW)
        made = await api.upload(io.BytesIO(b"the lines"), "f")
        assert (made.id, made.pending) == ("file-1", True)
        assert uploads == [(OLD, True), (NEW, True)], "the whole file goes out again"
        with pytest.raises(BatchApiError, match=r"\[key\] and \[key\] may not") as error:
            await api.create("file-1", {})
        assert OLD not in str(error.value) and NEW not in error.value.verdict.message
        answers = io.BytesIO()
        await api.download("file-1", answers)
        found = list(read_lines(answers))
    finally:
        await api.close()
        await runner.cleanup()
    assert len(found) == 20_000
    assert {str(line.body) for line in found} == {"{'error': 'by [key]'}"}
