"""One document's question to the model: the request, its repetitions in place, the answer or the reason for none."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from batch.job import Job
from batch.response_format import response_format
from workers.llm.errors import Kind, Verdict, judge_finish, judge_status
from workers.llm.transport import Reply, Transport, TransportError
from workers.metrics import Metrics

MAX_TRANSIENT = 6
"""Transient failures of one document, while others succeed, before it becomes a retryable error row."""

BACKOFF_FIRST, BACKOFF_MOST = 0.5, 20.0
RETRY_AFTER_MOST = 120.0
PROBE_TIMEOUT = 20.0


class Brake(Protocol):
    """What stops a run's calls, and learns how they end (see `workers.brakes`)."""

    def succeeded(self) -> None: ...
    def transient(self, message: str) -> None: ...
    def stop_job(self, verdict: Verdict) -> None: ...
    def last_success(self) -> float: ...


@dataclass(slots=True)
class Answer:
    """How a document's question ended: `text` of a usable answer, or the `error` that stands in its place.

    Tokens are those of every paid call for it; `latency_seconds` is that of the last call.
    """

    text: str | None
    error: Verdict | None
    finish_reason: str | None = None
    model: str | None = None
    attempts: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    latency_seconds: float = 0.0


class Chat:
    """Asks one job's model. Shared by all partitions of the run in this process."""

    def __init__(self, job: Job, transport: Transport, brake: Brake, metrics: Metrics) -> None:
        self._job = job
        self._transport = transport
        self._brake = brake
        self._probing = False
        self._metrics = metrics.llm(job.model.name)
        base: dict[str, Any] = {"model": job.model.name}
        if job.model.temperature is not None:
            base["temperature"] = job.model.temperature
        if job.model.max_output_tokens is not None:
            base["max_completion_tokens"] = job.model.max_output_tokens
        if job.output.json_schema is not None:
            base["response_format"] = response_format(job.output.json_schema)
        self._tail = b"," + orjson.dumps(base)[1:]

    def payload(self, system: str | None, user: str) -> bytes:
        """The request's body. The system prompt comes first: providers cache common prefixes."""
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": user})
        return b'{"messages":' + orjson.dumps(messages) + self._tail

    async def ask(self, payload: bytes, stopped: Callable[[], bool]) -> Answer | None:
        """The answer, or None when the caller was stopped before there was one: the document stays unanswered."""
        answer = Answer(None, None)
        failures = 0
        last_failure: float | None = None
        while not stopped():
            answer.attempts += 1
            started = time.monotonic()
            verdict, retry_after = await self._call(payload, answer)
            answer.latency_seconds = time.monotonic() - started
            if verdict is None or verdict.kind is Kind.DOCUMENT:
                self._brake.succeeded()
                self._metrics.requests("ok" if verdict is None else verdict.error_type)
                answer.error = verdict
                return answer
            self._metrics.requests(verdict.error_type)
            if verdict.kind is Kind.JOB:
                self._brake.stop_job(verdict)
                return None
            self._brake.transient(verdict.message)
            since, last_failure = last_failure or started, time.monotonic()
            if verdict.error_type != "rate_limited" and await self._others_are_answered(since, answer.attempts):
                failures += 1  # while nobody is answered it is an outage, which never makes an error row
            if failures >= MAX_TRANSIENT:
                answer.error = verdict
                return answer
            self._metrics.retries(verdict.error_type)
            backoff = min(BACKOFF_MOST, BACKOFF_FIRST * 2.0 ** (answer.attempts - 1)) * random.uniform(0.5, 1.0)
            if retry_after is not None:
                backoff = min(RETRY_AFTER_MOST, retry_after) + random.uniform(0.0, 0.1 + 0.1 * retry_after)
            await _wait(backoff, stopped)
        return None

    async def _others_are_answered(self, since: float, attempts: int) -> bool:
        """Whether the provider has answered a document since; one that fails on and on when no others are asked for
        (the last of a run, say) finds that out by a very short question, so that it does not pass for an outage."""
        if self._brake.last_success() > since:
            return True
        if attempts < MAX_TRANSIENT or self._probing:
            return False
        self._probing = True
        try:
            if await probe(self._job, self._transport) is not None:
                return False
            self._brake.succeeded()
            return True
        finally:
            self._probing = False

    async def _call(self, payload: bytes, answer: Answer) -> tuple[Verdict | None, float | None]:
        try:
            with self._metrics.timed():
                reply = await self._transport.post("chat/completions", payload, timeout=self._job.model.timeout_seconds)
        except TransportError as error:
            return Verdict(Kind.TRANSIENT, error.kind, str(error), retryable=True), None
        if reply.status != 200:
            return judge_status(reply.status, reply.body), retry_after_of(reply)
        try:
            return self._read(reply.body, answer), None
        except (KeyError, TypeError, IndexError, AttributeError):
            return Verdict(Kind.TRANSIENT, "malformed", "HTTP 200 with a malformed body", retryable=True), None

    def _read(self, body: Any, answer: Answer) -> Verdict | None:
        """Takes a 200's body into `answer`; raises for one that is not the API's shape."""
        choice = body["choices"][0]
        message = choice["message"]
        usage = body.get("usage") or {}
        text, refusal = message.get("content"), message.get("refusal")
        prompt, completion = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        cached = int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
        answer.finish_reason = choice.get("finish_reason")
        answer.model = body.get("model")
        answer.prompt_tokens += prompt
        answer.completion_tokens += completion
        answer.cached_tokens += cached
        self._metrics.tokens(prompt, cached, completion)
        if text is not None and not isinstance(text, str):
            raise TypeError("content is no text")
        answer.text = text
        verdict = judge_finish(answer.finish_reason, refusal)
        if verdict is None and text is None:
            return Verdict(Kind.DOCUMENT, "empty_answer", "the model gave no content", retryable=True)
        return verdict


async def _wait(seconds: float, stopped: Callable[[], bool]) -> None:
    """Sleeps, but at most until stopped."""
    deadline = time.monotonic() + seconds
    while not stopped() and (left := deadline - time.monotonic()) > 0:  # noqa: ASYNC110 - there is no event for both
        await asyncio.sleep(min(left, 0.25))


def retry_after_of(reply: Reply) -> float | None:
    """Seconds that the provider asks to wait, None where it says nothing (or gives a date, which clocks spoil)."""
    for header, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return max(0.0, float(reply.headers[header]) * scale)
        except (KeyError, ValueError):
            continue
    return None


async def probe(job: Job, transport: Transport) -> Verdict | None:
    """Asks the model one very short question; None when it answers, else what is wrong."""
    body = {"model": job.model.name, "messages": [{"role": "user", "content": "Answer with the word ok."}]}
    try:
        reply = await transport.post(
            "chat/completions", orjson.dumps(body), timeout=min(PROBE_TIMEOUT, job.model.timeout_seconds)
        )
    except TransportError as error:
        return Verdict(Kind.TRANSIENT, error.kind, str(error))
    if reply.status == 200:
        return None
    verdict = judge_status(reply.status, reply.body)
    return Verdict(verdict.kind, verdict.error_type, f"{transport.base_url}chat/completions: {verdict.message}")
