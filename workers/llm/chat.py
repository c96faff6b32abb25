"""One document's question to the model: the request, its repetitions in place, the answer or the reason for none.

An answer that does not fit the job's schema is asked for again, `model.reasks` times at most.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import orjson

from batch.job.job import Job
from batch.schema.answer_reader import AnswerReader, InvalidAnswer
from workers.llm.answer import Answer
from workers.llm.answers.accepted import LIMIT_FIELDS, accepted_by
from workers.llm.answers.completion import Completion, read_completion
from workers.llm.answers.errors import Kind, Verdict, alone, judge_answer, judge_status
from workers.llm.answers.failure import one_line
from workers.llm.answers.json_text import dug_out
from workers.llm.call_cost import CallBudget
from workers.llm.expected import Expected
from workers.llm.limits.limiter import RETRY_AFTER_MOST, Lane
from workers.llm.limits.waiting import sleep_unless, sleep_while
from workers.llm.limits.window import Window
from workers.llm.question import Questions, refuses_format, settings_of
from workers.llm.short_question import ShortQuestion
from workers.llm.transport.transport import TOO_LARGE, Reply, Transport, TransportError
from workers.observe.metrics import Metrics

MAX_TRANSIENT = 6
"""Transient failures of one document, while others succeed, before it becomes a retryable error row."""

QUOTA_CALLS = 12
"""Calls of a document that is refused for a quota while a short question is answered: over a minute and a half."""
LIMITED_SECONDS, LIMITED_CALLS = 600.0, 40
"""Seconds since a document's first refusal for a rate limit, and refusals between which others were answered, after
both of which the limit is taken for its own: more tokens than a minute has, say. Then it is a retryable error row."""
MOST_ABOUT = 150
"""Characters of a document's name that a pause shows."""
PATH = "chat/completions"

MOST_UNEXPECTED = 3
"""Calls for one document that the provider answers with something that is no answer, before it is an error row."""

MAYBE_BILLED = ("timeout", "connection", TOO_LARGE)
"""Failures of calls that the provider may have answered, and bills."""

BACKOFF_FIRST, BACKOFF_MOST = 0.5, 20.0
PROBE_TIMEOUT = 20.0
PROBE_LOOK = 0.2
OVERLOADED = (503, 529)
"""Statuses by which servers say that they are asked too much at once."""

log = logging.getLogger(__name__)


class Brake(Protocol):
    """What stops a run's calls, and learns how they end (see `workers.llm.limits.stop`)."""

    def succeeded(self) -> None: ...
    def transient(self) -> bool: ...
    def outage(self, message: str) -> None: ...
    def stop_job(self, verdict: Verdict) -> None: ...
    def last_success(self) -> float: ...


class _Caller(NamedTuple):
    """What the one who asks says of itself while its document is asked about (see `Chat.ask`)."""

    stopped: Callable[[], bool]
    held: Callable[[], bool]
    about: str


class _Called(NamedTuple):
    """How one call ended. `free`: it cost nothing, unless its answer says what it used."""

    verdict: Verdict | None
    retry_after: float | None
    free: bool


class _FormatUnknown(Exception):
    """The server does not know `response_format`."""


class _LimitUnknown(Exception):
    """The server knows the limit of an answer by another name."""


