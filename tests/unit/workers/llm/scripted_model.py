"""A model whose answers are a function of the request, and a job for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from batch.job.job import Job
from workers.llm.transport.transport import Reply, TransportError

JOB = Job.parse(
    {
        "name": "t",
        "source": {"uri": "s3://corpus/t/"},
        "prompt": {"user": "{{ text }}"},
        "model": {"name": "simulated-small"},
        "output": {"uri": "s3://results/"},
    }
)


OK = {
    "choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 1},
}


class Scripted:
    """A transport whose answers are a function of the request: is it the document, or the short probe?"""

    base_url = "http://simulated/v1/"

    def __init__(self, document: Callable[[int], Any], probe: Any = OK) -> None:
        self._document, self._probe = document, probe
        self.documents = self.probes = 0

    async def post(self, path: str, payload: bytes, *, timeout: float) -> Reply:
        if b"Answer with the word ok" in payload:
            self.probes += 1
            answer = self._probe
        else:
            self.documents += 1
            answer = self._document(self.documents)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Reply) else Reply(200, {}, answer)


LATE = TransportError("timeout", "no answer within 120 s")
