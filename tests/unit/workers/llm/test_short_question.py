"""Whose an error is: what looks like everybody's is the document's own while a short question is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.workers.llm.limits.lanes import open_lane
from tests.unit.workers.llm.scripted_model import JOB, LATE, OK, Scripted
from workers.llm import chat as chat_module
from workers.llm import short_question
from workers.llm.answer import Answer
from workers.llm.answers.errors import Kind, Verdict
from workers.llm.chat import QUOTA_CALLS, Chat
from workers.llm.limits import stop as brakes_module
from workers.llm.limits.stop import ERROR_WINDOW, Brakes
from workers.llm.short_question import ShortQuestion
from workers.llm.transport.transport import Reply
from workers.observe.metrics import Metrics


def refusal(status: int, code: str = "", message: str = "the provider's words") -> Reply:
    return Reply(status, {}, {"error": {"code": code, "message": message}})


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait(stopped: Callable[[], bool], seconds: float) -> bool:
        await asyncio.sleep(0)
        return stopped()

    monkeypatch.setattr(chat_module, "sleep_unless", wait)
    monkeypatch.setattr(short_question, "PAUSES", (0.0, 0.0))


def asking(transport: Scripted) -> tuple[Chat, Brakes]:
    brakes = Brakes(max_error_rate=0.5, drain=asyncio.Event())
    hours = iter(range(0, 10**9, 3600))
    return Chat(JOB, transport, brakes, Metrics(), open_lane(clock=lambda: float(next(hours)))), brakes  # type: ignore[arg-type]


async def ask(chat: Chat, brakes: Brakes) -> Answer | None:
    payload = chat.payload([{"role": "user", "content": "x"}])
    return await asyncio.wait_for(chat.ask(payload, brakes.stopped, about="s3://corpus/the-one.txt"), 10)


@pytest.mark.parametrize(
    ("reply", "reason", "alone", "calls"),
    [
        (refusal(401, "invalid_api_key"), "invalid_api_key", "unauthorized", 1),
        (refusal(402), "insufficient_quota", "payment_required", 1),
        (Reply(403, {}, None), "permission_denied", "forbidden", 1),
        (refusal(404, "model_not_found"), "model_not_found", "not_found", 1),
        (Reply(302, {}, None), "unexpected_redirect", "redirected", 1),
        (refusal(429, "insufficient_quota"), "insufficient_quota", "quota_exceeded", QUOTA_CALLS),
        (refusal(429, "monthly_spend_limit_exceeded"), "insufficient_quota", "quota_exceeded", QUOTA_CALLS),
    ],
)
async def test_of_one_document_or_of_all(reply: Reply, reason: str, alone: str, calls: int) -> None:
    transport = Scripted(lambda _: reply)
    chat, brakes = asking(transport)
    answer = await ask(chat, brakes)
    assert answer is not None and answer.error is not None and brakes.stop() is None
    assert (answer.error.error_type, answer.error.retryable) == (alone, True)
    assert (answer.attempts, transport.documents) == (calls, calls)
    if reply.body:
        assert "the provider's words" in answer.error.message
    transport = Scripted(lambda _: reply, probe=reply)
    chat, brakes = asking(transport)
    assert await ask(chat, brakes) is None
    stop = brakes.stop()
    assert stop is not None and (stop.reason, transport.documents) == (reason, 1)
    assert stop.message.endswith("(http://simulated/v1/chat/completions; asked about s3://corpus/the-one.txt)")


async def test_a_quota_that_is_one_a_minute_is_waited_for() -> None:
    transport = Scripted(lambda number: refusal(429, "insufficient_quota") if number < QUOTA_CALLS else OK)
    chat, brakes = asking(transport)
    answer = await ask(chat, brakes)
    assert answer is not None and answer.text == "yes" and brakes.stop() is None


async def test_a_short_question_that_is_limited_itself_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brakes_module, "OUTAGE_AFTER", 1e9)
    limited = refusal(429, "rate_limit_exceeded")
    transport = Scripted(lambda number: Reply(403, {}, None) if number < 3 else OK, probe=limited)
    chat, brakes = asking(transport)
    answer = await ask(chat, brakes)
    assert answer is not None and answer.text == "yes" and brakes.stop() is None


async def test_where_nobody_is_answered_at_all_it_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which ends by itself, as a pause for a person does not."""
    monkeypatch.setattr(brakes_module, "OUTAGE_AFTER", -1.0)
    chat, brakes = asking(Scripted(lambda _: Reply(403, {}, None), probe=LATE))
    assert await ask(chat, brakes) is None
    stop = brakes.stop()
    assert stop is not None and stop.reason == "provider_unreachable"


async def test_many_that_wait_share_one_question() -> None:
    """And a run in which each document ends so is paused by its error rate."""
    transport = Scripted(lambda _: Reply(403, {}, None))
    chat, brakes = asking(transport)

    async def one() -> None:
        answer = await ask(chat, brakes)
        assert answer is not None and answer.error is not None
        brakes.document(answer.error.error_type)

    await one()
    await asyncio.gather(*(one() for _ in range(ERROR_WINDOW)))
    assert transport.probes < transport.documents / 2
    stop = brakes.stop()
    assert stop is not None and stop.reason == "max_error_rate"


async def test_whoever_comes_while_one_is_asked_waits_for_the_next() -> None:
    going: list[asyncio.Future[Verdict | None]] = []

    def begin() -> Any:
        going.append(asyncio.get_running_loop().create_future())
        return going[-1]

    question = ShortQuestion(begin)
    first = asyncio.create_task(question.ask())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    late = [asyncio.create_task(question.ask()) for _ in range(3)]
    await asyncio.sleep(0)
    late[0].cancel()
    assert len(going) == 1
    going[0].set_result(None)
    assert await first is None
    for _ in range(5):
        await asyncio.sleep(0)
    assert not any(task.done() and not task.cancelled() for task in late)
    refused = Verdict(Kind.JOB, "invalid_api_key", "m")
    going[1].set_result(refused)
    assert await asyncio.gather(*late[1:]) == [refused] * 2
    assert len(going) == 2
