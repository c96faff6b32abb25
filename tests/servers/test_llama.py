"""llama.cpp's server: a run in plain words and one with a schema, overflow, cut and empty answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from batch.local.llama import MODEL
from batch.local.options import StackOptions
from batch.local.stack import LocalStack
from tests.servers.runs import SCHEMA, TEXTS, TOO_LONG, check_typed, job, rows_of

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def stack(llama: str) -> Iterator[LocalStack]:
    environment = {"OPENAI_BASE_URL": llama, "OPENAI_API_KEY": "none"}
    options = StackOptions(workers=1, provider=False, ui=False, environment=environment)
    with LocalStack(options) as running, running.applied_environment():
        yield running


async def test_typed_answers(stack: LocalStack) -> None:
    model = {"name": MODEL, "max_output_tokens": 200}
    rows = check_typed(await rows_of(stack, job("typed", model=model, schema=SCHEMA), TEXTS))
    assert {row["cost_usd"] for row in rows} == {None}, "nobody knows what a server of one's own costs"


async def test_too_long_for_the_model(stack: LocalStack) -> None:
    model = {"name": MODEL, "max_output_tokens": 40}
    _, rows = await rows_of(stack, job("overflow", model=model), [*TEXTS, TOO_LONG])
    assert (rows[3]["error_type"], rows[3]["retryable"], rows[3]["attempts"]) == ("context_length_exceeded", False, 1)
    assert "context size" in rows[3]["error_message"]
    assert {row["error_type"] for row in rows[:3]} <= {None, "truncated"}


async def test_an_answer_that_is_cut(stack: LocalStack) -> None:
    _, rows = await rows_of(stack, job("cut", model={"name": MODEL, "max_output_tokens": 1}), TEXTS)
    assert [(row["status"], row["error_type"]) for row in rows] == [("error", "truncated")] * 3


async def test_empty_answers(stack: LocalStack) -> None:
    """By a grammar that lets the model say nothing at all."""
    model = {"name": MODEL, "parameters": {"grammar": 'root ::= ""'}}
    _, rows = await rows_of(stack, job("empty", model=model), TEXTS)
    assert [(row["status"], row["error_type"]) for row in rows] == [("error", "empty_answer")] * 3
    assert all(row["prompt_tokens"] > 10 for row in rows), "what was paid is counted"
