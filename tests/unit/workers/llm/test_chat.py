"""What one document's question does with a provider that answers late, oddly, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any

import orjson
import pytest

from batch.corpus.planning import PlannedDocument
from batch.files.result_file import totals_of
from batch.job.model import Model, Prices
from batch.workflows.states import Reason
from tests.unit.workers.llm.limits.lanes import open_lane
from tests.unit.workers.llm.scripted_model import JOB, LATE, OK, Scripted
from workers.documents.rows import RowMaker
from workers.llm import chat as chat_module
from workers.llm.answer import Answer
from workers.llm.chat import MAX_TRANSIENT, MOST_UNEXPECTED, Chat
from workers.llm.limits import stop as brakes_module
from workers.llm.limits.stop import Brakes
from workers.llm.prices import cost_of, pricer
from workers.llm.short_question import probe
from workers.llm.transport.transport import Reply
from workers.observe.metrics import Metrics


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
    assert (stop.reason, transport.documents, transport.probes) == (Reason.PROVIDER_UNREACHABLE, 1, 1)


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


async def test_a_document_with_a_rate_limit_of_its_own_ends(
    at_once: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_module, "LIMITED_SECONDS", 0.0)
    limited = Reply(429, {"retry-after": "0"}, {"error": {"message": "exceeded token rate limit"}})
    transport = Scripted(lambda _: limited)
    answer, brakes = await ask(transport)
    assert answer is not None and answer.error is not None and answer.error.retryable
    assert (answer.error.error_type, transport.documents, transport.probes, brakes.stop()) == (
        "rate_limited",
        chat_module.LIMITED_CALLS,
        1,
        None,
    )
    assert sum(at_once) > 100  # a Retry-After of 0 is none


async def test_a_limit_that_refuses_everybody_is_waited_for(
    at_once: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_module, "LIMITED_SECONDS", 0.0)
    monkeypatch.setattr("workers.llm.short_question.PAUSES", ())
    limited = Reply(429, {}, {"error": {"message": "Limit of 200 requests per day"}})
    answer, brakes = await ask(Scripted(lambda number: limited if number <= 1100 else OK, probe=limited))
    assert answer is not None and (answer.text, answer.attempts, brakes.stop()) == ("yes", 1101, None)


@pytest.mark.parametrize("calls", [1, 7, 2_000, 10**9])
def test_pauses_have_an_end_however_many_there_were(calls: int) -> None:
    assert 0 < chat_module.backoff(calls, None) <= chat_module.BACKOFF_MOST


@pytest.mark.parametrize(
    "body",
    [
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


NO_ANSWERS: list[Any] = [
    Reply(200, {}, None, "<html><title>Sign in</title></html>"),
    Reply(202, {}, {"status": "pending"}),
    Reply(200, {}, {"error": "llama runner process has terminated"}),
    Reply(200, {}, {"error": {"code": 502, "message": "Upstream error"}}),
    Reply(200, {}, {"choices": [{"message": {"content": "half"}, "finish_reason": "abort"}]}),
    Reply(400, {}, {"error": {"code": "json_validate_failed", "message": "Failed to generate JSON"}}),
]


@pytest.mark.parametrize("reply", NO_ANSWERS)
async def test_what_is_answered_but_no_answer_is_asked_three_times(reply: Reply, at_once: list[float]) -> None:
    transport = Scripted(lambda _: reply)
    answer, brakes = await ask(transport)
    assert answer is not None and answer.error is not None and answer.error.retryable
    assert (transport.documents, transport.probes, answer.attempts) == (MOST_UNEXPECTED, 1, MOST_UNEXPECTED)
    assert brakes.stop() is None

    once = Scripted(lambda number: reply if number < MOST_UNEXPECTED else OK)
    answer, _ = await ask(once)
    assert answer is not None and (answer.text, answer.error) == ("yes", None)


async def test_what_is_answered_to_nobody_is_asked_by_short_questions_alone(at_once: list[float]) -> None:
    page = Reply(200, {}, None, "<html><title>Sign in</title></html>")
    transport = Scripted(lambda _: page, probe=page)
    answer, brakes = await ask(transport)
    stop = brakes.stop()
    assert answer is None and stop is not None and stop.reason == Reason.PROVIDER_UNREACHABLE
    assert "Sign in" in stop.message and transport.documents == MOST_UNEXPECTED

    transport = Scripted(lambda number: page if number <= MOST_UNEXPECTED else OK, probe=page)

    async def back(stopped: Callable[[], bool], seconds: float) -> bool:
        if transport.probes == 2:
            transport._probe = OK
        await asyncio.sleep(0)
        return stopped()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(brakes_module, "OUTAGE_AFTER", 1e9)
        patch.setattr(chat_module, "sleep_unless", back)
        answer, brakes = await ask(transport)
    assert answer is not None and answer.text == "yes", "what was nobody's answer is not held against the document"
    assert (transport.probes, brakes.stop()) == (3, None)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(200, {}, {"error": {"code": 401, "message": "No auth credentials found"}}), "invalid_api_key"),
        (Reply(308, {"Location": "https://x.test/openai/v1/chat/completions"}, None), "unexpected_redirect"),
    ],
)
async def test_an_error_inside_a_success_is_judged_as_any(reply: Reply, reason: str, at_once: list[float]) -> None:
    answer, brakes = await ask(Scripted(lambda _: reply, probe=reply))
    stop = brakes.stop()
    assert answer is None and stop is not None and stop.reason == reason
    assert reason != "unexpected_redirect" or ": https://x.test/openai/v1 (" in stop.message


async def test_a_rate_limit_inside_a_success_is_waited_for(at_once: list[float]) -> None:
    limited = {"error": {"code": 429, "message": "Rate limit exceeded, try again in 7.5s"}}
    answer, brakes = await ask(Scripted(lambda number: limited if number <= 20 else OK))
    assert answer is not None and (answer.text, answer.attempts, brakes.stop()) == ("yes", 21, None)
    assert min(at_once) >= 7.5


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Reply(200, {}, None, "<html><title>Sign in to Contoso</title></html>"), "Sign in to Contoso"),
        (Reply(200, {}, None, 'data: {"choices": []}'), "stream of events"),
        (Reply(200, {}, {"error": {"code": 400, "message": "zz is not a valid model ID"}}), "not a valid model ID"),
        (Reply(200, {}, {"choices": [{"message": {"content": ""}, "finish_reason": "length"}]}), None),
        (Reply(200, {}, {"choices": [{"message": {"content": "<think>hm"}}]}), None),
        (Reply(201, {}, OK), None),
    ],
)
async def test_the_check_before_a_run_wants_an_answer(reply: Reply, says: str | None) -> None:
    found = await probe(JOB, Scripted(lambda _: OK, probe=reply))  # type: ignore[arg-type]
    assert (found is None) == (says is None)
    assert found is None or says is None or says in found.message


async def test_an_answer_that_says_nothing_of_its_tokens_has_none(at_once: list[float]) -> None:
    answer, _ = await ask(Scripted(lambda _: {"choices": OK["choices"]}))
    assert answer is not None and answer.uncounted and answer.text == "yes"
    document = PlannedDocument(document_id="d", uri="s3://corpus/t/d", etag="e", size=1)
    price = pricer(Model(name="m", prices=Prices(input=1.0, output=1.0)))
    row = RowMaker("r", "f", 1, 0, 0).row(document, "e", answer, cost_of(answer, price))
    assert [row[name] for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "cost_usd")] == [None] * 4
    totals = totals_of([row], "r")
    assert (totals.ok, totals.prompt_tokens, totals.unpriced) == (1, 0, 1)

    answer, _ = await ask(Scripted(lambda number: {"error": {"code": 502}} if number == 1 else OK))
    assert answer is not None and answer.uncounted is False, "an error cost nothing"


async def test_a_prompt_that_was_cut_is_an_error_row(at_once: list[float]) -> None:
    cut = {**OK, "usage": {"prompt_tokens": 2048, "completion_tokens": 3}}
    brakes = Brakes(max_error_rate=0.5, drain=asyncio.Event())
    chat = Chat(JOB, Scripted(lambda _: cut), brakes, Metrics(), open_lane())  # type: ignore[arg-type]
    answer = await chat.ask(chat.payload([{"role": "user", "content": "a word and more " * 2000}]), brakes.stopped)
    assert answer is not None and answer.error is not None
    assert (answer.error.error_type, answer.error.retryable) == ("prompt_truncated", True)
    assert (answer.text, answer.prompt_tokens, answer.attempts) == ("yes", 2048, 1)


async def test_odd_values_never_reach_the_columns(at_once: list[float]) -> None:
    body = {
        "choices": [{"message": {"content": "yes"}, "finish_reason": {"a": 1}}],
        "model": 5,
        "usage": {"prompt_tokens": 10, "completion_tokens": 2**70, "prompt_tokens_details": {"cached_tokens": 99}},
    }
    answer, _ = await ask(Scripted(lambda _: body))
    assert answer is not None and (answer.finish_reason, answer.model) == ('{"a":1}', None)
    answer.prompt_tokens, answer.cached_tokens = answer.prompt_tokens // 3, answer.cached_tokens // 3  # of three calls
    assert (answer.prompt_tokens, answer.cached_tokens) == (10, 10)
    assert answer.completion_tokens < 2**63
    orjson.dumps(answer.completion_tokens)
