"""What requests say: the schema by `response_format` or in words, and what a re-ask shows."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from batch.job.job import Job
from workers.llm.accepted_fields import Accepted
from workers.llm.answers.json_text import decoded, dug_out
from workers.llm.question import MOST_SHOWN, Questions, refuses_format

SCHEMA = {"type": "object", "properties": {"label": {"type": "string"}}, "required": ["label"]}
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": 'Label "this".'}]


def job(schema: dict[str, Any] | None = SCHEMA, **model: Any) -> Job:
    return Job.parse(
        {
            "name": "t",
            "source": {"uri": "s3://corpus/t/"},
            "prompt": {"user": "{{ text }}"},
            "model": {"name": "simulated-small", **model},
            "output": {"uri": "s3://results/", "schema": schema},
        }
    )


def test_a_request_asks_by_response_format_until_the_server_is_found_not_to_know_it() -> None:
    questions = Questions(job(temperature=0, max_output_tokens=9))
    first = questions.payload(MESSAGES)
    assert json.loads(first)["response_format"]["json_schema"]["schema"] == SCHEMA
    assert questions.has_format(first) and questions.as_known(first) == first

    in_words = questions.in_prompt(first)
    request = json.loads(in_words)
    assert (request["model"], request["temperature"], request["max_completion_tokens"]) == ("simulated-small", 0, 9)
    assert "response_format" not in request and not questions.has_format(in_words)
    assert request["messages"][1:] == MESSAGES[1:]
    paragraphs = request["messages"][0]["content"].split("\n\n")
    assert paragraphs[0] == "Be brief."
    assert json.loads(paragraphs[-1].split("\n")[-1]) == SCHEMA

    assert questions.answered(in_words) and not questions.answered(in_words), "once"
    assert questions.payload(MESSAGES) == questions.as_known(first) == in_words
    assert questions.as_known(in_words) == in_words, "no second paragraph"


def test_the_schema_is_the_system_message_where_there_is_none() -> None:
    questions = Questions(job())
    messages = json.loads(questions.in_prompt(questions.payload(MESSAGES[1:])))["messages"]
    assert [message["role"] for message in messages] == ["system", "user"]


def test_the_first_answer_decides() -> None:
    questions = Questions(job())
    payload = questions.payload(MESSAGES)
    refusal = {"error": {"message": "Unsupported parameter: 'response_format'", "param": "response_format"}}
    assert questions.refused(payload, 400, refusal)
    assert not questions.refused(questions.in_prompt(payload), 400, refusal), "it was not asked that way"
    assert not questions.answered(payload)
    assert not questions.refused(payload, 400, refusal), "a server that has answered knows the parameter"


def test_a_job_without_a_schema_has_neither_way() -> None:
    questions = Questions(job(None))
    payload = questions.payload(MESSAGES)
    assert json.loads(payload)["messages"] == MESSAGES
    assert not questions.has_format(payload) and not questions.answered(payload)
    assert not questions.refused(payload, 400, {"error": {"message": "response_format"}})


@pytest.mark.parametrize("in_words", [False, True])
def test_a_reask_shows_the_question_the_answer_and_what_is_wrong(in_words: bool) -> None:
    questions = Questions(job())
    payload = questions.payload(MESSAGES)
    payload = questions.in_prompt(payload) if in_words else payload
    asked = json.loads(questions.reask(payload, '{"label": 3}', 'label: 3 is not of type "string"'))
    before = json.loads(payload)
    assert asked["messages"][:-2] == before["messages"]
    answer, problem = asked["messages"][-2:]
    assert answer == {"role": "assistant", "content": '{"label": 3}'}
    assert problem["role"] == "user" and 'label: 3 is not of type "string"' in problem["content"]
    assert asked.get("response_format") == before.get("response_format")
    assert questions.has_format(questions.reask(payload, "", "")) is not in_words


def test_a_reask_shows_both_ends_of_a_long_answer_and_never_nothing() -> None:
    questions = Questions(job())
    payload = questions.payload(MESSAGES)
    longest = questions.reask(payload, "\U0001f600" * 4_000_000 + "END", "x")
    shown = json.loads(longest)["messages"][-2]["content"]
    assert shown.endswith("END") and f"{4_000_003 - MOST_SHOWN} characters left out" in shown
    assert len(longest) < len(payload) + 4 * MOST_SHOWN + 1000
    assert json.loads(questions.reask(payload, "", "x"))["messages"][-2]["content"]


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        # OpenAI, with models before structured outputs
        (400, {"error": {"message": "Invalid parameter: 'response_format' of type 'json_schema' is not supported with "
                         "this model.", "param": None, "code": None}}, True),
        (400, {"error": {"message": "Invalid value", "param": "response_format.type", "code": "invalid_value"}}, True),
        (400, {"error": {"message": "This response_format type is unavailable now", "type": "invalid_request"}}, True),
        (400, {"error": "'response_format.type' must be 'json_object' or 'text'"}, True),
        (400, {"object": "error", "message": "JSON schema is not supported by this backend", "code": 400}, True),
        (400, {"error": {"message": "Unsupported parameter", "code": "unsupported_parameter", "param": None}}, True),
        (422, {"detail": [{"loc": ["body", "response_format"], "msg": "extra fields not permitted"}]}, True),
        (400, {"error": {"message": "Invalid schema for response_format 'answer': 'x' is not a type.",
                         "param": "response_format"}}, False),
        (400, {"error": {"message": "Unsupported parameter: 'temperature'", "code": "unsupported_parameter",
                         "param": "temperature"}}, False),
        (400, {"error": {"message": "too long", "code": "context_length_exceeded"}}, False),
        (500, {"error": {"message": "response_format"}}, False),
        (400, None, False),
        (400, ["text"], False),
        (400, {"error": None}, False),
    ],
)  # fmt: skip
def test_how_servers_say_that_they_do_not_know_response_format(status: int, body: Any, expected: bool) -> None:
    assert refuses_format(status, body) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1}', '{"a": 1}'),
        ('Sure! {"a": {"b": 1}} Anything else?', '{"a": {"b": 1}}'),
        ('First:\n```json\n{"a": 1}\n```\nor:\n```json\n{"a": 1}\n```', '{"a": 1}'),
        ('The set {1, 2}:\n```JSON\n{"a": "```"}```', '{"a": "```"}'),
        ('```\n{"a": 1}\n```', '{"a": 1}'),
        ('```json\n{"a": 1}', '{"a": 1}'),
        ('{{"a": 1}}', '{"a": 1}'),
        ('{"s": "x", "r": {"a": 1}, "more": ', '{"s": "x", "r": {"a": 1}, "more": '),  # cut off
        ('[{"a": 1}, {"a', '[{"a": 1}, {"a'),
        ('{"a": 1} {"a', '{"a": 1} {"a'),
        ("{'r': {\"a\": 1}}", "{'r': {\"a\": 1}}"),
        ('{"s": NaN, "r": {"a": 1}}', '{"s": NaN, "r": {"a": 1}}'),
        ("no braces", "no braces"),
        ("} {", "} {"),
        ("", ""),
    ],
)
def test_json_is_dug_out_of_what_is_said_around_it(text: str, expected: str) -> None:
    assert dug_out(text) == expected


def test_errors_that_nest_deep_say_nothing_of_fields() -> None:
    deep = decoded(b'{"error": ' + b"[" * 900 + b"]" * 900 + b"}")
    assert deep is not None
    assert not refuses_format(400, deep) and not Accepted().refuses_limit(400, deep)


@pytest.mark.parametrize("part", ["```json ", "}", "} \n", "{", "```"])
def test_digging_takes_no_time_whatever_the_text(part: str) -> None:
    started = time.process_time()
    dug_out(part * (2**21 // len(part)))
    dug_out("```json" + part * (2**21 // len(part)))
    assert time.process_time() - started < 2
