"""One call to the model: let out, paid, sent and read. Whether another follows is for `workers.llm.chat` to say."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from batch.job.job import Job
from batch.schema.error_types import ErrorType
from workers.llm.answer import Answer
from workers.llm.answers.completion import Completion, read_completion
from workers.llm.answers.errors import Kind, Verdict, judge_answer, judge_status
from workers.llm.answers.failure import one_line
from workers.llm.call_cost import CallBudget, Expected
from workers.llm.limits.limiter import Lane
from workers.llm.limits.waiting import sleep_while
from workers.llm.limits.window import Window
from workers.llm.question import Questions
from workers.llm.transport.transport import Reply, Transport, TransportError
from workers.observe.metrics import LlmMetrics

PATH = "chat/completions"

MAYBE_BILLED = (ErrorType.TIMEOUT, ErrorType.CONNECTION, ErrorType.ANSWER_TOO_LARGE)
"""Failures of calls that the provider may have answered, and bills."""
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


class Caller(NamedTuple):
    """What the one who asks says of itself while its document is asked about (see `Chat.ask`)."""

    stopped: Callable[[], bool]
    held: Callable[[], bool]
    about: str


class Called(NamedTuple):
    """How one call ended. `free`: it cost nothing, unless its answer says what it used."""

    verdict: Verdict | None
    retry_after: float | None
    free: bool


class FieldUnknown(Exception):
    """The server does not know a field of a request; `rewritten` makes the body that asks the same without it."""

    def __init__(self, rewritten: Callable[[bytes], bytes]) -> None:
        self.rewritten = rewritten


class Calls:
    """Makes the calls of one job in this process, which `lane` lets out and `budget` pays."""

    def __init__(
        self,
        job: Job,
        transport: Transport,
        brake: Brake,
        metrics: LlmMetrics,
        lane: Lane,
        *,
        questions: Questions,
        expected: Expected | None,
        budget: CallBudget | None,
    ) -> None:
        self._job, self._transport, self._lane, self._questions = job, transport, lane, questions
        self._brake, self._metrics, self._budget = brake, metrics, budget
        self._expected = expected or Expected(job.model.most_output_tokens)
        self._window = Window()
        self._cut_told = False

    async def make(self, payload: bytes, answer: Answer, caller: Caller) -> tuple[Called, float] | None:
        """Makes one call, once there is money for it and the lane lets it out; None when stopped before.

        Returns how it ended, and when it began. What it took is settled, whatever becomes of it.
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
                if counted or (verdict is not None and refused and verdict.error_type != ErrorType.RATE_LIMITED):
                    used = counted
                if verdict is None or counted:
                    self._lane.limiter.answered(answer.latency_seconds)
                return called, started
            finally:
                self._lane.leave(expected, used)
        except FieldUnknown:
            refused = True
            raise
        finally:
            if self._budget is not None and reservation is not None:
                prompt, cached, completion, written = (
                    after - earlier for after, earlier in zip(_tokens(answer), before, strict=True)
                )
                self._budget.settle(reservation, (prompt, cached, completion, written), refused=refused)

    async def _let_out(self, tokens: float, caller: Caller) -> bool:
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

    async def _call(self, payload: bytes, answer: Answer) -> Called:
        try:
            reply = await self._transport.post(PATH, payload, timeout=self._job.model.timeout_seconds)
        except TransportError as error:
            if error.kind == ErrorType.TIMEOUT:
                self._lane.limiter.overloaded(None)
            kind = Kind.DOCUMENT if error.kind == ErrorType.ANSWER_TOO_LARGE else Kind.TRANSIENT
            return Called(Verdict(kind, error.kind, str(error)), None, error.kind not in MAYBE_BILLED)
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
            return Called(found, None, free)
        if found is None:
            found = self._whole_prompt(payload, said)
        if self._questions.answered(payload):
            log.warning("the server does not know response_format: the schema is in the prompt from here on")
        return Called(found, None, free)

    def _refused(self, payload: bytes, reply: Reply, verdict: Verdict, status: int) -> Called:
        """Tells of an error: `status` is the answer's, or what an error inside a success names.

        Raises `FieldUnknown`.
        """
        header = retry_after_of(reply)
        retry_after = verdict.wait if header is None else header
        if verdict.error_type == ErrorType.RATE_LIMITED:
            self._lane.limiter.limited(retry_after)
        elif status in OVERLOADED or verdict.error_type == ErrorType.OVERLOADED:
            self._lane.limiter.overloaded(retry_after)
        questions = self._questions
        for refuses, rewritten in (
            (questions.refused, questions.in_prompt),
            (questions.refused_limit, questions.with_known_limit),
        ):
            if refuses(payload, status, reply.body):
                self._brake.succeeded()
                self._metrics.requests(verdict.error_type)
                raise FieldUnknown(rewritten)
        return Called(verdict, retry_after, True)

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
        """Returns None unless the server read far less than it was sent (see `workers.llm.limits.window`)."""
        if said.usage is None or not self._window.is_cut(self._questions.messages_part(payload), said.usage.prompt):
            return None
        message = (
            f"the server read {said.usage.prompt:,} tokens of a request of {len(payload):,} bytes: it cut the prompt "
            "to its context window; raise that (Ollama: OLLAMA_CONTEXT_LENGTH), or ask less at once (long_documents)"
        )
        if not self._cut_told:
            self._cut_told = True
            log.warning("%s cuts prompts: %s", self._job.model.name, message)
        return Verdict(Kind.DOCUMENT, ErrorType.PROMPT_TRUNCATED, message)


def _tokens(answer: Answer) -> tuple[int, int, int, int]:
    return answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens, answer.cache_write_tokens


def _short(word: str | None) -> str | None:
    return word[:200] if word else None


def retry_after_of(reply: Reply) -> float | None:
    """Reads how long to wait from the headers; None where they do not say (or give a date, which clocks spoil)."""
    for header, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return max(0.0, float(reply.headers[header]) * scale)
        except (KeyError, ValueError):
            continue
    return None


def judge_reply(reply: Reply) -> Verdict:
    """Judges an HTTP answer that is no success; of a redirect it says where that leads."""
    verdict = judge_status(reply.status, reply.body, reply.text)
    if verdict.error_type != ErrorType.UNEXPECTED_REDIRECT:
        return verdict
    location = one_line(str(reply.headers.get("Location") or "")).removesuffix("/chat/completions")[:300]
    return replace(verdict, message=f"{verdict.message}: {location}") if location else verdict
