"""The Batch API's client over HTTP: what each of its failures means, and how a batch is found in pages of others."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from tests.unit.batch.local.simulator.lines import line
from tests.unit.batch.local.simulator.serving import serving
from workers.batch_mode import api as batches_module
from workers.batch_mode.api import BatchApi, BatchApiError, request_line
from workers.llm.answers.errors import Kind


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with serving(tmp_path_factory.mktemp("provider"), "--batch-seconds", "0.1") as (number, _):
        yield number


@pytest.fixture
async def control(port: int) -> AsyncIterator[Any]:
    """Changes how the provider behaves."""
    async with aiohttp.ClientSession() as session:

        async def change(**options: Any) -> None:
            async with session.post(f"http://127.0.0.1:{port}/control", json=options) as response:
                assert response.status == 200

        await change(fail_all=None, retry_after=1.0)
        yield change


@pytest.fixture
async def api(port: int, control: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[BatchApi]:
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    api = BatchApi()
    yield api
    await api.close()


def a_file() -> io.BytesIO:
    return io.BytesIO(request_line("d0", b'{"model":"simulated-small","messages":[{"role":"user","content":"x"}]}'))


async def test_a_batch_is_found_in_pages_of_others(api: BatchApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "PAGE", 2)
    made = []
    for number in range(5):
        file = await api.upload(a_file(), "in.jsonl")
        made.append(await api.create(file.id, {"docbatch_token": str(number)}))
    found = await api.find(lambda batch: (batch.metadata or {}).get("docbatch_token") == "0", since=0)
    assert found is not None and found.id == made[0].id
    assert await api.find(lambda batch: False, since=0) is None
    asked: list[str] = []

    def never(batch: Any) -> bool:
        asked.append(batch.id)
        return False

    assert await api.find(never, since=made[0].created_at + 1000) is None
    assert len(asked) == 2, "a page that ends before the time is the last one"


@pytest.mark.parametrize(
    ("failing", "expected"),
    [
        ("500", (Kind.TRANSIENT, "http_500", True)),
        ("503", (Kind.TRANSIENT, "http_503", True)),
        ("429", (Kind.TRANSIENT, "rate_limited", False)),
        ("insufficient_quota", (Kind.JOB, "insufficient_quota", False)),
        ("invalid_api_key", (Kind.JOB, "invalid_api_key", False)),
        ("permission_denied", (Kind.JOB, "permission_denied", False)),
        ("drop", (Kind.TRANSIENT, "unreachable", True)),
    ],
)
async def test_what_failures_mean(api: BatchApi, control: Any, failing: str, expected: tuple[Kind, str, bool]) -> None:
    file = await api.upload(a_file(), "in.jsonl")
    await control(fail_all=failing, retry_after=7.0)
    with pytest.raises(BatchApiError) as raised:
        await api.create(file.id, {})
    error = raised.value
    assert (error.verdict.kind, error.verdict.error_type, error.unknown) == expected
    assert error.retry_after == (7.0 if failing in ("429", "503") else None)


async def test_what_is_missing_is_told_apart(api: BatchApi) -> None:
    for call in (api.retrieve("batch_none"), api.download("file-none", io.BytesIO())):
        with pytest.raises(BatchApiError) as raised:
            await call
        assert raised.value.missing
    with pytest.raises(BatchApiError) as raised:
        await api.create("file-none", {})
    assert (raised.value.missing, raised.value.unknown) == (False, False)
    await api.delete("file-none")
    await api.cancel("batch_none")


async def test_a_file_comes_back_as_it_was_sent(api: BatchApi) -> None:
    sent, got = a_file(), io.BytesIO(b"what was there before, and is longer than the file" * 100)
    file = await api.upload(sent, "in.jsonl")
    await api.download(file.id, got)
    assert got.getvalue() == sent.getvalue()
    assert line(0)["url"] in got.getvalue().decode()
