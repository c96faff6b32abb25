"""Whose an error is: a short question, asked while a document's error looks like everybody's.

Firewalls dislike what some documents say, keys have no right to what some requests need, money does for small requests
only. So what would stop a whole run is one document's affair as long as the model answers others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from batch.job.job import Job
from batch.schema.error_types import ErrorType
from workers.llm.accepted_fields import LIMIT_FIELDS, accepted_by
from workers.llm.answers.completion import read_completion
from workers.llm.answers.errors import Kind, Verdict, judge_answer
from workers.llm.call import PATH, judge_reply
from workers.llm.question import refuses_format, settings_of
from workers.llm.transport.transport import Transport, TransportError

PROBE_TIMEOUT = 20.0
PAUSES = (0.5, 2.0)
"""Seconds before a short question is asked again whose own failure may pass."""


class ShortQuestion:
    """Asks one at a time. All that wait when it goes out share its answer; whoever comes later waits for the next."""

    def __init__(self, ask: Callable[[], Awaitable[Verdict | None]]) -> None:
        self._ask = ask
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[Verdict | None] | None = None

    async def ask(self) -> Verdict | None:
        """Returns None when a short question that went out after this call is answered, else what is wrong."""
        if self._next is None:
            self._next = asyncio.create_task(self._in_turn())
        return await asyncio.shield(self._next)

    async def _in_turn(self) -> Verdict | None:
        async with self._turn:
            self._next = None
            found = await self._ask()
            for pause in PAUSES:
                if found is None or found.kind is not Kind.TRANSIENT:
                    break
                await asyncio.sleep(pause)
                found = await self._ask()
            return found


async def probe(job: Job, transport: Transport, *, as_the_job_asks: bool = False) -> Verdict | None:
    """Asks the model one very short question; None when it answers, else what is wrong.

    `as_the_job_asks`: with the job's sampling settings and response format, which a provider may refuse too.
    """
    accepted = accepted_by(transport, job.model.name)
    settings: dict[str, Any] = {"model": job.model.name, **job.model.parameters}
    if as_the_job_asks:
        settings = settings_of(job, accepted.limit_field)
    messages = [{"role": "user", "content": "Answer with the word ok."}]
    timeout = min(PROBE_TIMEOUT, job.model.timeout_seconds)
    while True:
        body = orjson.dumps({"messages": messages, **settings})
        try:
            reply = await transport.post(PATH, body, timeout=timeout)
        except TransportError as error:
            return Verdict(Kind.TRANSIENT, error.kind, str(error))
        status = reply.status
        verdict: Verdict | None = None
        if 200 <= status < 300:
            said = read_completion(reply.body)
            verdict = judge_answer(status, said, reply.text)
            if verdict is None or (said.failure is None and said.has_choices):
                return None  # cut off, empty or filtered: all the same somebody answers there
            status = said.failure.status or status if said.failure is not None else status
        if refuses_format(status, reply.body) and settings.pop("response_format", None):
            continue  # the schema will go into the prompt
        limit = settings.pop(LIMIT_FIELDS[0], None)
        if limit is None or not accepted.refuses_limit(status, reply.body):
            break
        settings[accepted.limit_field] = limit
    verdict = verdict or judge_reply(reply)
    if verdict.error_type == ErrorType.JSON_VALIDATE_FAILED:
        return None  # the model answered
    return Verdict(verdict.kind, verdict.error_type, f"{transport.base_url}{PATH}: {verdict.message}")