class Chat:
    """Asks one job's model. Shared by all partitions of the run in this process, which `lane` lets out."""

    def __init__(
        self,
        job: Job,
        transport: Transport,
        brake: Brake,
        metrics: Metrics,
        lane: Lane,
        *,
        expected: Expected | None = None,
        budget: CallBudget | None = None,
    ) -> None:
        self._job = job
        self._lane = lane
        self._expected = expected or Expected(job.model.most_output_tokens)
        self._budget = budget
        self._transport = transport
        self._brake = brake
        self._short = ShortQuestion(self.check)
        self._probing = False
        self._metrics = metrics.llm(job.model.name)
        self._questions = Questions(job, accepted_by(transport, job.model.name))
        schema = job.output.json_schema
        self._window = Window()
        self._cut_told = False
        self.reader = AnswerReader(schema) if schema is not None else None

    @property
    def questions(self) -> Questions:
        """What the run's requests say."""
        return self._questions

    async def check(self) -> Verdict | None:
        """Asks the model one very short question; None when it answers, else what is wrong."""
        return await probe(self._job, self._transport)

    def payload(self, messages: list[dict[str, str]]) -> bytes:
        """The request's body."""
        return self._questions.payload(messages)

    def sent(self, payload: bytes) -> list[dict[str, str]]:
        """The messages of a body as the server takes them, for who wants to see them."""
        return self._questions.messages(payload)

    async def ask(
        self,
        payload: bytes,
        stopped: Callable[[], bool],
        abandoned: Callable[[], bool] | None = None,
        held: Callable[[], bool] = lambda: False,
        *,
        about: str = "",
    ) -> Answer | None:
        """The answer, or None when the caller was stopped before there was one: the document stays unanswered.

        No call begins while it is `held`; each waits until the lane lets it out.

        An answer that does not fit the schema is no answer before its last re-ask. `abandoned` says whether a document
        with such an answer, which is paid, is left unanswered too; by default whenever stopped. `about` names the
        document to whoever reads why a run paused.
        """
        answer, caller = Answer(None, None), _Caller(stopped, held, about)
        payload = asked = self._questions.as_known(payload)
        invalid: Answer | None = None
        reasks = 0
        while True:
            try:
                if not await self._settle(asked, answer, caller):
                    return None
            except _FormatUnknown:
                payload = asked = self._questions.in_prompt(payload)
                continue
            except _LimitUnknown:
                payload = asked = self._questions.with_known_limit(payload)
                continue
            problem = self._problem(answer)
            if problem is None and answer.error is not None and invalid is not None:
                return after_reask(answer, invalid)
            if problem is None:
                return answer
            answer.error = Verdict(Kind.DOCUMENT, "invalid_answer", problem, retryable=True)
            if reasks == self._job.model.reasks:
                return answer
            caller = caller._replace(stopped=abandoned or stopped)
            if caller.stopped():
                return None
            reasks += 1
            self._metrics.reasks()
            invalid = replace(answer)
            asked = self._questions.reask(payload, answer.text or "", problem)

    def _problem(self, answer: Answer) -> str | None:
        """What is wrong with a usable answer by the schema; None if nothing is: then its result is taken."""
        if answer.error is not None:
            return None
        return self.fit(answer)

    def fit(self, answer: Answer) -> str | None:
        """Takes a usable answer's result by the schema, or tells what is wrong with it.

        JSON is dug out of prose and fences however it was asked for: servers take `response_format` and ignore it.
        """
        if self.reader is None or answer.text is None:
            return None
        try:
            answer.result = self.reader.read(answer.text)
            return None
        except InvalidAnswer as error:
            problem = str(error)
        text = dug_out(answer.text)
        if text == answer.text:
            return problem
        try:
            answer.result = self.reader.read(text)
        except InvalidAnswer as error:
            return str(error)
        answer.text = text
        return None

    async def _settle(self, payload: bytes, answer: Answer, caller: _Caller) -> bool:
        """Calls until there is an answer or an error that stays; False when stopped before.

        Raises `_FormatUnknown`, `_LimitUnknown`.
        """
        calls = failures = unexpected = limited = 0
        last_failure: float | None = None
        limited_since: float | None = None
        while not caller.stopped():
            called = await self._call_out(payload, answer, caller)
            if called is None:
                return False
            calls += 1
            (verdict, retry_after, _), started = called
            if verdict is None or verdict.kind is Kind.DOCUMENT:
                self._brake.succeeded()
                self._metrics.requests("ok" if verdict is None else verdict.error_type)
                answer.error = verdict
                return True
            self._metrics.requests(verdict.error_type)
            if verdict.kind is Kind.JOB:
                found = await self._of_the_document(verdict, caller, patient=calls < QUOTA_CALLS)
                if found is None:
                    return False
                if found.kind is Kind.DOCUMENT:
                    answer.error = found
                    return True
                verdict = found
                if verdict.error_type == "rate_limited":
                    self._lane.limiter.limited(retry_after)
            since, last_failure = last_failure or started, time.monotonic()
            if verdict.few:
                unexpected += 1
                if unexpected >= MOST_UNEXPECTED:
                    if await self._others_are_answered(verdict, since, caller):
                        answer.error = verdict
                        return True
                    unexpected = 0  # nobody was answered for a while: it begins anew
                    continue
            elif verdict.error_type == "rate_limited":
                limited += self._brake.last_success() > since
                limited_since = limited_since or started
                if time.monotonic() - limited_since >= LIMITED_SECONDS and await self._is_limited_alone(limited, calls):
                    answer.error = verdict
                    return True
            elif await self._is_its_own(verdict, since, calls):
                failures += 1
            if failures >= MAX_TRANSIENT:
                answer.error = verdict
                return True
            self._metrics.retries(verdict.error_type)
            await sleep_unless(caller.stopped, backoff(calls, retry_after))
        return False

    async def _of_the_document(self, verdict: Verdict, caller: _Caller, *, patient: bool) -> Verdict | None:
        """What a verdict on the job means while a short question is answered; None, and the run stops, if it is not.

        `patient`: whether the document is asked again for what may be a limit a minute, and where the short question's
        own failure may pass.
        """
        found = await self._short.ask()
        if found is None:
            self._brake.succeeded()
            if verdict.passes and patient:
                return Verdict(Kind.TRANSIENT, "rate_limited", verdict.message, retryable=True)
            return alone(verdict)
        if found.kind is Kind.TRANSIENT and patient:
            return found
        if caller.stopped():
            return None
        about = f"; asked about {caller.about[:MOST_ABOUT]}" if caller.about else ""
        self._brake.stop_job(replace(verdict, message=f"{verdict.message} ({self._transport.base_url}{PATH}{about})"))
        return None

    async def _is_limited_alone(self, limited: int, calls: int) -> bool:
        """Whether others are answered while a document is refused for a rate limit for long.

        Where no others are asked a short question stands in for them, now and then.
        """
        return limited >= LIMITED_CALLS or (calls % LIMITED_CALLS == 0 and await self._short.ask() is None)

    async def _others_are_answered(self, verdict: Verdict, since: float, caller: _Caller) -> bool:
        """Whether the provider answers others what it does not answer here; False once it does again, or when stopped.

        What it answers to nobody is not asked for again and again, since it may be billed: short questions wait for it.
        """
        waits = 0
        while not caller.stopped():
            if self._probing:  # another document's call asks the short question already
                await sleep_unless(caller.stopped, PROBE_LOOK)
            elif await self._is_its_own(verdict, since, MAX_TRANSIENT):
                return not waits
            else:
                waits += 1
                await sleep_unless(caller.stopped, backoff(waits, None))
        return False

    async def _is_its_own(self, verdict: Verdict, since: float, calls: int) -> bool:
        """Whether a transient failure is the document's own, because the provider answers others meanwhile.

        Where no others are asked (at the end of a run, say), a very short question stands in for them: not answered
        either, it is an outage, which never makes an error row.
        """
        outage_is_due = self._brake.transient()
        if self._brake.last_success() > since:
            return True
        if self._probing or not (outage_is_due or calls >= MAX_TRANSIENT):
            return False
        self._probing = True
        try:
            found = await self.check()
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

    async def _call_out(self, payload: bytes, answer: Answer, caller: _Caller) -> tuple[_Called, float] | None:
        """One call, once there is money for it and the lane lets it out; None when stopped before.

        How it ended, and when it began. What it took is settled, whatever becomes of it.
        """
        reservation = None
        if self._budget is not None:
            reservation = await self._budget.reserve(len(payload), caller.stopped)
            if reservation is None:
                return None
        before = _tokens(answer)
        prompt, _, completion = self._expected.tokens(len(payload))
        used = expected = prompt + completion
        refused = True
        try:
            if not await self._let_out(expected, caller):
                return None
            try:
                answer.attempts += 1
                started = time.monotonic()
                refused = False
                self._metrics.began()
                try:
                    called = await self._call(payload, answer)
                finally:
                    answer.latency_seconds = time.monotonic() - started
                    self._metrics.ended(answer.latency_seconds)
                verdict, refused = called.verdict, called.free
                counted = answer.prompt_tokens - before[0] + answer.completion_tokens - before[2]
                if counted or (verdict is not None and refused and verdict.error_type != "rate_limited"):
                    used = counted
                if verdict is None or counted:
                    self._lane.limiter.answered(answer.latency_seconds)
                return called, started
            finally:
                self._lane.leave(expected, used)
        except (_FormatUnknown, _LimitUnknown):
            refused = True
            raise
        finally:
            if self._budget is not None and reservation is not None:
                prompt, cached, completion, written = (
                    after - earlier for after, earlier in zip(_tokens(answer), before, strict=True)
                )
                self._budget.settle(reservation, (prompt, cached, completion, written), refused=refused)

    async def _let_out(self, tokens: float, caller: _Caller) -> bool:
        """Waits until a call may go out that nothing holds; False when stopped before.

        One that is held when its turn comes gives its place back: others of the quota may go.
        """
        stopped, held = caller.stopped, caller.held
        while not stopped():
            if held():
                await sleep_while(held, stopped)
            if not await self._lane.enter(tokens, stopped):
                return False
            if not (stopped() or held()):
                return True
            self._lane.leave(tokens, 0)
        return False

    async def _call(self, payload: bytes, answer: Answer) -> _Called:
        try:
            reply = await self._transport.post(PATH, payload, timeout=self._job.model.timeout_seconds)
        except TransportError as error:
            if error.kind == "timeout":
                self._lane.limiter.overloaded(None)
            kind = Kind.DOCUMENT if error.kind == TOO_LARGE else Kind.TRANSIENT
            verdict = Verdict(kind, error.kind, str(error), retryable=kind is Kind.TRANSIENT)
            return _Called(verdict, None, error.kind not in MAYBE_BILLED)
        self._lane.limiter.said(reply.headers)
        if not 200 <= reply.status < 300:
            return self._refused(payload, reply, judge_reply(reply), reply.status)
        said = read_completion(reply.body)
        self._take(said, answer, len(payload))
        found = judge_answer(reply.status, said, reply.text)
        if said.failure is not None and found is not None:
            return self._refused(payload, reply, found, said.failure.status or reply.status)
        # JSON that is none is most likely an answer that was cut on its way.
        free = found is not None and not said.has_choice and not reply.text.lstrip().startswith("{")
        if found is not None and found.kind is Kind.TRANSIENT:
            return _Called(found, None, free)
        if found is None:
            found = self._whole_prompt(payload, said)
        if self._questions.answered(payload):
            log.warning("the server does not know response_format: the schema is in the prompt from here on")
        return _Called(found, None, free)

    def _refused(self, payload: bytes, reply: Reply, verdict: Verdict, status: int) -> _Called:
        """Of an error: `status` is the answer's, or what an error inside a success names.

        Raises `_FormatUnknown`, `_LimitUnknown`.
        """
        header = retry_after_of(reply)
        retry_after = verdict.wait if header is None else header
        if verdict.error_type == "rate_limited":
            self._lane.limiter.limited(retry_after)
        elif status in OVERLOADED or verdict.error_type == "overloaded":
            self._lane.limiter.overloaded(retry_after)
        if self._questions.refused(payload, status, reply.body):
            self._brake.succeeded()
            self._metrics.requests(verdict.error_type)
            raise _FormatUnknown
        if self._questions.refused_limit(payload, status, reply.body):
            self._brake.succeeded()
            self._metrics.requests(verdict.error_type)
            raise _LimitUnknown
        return _Called(verdict, retry_after, True)

    def read(self, body: Any, answer: Answer) -> Verdict | None:
        """Takes a 200's body that did not come online into `answer`, whose tokens add up; None for a whole answer."""
        said = read_completion(body)
        self._take(said, answer, None)
        return judge_answer(200, said)

    def _take(self, said: Completion, answer: Answer, size: int | None) -> None:
        """Takes what was said, and what it used, whatever the verdict.

        `size`: bytes of the request, from which its tokens are expected; None where it was not sent online.
        """
        answer.text, answer.finish_reason, answer.model = said.text, _short(said.finish), _short(said.model)
        used = said.usage
        if used is None:
            answer.uncounted = answer.uncounted or said.has_choice
            return
        answer.prompt_tokens += used.prompt
        answer.completion_tokens += used.completion
        answer.cached_tokens += used.cached
        answer.cache_write_tokens += used.cache_write
        answer.reasoning_tokens += used.reasoning
        if size is not None:
            self._expected.learn(size, used.prompt, used.cached, used.completion)
        self._metrics.tokens(used.prompt, used.cached, used.completion)

    def _whole_prompt(self, payload: bytes, said: Completion) -> Verdict | None:
        """None unless the server read far less than it was sent (see `workers.llm.limits.window`)."""
        if said.usage is None or not self._window.is_cut(self._questions.messages_part(payload), said.usage.prompt):
            return None
        message = (
            f"the server read {said.usage.prompt:,} tokens of a request of {len(payload):,} bytes: it cut the prompt "
            "to its context window; raise that (Ollama: OLLAMA_CONTEXT_LENGTH), or ask less at once (long_documents)"
        )
        if not self._cut_told:
            self._cut_told = True
            log.warning("%s cuts prompts: %s", self._job.model.name, message)
        return Verdict(Kind.DOCUMENT, "prompt_truncated", message, retryable=True)


