"""Every line of the taxonomy over HTTP, from the provider's answer to the row, or to the pause of the run.

The provider is a script in this file: each document names how it is answered.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from batch import Job, connect
from batch.local.corpus import upload_async
from batch.local.options import StackOptions
from batch.local.stack import LocalStack
from batch.workflows.states import State
from workers.llm.answers.errors import RULES

TIMEOUT = 2.0
RESET, HANG = "reset", "hang"


def error(status: int, code: str | None = None, message: str = "m", **headers: str) -> tuple[int, Any, dict[str, str]]:
    return status, {"error": {"message": message, "type": "t", "param": None, "code": code}}, headers


def success(content: str | None = "fine", finish: str = "stop", **message: Any) -> tuple[int, Any, dict[str, str]]:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
    return 200, {"id": "1", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}, {}


AZURE = (400, {"error": {"code": "x", "message": "m", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}, {})

PASSING: dict[str, list[Any]] = {
    "rate_limit": [error(429, "rate_limit_exceeded", **{"retry-after-ms": "40"}), success()],
    "slow_down": [error(429, "slow_down", **{"Retry-After": "1"}), success()],
    "tokens": [error(429, "tokens_limit_exceeded", **{"retry-after-ms": "40"}), success()],
    "500": [error(500), success()],
    "503": [error(503, "server_error"), success()],
    "529": [error(529), success()],
    "408": [error(408), success()],
    "409": [error(409), success()],
    "425": [error(425), success()],
    "timeout": [HANG, success()],
    "connection": [RESET, success()],
    "malformed": [(200, "no json {", {}), success()],
    "shapeless": [(202, {"status": "pending"}, {}), success()],
    "page": [(200, "<html><title>Sign in</title>", {}), success()],
    "inside": [(200, {"error": {"code": 502, "message": "upstream"}}, {}), success()],
    "inside_nameless": [(200, {"error": "llama runner process has terminated"}, {}), success()],
    "inside_limit": [(200, {"error": {"code": 429, "message": "try again in 40ms"}}, {}), success()],
    "day": [error(429, "x", "Limit of 100 requests per day reached", **{"retry-after-ms": "40"}), success()],
    "capacity": [error(498, "capacity_exceeded", "Flex tier capacity exceeded"), success()],
    "groq_json": [error(400, "json_validate_failed", "Failed to generate JSON"), success()],
}
"""Repeated in place: two calls, an ok row."""

ROWS: dict[str, tuple[Any, str, bool]] = {
    "too_large_429": (error(429, "rate_limit_exceeded", "Request too large for m"), "request_too_large", False),
    "context": (error(400, "context_length_exceeded"), "context_length_exceeded", False),
    "413": (error(413), "context_length_exceeded", False),
    "filtered": (error(400, "content_filter"), "content_filter", False),
    "filtered_403": (error(403, "content_filter"), "content_filter", False),
    "filtered_azure": (AZURE, "content_filter", False),
    "bad": (error(400, "invalid_value"), "bad_request", True),
    "invalid_prompt": (error(400, "invalid_prompt"), "content_filter", False),
    "vllm": (
        error(400, "400", "This model's maximum context length is 4096 tokens."),
        "context_length_exceeded",
        False,
    ),
    "flagged_200": ((200, {"error": {"code": 403, "message": "Your input was flagged"}}, {}), "content_filter", False),
    "no_candidate": ((200, {"choices": []}, {}), "empty_answer", True),
    "white": (success(" \n\u200b"), "empty_answer", True),
    "thoughts": (success("<think>hm"), "empty_answer", True),
    "422": ((422, "no object", {}), "bad_request", True),
    "length": (success("half", "length"), "truncated", False),
    "filtered_200": (success("", "content_filter"), "content_filter", False),
    "refusal": (success(None, refusal="I cannot"), "refusal", False),
    "empty": (success(None), "empty_answer", True),
}
"""One call, an error row: the answer, its error_type, whether a rerun asks again."""

PAUSING: dict[str, tuple[Any, str]] = {
    "quota": (error(429, "insufficient_quota"), "insufficient_quota"),
    "credit": (error(429, "credit_balance_exhausted"), "insufficient_quota"),
    "spend": (error(429, "monthly_spend_limit_exceeded"), "insufficient_quota"),
    "402": (error(402), "insufficient_quota"),
    "401": (error(401, "invalid_api_key"), "invalid_api_key"),
    "403": (error(403), "permission_denied"),
    "404": (error(404, "model_not_found"), "model_not_found"),
    "307": ((307, None, {"Location": "http://127.0.0.1:1/"}), "unexpected_redirect"),
}
"""One call, then the run pauses, as the short question is refused too; it goes on when the cause is mended."""

ALONE = {
    "402": "payment_required",
    "401": "unauthorized",
    "403": "forbidden",
    "404": "not_found",
    "307": "redirected",
}
"""Those of `PAUSING` that are an error row at once where the short question is answered."""

SHORT_QUESTION = "Answer with the word ok."
MODEL_OF_ALL = "simulated-all-"

BUSY = 200
"""Documents that are answered slowly, so that failures of others are known for their own."""


@dataclass
class Provider:
    """Answers each document as its name says, in a thread of its own."""

    calls: Counter[str] = field(default_factory=Counter)
    mended: set[str] = field(default_factory=set)
    url: str = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        name = asked["messages"][-1]["content"].strip()
        if name == SHORT_QUESTION and asked["model"].startswith(MODEL_OF_ALL):
            name = asked["model"].removeprefix(MODEL_OF_ALL)  # what is wrong with it, is with every request
        else:
            self.calls[name] += 1
        reply = await self._reply(name, self.calls[name])
        if reply is RESET:
            assert request.transport is not None
            request.transport.abort()
            raise asyncio.CancelledError
        status, body, headers = reply
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=status, text=text, headers=headers, content_type="application/json")

    async def _reply(self, name: str, call: int) -> Any:
        if name in PASSING:
            reply = PASSING[name][min(call, len(PASSING[name])) - 1]
            if reply is HANG:
                await asyncio.sleep(TIMEOUT * 2)
                return success("too late")
            return reply
        if name in ROWS:
            return ROWS[name][0]
        if name in PAUSING and name not in self.mended:
            return PAUSING[name][0]
        if name == "never":
            return error(503, **{"retry-after-ms": "100"})
        if name.startswith("busy"):
            await asyncio.sleep(0.2 + int(name.removeprefix("busy-")) % 10 * 0.05)
        return success()

    def serve(self, ready: threading.Event, over: threading.Event) -> None:
        async def run() -> None:
            application = web.Application()
            application.router.add_post("/v1/chat/completions", self.answer)
            runner = web.AppRunner(application)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
            ready.set()
            await asyncio.to_thread(over.wait)
            await runner.cleanup()

        asyncio.run(run())


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    found, ready, over = Provider(), threading.Event(), threading.Event()
    thread = threading.Thread(target=found.serve, args=(ready, over))
    thread.start()
    assert ready.wait(10)
    yield found
    over.set()
    thread.join(10)


@pytest.fixture(scope="module")
def stack(provider: Provider) -> Iterator[LocalStack]:
    environment = {"OPENAI_BASE_URL": provider.url, "OPENAI_API_KEY": "a-key-of-the-test"}
    options = StackOptions(workers=1, provider=False, ui=False, environment=environment)
    with LocalStack(options) as running, running.applied_environment():
        yield running


def job(name: str, model: str = "simulated-script") -> Job:
    return Job.parse(
        {
            "name": name,
            "source": {"uri": f"s3://corpus/{name}/"},
            "prompt": {"user": "{{ text }}"},
            "model": {"name": model, "timeout_seconds": TIMEOUT},
            "output": {"uri": "s3://results/taxonomy/"},
            "limits": {"concurrency": 32, "max_error_rate": 1.0},
        }
    )


async def test_what_concerns_one_document(stack: LocalStack, provider: Provider) -> None:
    names = [*PASSING, *ROWS, *ALONE, "never", *(f"busy-{number}" for number in range(BUSY))]
    await upload_async(stack.environment(), "corpus", "rows", [(f"{name}.txt", name.encode()) for name in names])
    connection = await connect()
    run = await connection.start(job("rows"), check_model=False)
    result = await run.wait()
    assert (result.state, result.documents) == (State.COMPLETED_WITH_FAILURES, len(names)), result
    rows = {row["uri"].rsplit("/", 1)[1].removesuffix(".txt"): row for row in run.results().collect().to_dicts()}
    for name in PASSING:
        assert (rows[name]["status"], provider.calls[name]) == ("ok", 2), name
        # A used connection that breaks at once is taken for one closed while idle: the same attempt, sent again.
        assert rows[name]["attempts"] == 2 or (name == "connection" and rows[name]["attempts"] == 1), name
        assert (rows[name]["prompt_tokens"], rows[name]["completion_tokens"]) == (10, 2), name
    for name, (_, error_type, retryable) in ROWS.items():
        row = rows[name]
        assert (row["status"], row["error_type"], row["retryable"]) == ("error", error_type, retryable), name
        assert (row["attempts"], provider.calls[name]) == (1, 1), name
    assert [rows[name]["completion_tokens"] for name in ("length", "refusal", "bad")] == [2, 2, 0]
    for name, error_type in ALONE.items():
        row = rows[name]
        assert (row["status"], row["error_type"], row["retryable"]) == ("error", error_type, True), name
        assert (row["attempts"], provider.calls[name]) == (1, 1), name
    never = rows["never"]
    assert (never["error_type"], never["retryable"]) == ("http_503", True)
    assert 6 <= provider.calls["never"] == never["attempts"] <= 12


async def test_what_concerns_the_whole_job(stack: LocalStack, provider: Provider) -> None:
    connection = await connect()

    async def pauses_and_goes_on(name: str, reason: str) -> None:
        folder = f"job-{name}"
        await upload_async(stack.environment(), "corpus", folder, [("d.txt", name.encode())])
        provider.calls[name] = 0
        run = await connection.start(job(folder, MODEL_OF_ALL + name), check_model=False)
        async for status in run.watch(every=0.1):
            if status.state == State.PAUSED:
                break
        assert (status.state, status.reason) == (State.PAUSED, reason), (name, status)
        assert provider.calls[name] == 1, name
        provider.mended.add(name)
        await run.resume()
        assert (await run.wait()).state == State.COMPLETED
        assert provider.calls[name] == 2, name

    await asyncio.gather(*(pauses_and_goes_on(name, reason) for name, (_, reason) in PAUSING.items()))


def test_no_rule_is_left_out() -> None:
    seen = {error_type for _, error_type, _ in ROWS.values()} | {reason for _, reason in PAUSING.values()}
    rules = {rule.error_type for rule in RULES}
    passing = {"rate_limited", "http_{status}", "overloaded", "provider_error", "json_validate_failed"}
    assert rules - seen == passing, "those are repeated in place: PASSING"
