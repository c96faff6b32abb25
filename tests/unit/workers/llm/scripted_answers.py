"""A model that gives the answers of a script in turn, and a job with a schema."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from batch.job.job import Job
from workers.llm.transport.transport import Reply

SCHEMA = {"type": "object", "properties": {"label": {"type": "string"}}, "required": ["label"]}


MODEL = "gpt-4o-mini"


GOOD, WRONG = '{"label": "bug"}', '{"label": 3}'


NO_FORMAT = {"error": {"message": "Unsupported parameter: 'response_format'", "code": "unsupported_parameter"}}


MESSAGES = [{"role": "user", "content": "x"}]


def job(reasks: int = 2) -> Job:
    return Job.parse(
        {
            "name": "t",
            "source": {"uri": "s3://corpus/t/"},
            "prompt": {"user": "{{ text }}"},
            "model": {"name": MODEL, "reasks": reasks},
            "output": {"uri": "s3://results/", "schema": SCHEMA},
        }
    )


def said(text: str | None, finish: str = "stop", refusal: str | None = None) -> dict[str, Any]:
    """A 200 of 100 prompt tokens, 40 of them cached, and 10 completion tokens."""
    return {
        "model": "m-1",
        "choices": [{"message": {"content": text, "refusal": refusal}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 40}},
    }


class Scripted:
    """A transport that gives the script's answers in turn, the last one for ever, and keeps the requests.

    One that is a function is asked with the request.
    """

    base_url = "http://simulated/v1/"

    def __init__(self, *script: Any) -> None:
        self._script = list(script)
        self.requests: list[dict[str, Any]] = []

    async def post(self, path: str, payload: bytes, *, timeout: float) -> Reply:
        request = orjson.loads(payload)
        self.requests.append(request)
        answer = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        await asyncio.sleep(0)
        answer = answer(request) if callable(answer) else answer
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Reply) else Reply(200, {}, answer)
