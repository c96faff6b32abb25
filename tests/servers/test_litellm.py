"""LiteLLM's proxy in front of llama.cpp: a run, its own refusals, overflow in its words, a wrong key, blank answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from batch.client.checks import CheckFailed
from batch.local.options import StackOptions
from batch.local.stack import LocalStack
from tests.servers.conftest import MASTER_KEY
from tests.servers.runs import SCHEMA, TEXTS, TOO_LONG, check_typed, job, rows_of

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def stack(litellm: str) -> Iterator[LocalStack]:
    environment = {"OPENAI_BASE_URL": litellm, "OPENAI_API_KEY": MASTER_KEY}
    options = StackOptions(workers=1, provider=False, ui=False, environment=environment)
    with LocalStack(options) as running, running.applied_environment():
        yield running


async def test_typed_answers(stack: LocalStack) -> None:
    model = {"name": "gemma", "max_output_tokens": 200}
    check_typed(await rows_of(stack, job("typed", model=model, schema=SCHEMA), TEXTS))


async def test_too_long_for_the_model(stack: LocalStack) -> None:
    model = {"name": "gemma", "max_output_tokens": 200}
    _, rows = await rows_of(stack, job("overflow", model=model), [*TEXTS, TOO_LONG])
    assert (rows[3]["error_type"], rows[3]["retryable"], rows[3]["attempts"]) == ("context_length_exceeded", False, 1)
    assert "context size" in rows[3]["error_message"]
    assert {row["error_type"] for row in rows[:3]} <= {None, "truncated"}


async def test_a_model_that_it_does_not_have(stack: LocalStack) -> None:
    with pytest.raises(CheckFailed, match="Invalid model name"):
        await rows_of(stack, job("unknown", model={"name": "nothing"}), TEXTS)


async def test_blank_answers(stack: LocalStack) -> None:
    """Somebody answers there, so the run begins; what says nothing is no answer about a document."""
    result, rows = await rows_of(stack, job("blank", model={"name": "mock-blank"}), TEXTS)
    assert (result.ok, result.errors) == (0, len(TEXTS))
    assert {(row["status"], row["error_type"]) for row in rows} == {("error", "empty_answer")}


async def test_an_error_of_the_proxy_is_no_answer(stack: LocalStack) -> None:
    with pytest.raises(CheckFailed, match="mock context window exceeded"):
        await rows_of(stack, job("mocked", model={"name": "mock-context"}), TEXTS)


async def test_a_wrong_key(litellm: str) -> None:
    environment = {"OPENAI_BASE_URL": litellm, "OPENAI_API_KEY": "sk-of-somebody-else"}
    options = StackOptions(workers=1, provider=False, ui=False, environment=environment)
    refusal = pytest.raises(CheckFailed, match=r"chat/completions: HTTP 4\d\d")
    with LocalStack(options) as running, running.applied_environment(), refusal as refused:
        await rows_of(running, job("key", model={"name": "gemma"}), TEXTS)
    assert "sk-of-somebody-else" not in str(refused.value)
