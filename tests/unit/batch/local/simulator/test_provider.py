"""The simulated provider over HTTP: its answers, its errors, its limits, and the account that it keeps."""

import asyncio
import gzip
import json
import re
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema_rs
import openai
import pytest

from batch.local.simulator.account import document_key
from batch.local.simulator.options import ProviderOptions
from batch.local.simulator.provider import main
from batch.local.simulator.token_bucket import duration
from tests.unit.batch.local.simulator.serving import serving

SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "category": {"enum": ["hardware", "software", "billing"]},
        "keywords": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["title", "category", "keywords"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "ticket", "strict": True, "schema": SCHEMA}}
TICKET = "# Printer on fire\n\nMy printer has caught fire again. Please send technicians."


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("provider")
    with serving(folder, "--journal", str(folder / "journal.jsonl")) as (number, _):
        yield number


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]

    @property
    def choice(self) -> Any:
        return self.json["choices"][0]

    @property
    def content(self) -> Any:
        return self.choice["message"]["content"]


class Api:
    """A client that asks once and never retries."""

    def __init__(self, port: int, session: aiohttp.ClientSession) -> None:
        self.url, self.session = f"http://127.0.0.1:{port}", session

    async def call(self, method: str, path: str, **keywords: Any) -> Reply:
        async with self.session.request(method, self.url + path, **keywords) as response:
            return Reply(response.status, response.headers, await response.read())

    async def ask(self, user: str = TICKET, *, key: str = "sk-test", timeout: float = 20, **more: Any) -> Reply:
        body = {"model": "simulated-small", "messages": [{"role": "user", "content": user}], **more}
        headers = {"Authorization": f"Bearer {key}"}
        limit = aiohttp.ClientTimeout(total=timeout)
        return await self.call("POST", "/v1/chat/completions", json=body, headers=headers, timeout=limit)

    async def control(self, **options: Any) -> None:
        assert (await self.call("POST", "/control", json=options)).status == 200

    async def stats(self, query: str = "") -> Any:
        return (await self.call("GET", f"/stats{query}")).json


@pytest.fixture
async def api(port: int) -> AsyncIterator[Api]:
    async with aiohttp.ClientSession() as session:
        api = Api(port, session)
        await api.control(**asdict(ProviderOptions()))
        await api.call("POST", "/stats/reset")
        yield api


