"""The limit of an answer by the name that a server knows, found out by its first answer."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from batch.job.job import Job
from tests.jobs import job
from tests.unit.workers.llm.limits.lanes import open_lane
from tests.unit.workers.llm.scripted_model import OK
from workers.llm.accepted_fields import Accepted
from workers.llm.chat import Chat
from workers.llm.limits.stop import Brakes
from workers.llm.short_question import probe
from workers.llm.transport.transport import Reply
from workers.observe.metrics import Metrics

NAME = "max_completion_tokens"
UNKNOWN: dict[str, tuple[int, Any]] = {
    "pydantic, Mistral": (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", NAME], "msg": "Extra inputs"}]}),
    "Azure": (400, {"error": {"message": f"Unrecognized request argument supplied: {NAME}", "code": None}}),
    "OpenAI": (400, {"error": {"message": f"Unsupported parameter: '{NAME}'", "code": "unsupported_parameter"}}),
    "TGI": (422, {"error": f"unknown field `{NAME}`, expected one of `messages`, `max_tokens`"}),
    "Gemini": (
        400,
        [{"error": {"message": f'Invalid JSON payload received. Unknown name "{NAME}": Cannot find field.'}}],
    ),
    "LiteLLM": (400, {"error": {"message": f"UnsupportedParamsError: m does not support parameters: {{'{NAME}': 5}}"}}),
    "Bedrock": (400, {"message": f"extraneous key [{NAME}] is not permitted"}),
}
OF_THE_VALUE = [
    (400, {"error": {"message": f"{NAME} is too large: 50000. This model supports at most 4096 completion tokens"}}),
    (400, {"error": {"message": f"Input should be greater than 0: {NAME}"}}),
    (400, {"error": {"message": "Unsupported parameter: 'temperature'"}}),
    (500, {"error": {"message": f"unknown {NAME}"}}),
]


class Server:
    """Refuses requests that `refuses` names, in the words given."""

    base_url = "http://simulated/v1/"

    def __init__(self, refusal: tuple[int, Any], refuses: str = NAME) -> None:
        self._refusal, self._refuses = refusal, refuses
        self.requests: list[dict[str, Any]] = []

    async def post(self, path: str, payload: bytes, *, timeout: float) -> Reply:
        self.requests.append(orjson.loads(payload))
        if self._refuses in self.requests[-1]:
            return Reply(self._refusal[0], {}, self._refusal[1])
        return Reply(200, {}, OK)


def limited() -> Job:
    return Job.parse(job(model__max_output_tokens=50))


def chat_with(server: Server) -> tuple[Chat, Brakes]:
    brakes = Brakes(max_error_rate=0.5, drain=asyncio.Event())
    return Chat(limited(), server, brakes, Metrics(), open_lane()), brakes  # type: ignore[arg-type]


@pytest.mark.parametrize("words", UNKNOWN)
async def test_a_server_that_knows_the_older_name_alone_is_asked_with_it(words: str) -> None:
    server = Server(UNKNOWN[words])
    chat, brakes = chat_with(server)
    early = chat.payload([{"role": "user", "content": "written before anything was known"}])
    for content in ("a", "b"):
        answer = await chat.ask(chat.payload([{"role": "user", "content": content}]), brakes.stopped)
        assert answer is not None and answer.text == "yes"
    answer = await chat.ask(early, brakes.stopped)
    assert answer is not None and answer.text == "yes"
    assert [NAME in request for request in server.requests] == [True, False, False, False]
    assert all(request["max_tokens"] == 50 for request in server.requests[1:])
    another, brakes = chat_with(server)
    await another.ask(another.payload([{"role": "user", "content": "x"}]), brakes.stopped)
    assert NAME not in server.requests[-1], "what one run found out, the next one of this process knows"


async def test_the_check_before_a_run_finds_it_out_too() -> None:
    server = Server(UNKNOWN["Azure"])
    assert await probe(limited(), server, as_the_job_asks=True) is None  # type: ignore[arg-type]
    assert [NAME in request for request in server.requests] == [True, False]
    assert server.requests[-1]["max_tokens"] == 50


@pytest.mark.parametrize(("status", "body"), OF_THE_VALUE)
def test_a_refusal_of_the_value_or_of_another_field_is_none_of_the_name(status: int, body: Any) -> None:
    assert not Accepted().refuses_limit(status, body)


def test_a_server_that_answered_the_name_knows_it() -> None:
    known = Accepted()
    known.answered()
    assert not known.refuses_limit(*UNKNOWN["Azure"])


async def test_what_the_job_says_is_never_left_out() -> None:
    server = Server((400, {"error": {"message": "Unsupported parameter: 'temperature'"}}), "temperature")
    cold = Job.parse(job(model__temperature=0))
    verdict = await probe(cold, server, as_the_job_asks=True)  # type: ignore[arg-type]
    assert verdict is not None and "Unsupported parameter: 'temperature'" in verdict.message
