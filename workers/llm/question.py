"""What a run's requests say: messages, settings, the schema of the answer, and what was wrong with the last one.

The schema goes by OpenAI's `response_format`. A server that does not know it is found out by its first answer to this
process; from then on the schema stands in the prompt.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from batch.job.job import Job
from workers.llm.accepted_fields import LIMIT_FIELDS, Accepted
from workers.llm.answers.json_text import written
from workers.llm.response_format import response_format

MOST_SHOWN = 8_000
"""Characters of an invalid answer that its re-ask shows to the model: what bounds the size and price of a re-ask."""

_FORMAT_NAMED = re.compile(r"response[_ ]format|json[_ ]schema", re.IGNORECASE)
_GENERATED = re.compile(r"json_validate_failed|failed_generation")
"""Groq's error for what the model made of the schema."""
_SCHEMA_REFUSED = re.compile(r"invalid schema", re.IGNORECASE)


class Questions:
    """Writes the request bodies of one run in this process, and knows how its server takes a schema."""

    def __init__(self, job: Job, accepted: Accepted | None = None) -> None:
        self._accepted = accepted or Accepted()
        self._tails = {name: (_tail(settings_of(job, name)), _tail(_formless(job, name))) for name in LIMIT_FIELDS}
        """By the name of the limit's field: with the schema and without."""
        self._formats = tuple(tails[0] for tails in self._tails.values())
        self._limits_by_first_name = self._tails[LIMIT_FIELDS[0]] if job.model.max_output_tokens is not None else ()
        """The ends of bodies that limit the answer by OpenAI's name."""
        schema = job.output.json_schema
        self._paragraph = _in_words(schema) if schema is not None else ""
        self._server_knows: bool | None = None
        """Whether the server knows `response_format`; None before its first answer to a request that has it."""

    @property
    def _with_format(self) -> bytes:
        return self._tails[self._accepted.limit_field][0]

    @property
    def _without(self) -> bytes:
        return self._tails[self._accepted.limit_field][1]

    def payload(self, messages: list[dict[str, str]]) -> bytes:
        """Returns the request's body."""
        if self._paragraph and self._server_knows is False:
            return _body(_with_paragraph(messages, self._paragraph), self._without)
        return _body(messages, self._with_format)

    def has_format(self, payload: bytes) -> bool:
        """Tells whether the body asks by `response_format`."""
        return bool(self._paragraph) and payload.endswith(self._formats)

    def messages_part(self, payload: bytes) -> bytes:
        """Returns the JSON of a body's messages, without the settings and the schema that follow them."""
        for tail in (self._with_format, self._without):
            if payload.endswith(tail):
                return payload[: -len(tail)]
        return payload

    def as_known(self, payload: bytes) -> bytes:
        """Returns a body that may have been written before the server was found not to know a field of it."""
        payload = self.with_known_limit(payload)
        return self.in_prompt(payload) if self._server_knows is False and self.has_format(payload) else payload

    def with_known_limit(self, payload: bytes) -> bytes:
        """Returns the body with the limit of its answer by the name that the server knows."""
        known = self._tails[self._accepted.limit_field]
        if payload.endswith(known):
            return payload
        for tails in self._tails.values():
            for tail, wanted in zip(tails, known, strict=True):
                if payload.endswith(tail):
                    return payload.removesuffix(tail) + wanted
        return payload

    def refused_limit(self, payload: bytes, status: int, body: Any) -> bool:
        """Whether the server knows the limit of an answer by another name: then that is the known one from here on."""
        return payload.endswith(self._limits_by_first_name) and self._accepted.refuses_limit(status, body)

    def takes_other_limit(self, status: int, body: Any) -> bool:
        """Returns the same of a request that went out in a batch, in some way."""
        return bool(self._limits_by_first_name) and self._accepted.refuses_limit(status, body)

    def messages(self, payload: bytes) -> list[dict[str, str]]:
        """Returns what is asked, and whatever the server takes in words alone."""
        return _messages(self.as_known(payload))

    def in_prompt(self, payload: bytes) -> bytes:
        """Returns the body that asks the same by words alone, as the end of the system message."""
        return _body(_with_paragraph(_messages(payload), self._paragraph), self._without)

    def reask(self, payload: bytes, answer: str, problem: str) -> bytes:
        """The body that asks `payload` again, shows the model its invalid answer, and says what is wrong with it."""
        messages = [
            *_messages(payload),
            {"role": "assistant", "content": _shown(answer)},
            {
                "role": "user",
                "content": f"That answer does not fit the required JSON schema. What is wrong: {problem}\n"
                "Answer again: the whole corrected JSON object and nothing else.",
            },
        ]
        return _body(messages, self._with_format if self.has_format(payload) else self._without)

    def refused(self, payload: bytes, status: int, body: Any) -> bool:
        """Tells whether the server, which never answered a request with `response_format`, does not know it."""
        return self._server_knows is not True and self.has_format(payload) and refuses_format(status, body)

    def learn(self, *, knows: bool) -> None:
        """Notes what a batch showed of the server, unless an answer has shown it before."""
        if self._paragraph and self._server_knows is None:
            self._server_knows = knows

    def answered(self, payload: bytes) -> bool:
        """Notes that the server answered `payload`. Tells whether that shows that it takes schemas in words alone."""
        if payload.endswith(self._limits_by_first_name):
            self._accepted.answered()
        if not self._paragraph or self._server_knows is not None:
            return False
        self._server_knows = self.has_format(payload)
        return not self._server_knows