async def test_an_answer_has_the_shape_of_a_chat_completion(api: Api) -> None:
    reply = await api.ask(response_format=FORMAT, model="simulated-mine")
    found = reply.json
    jsonschema_rs.validator_for(SCHEMA).validate(json.loads(reply.content))
    assert json.loads(reply.content)["title"] == "Printer on fire"
    assert (found["object"], found["model"], found["system_fingerprint"]) == (
        "chat.completion",
        "simulated-mine",
        "simulated",
    )
    assert found["id"].startswith("chatcmpl-")
    assert abs(found["created"] - time.time()) < 5
    assert reply.choice["finish_reason"] == "stop"
    assert reply.choice["message"]["refusal"] is None
    tokens = {"prompt_tokens": -(-len(TICKET) // 4), "completion_tokens": -(-len(reply.content) // 4)}
    total = {"total_tokens": sum(tokens.values()), "prompt_tokens_details": {"cached_tokens": 0}}
    assert found["usage"] == tokens | total
    assert reply.headers["x-request-id"].startswith("req_")
    assert reply.headers["Content-Type"] == "application/json"


async def test_openai_s_own_client_is_content(port: int, api: Api) -> None:
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="sk-x", max_retries=0) as client:
        messages: Any = [{"role": "user", "content": TICKET}]
        reply = await client.chat.completions.create(model="simulated-large", messages=messages)
        assert reply.choices[0].message.content == "[simulated] My printer has caught fire again."
        assert [model.id async for model in client.models.list()] == ["simulated-small", "simulated-large"]
        await api.control(fail_all="insufficient_quota")
        with pytest.raises(openai.RateLimitError) as raised:
            await client.chat.completions.create(model="simulated-large", messages=messages)
        assert raised.value.code == "insufficient_quota"


async def test_answers_depend_on_the_first_user_message_alone(api: Api) -> None:
    first, again = await api.ask(response_format=FORMAT), await api.ask(response_format=FORMAT, temperature=1)
    assert first.content == again.content
    assert first.json["id"] != again.json["id"]
    parts = [{"type": "text", "text": TICKET}]
    turns = [("system", "Hello"), ("user", parts), ("assistant", "x"), ("user", "Not quite.")]
    messages = [{"role": role, "content": content} for role, content in turns]
    assert (await api.ask(messages=messages, response_format=FORMAT)).content == first.content
    assert (await api.ask("# Another\n\nText.", response_format=FORMAT)).content != first.content


async def test_other_response_formats(api: Api) -> None:
    assert json.loads((await api.ask(response_format={"type": "json_object"})).content)["title"] == "Printer on fire"
    assert (await api.ask(response_format={"type": "text"})).content.startswith("[simulated] ")


async def test_models(api: Api) -> None:
    headers = {"Authorization": "Bearer x"}
    listed = (await api.call("GET", "/v1/models", headers=headers)).json
    assert [model["id"] for model in listed["data"]] == ["simulated-small", "simulated-large"]
    assert (await api.call("GET", "/v1/models/simulated-own", headers=headers)).json["object"] == "model"
    for reply in (await api.call("GET", "/v1/models/gpt-5", headers=headers), await api.ask(model="gpt-5")):
        assert (reply.status, reply.error["code"]) == (404, "model_not_found")
    assert (await api.call("GET", "/v1/models")).status == 401


async def test_keys(api: Api) -> None:
    body = {"model": "simulated-small", "messages": [{"role": "user", "content": "x"}]}
    for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": "Basic abc"}):
        reply = await api.call("POST", "/v1/chat/completions", json=body, headers=headers)
        assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
    await api.control(api_key="sk-right")
    assert (await api.ask(key="sk-wrong")).status == 401
    assert (await api.ask(key="sk-right")).status == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ("no json", None),
        ("[]", None),
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages"),
        ({"stream": True}, "stream"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": FORMAT | {"json_schema": {"name": "x", "schema": False}}}, "response_format"),
        ({"response_format": FORMAT | {"json_schema": {"name": "x", "schema": {"type": "x"}}}}, "response_format"),
    ],
    ids=str,
)
async def test_invalid_requests(api: Api, body: Any, param: str | None) -> None:
    if isinstance(body, dict):
        body = json.dumps({"model": "simulated-small", "messages": [{"role": "user", "content": "x"}]} | body)
    reply = await api.call("POST", "/v1/chat/completions", data=body, headers={"Authorization": "Bearer x"})
    assert reply.status == 400
    assert set(reply.error) == {"message", "type", "param", "code"}
    assert (reply.error["type"], reply.error["param"]) == ("invalid_request_error", param)
    assert (await api.stats())["errors"] == {"invalid_request": 1}


async def test_unknown_addresses(api: Api) -> None:
    for method, path in (("GET", "/v1/nothing"), ("GET", "/v1/chat/completions"), ("POST", "/v1/models")):
        reply = await api.call(method, path)
        assert (reply.status, reply.error["type"]) == (404, "invalid_request_error")
    assert (await api.call("GET", "/healthz")).json == {"status": "ok"}


async def test_max_tokens_truncates(api: Api) -> None:
    whole = await api.ask(response_format=FORMAT)
    limits: list[dict[str, Any]] = [{"max_tokens": 5}, {"max_completion_tokens": 5}]
    for limit in limits:
        reply = await api.ask(response_format=FORMAT, **limit)
        assert (reply.choice["finish_reason"], reply.json["usage"]["completion_tokens"]) == ("length", 5)
        assert reply.content == whole.content[:20]
    enough = whole.json["usage"]["completion_tokens"]
    assert (await api.ask(response_format=FORMAT, max_tokens=enough)).choice["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        ("500", 500, None),
        ("503", 503, None),
        ("429", 429, "rate_limit_exceeded"),
        ("insufficient_quota", 429, "insufficient_quota"),
        ("invalid_api_key", 401, "invalid_api_key"),
        ("model_not_found", 404, "model_not_found"),
        ("permission_denied", 403, "permission_denied"),
        ("context_length_exceeded", 400, "context_length_exceeded"),
    ],
)
async def test_fail_all(api: Api, failure: str, status: int, code: str | None) -> None:
    await api.control(fail_all=failure, retry_after=1.5)
    reply = await api.ask()
    assert (reply.status, reply.error["code"]) == (status, code)
    waits = ("2", "1500") if failure in ("429", "503") else (None, None)
    assert (reply.headers.get("Retry-After"), reply.headers.get("retry-after-ms")) == waits
    stats = await api.stats("?documents=1")
    assert (stats["errors"], stats["paid"]) == ({failure: 1}, 0)
    assert stats["failed"] == {document_key(TICKET): 1}
    await api.control(fail_all=None)
    assert (await api.ask()).status == 200


