"""Runs over made documents on the session's stack, as several tests start them."""

from __future__ import annotations

from typing import Any

from batch import Job
from batch.client.run import Run
from batch.local.corpus import upload_async
from batch.local.stack import LocalStack
from batch.workflows.states import State
from benchmarks.synthetic import synthetic_documents

SCHEMA = {
    "type": "object",
    "properties": {
        "label": {"type": "string", "enum": ["red", "green", "blue"]},
        "urgent": {"type": "boolean"},
        "score": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["label", "urgent", "score"],
    "additionalProperties": False,
}


def job(name: str, **limits: Any) -> Job:
    return Job.parse(
        {
            "name": name,
            "source": {"uri": f"s3://corpus/{name}/"},
            "prompt": {"system": "You label documents.", "user": "Label this.\n{{ text }}"},
            "model": {"name": "simulated-small"},
            "output": {"uri": f"s3://results/{name}/", "schema": SCHEMA},
            "partitions": {"documents": 25},
            "limits": {"concurrency": 32, **limits},
        }
    )


async def put(env: LocalStack, name: str, documents: dict[str, bytes]) -> None:
    await upload_async(env.environment(), "corpus", name, documents.items())


def texts(count: int, seed: int) -> dict[str, bytes]:
    return dict(synthetic_documents(count, 300, seed))


async def reason_of_pause(run: Run) -> str:
    """Why the run pauses, once it does."""
    async for status in run.watch(every=0.1):
        if status.state == State.PAUSED:
            return status.reason
    raise AssertionError("it ended without a pause")
