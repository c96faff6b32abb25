"""A document of 500 pages on real servers: in chunks, truncated, refused; its row says what the provider counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from batch import Job, connect, estimate, preview
from batch.local.corpus import upload
from batch.local.stack import LocalStack
from batch.workflows.states import State
from benchmarks.synthetic import synthetic_documents
from tests.provider import ask, behave, forget

PAGES = [f"# Page {n}\n\n{text.decode()}" for n, (_, text) in enumerate(synthetic_documents(500, 3000, 5), 1)]
LONG, SHORT = "long/book.md", "long/note.md"
SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "keywords": {"type": "array", "items": {"type": "string"}},
        "urgent": {"type": "boolean"},
        "score": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["title", "keywords", "urgent", "score"],
    "additionalProperties": False,
}
RULES = {"title": "first", "keywords": "union", "urgent": "any", "score": "max"}
CHUNK: dict[str, Any] = {"on_too_long": "chunk", "max_tokens": 20_000}
COMBINE = {
    "system": "You combine.",
    "user": "Combine these {{ answers | length }} answers.\n{{ answers | join('\n') }}",
}


@pytest.fixture
def env(env: LocalStack) -> LocalStack:
    """A corpus of one book and one note, and a provider that starts counting."""
    documents = [("book.md", "\n\n".join(PAGES).encode()), ("note.md", b"A short note.")]
    upload(env.environment(), "corpus", "long", documents)
    forget(env)
    return env


def job(long_documents: dict[str, Any], **model: Any) -> Job:
    return Job.parse(
        {
            "name": "long",
            "source": {"uri": "s3://corpus/long/"},
            "prompt": {"system": "You read books.", "user": "Read this.\n{{ text }}"},
            "model": {"name": "simulated-small", "prices": {"input": 1.0, "output": 2.0}, **model},
            "output": {"uri": "s3://results/long/", "schema": SCHEMA},
            "long_documents": long_documents,
        }
    )


async def run(
    env: LocalStack, job: Job, *, refused: int = 0
) -> tuple[pl.DataFrame, dict[str, dict[str, Any]], dict[str, Any]]:
    """The table, its rows by document, and the provider's account; they agree on all that was paid."""
    started = await (await connect()).start(job, check_model=False)
    result = await started.wait()
    assert result.documents == 2 and result.state in (State.COMPLETED, State.COMPLETED_WITH_FAILURES)
    table = started.results().collect()
    rows = {row["document_id"]: row for row in table.to_dicts()}
    stats = ask(env, "/stats")
    for name in ("prompt_tokens", "completion_tokens"):
        assert sum(row[name] for row in rows.values()) == stats[name] == getattr(result, name)
    assert sum(row["attempts"] for row in rows.values()) == stats["accepted"] + refused
    price = 0.5e-6 if job.model.mode == "batch" else 1e-6
    assert result.cost_usd == pytest.approx((stats["prompt_tokens"] + 2 * stats["completion_tokens"]) * price, abs=1e-6)
    assert rows[SHORT]["status"] == "ok" and rows[SHORT]["attempts"] == 1
    return table, rows, stats


async def test_chunks_with_a_second_prompt_are_one_row(env: LocalStack) -> None:
    table, rows, stats = await run(env, job({**CHUNK, "combine": COMBINE}))
    assert table.columns[-1] == "chunks"
    book = rows[LONG]
    assert 19 <= book["chunks"] <= 30 and rows[SHORT]["chunks"] is None
    assert (book["status"], book["attempts"], stats["accepted"]) == ("ok", book["chunks"] + 1, book["chunks"] + 2)
    assert book["result"] == json.loads(book["output_text"])
    assert book["prompt_tokens"] > sum(map(len, PAGES)) / 4


async def test_chunks_with_rules_are_one_row_and_a_preview_shows_it(env: LocalStack) -> None:
    by_rules = job({**CHUNK, "combine": {"rules": RULES}})
    _, rows, _ = await run(env, by_rules)
    book = rows[LONG]
    assert (book["status"], book["attempts"]) == ("ok", book["chunks"]) and book["chunks"] >= 19
    assert book["result"]["title"] == "Page 1" and len(book["result"]["keywords"]) > 8
    assert (book["finish_reason"], book["model"]) == ("stop", "simulated-small")

    shown = (await preview(by_rules, documents=[LONG])).documents[0]
    assert (shown.status, shown.chunks, shown.result) == ("ok", book["chunks"], book["result"])
    assert (shown.prompt_tokens, shown.cost_usd) == (book["prompt_tokens"], book["cost_usd"])
    assert shown.messages[1]["content"].startswith("Read this.\n# Page 1\n")

    found = await estimate(by_rules)
    prompts = sum(row["prompt_tokens"] for row in rows.values())
    assert found.prompt_tokens.low <= prompts <= found.prompt_tokens.high
    assert any(note.startswith("long_documents: 1 of the 2 documents") for note in found.notes)


@pytest.mark.parametrize("mode", ["online", "batch"])
async def test_truncate_asks_about_the_beginning(env: LocalStack, mode: str, provider: Callable[..., None]) -> None:
    provider(batch_seconds=0.4)
    table, rows, _ = await run(env, job({"on_too_long": "truncate", "max_tokens": 20_000}, mode=mode))
    assert table.columns[-1] == "truncated"
    book = rows[LONG]
    assert (book["status"], book["truncated"], rows[SHORT]["truncated"]) == ("ok", True, False)
    assert 15_000 < book["prompt_tokens"] < 20_100


async def test_error_asks_nothing(env: LocalStack) -> None:
    table, rows, stats = await run(env, job({"on_too_long": "error", "max_tokens": 20_000}))
    book = rows[LONG]
    assert (book["status"], book["error_type"], book["retryable"]) == ("error", "too_long", False)
    assert book["error_message"].startswith("the document has about 376,") and stats["accepted"] == 1
    assert not {"truncated", "chunks"} & set(table.columns)


async def test_a_chunk_that_fails_makes_an_error_row_with_what_was_paid(env: LocalStack, stack: LocalStack) -> None:
    behave(stack, poison_marker="# Page 250\n")
    try:
        _, rows, stats = await run(env, job({**CHUNK, "combine": {"rules": RULES}}), refused=1)
    finally:
        behave(stack, poison_marker=None)
    book = rows[LONG]
    assert (book["status"], book["error_type"]) == ("error", "bad_request")
    assert book["error_message"].startswith("chunk ") and stats["accepted"] > 8
