"""One small run with a real model server, and its rows."""

from __future__ import annotations

from typing import Any

from batch import Job, connect
from batch.client.status import RunResult
from batch.local.corpus import upload_async
from batch.local.stack import LocalStack

TEXTS = ["The invoice is wrong!", "How do I log in?", "Love the new dark mode."]
TOO_LONG = "The printer on the third floor is out of paper again. " * 600
SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string", "enum": ["bug", "question", "praise"]}},
    "required": ["label"],
}


def job(name: str, *, model: dict[str, Any], schema: dict[str, Any] | None = None) -> Job:
    """A job over `s3://corpus/NAME/` with short answers."""
    output: dict[str, Any] = {"uri": "s3://results/servers/", **({"schema": schema} if schema else {})}
    return Job.parse(
        {
            "name": name,
            "source": {"uri": f"s3://corpus/{name}/"},
            "prompt": {"user": "What is this ticket? Answer briefly.\n{{ text }}"},
            "model": {"timeout_seconds": 120, **model},
            "output": output,
            "limits": {"concurrency": 2, "max_error_rate": 1.0},
        }
    )


async def rows_of(stack: LocalStack, work: Job, texts: list[str]) -> tuple[RunResult, list[dict[str, Any]]]:
    """Uploads the texts, runs the job with the check before it, and gives the rows in the texts' order."""
    documents = [(f"{number}.txt", text.encode()) for number, text in enumerate(texts)]
    await upload_async(stack.environment(), "corpus", work.name, documents)
    run = await (await connect()).start(work)
    result = await run.wait()
    return result, run.results().collect().sort("document_id").to_dicts()


def check_typed(found: tuple[RunResult, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Each row has one of the labels, or says that the small model came to no end; and some have."""
    result, rows = found
    assert result.documents == len(rows) == result.ok + result.errors, result
    good = [row for row in rows if row["status"] == "ok"]
    assert good and all(row["result"]["label"] in ("bug", "question", "praise") for row in good)
    assert {row["error_type"] for row in rows} <= {None, "truncated"}, [row["error_message"] for row in rows]
    assert all(row["prompt_tokens"] > 10 and row["completion_tokens"] > 0 for row in rows)
    return rows
