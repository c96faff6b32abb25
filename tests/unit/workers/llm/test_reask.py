"""Answers that do not fit the schema: asked for again, counted, given up; and servers without `response_format`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from batch.corpus.planning import PlannedDocument
from batch.schema.answer_reader import AnswerReader
from batch.workflows import contracts as c
from batch.workflows.states import State
from tests.unit.workers.llm.limits.lanes import open_lane
from tests.unit.workers.llm.scripted_answers import GOOD, MESSAGES, MODEL, NO_FORMAT, SCHEMA, WRONG, Scripted, job, said
from workers.documents.rows import RowMaker
from workers.llm import chat as chat_module
from workers.llm.answer import Answer
from workers.llm.chat import MAX_TRANSIENT, Chat
from workers.llm.limits.stop import Brakes
from workers.llm.prices import pricer
from workers.llm.short_question import probe
from workers.llm.transport.transport import Reply, Transport, TransportError
from workers.observe.metrics import Metrics
from workers.partition.attempt_stop import AttemptStop

BAD_REQUEST = {"error": {"message": "no", "code": "invalid_value"}}


class Asked:
    """One question to a scripted model, and what is left of it."""

    def __init__(self, *script: Any, reasks: int = 2) -> None:
        self.transport = Scripted(*script)
        self.metrics = Metrics()
        self.drain = asyncio.Event()
        self.brakes = Brakes(max_error_rate=0.5, drain=self.drain)
        self.chat = Chat(job(reasks), self.transport, self.brakes, self.metrics, open_lane())  # type: ignore[arg-type]

    async def answer(self) -> Answer | None:
        return await asyncio.wait_for(self.chat.ask(self.chat.payload(MESSAGES), self.brakes.stopped), 5)

    def count(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, {"model": MODEL, **labels})

    @property
    def reasks(self) -> float | None:
        return self.count("docbatch_llm_reasks_total")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait(stopped: Callable[[], bool], seconds: float) -> bool:
        await asyncio.sleep(0)
        return stopped()

    monkeypatch.setattr(chat_module, "sleep_unless", wait)


async def test_the_model_sees_its_answer_and_the_error_and_every_call_is_counted() -> None:
    asked = Asked(said(WRONG), said("not JSON"), said(GOOD))
    answer = await asked.answer()
    assert answer is not None and answer.error is None
    assert (answer.text, answer.result) == (GOOD, {"label": "bug"})
    assert (answer.attempts, answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens) == (3, 300, 120, 30)
    assert asked.reasks == 2
    assert asked.count("docbatch_llm_requests_total", outcome="ok") == 3
    assert asked.count("docbatch_tokens_total", direction="completion") == 30
    first, second, third = (request["messages"] for request in asked.transport.requests)
    assert first == second[:-2] == third[:-2] == MESSAGES
    assert second[-2]["content"] == WRONG and 'label: 3 is not of type "string"' in second[-1]["content"]
    assert third[-2]["content"] == "not JSON" and "the answer is not JSON" in third[-1]["content"]
    assert all("response_format" in request for request in asked.transport.requests)

    row = RowMaker("r", "f", 1, 0, 0).row(
        PlannedDocument(document_id="d", uri="s3://corpus/t/d", etag="e", size=1),
        "e",
        answer,
        pricer(job().model)(answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens),
    )
    assert (row["attempts"], row["prompt_tokens"], row["completion_tokens"]) == (3, 300, 30)
    once = pricer(job().model)(100, 40, 10)
    assert once and row["cost_usd"] == pytest.approx(3 * once)


@pytest.mark.parametrize("reasks", [0, 1, 2])
async def test_after_the_last_reask_the_answer_is_invalid(reasks: int) -> None:
    asked = Asked(said(WRONG), reasks=reasks)
    answer = await asked.answer()
    assert answer is not None and answer.error is not None
    assert (answer.error.error_type, answer.error.retryable) == ("invalid_answer", True)
    assert answer.error.message == 'label: 3 is not of type "string"'
    assert (answer.text, answer.result, answer.attempts, asked.reasks) == (WRONG, None, reasks + 1, reasks)


@pytest.mark.parametrize(
    ("reply", "error_type"),
    [
        (said('{"label"', finish="length"), "truncated"),
        (said(None, refusal="I cannot"), "refusal"),
        (said("", finish="content_filter"), "content_filter"),
        (said(None), "empty_answer"),
        (Reply(400, {}, BAD_REQUEST), "bad_request"),
    ],
)
async def test_what_would_end_the_same_way_is_not_asked_again(reply: Any, error_type: str) -> None:
    asked = Asked(reply)
    answer = await asked.answer()
    assert answer is not None and answer.error is not None
    assert (answer.error.error_type, answer.attempts, asked.reasks) == (error_type, 1, 0)


@pytest.mark.parametrize(
    ("reply", "attempts", "word"),
    [
        (said(None, refusal="I cannot"), 2, "refusal"),
        (said(None), 2, "empty_answer"),
        (Reply(400, {}, {"error": {"message": "too long", "code": "context_length_exceeded"}}), 2, "context_length"),
    ],
)
async def test_a_reask_that_fails_leaves_the_invalid_answer(reply: Any, attempts: int, word: str) -> None:
    asked = Asked(said(WRONG), reply)
    answer = await asked.answer()
    assert answer is not None and answer.error is not None
    assert (answer.error.error_type, answer.error.retryable) == ("invalid_answer", True)
    assert answer.error.message.startswith("label: 3 is not") and word in answer.error.message
    assert (answer.text, answer.finish_reason, answer.model, answer.attempts) == (WRONG, "stop", "m-1", attempts)


async def test_a_reask_is_repeated_in_place_as_any_call() -> None:
    late = TransportError("timeout", "no answer")
    asked = Asked(said(WRONG), late, Reply(429, {}, {}), said(GOOD))
    answer = await asked.answer()
    assert answer is not None and answer.error is None
    assert (answer.attempts, answer.completion_tokens, asked.reasks) == (4, 20, 1)
    messages = [request["messages"] for request in asked.transport.requests]
    assert messages[1] == messages[2] == messages[3] != messages[0]

    def others_are_answered(_: dict[str, Any]) -> Exception:
        asked.brakes.succeeded()
        return late

    asked = Asked(said(WRONG), others_are_answered)
    answer = await asked.answer()
    assert answer is not None and answer.error is not None and answer.error.error_type == "invalid_answer"
    assert (answer.attempts, answer.completion_tokens) == (1 + MAX_TRANSIENT, 10)


async def test_a_stop_between_an_invalid_answer_and_its_reask_leaves_the_document_unanswered() -> None:
    asked = Asked(lambda _: asked.drain.set() or said(WRONG))
    assert await asked.answer() is None
    assert (len(asked.transport.requests), asked.reasks) == (1, 0)

    last = Asked(lambda _: last.drain.set() or said(WRONG), reasks=0)
    answer = await last.answer()
    assert answer is not None and answer.error is not None, "without a re-ask to come it is an answer as any"

    right = Asked(lambda _: right.drain.set() or said(GOOD))
    answer = await right.answer()
    assert answer is not None and answer.result, "a call in flight is kept"


async def test_a_drain_lets_a_reask_end_and_nothing_else_does() -> None:
    """As the processor asks: what is paid for in part is abandoned to a pause, not to a shutdown."""

    def stop_of(asked: Asked) -> AttemptStop:
        pulse: Any = SimpleNamespace(superseded=lambda: False)
        ledger: Any = SimpleNamespace(has_failed=lambda: False, refused=None)
        return AttemptStop(asked.brakes, pulse, ledger)

    async def answer(asked: Asked, stop: AttemptStop | None = None) -> Answer | None:
        stop = stop or stop_of(asked)
        return await asked.chat.ask(asked.chat.payload(MESSAGES), stop.must, stop.abandons)

    drained = Asked(lambda _: drained.drain.set() or said(WRONG), said(GOOD))
    found = await answer(drained)
    assert found is not None and (found.text, found.attempts) == (GOOD, 2)
    assert await answer(drained) is None, "no first call of a document after the drain began"
    assert len(drained.transport.requests) == 2

    def drain_and_pause(request: Any) -> Any:
        both.drain.set()
        both.brakes.follow(c.Control(epoch=1, state=State.PAUSED))
        return said(WRONG)

    both = Asked(drain_and_pause, said(GOOD))
    assert await answer(both) is None
    assert len(both.transport.requests) == 1

    def drain_and_cut(request: Any) -> Any:
        late.drain.set()
        stop.soon()
        return said(WRONG)

    late = Asked(drain_and_cut, said(GOOD))
    stop = stop_of(late)
    assert await answer(late, stop) is None, "its grace period is over"
    assert len(late.transport.requests) == 1


async def test_a_reask_that_finds_the_key_revoked_stops_the_job() -> None:
    asked = Asked(said(WRONG), Reply(401, {}, {"error": {"code": "invalid_api_key"}}))
    assert await asked.answer() is None
    stop = asked.brakes.stop()
    assert stop is not None and stop.reason == "invalid_api_key"


def without_format(request: dict[str, Any]) -> Any:
    """A server that does not know `response_format`, and whose model likes to talk."""
    if "response_format" in request:
        return Reply(400, {}, NO_FORMAT)
    return said(f"Gladly!\n```json\n{GOOD}\n```\nWhat else?")


async def test_a_server_without_response_format_is_found_out_once() -> None:
    asked = Asked(without_format)
    early = asked.chat.payload(MESSAGES)
    answer = await asked.answer()
    assert answer is not None and answer.error is None
    assert (answer.text, answer.result, answer.attempts, answer.completion_tokens) == (GOOD, {"label": "bug"}, 2, 10)
    assert AnswerReader(SCHEMA).read(answer.text or ""), "a ledger's answer is read strictly when it is replayed"
    assert asked.reasks == 0
    assert asked.count("docbatch_llm_requests_total", outcome="bad_request") == 1

    for payload in (early, asked.chat.payload(MESSAGES)):
        answer = await asked.chat.ask(payload, asked.brakes.stopped)
        assert answer is not None and answer.attempts == 1 and answer.result
    assert ["response_format" in request for request in asked.transport.requests] == [True, False, False, False]
    system, user = asked.transport.requests[-1]["messages"]
    assert system["role"] == "system" and '"label"' in system["content"] and [user] == MESSAGES


async def test_documents_in_flight_at_the_finding_ask_again_by_themselves() -> None:
    asked = Asked(without_format)
    answers = await asyncio.gather(*(asked.answer() for _ in range(8)))
    assert all(answer is not None and answer.result and answer.attempts == 2 for answer in answers)


async def test_reasks_and_the_schema_in_the_prompt_together() -> None:
    asked = Asked(Reply(400, {}, NO_FORMAT), said(f"I think {WRONG}."), said(f"Oh: {GOOD}"))
    answer = await asked.answer()
    assert answer is not None and answer.result == {"label": "bug"}
    last = asked.transport.requests[-1]
    assert [message["role"] for message in last["messages"]] == ["system", "user", "assistant", "user"]
    assert last["messages"][2]["content"] == f"I think {WRONG}."
    assert "response_format" not in last and answer.attempts == 3


async def test_one_documents_400_does_not_change_the_way_of_the_others() -> None:
    asked = Asked(said(GOOD), Reply(400, {}, NO_FORMAT), said(GOOD))
    assert (await asked.answer()) is not None
    refused = await asked.answer()
    assert refused is not None and refused.error is not None and refused.error.error_type == "bad_request"
    assert (await asked.answer()) is not None
    assert all("response_format" in request for request in asked.transport.requests)

    asked = Asked(Reply(400, {}, NO_FORMAT), Reply(400, {}, BAD_REQUEST), said(GOOD))
    refused = await asked.answer()
    assert refused is not None and refused.error is not None and refused.error.message.endswith("no")
    assert (await asked.answer()) is not None
    assert "response_format" in asked.transport.requests[-1], "nothing was decided by a 400 that came either way"


async def test_json_is_dug_out_where_response_format_was_taken_and_ignored_too() -> None:
    answer = await Asked(said(f"Gladly! {GOOD}"), reasks=0).answer()
    assert answer is not None and (answer.text, answer.result) == (GOOD, {"label": "bug"})

    asked = Asked(said(f'{GOOD}\n{{"label": "praise"}}'), said(GOOD))
    answer = await asked.answer()
    assert answer is not None and answer.attempts == 2, "of two objects nobody knows which counts"


async def test_the_check_before_a_run_lets_a_server_without_response_format_pass() -> None:
    transport = Scripted(without_format)
    assert await probe(job(), transport, as_the_job_asks=True) is None  # type: ignore[arg-type]
    assert ["response_format" in request for request in transport.requests] == [True, False]
    stubborn = Scripted(Reply(400, {}, NO_FORMAT))
    assert await probe(job(), stubborn, as_the_job_asks=True) is not None  # type: ignore[arg-type]
    assert len(stubborn.requests) == 2
    invalid = Scripted(Reply(400, {}, {"error": {"message": "Invalid schema for response_format 'answer'"}}))
    assert await probe(job(), invalid, as_the_job_asks=True) is not None  # type: ignore[arg-type]
    assert len(invalid.requests) == 1


class Server:
    """An HTTP server on a free port that answers by script: (status, body) in turn."""

    def __init__(self) -> None:
        self.script: list[tuple[int, Any]] = []
        self.requests: list[dict[str, Any]] = []

    async def chat(self, request: web.Request) -> web.Response:
        self.requests.append(await request.json())
        status, body = self.script.pop(0)
        return web.json_response(body, status=status)


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    scripted = Server()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", scripted.chat)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    yield scripted
    await runner.cleanup()


async def test_over_http(server: Server) -> None:
    transport = Transport()
    brakes = Brakes(max_error_rate=0.5, drain=asyncio.Event())
    try:
        chat = Chat(job(), transport, brakes, Metrics(), open_lane())
        server.script = [(200, said(WRONG)), (200, said("[]")), (200, said(GOOD))]
        answer = await chat.ask(chat.payload(MESSAGES), brakes.stopped)
        assert answer is not None and answer.result == {"label": "bug"}
        assert (answer.attempts, answer.prompt_tokens, answer.completion_tokens) == (3, 300, 30)
        assert [len(request["messages"]) for request in server.requests] == [1, 3, 3]

        server.requests.clear()
        chat = Chat(job(), transport, brakes, Metrics(), open_lane())
        server.script = [(400, NO_FORMAT), (200, said(f"{WRONG}?")), (200, said(f"No: {GOOD}!")), (200, said(GOOD))]
        answer = await chat.ask(chat.payload(MESSAGES), brakes.stopped)
        assert answer is not None and (answer.text, answer.result) == (GOOD, {"label": "bug"})
        assert (answer.attempts, answer.prompt_tokens, answer.completion_tokens) == (3, 200, 20)
        answer = await chat.ask(chat.payload(MESSAGES), brakes.stopped)
        assert answer is not None and answer.attempts == 1
        assert ["response_format" in request for request in server.requests] == [True, False, False, False]
        assert not server.script
    finally:
        await transport.close()
