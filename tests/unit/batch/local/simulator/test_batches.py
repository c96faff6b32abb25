"""The simulated provider's Files and Batch API, asked by the openai SDK: shapes, states, limits and errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from openai.types import Batch

from tests.unit.batch.local.simulator.lines import line
from tests.unit.batch.local.simulator.serving import serving

ENDED = ("completed", "failed", "expired", "cancelled")


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with serving(tmp_path_factory.mktemp("provider"), "--batch-validation-seconds", "0.05") as (number, _):
        yield number


class Api:
    """The SDK, and the provider's own endpoints."""

    def __init__(self, port: int, session: aiohttp.ClientSession) -> None:
        self.url, self.session = f"http://127.0.0.1:{port}", session
        self.sdk = openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="sk-test", max_retries=0)

    async def control(self, **options: Any) -> None:
        async with self.session.post(f"{self.url}/control", json=options) as response:
            assert response.status == 200

    async def stats(self) -> Any:
        async with self.session.get(f"{self.url}/stats") as response:
            return await response.json()

    async def upload(self, *lines: Any) -> str:
        data = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines).encode()
        return (await self.sdk.files.create(file=("in.jsonl", data), purpose="batch")).id

    async def create(self, *lines: Any, **more: Any) -> Batch:
        return await self.sdk.batches.create(
            input_file_id=await self.upload(*lines),
            endpoint="/v1/chat/completions",
            completion_window="24h",
            **more,
        )

    async def ended(self, batch: Batch) -> Batch:
        async with asyncio.timeout(20):
            while batch.status not in ENDED:
                await asyncio.sleep(0.02)
                batch = await self.sdk.batches.retrieve(batch.id)
        return batch

    async def lines(self, file_id: str | None) -> dict[str, Any]:
        assert file_id is not None
        content = await self.sdk.files.content(file_id)
        found = [json.loads(line) for line in content.content.splitlines()]
        return {line["custom_id"]: line for line in found}


@pytest.fixture
async def api(port: int) -> AsyncIterator[Api]:
    async with aiohttp.ClientSession() as session:
        api = Api(port, session)
        calm = {"batch_expire_share": 0.0, "batch_enqueued_tokens": 0.0, "batch_fail_code": None, "fail_all": None}
        await api.control(batch_seconds=0.2, batch_fail_lines=0, rate_500=0.0, rate_timeout=0.0, **calm)
        await session.post(f"{api.url}/stats/reset")
        yield api
        await api.sdk.close()


async def test_a_batch_goes_through_its_states_and_answers_each_line_once(api: Api) -> None:
    batch = await api.create(*map(line, range(50)), metadata={"run": "r"})
    assert (batch.status, batch.object, batch.completion_window) == ("validating", "batch", "24h")
    assert batch.metadata == {"run": "r"}
    assert batch.expires_at == batch.created_at + 86_400
    seen = {batch.status}
    while batch.status not in ENDED:
        batch = await api.sdk.batches.retrieve(batch.id)
        seen.add(batch.status)
        await asyncio.sleep(0.01)
    assert {"validating", "in_progress", "completed"} <= seen
    counts = batch.request_counts
    assert counts is not None and (counts.total, counts.completed, counts.failed) == (50, 50, 0)
    assert (batch.error_file_id, batch.errors) == (None, None)
    answers = await api.lines(batch.output_file_id)
    assert set(answers) == {f"r{number}" for number in range(50)}
    assert list(answers) != sorted(answers, key=lambda name: int(name[1:])), "the output is in the input's order"
    one = answers["r7"]
    assert one["error"] is None
    assert one["response"]["status_code"] == 200
    assert one["response"]["body"]["object"] == "chat.completion"
    stats = await api.stats()
    assert (stats["batches"], stats["batch_lines"], stats["paid"], stats["answered"]) == (1, 50, 50, 50)
    assert stats["batch_ends"] == {"completed": 1}


@pytest.mark.parametrize(
    ("lines", "code", "number"),
    [
        ([line(1), "no json"], "invalid_json_line", 2),
        ([line(1), line(2), line(1)], "duplicate_custom_id", 3),
        ([line(1, url="/v1/embeddings")], "url_mismatch", 1),
        ([line(1, method="GET")], "invalid_method", 1),
        ([line(1), {"custom_id": "x"}], "missing_required_parameter", 2),
        ([line(1), line(2, body={**line(2)["body"], "model": "simulated-large"})], "model_mismatch", 2),
        ([line(1, body={**line(1)["body"], "model": "gpt-9"})], "model_not_found", 1),
        ([line(1, body={"model": "simulated-small"})], "missing_required_parameter", 1),
        (["  "], "empty_file", None),
    ],
)
async def test_one_invalid_line_fails_the_batch(api: Api, lines: list[Any], code: str, number: int | None) -> None:
    batch = await api.ended(await api.create(*lines))
    assert batch.status == "failed"
    assert batch.errors is not None and batch.errors.data is not None
    assert (batch.errors.data[0].code, batch.errors.data[0].line) == (code, number)
    assert (await api.stats())["paid"] == 0


