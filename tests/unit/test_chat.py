"""What one document's question does with a provider that answers late, oddly, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any

import orjson
import pytest

from batch import contracts as c
from batch.job import Job
from tests.unit.lanes import open_lane
from workers import brakes as brakes_module
from workers.brakes import Brakes
from workers.llm import chat as chat_module
from workers.llm.chat import MAX_TRANSIENT, Answer, Chat
from workers.llm.transport import Reply, TransportError
from workers.metrics import Metrics

JOB = Job.parse(
    {
        "name": "t",
        "source": {"uri": "s3://corpus/t/"},
        "prompt": {"user": "{{ text }}"},
        "model": {"name": "simulated-small"},
        "output": {"uri": "s3://results/"},
    }
)
OK = {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}], "usage": {}}


class Scripted:
    """A transport whose answers are a function of the request: is it the document, or the short probe?"""

    base_url = "http://simulated/v1/"

    def __init__(self, document: Callable[[int], Any], probe: Any = OK) -> None:
        self._document, self._probe = document, probe
        self.documents = self.probes = 0

    async def post(self, path: str, payload: bytes, *, timeout: float) -> Reply:
        if b"Answer with the word ok" in payload:
            self.probes += 1
            answer = self._probe
        else:
            self.documents += 1
            answer = self._document(self.documents)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Reply) else Reply(200, {}, answer)


LATE = TransportError("timeout", "no answer within 120 s")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No waiting between attempts; every failure is old enough for an outage. Returns the waits."""
    waits: list[float] = []

    async def wait(stopped: Callable[[], bool], seconds: float) -> bool:
        waits.append(seconds)
        await asyncio.sleep(0)
        return stopped()

    monkeypatch.setattr(chat_module, "sleep_unless", wait)
    monkeypatch.setattr(brakes_module, "OUTAGE_AFTER", -1.0)
    return waits


async def ask(transport: Scripted) -> tuple[Answer | None, Brakes]:
    brakes = Brakes(max_error_rate=0.5, drain=asyncio.Event())
    hours = count(step=3600.0)  # by the lane's clock, so that no pause lasts
    lane = open_lane(clock=lambda: next(hours))
    chat = Chat(JOB, transport, brakes, Metrics(), lane)  # type: ignore[arg-type]
    return await asyncio.wait_for(chat.ask(chat.payload([{"role": "user", "content": "x"}]), brakes.stopped), 5), brakes


async def test_a_document_that_never_answers_is_its_own_when_the_provider_answers_others(at_once: list[float]) -> None:
    transport = Scripted(lambda _: LATE)
    answer, brakes = await ask(transport)
    assert answer is not None and answer.error is not None
    assert (answer.error.error_type, transport.documents) == ("timeout", MAX_TRANSIENT)
    assert brakes.stop() is None


async def test_it_is_an_outage_when_the_provider_answers_nobody(at_once: list[float]) -> None:
    transport = Scripted(lambda _: LATE, probe=LATE)
    answer, brakes = await ask(transport)
    stop = brakes.stop()
    assert answer is None and stop is not None
    assert (stop.reason, transport.documents, transport.probes) == (c.PROVIDER_UNREACHABLE, 1, 1)


async def test_a_probe_that_finds_the_key_revoked_stops_the_job(at_once: list[float]) -> None:
    transport = Scripted(lambda _: LATE, probe=Reply(401, {}, {"error": {"code": "invalid_api_key"}}))
    _, brakes = await ask(transport)
    stop = brakes.stop()
    assert stop is not None and stop.reason == "invalid_api_key"


async def test_a_rate_limit_is_waited_for_and_is_no_outage(at_once: list[float]) -> None:
    limited = Reply(429, {"retry-after": "86400"}, {"error": {"code": "rate_limit_exceeded"}})
    transport = Scripted(lambda number: limited if number <= 50 else OK)
    answer, brakes = await ask(transport)
    assert answer is not None and answer.text == "yes"
    assert (transport.documents, transport.probes, brakes.stop()) == (51, 0, None)
    assert max(at_once) <= chat_module.RETRY_AFTER_MOST * 1.1 + 0.1


@pytest.mark.parametrize(
    "body",
    [
        {**OK, "usage": {"prompt_tokens": "n/a"}},
        {**OK, "usage": {"prompt_tokens": float("inf")}},
        {**OK, "usage": []},
        {**OK, "usage": [1]},
        {"choices": [{"message": {"content": 3}}]},
        {"choices": [[]]},
        [],
        None,
        Reply(500, {}, {"error": {"code": "x", "innererror": "text"}}),
        Reply(500, {}, {"error": "text"}),
    ],
)
async def test_an_odd_body_costs_a_call_and_nothing_else(body: Any, at_once: list[float]) -> None:
    answer, _ = await ask(Scripted(lambda number: body if number == 1 else OK))
    assert answer is not None and answer.error is None and answer.text == "yes"


async def test_odd_values_never_reach_the_columns(at_once: list[float]) -> None:
    body = {
        "choices": [{"message": {"content": "yes"}, "finish_reason": {"a": 1}}],
        "model": 5,
        "usage": {"prompt_tokens": 10, "completion_tokens": 2**70, "prompt_tokens_details": {"cached_tokens": 99}},
    }
    answer, _ = await ask(Scripted(lambda _: body))
    assert answer is not None and (answer.finish_reason, answer.model) == (None, None)
    assert (answer.prompt_tokens, answer.cached_tokens) == (10, 10)
    assert answer.completion_tokens < 2**63
    orjson.dumps(answer.completion_tokens)
