"""One document's question to the model: the request, its repetitions in place, the answer or the reason for none."""

from __future__ import annotations

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
from workers.waiting import sleep_unless

MAX_TRANSIENT = 6
"""Transient failures of one document, while others succeed, before it becomes a retryable error row."""

BACKOFF_FIRST, BACKOFF_MOST = 0.5, 20.0
RETRY_AFTER_MOST = 120.0
PROBE_TIMEOUT = 20.0


class Brake(Protocol):
    """What stops a run's calls, and learns how they end (see `workers.brakes`)."""

    def succeeded(self) -> None: ...
    def transient(self) -> bool: ...
    def outage(self, message: str) -> None: ...
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
        self._tail = b"," + orjson.dumps(_settings(job))[1:]

    def payload(self, messages: list[dict[str, str]]) -> bytes:
        """The request's body."""
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
            since, last_failure = last_failure or started, time.monotonic()
            if verdict.error_type != "rate_limited" and await self._is_its_own(verdict, since, answer.attempts):
                failures += 1
            if failures >= MAX_TRANSIENT:
                answer.error = verdict
                return answer
            self._metrics.retries(verdict.error_type)
            await sleep_unless(stopped, _backoff(answer.attempts, retry_after))
        return None

    async def _is_its_own(self, verdict: Verdict, since: float, attempts: int) -> bool:
        """Whether a transient failure is the document's own, because the provider answers others meanwhile.

        Where no others are asked (at the end of a run, say), a very short question stands in for them: not answered
        either, it is an outage, which never makes an error row.
        """
        outage_is_due = self._brake.transient()
        if self._brake.last_success() > since:
            return True
        if self._probing or not (outage_is_due or attempts >= MAX_TRANSIENT):
            return False
        self._probing = True
        try:
            found = await probe(self._job, self._transport)
        finally:
            self._probing = False
        if found is None:
            self._brake.succeeded()
            return True
        if found.kind is Kind.JOB:
            self._brake.stop_job(found)
        elif outage_is_due and found.error_type != "rate_limited":
            self._brake.outage(verdict.message)
        return False

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
        except (KeyError, TypeError, IndexError, AttributeError, ValueError, OverflowError):
            return Verdict(Kind.TRANSIENT, "malformed", "HTTP 200 with a malformed body", retryable=True), None

    def _read(self, body: Any, answer: Answer) -> Verdict | None:
        """Takes a 200's body into `answer`; raises for one that is not the API's shape."""
        choice = body["choices"][0]
        message = choice["message"]
        usage = body.get("usage") or {}
        text, refusal = message.get("content"), message.get("refusal")
        prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
        cached = min(prompt, _count((usage.get("prompt_tokens_details") or {}).get("cached_tokens")))
        answer.finish_reason = _text(choice.get("finish_reason"))
        answer.model = _text(body.get("model"))
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


def _settings(job: Job) -> dict[str, Any]:
    """What every request of the job says beside its messages."""
    settings: dict[str, Any] = {"model": job.model.name}
    if job.model.temperature is not None:
        settings["temperature"] = job.model.temperature
    if job.model.max_output_tokens is not None:
        settings["max_completion_tokens"] = job.model.max_output_tokens
    if job.output.json_schema is not None:
        settings["response_format"] = response_format(job.output.json_schema)
    return settings


def _count(value: Any) -> int:
    """Tokens as the provider reports them: none where it says nothing, never more than a column of them can hold."""
    return max(0, min(int(value or 0), 2**31))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _backoff(attempts: int, retry_after: float | None) -> float:
    """Seconds to wait, with jitter: what the provider asks for, up to a limit, else twice as long each time."""
    if retry_after is None:
        return min(BACKOFF_MOST, BACKOFF_FIRST * 2.0 ** (attempts - 1)) * random.uniform(0.5, 1.0)
    asked = min(RETRY_AFTER_MOST, retry_after)
    return asked + random.uniform(0.0, 0.1 + 0.1 * asked)


def retry_after_of(reply: Reply) -> float | None:
    """Seconds that the provider asks to wait, None where it says nothing (or gives a date, which clocks spoil)."""
    for header, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return max(0.0, float(reply.headers[header]) * scale)
        except (KeyError, ValueError):
            continue
    return None


async def probe(job: Job, transport: Transport, *, as_the_job_asks: bool = False) -> Verdict | None:
    """Asks the model one very short question; None when it answers, else what is wrong.

    `as_the_job_asks`: with the job's sampling settings and response format, which a provider may refuse too.
    """
    settings = _settings(job) if as_the_job_asks else {"model": job.model.name}
    body = {"messages": [{"role": "user", "content": "Answer with the word ok."}], **settings}
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