async def test_dropped_and_reset_connections(api: Api) -> None:
    await api.control(fail_all="drop")
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await api.ask()
    await api.control(fail_all=None, rate_reset=1)
    with pytest.raises((aiohttp.ClientOSError, ConnectionResetError)) as raised:
        await api.ask()
    assert "reset" in str(raised.value).lower()
    assert (await api.stats())["errors"] == {"drop": 1, "reset": 1}


async def test_a_timeout_is_held_until_the_client_goes(api: Api) -> None:
    await api.control(rate_timeout=1)
    with pytest.raises(TimeoutError):
        await api.ask(timeout=0.2)
    await asyncio.sleep(0.3)
    stats = await api.stats()
    assert (stats["errors"], stats["paid"], stats["in_flight"]) == ({"timeout": 1}, 0, 0)


async def test_odd_answers_are_paid(api: Api) -> None:
    await api.control(rate_malformed=1)
    with pytest.raises(json.JSONDecodeError):
        _ = (await api.ask()).json
    await api.control(rate_malformed=0, rate_truncated=1)
    reply = await api.ask(response_format=FORMAT)
    assert (reply.choice["finish_reason"], reply.content[:1]) == ("length", "{")
    with pytest.raises(json.JSONDecodeError):
        json.loads(reply.content)
    await api.control(rate_truncated=0, rate_refusal=1)
    reply = await api.ask()
    assert (reply.content, reply.choice["finish_reason"]) == (None, "stop")
    assert reply.choice["message"]["refusal"]
    await api.control(rate_refusal=0, rate_content_filter=1)
    assert (await api.ask()).choice["finish_reason"] == "content_filter"
    await api.control(rate_content_filter=0, rate_invalid=1)
    reply = await api.ask(response_format=FORMAT)
    assert (reply.choice["finish_reason"], reply.content) == ("stop", "[]")
    stats = await api.stats()
    assert (stats["paid"], stats["distinct"], stats["paid_more_than_once"], stats["errors"]) == (5, 1, 1, {})
    assert stats["odd_answers"] == dict.fromkeys(["malformed", "truncated", "refusal", "content_filter", "invalid"], 1)


async def test_rates_hit_the_same_requests_again_and_retries_may_succeed(api: Api) -> None:
    async def statuses() -> list[tuple[int, int]]:
        await api.call("POST", "/stats/reset")
        asked = [(await api.ask(f"Ticket {number}"), await api.ask(f"Ticket {number}")) for number in range(60)]
        return [(first.status, second.status) for first, second in asked]

    await api.control(rate_500=0.3, rate_503=0.2)
    found = await statuses()
    assert found == await statuses()
    first = Counter(status for status, _ in found)
    assert 8 <= first[500] <= 30
    assert 4 <= first[503] <= 24
    assert {(500, 200), (200, 200)} <= set(found)
    await api.control(seed=1)
    assert found != await statuses()


async def test_poison(api: Api) -> None:
    await api.control(poison_marker="POISON")
    replies = [await api.ask("This is POISON."), await api.ask("This is not.")]
    assert [reply.status for reply in replies] == [400, 200]
    assert (replies[0].error["type"], replies[0].error["code"]) == ("invalid_request_error", None)


