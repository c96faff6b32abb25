"""Further fields of a request: as they stand, in the fingerprint, and none that docbatch sets itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from batch.job.job import Job
from batch.job.parameters import MOST_BYTES
from batch.job.part import JobError
from tests.jobs import job
from tests.unit.workers.llm.scripted_model import OK, Scripted
from workers.llm.question import Questions
from workers.llm.short_question import probe

FIELDS = {
    "reasoning_effort": "low",
    "top_k": 20,
    "stop": ["\n\n", "END"],
    "guided_json": None,
    "chat_template_kwargs": {"enable_thinking": False, "deep": [{"a": 0.001}]},
}
YAML = """
name: tickets
source: {{uri: s3://corpus/tickets/}}
prompt: {{user: "{{{{ text }}}}"}}
model:
  name: m
  parameters:
    {}
output: {{uri: s3://results/tickets/}}
"""


def with_parameters(parameters: Any, **model: Any) -> Job:
    return Job.parse(job(model__parameters=parameters, **{f"model__{name}": value for name, value in model.items()}))


async def test_they_go_out_as_they_stand_in_every_request() -> None:
    parsed = with_parameters(FIELDS, max_output_tokens=5)
    questions = Questions(parsed)
    payload = questions.payload([{"role": "user", "content": "x"}])
    for body in (payload, questions.reask(payload, "no", "why"), questions.in_prompt(payload)):
        sent = orjson.loads(body)
        assert {name: sent[name] for name in FIELDS} == FIELDS
        assert (sent["model"], sent["max_completion_tokens"]) == ("simulated-small", 5)
    sent = []

    class Noting(Scripted):
        async def post(self, path: str, payload: bytes, *, timeout: float) -> Any:
            sent.append(orjson.loads(payload))
            return await super().post(path, payload, timeout=timeout)

    for whole in (True, False):
        assert await probe(parsed, Noting(lambda _: OK), as_the_job_asks=whole) is None  # type: ignore[arg-type]
    assert all({name: body[name] for name in FIELDS} == FIELDS for body in sent)


def test_they_survive_json_and_are_part_of_the_fingerprint() -> None:
    plain, parsed = Job.parse(job()), with_parameters(FIELDS)
    assert Job.parse(json.loads(parsed.to_json())) == parsed
    assert len({each.fingerprint for each in (plain, parsed, with_parameters({**FIELDS, "top_k": 21}))}) == 3
    assert plain.fingerprint == with_parameters({}).fingerprint == with_parameters(None).fingerprint


def test_a_limit_by_the_older_name_bounds_what_an_answer_is_expected_to_take() -> None:
    assert with_parameters({"max_tokens": 7}).model.most_output_tokens == 7
    assert with_parameters({}, max_output_tokens=9).model.most_output_tokens == 9
    assert with_parameters({"max_tokens": "many"}).model.most_output_tokens is None


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        *(
            ({name: 1}, f"model.parameters.{name}: docbatch sets this field itself")
            for name in ("model", "n", "stream")
        ),
        ({"messages": []}, "model.parameters.messages: docbatch sets this field itself; take it out \\(write prompt"),
        ({"response_format": {}}, "take it out \\(write output.schema\\)"),
        ({"max_completion_tokens": 1}, "take it out \\(write model.max_output_tokens\\)"),
        ({"stream_options": {}}, "model.parameters.stream_options: docbatch"),
        ({"a": float("nan")}, "model.parameters.a is nan, which JSON cannot say"),
        ({"a": [{"b": float("inf")}]}, "model.parameters.a.0.b is inf"),
        ({"a": 2**70}, "model.parameters.a is an integer of more than 64 bits"),
        ({"a": {1: 2}}, "model.parameters.a: the key 1 is no text"),
        ({"a": {True: 2}}, "the key True is no text; put it in quotes; YAML reads yes"),
        ({"a": b"x"}, "model.parameters.a is a bytes"),
        ({"a": "\ud800"}, "half a character"),
        ({"a": "x" * MOST_BYTES}, "larger than 16 KiB"),
        (["a"], "model.parameters: input should be a valid dictionary"),
    ],
)
def test_what_cannot_go_out_is_refused_by_name(parameters: Any, message: str) -> None:
    with pytest.raises(JobError, match=message):
        with_parameters(parameters)


def test_what_nests_too_deeply_is_refused() -> None:
    deep: Any = 1
    for _ in range(40):
        deep = [deep]
    with pytest.raises(JobError, match="nests deeper than 32 levels"):
        with_parameters({"a": deep})


def test_a_field_that_a_key_of_the_job_sets_is_set_once() -> None:
    assert with_parameters({"temperature": 0, "max_tokens": 5}).model.parameters == {"temperature": 0, "max_tokens": 5}
    with pytest.raises(JobError, match=r"model.parameters.temperature: model.temperature sets this field"):
        with_parameters({"temperature": 0}, temperature=1.0)
    with pytest.raises(JobError, match=r"model.parameters.max_tokens: model.max_output_tokens sets this field"):
        with_parameters({"max_tokens": 5}, max_output_tokens=5)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("a: 1e-3", 0.001),
        ("a: 1E3", 1000.0),
        ("a: -2.5e+1", -25.0),
        ("a: .5", 0.5),
        ("a: 0", 0),
        ("a: 2026-01-02", "2026-01-02"),
        ("a: true", True),
        ("a: ~", None),
        ("a: 'off'", "off"),
        ("a: '010'", "010"),
        ("a: e5", "e5"),
    ],
)
def test_yaml_is_read_as_json_would_be(line: str, value: Any, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(YAML.format(line))
    found = Job.from_yaml(tmp_path / "job.yaml").model.parameters["a"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("value", ["off", "Yes", "010", "0x10", "1_000", "1:30", "[no]", "{b: {c: on}}"])
def test_what_yaml_reads_as_something_else_is_refused_with_its_line(value: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(YAML.format(f"a: {value}"))
    with pytest.raises(JobError, match=r"line 8: model.parameters has .*, which YAML reads as "):
        Job.from_yaml(tmp_path / "job.yaml")