def after_reask(answer: Answer, invalid: Answer) -> Answer:
    """Of a re-ask that had no answer: the invalid one that led to it, with what all calls cost."""
    assert answer.error is not None and invalid.error is not None
    problem = f"{invalid.error.message}; asked again: {answer.error.error_type}, {answer.error.message}"
    return replace(
        answer,
        text=invalid.text,
        finish_reason=invalid.finish_reason,
        model=invalid.model,
        error=replace(invalid.error, message=problem),
    )


def _tokens(answer: Answer) -> tuple[int, int, int, int]:
    return answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens, answer.cache_write_tokens


def _short(word: str | None) -> str | None:
    return word[:200] if word else None


def backoff(calls: int, retry_after: float | None) -> float:
    """Seconds to wait, with jitter: what the provider asks for, up to a limit, else twice as long each time."""
    if not retry_after:  # none, or at once: servers say 0 for hours
        return min(BACKOFF_MOST, BACKOFF_FIRST * 2.0 ** min(calls - 1, 30)) * random.uniform(0.5, 1.0)
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


def judge_reply(reply: Reply) -> Verdict:
    """The verdict on an HTTP answer that is no success; of a redirect it says where that leads."""
    verdict = judge_status(reply.status, reply.body, reply.text)
    if verdict.error_type != "unexpected_redirect":
        return verdict
    location = one_line(str(reply.headers.get("Location") or "")).removesuffix("/chat/completions")[:300]
    return replace(verdict, message=f"{verdict.message}: {location}") if location else verdict


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
    if verdict.error_type == "json_validate_failed":
        return None  # the model answered
    return Verdict(verdict.kind, verdict.error_type, f"{transport.base_url}{PATH}: {verdict.message}")