async def test_request_limit(api: Api) -> None:
    await api.control(requests_per_minute=1200, burst_seconds=0.5)
    started = time.monotonic()
    replies = await asyncio.gather(*(api.ask(f"Ticket {number}") for number in range(30)))
    accepted = [reply for reply in replies if reply.status == 200]
    most = 10 + 20 * (time.monotonic() - started) + 1
    assert 10 <= len(accepted) <= most
    refused = next(reply for reply in replies if reply.status == 429)
    assert (refused.error["type"], refused.error["code"]) == ("requests", "rate_limit_exceeded")
    assert "Please try again in" in refused.error["message"]
    assert refused.headers["Retry-After"] == "1"
    wait = int(refused.headers["retry-after-ms"])
    assert 0 < wait <= 50
    assert refused.headers["x-ratelimit-limit-requests"] == "1200"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert re.fullmatch(r"(\d+h)?(\d+m)?[\d.]+m?s", refused.headers["x-ratelimit-reset-requests"])
    assert "x-ratelimit-limit-tokens" not in refused.headers
    await api.control(requests_per_minute=60, burst_seconds=1)
    while (reply := await api.ask()).status == 200:
        pass
    await asyncio.sleep(int(reply.headers["retry-after-ms"]) / 1000)  # nobody else asks meanwhile
    assert (await api.ask()).status == 200
    await api.control(ratelimit_headers=False)
    assert "x-ratelimit-limit-requests" not in (await api.ask()).headers


async def test_token_limit(api: Api) -> None:
    await api.control(tokens_per_minute=6000, burst_seconds=1)
    text = "x" * 320  # 80 tokens of the 100 that a second brings, and an answer
    first, second = await api.ask(text), await api.ask(text)
    assert (first.status, second.status) == (200, 429)
    assert second.error["type"] == "tokens"
    assert int(first.headers["x-ratelimit-remaining-tokens"]) < 20
    too_large = await api.ask("x" * 40_000)
    assert (too_large.status, too_large.headers.get("Retry-After")) == (429, None)
    assert "too large" in too_large.error["message"]
    await api.control(tokens_per_minute=6000, token_charge="reserved")
    assert (await api.ask("x", max_tokens=1)).status == 200
    assert (await api.ask("x", max_tokens=97)).status == 200
    assert (await api.ask("x", max_tokens=50)).status == 429


async def test_latency(api: Api) -> None:
    async def seconds(user: str) -> float:
        started = time.monotonic()
        assert (await api.ask(user)).status == 200
        return time.monotonic() - started

    await api.control(latency=0.1)
    assert 0.1 <= await seconds("x") < 0.4
    await api.control(latency=0, latency_median=0.05, latency_sigma=1)
    found = [await seconds(f"Ticket {number}") for number in range(12)]
    assert max(found) > 2 * min(found)


async def test_latency_counts_from_the_requests_arrival(api: Api) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        yield b" "  # with the request's head
        await asyncio.sleep(0.6)
        yield json.dumps({"model": "simulated-small", "messages": [{"role": "user", "content": "x"}]}).encode()

    await api.control(latency=0.5)
    started = time.monotonic()
    headers = {"Authorization": "Bearer sk-test", "Content-Type": "application/json"}
    assert (await api.call("POST", "/v1/chat/completions", data=slowly(), headers=headers)).status == 200
    assert time.monotonic() - started < 1.0


async def test_capacity_makes_requests_wait_in_line(api: Api) -> None:
    await api.control(capacity=100)
    started = time.monotonic()
    replies = await asyncio.gather(*(api.ask(f"Ticket {number}") for number in range(50)))
    took = time.monotonic() - started
    assert {reply.status for reply in replies} == {200}
    assert 0.45 < took < 1.5
    assert (await api.stats())["max_in_flight"] > 10


async def test_a_client_that_goes_away_has_paid(api: Api) -> None:
    await api.control(latency=0.4)
    with pytest.raises(TimeoutError):
        await api.ask(timeout=0.15)
    stats = await api.stats()
    assert (stats["accepted"], stats["answered"], stats["in_flight"]) == (1, 0, 1)
    await asyncio.sleep(0.5)
    await api.ask()
    stats = await api.stats("?documents=1")
    assert stats["documents"] == {document_key(TICKET): 2}
    assert (stats["accepted"], stats["answered"], stats["abandoned"], stats["in_flight"]) == (2, 1, 1, 0)
    assert (stats["paid"], stats["distinct"], stats["paid_more_than_once"]) == (2, 1, 1)
    assert stats["errors"] == {}