def settings_of(job: Job, limit_field: str = LIMIT_FIELDS[0]) -> dict[str, Any]:
    """What every request of the job says beside its messages. `limit_field`: the name of the limit of its answer."""
    settings: dict[str, Any] = {"model": job.model.name, **job.model.parameters}
    if job.model.temperature is not None:
        settings["temperature"] = job.model.temperature
    if job.model.max_output_tokens is not None:
        settings[limit_field] = job.model.max_output_tokens
    if job.output.json_schema is not None:
        settings["response_format"] = response_format(job.output.json_schema)
    return settings


def _formless(job: Job, limit_field: str) -> dict[str, Any]:
    settings = settings_of(job, limit_field)
    settings.pop("response_format", None)
    return settings


def refuses_format(status: int, body: Any) -> bool:
    """Tells whether a server says that it does not know `response_format`, or its type `json_schema`.

    Servers word it in many ways, in OpenAI's error object or in their framework's. One that says that the schema is
    invalid knows the parameter: the job needs another schema then, not another way to send it.
    """
    if status not in (400, 422):
        return False
    said = written(body)
    if _GENERATED.search(said):
        return False
    if _FORMAT_NAMED.search(said):
        return not _SCHEMA_REFUSED.search(said)
    error = body.get("error") if isinstance(body, dict) else None
    return isinstance(error, dict) and error.get("code") == "unsupported_parameter" and not error.get("param")


def _in_words(schema: dict[str, Any]) -> str:
    return (
        "Answer with one JSON object and nothing else: no explanation, no code fence. It must be valid for this JSON "
        f"schema:\n{orjson.dumps(schema).decode()}"
    )


def _with_paragraph(messages: list[dict[str, str]], paragraph: str) -> list[dict[str, str]]:
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": paragraph}, *messages]
    return [{"role": "system", "content": f"{messages[0]['content']}\n\n{paragraph}"}, *messages[1:]]


def _shown(answer: str) -> str:
    """Returns an answer, cut in its middle where it is long; never empty, which some servers refuse."""
    left_out = len(answer) - MOST_SHOWN
    if left_out <= 0:
        return answer or "(no answer)"
    half = MOST_SHOWN // 2
    return f"{answer[:half]}\n[... {left_out} characters left out ...]\n{answer[-half:]}"


def _tail(settings: dict[str, Any]) -> bytes:
    return b"," + orjson.dumps(settings)[1:]


def _body(messages: list[dict[str, str]], tail: bytes) -> bytes:
    return b'{"messages":' + orjson.dumps(messages) + tail


def _messages(payload: bytes) -> list[dict[str, str]]:
    messages: list[dict[str, str]] = orjson.loads(payload)["messages"]
    return messages
