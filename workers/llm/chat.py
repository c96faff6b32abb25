"""One document's question to the model: the request, its repetitions in place, the answer or the reason for none.

An answer that does not fit the job's schema is asked for again, `model.reasks` times at most.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from batch.job.job import Job
from batch.schema.answer_reader import AnswerReader, InvalidAnswer
from batch.schema.error_types import ErrorType
from workers.llm.accepted_fields import accepted_by
from workers.llm.answer import Answer
from workers.llm.answers.errors import Kind, Verdict, alone
from workers.llm.answers.json_text import dug_out
from workers.llm.call import PATH, Brake, Caller, Calls, FieldUnknown
from workers.llm.call_cost import CallBudget, Expected
from workers.llm.limits.limiter import RETRY_AFTER_MOST, Lane
from workers.llm.limits.waiting import doubled, sleep_unless
from workers.llm.question import Questions
from workers.llm.short_question import ShortQuestion, probe
from workers.llm.transport.transport import Transport
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

MOST_UNEXPECTED = 3
"""Calls for one document that the provider answers with something that is no answer, before it is an error row."""

BACKOFF_FIRST, BACKOFF_MOST = 0.5, 20.0
PROBE_LOOK = 0.2

log = logging.getLogger(__name__)


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
        self._transport = transport
        self._brake = brake
        self._short = ShortQuestion(self.check)
        self._probing = False
        self._metrics = metrics.llm(job.model.name)
        self.questions = Questions(job, accepted_by(transport, job.model.name))
        """What the run's requests say."""
        self._calls = Calls(
            job, transport, brake, self._metrics, lane, questions=self.questions, expected=expected, budget=budget
        )
        schema = job.output.json_schema
        self.reader = AnswerReader(schema) if schema is not None else None

    async def check(self) -> Verdict | None:
        """Asks the model one very short question; None when it answers, else what is wrong."""
        return await probe(self._job, self._transport)

    def payload(self, messages: list[dict[str, str]]) -> bytes:
        """Returns the request's body."""
        return self.questions.payload(messages)

    def sent(self, payload: bytes) -> list[dict[str, str]]:
        """Returns the messages of a body as the server takes them, for who wants to see them."""
        return self.questions.messages(payload)

    async def ask(
        self,
        payload: bytes,
        stopped: Callable[[], bool],
        abandoned: Callable[[], bool] | None = None,
        held: Callable[[], bool] = lambda: False,
        *,
        about: str = "",
    ) -> Answer | None:
        """Returns the answer, or None when the caller was stopped before there was one: the document stays unanswered.

        No call begins while it is `held`; each waits until the lane lets it out.

        An answer that does not fit the schema is no answer before its last re-ask. `abandoned` says whether a document
        with such an answer, which is paid, is left unanswered too; by default whenever stopped. `about` names the
        document to whoever reads why a run paused.
        """
        answer, caller = Answer(None, None), Caller(stopped, held, about)
        payload = asked = self.questions.as_known(payload)
        invalid: Answer | None = None
        reasks = 0
        while True:
            try:
                if not await self._settle(asked, answer, caller):
                    return None
            except FieldUnknown as unknown:
                payload = asked = unknown.rewritten(payload)
                continue
            problem = self._problem(answer)
            if problem is None and answer.error is not None and invalid is not None:
                return after_reask(answer, invalid)
            if problem is None:
                return answer
            answer.error = Verdict(Kind.DOCUMENT, ErrorType.INVALID_ANSWER, problem)
            if reasks == self._job.model.reasks:
                return answer
            caller = caller._replace(stopped=abandoned or stopped)
            if caller.stopped():
                return None
            reasks += 1
            self._metrics.reasks()
            invalid = replace(answer)
            asked = self.questions.reask(payload, answer.text or "", problem)

    def _problem(self, answer: Answer) -> str | None:
        """Tells what is wrong with a usable answer by the schema; None if nothing is: then its result is taken."""
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

    async def _settle(self, payload: bytes, answer: Answer, caller: Caller) -> bool:
        """Calls until there is an answer or an error that stays; False when stopped before.

        Raises `FieldUnknown`.
        """
        calls = failures = unexpected = limited = 0
        last_failure: float | None = None
        limited_since: float | None = None
        while not caller.stopped():
            called = await self._calls.make(payload, answer, caller)
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
                if verdict.error_type == ErrorType.RATE_LIMITED:
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
            elif verdict.error_type == ErrorType.RATE_LIMITED:
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

    async def _of_the_document(self, verdict: Verdict, caller: Caller, *, patient: bool) -> Verdict | None:
        """What a verdict on the job means while a short question is answered; None, and the run stops, if it is not.

        `patient`: whether the document is asked again for what may be a limit a minute, and where the short question's
        own failure may pass.
        """
        found = await self._short.ask()
        if found is None:
            self._brake.succeeded()
            if verdict.passes and patient:
                return Verdict(Kind.TRANSIENT, ErrorType.RATE_LIMITED, verdict.message)
            return alone(verdict)
        if found.kind is Kind.TRANSIENT and patient:
            return found
        if caller.stopped():
            return None
        about = f"; asked about {caller.about[:MOST_ABOUT]}" if caller.about else ""
        self._brake.stop_job(replace(verdict, message=f"{verdict.message} ({self._transport.base_url}{PATH}{about})"))
        return None

    async def _is_limited_alone(self, limited: int, calls: int) -> bool:
        """Tells whether others are answered while a document is refused for a rate limit for long.

        Where no others are asked a short question stands in for them, now and then.
        """
        return limited >= LIMITED_CALLS or (calls % LIMITED_CALLS == 0 and await self._short.ask() is None)

    async def _others_are_answered(self, verdict: Verdict, since: float, caller: Caller) -> bool:
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
        """Tells whether a transient failure is the document's own, because the provider answers others meanwhile.

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
        elif outage_is_due and found.error_type != ErrorType.RATE_LIMITED:
            self._brake.outage(verdict.message)
        return False

    def read(self, body: Any, answer: Answer) -> Verdict | None:
        """Takes a 200's body that did not come online into `answer`, whose tokens add up; None for a whole answer."""
        return self._calls.read(body, answer)


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


def backoff(calls: int, retry_after: float | None) -> float:
    """Returns seconds to wait, with jitter: what the provider asks for, up to a limit, else twice as long each time."""
    if not retry_after:  # none, or at once: servers say 0 for hours
        return doubled(BACKOFF_FIRST, calls, BACKOFF_MOST) * random.uniform(0.5, 1.0)
    asked = min(RETRY_AFTER_MOST, retry_after)
    return asked + random.uniform(0.0, 0.1 + 0.1 * asked)