async def test_stats(api: Api) -> None:
    before = time.time()
    usages = [(await api.ask(f"Ticket {number}")).json["usage"] for number in range(3)]
    stats = await api.stats()
    assert stats["requests"] == 3
    assert stats["prompt_tokens"] == sum(usage["prompt_tokens"] for usage in usages)
    assert stats["completion_tokens"] == sum(usage["completion_tokens"] for usage in usages)
    assert before <= stats["first_answer_at"] <= stats["last_answer_at"] <= time.time()
    assert "documents" not in stats
    await api.call("POST", "/stats/reset")
    stats = await api.stats("?documents=1")
    assert (stats["requests"], stats["paid"], stats["documents"], stats["first_answer_at"]) == (0, 0, {}, None)


async def test_control_names_what_is_wrong(api: Api) -> None:
    wrong: list[Any] = [
        {"latencies": 1},
        {"latency": "1"},
        {"latency": -1},
        {"rate_500": True},
        {"rate_500": 0.6, "rate_503": 0.6},
        {"fail_all": "404"},
        {"ratelimit_headers": 1},
        {"seed": None},
        [],
    ]
    for options in wrong:
        reply = await api.call("POST", "/control", json=options)
        assert reply.status == 400, options
        assert not isinstance(options, dict) or next(iter(options)).split("_")[0] in reply.error["message"]
    assert (await api.call("GET", "/control")).json == asdict(ProviderOptions())


async def test_large_and_compressed_bodies(api: Api) -> None:
    headers = {"Authorization": "Bearer x", "Content-Type": "application/json"}
    large = json.dumps(
        {"model": "simulated-small", "messages": [{"role": "user", "content": "word " * 4_000_000}]}
    ).encode()
    reply = await api.call("POST", "/v1/chat/completions", data=large, headers=headers)
    assert (reply.status, reply.json["usage"]["prompt_tokens"]) == (200, 5_000_000)
    packed = gzip.compress(large, 1)
    reply = await api.call("POST", "/v1/chat/completions", data=packed, headers=headers | {"Content-Encoding": "gzip"})
    assert (reply.status, reply.json["usage"]["prompt_tokens"]) == (200, 5_000_000)
    reply = await api.call(
        "POST", "/v1/chat/completions", data=b"broken", headers=headers | {"Content-Encoding": "gzip"}
    )
    assert reply.status == 400
    reply = await api.call("POST", "/v1/chat/completions", data=large + b" " * 6 * 2**20, headers=headers)
    assert (reply.status, reply.error["code"]) == (413, "request_too_large")


def test_connections_are_kept_alive(port: int) -> None:
    body = json.dumps({"model": "simulated-small", "messages": [{"role": "user", "content": "x"}]})
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x"
    request = f"{head}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        for _ in range(3):
            connection.sendall(request.encode())
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 200")


def test_journal_and_clean_exit(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"

    async def ask(port: int) -> None:
        async with aiohttp.ClientSession() as session:
            api = Api(port, session)
            assert (await api.ask("One.")).status == 500
            await api.control(fail_all=None)
            await api.ask("One.")
            await api.control(latency=30)
            with pytest.raises(TimeoutError):
                await api.ask("Two.", timeout=0.3)

    with serving(tmp_path, "--journal", str(journal), "--fail-all", "500") as (port, process):
        asyncio.run(ask(port))
        time.sleep(0.3)
        events = [json.loads(line) for line in journal.read_text().splitlines()]
        one, two = document_key("One."), document_key("Two.")
        assert [(each["key"], each["event"]) for each in events] == [
            (one, "accepted"),
            (one, "answered"),
            (two, "accepted"),
        ]
        assert all(abs(each["time"] - time.time()) < 20 for each in events)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10)
        assert process.returncode == 0
        assert out == f"simulated provider listening on http://127.0.0.1:{port}/v1\n"
        assert err == ""


@pytest.mark.parametrize("flags", [["--rate-500", "2"], ["--fail-all", "x"], ["--latency", "-1"]], ids=str)
def test_flags_are_checked(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(flags)
    assert raised.value.code == 2
    assert re.split("-+", flags[0])[1] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.012, "12ms"), (1, "1s"), (1.5, "1.5s"), (360, "6m0s"), (85_667.5, "23h47m47.5s"), (3600, "1h0m0s")],
)
def test_durations_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_document_key() -> None:
    assert document_key("hello") == "2cf24dba5fb0a30e26e83b2ac5b9e29e"