async def test_an_expired_batch_keeps_what_it_answered(api: Api) -> None:
    await api.control(batch_expire_share=0.4)
    batch = await api.ended(await api.create(*map(line, range(50))))
    assert batch.status == "expired"
    assert len(await api.lines(batch.output_file_id)) == 20
    left = await api.lines(batch.error_file_id)
    assert len(left) == 30
    assert {each["error"]["code"] for each in left.values()} == {"batch_expired"}
    assert all(each["response"] is None for each in left.values())
    assert (await api.stats())["paid"] == 20


async def test_a_cancelled_batch_keeps_what_it_answered(api: Api) -> None:
    await api.control(batch_seconds=2.0)
    batch = await api.create(*map(line, range(50)))
    while (await api.stats())["paid"] < 10:  # noqa: ASYNC110 - it is the provider, in another process, that counts
        await asyncio.sleep(0.02)
    assert (await api.sdk.batches.cancel(batch.id)).status == "cancelling"
    batch = await api.ended(batch)
    done = len(await api.lines(batch.output_file_id))
    assert (batch.status, done) == ("cancelled", (await api.stats())["paid"])
    assert len(await api.lines(batch.error_file_id)) == 50 - done


async def test_failed_lines_stand_in_either_file(api: Api) -> None:
    await api.control(rate_500=0.3, rate_timeout=0.1)
    batch = await api.ended(await api.create(*map(line, range(100))))
    output, refused = await api.lines(batch.output_file_id), await api.lines(batch.error_file_id)
    assert len(output) + len(refused) == 100
    assert not output.keys() & refused.keys()
    assert {each["response"]["status_code"] for each in output.values()} == {200, 500}
    statuses = {each["response"] and each["response"]["status_code"] for each in refused.values()}
    assert statuses == {500, None}
    counts = batch.request_counts
    assert counts is not None and counts.completed == (await api.stats())["paid"]


async def test_enqueued_tokens_are_limited(api: Api) -> None:
    await api.control(batch_enqueued_tokens=100, batch_seconds=0.5)
    first = await api.create(*map(line, range(20)))
    second = await api.ended(await api.create(*map(line, range(20, 40))))
    assert second.errors is not None and second.errors.data is not None
    (error,) = second.errors.data
    assert (second.status, error.code, error.line) == ("failed", "token_limit_exceeded", None)
    assert "Limit: 100 enqueued tokens" in (error.message or "")
    assert (await api.ended(first)).status == "completed"
    assert (await api.ended(await api.create(*map(line, range(20, 40))))).status == "completed"


async def test_batches_are_listed_newest_first_in_pages(api: Api) -> None:
    made = [(await api.create(line(number))).id for number in range(5)]
    page = await api.sdk.batches.list(limit=2)
    assert [batch.id for batch in page.data] == made[:2:-1]
    assert page.has_next_page()
    found = [batch.id async for batch in api.sdk.batches.list(limit=2)]
    assert found[:5] == made[::-1]
    with pytest.raises(openai.BadRequestError):
        await api.sdk.batches.list(limit=101)


async def test_files_are_kept_until_they_are_deleted(api: Api) -> None:
    identifier = await api.upload(line(1))
    file = await api.sdk.files.retrieve(identifier)
    assert (file.object, file.purpose, file.filename, file.bytes) == (
        "file",
        "batch",
        "in.jsonl",
        len(json.dumps(line(1))),
    )
    assert identifier in [each.id async for each in api.sdk.files.list(purpose="batch")]
    assert (await api.sdk.files.delete(identifier)).deleted
    assert identifier not in [each.id async for each in api.sdk.files.list(purpose="batch")]
    for call in (api.sdk.files.retrieve, api.sdk.files.delete, api.sdk.files.content):
        with pytest.raises(openai.NotFoundError):
            await call(identifier)
    with pytest.raises(openai.BadRequestError, match="No such File object"):
        await api.sdk.batches.create(input_file_id=identifier, endpoint="/v1/chat/completions", completion_window="24h")


@pytest.mark.parametrize(
    "metadata",
    [{f"k{number}": "v" for number in range(17)}, {"k" * 65: "v"}, {"k": "v" * 513}],
    ids=["pairs", "key", "value"],
)
async def test_metadata_are_bounded(api: Api, metadata: dict[str, str]) -> None:
    with pytest.raises(openai.BadRequestError, match="metadata"):
        await api.create(line(1), metadata=metadata)


async def test_the_purpose_must_be_batch_and_the_key_is_checked(api: Api, tmp_path: Path) -> None:
    with pytest.raises(openai.BadRequestError, match="purpose"):
        await api.sdk.files.create(file=("a", b"x"), purpose="vision")
    await api.control(fail_all="insufficient_quota")
    with pytest.raises(openai.RateLimitError):
        await api.create(line(1))
    await api.control(fail_all=None)
    async with api.session.get(f"{api.url}/v1/batches") as response:
        assert response.status == 401
