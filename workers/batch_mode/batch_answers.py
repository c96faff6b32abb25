"""What the lines of batches come to for one document: an answer, an error that stays, or another round.

Deterministic: an attempt that reads a partition's batches again, in their order, comes to the same as the last one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

from batch.corpus.planning import PlannedDocument
from batch.schema.error_types import ErrorType
from workers.batch_mode.api import AnsweredLine
from workers.llm.answer import Answer
from workers.llm.answers.errors import Kind, Verdict, alone, judge_status
from workers.llm.chat import Chat, after_reask
from workers.llm.question import refuses_format

MOST_FAILURES = 3
"""Rounds in which a document's line was not answered, in a way that may pass, before it is a retryable error row."""


class Next(Enum):
    """What follows on a line."""

    ROW = "row"
    ROUND = "round"
    STOP = "stop"
    """Another round, unless what the line says of key, quota or model still holds."""


@dataclass(slots=True)
class Asked:
    """A document without a row. `place` is its place in the partition's plan; `etag` of the version that was asked."""

    document: PlannedDocument
    place: int
    etag: str
    answer: Answer = field(default_factory=lambda: Answer(None, None))
    """Of its lines so far; tokens and attempts add up."""
    in_words: bool = False
    """Whether its schema has to go by the prompt."""
    truncated: bool | None = None
    """Whether its line holds only the document's beginning; None where the job does not truncate."""
    invalid: Answer | None = None
    """The last answer that did not fit the schema, with what is wrong with it as its error."""
    reasks: int = 0
    failures: int = 0

    @property
    def custom_id(self) -> str:
        return f"d{self.place}"

    def take(self, line: AnsweredLine, chat: Chat, *, reasks: int, latency: float) -> Next:
        """Takes the answer to its line in one batch; `latency` in seconds."""
        answer = self.answer
        answer.error = None
        if line.status is None:
            if line.code == "batch_cancelled":
                return Next.ROUND
            error_type = ErrorType.BATCH_EXPIRED if line.code == "batch_expired" else ErrorType.BATCH_LINE_FAILED
            return self.fail(error_type, f"{line.code}: {line.message}")
        answer.attempts += 1
        answer.latency_seconds = latency
        if not line.is_success:
            return self._take_error(line, chat)
        verdict = chat.read(line.body, answer)
        if verdict is not None and verdict.kind is not Kind.DOCUMENT:
            return self._again(verdict)
        chat.questions.learn(knows=not self.in_words)
        if verdict is not None:
            return self.end(verdict)
        problem = chat.fit(answer)
        if problem is None:
            return Next.ROW
        answer.error = Verdict(Kind.DOCUMENT, ErrorType.INVALID_ANSWER, problem)
        if self.reasks == reasks:
            return Next.ROW
        self.reasks += 1
        self.invalid = replace(answer)
        return Next.ROUND

    def _take_error(self, line: AnsweredLine, chat: Chat) -> Next:
        assert line.status is not None
        if chat.reader is not None and not self.in_words and refuses_format(line.status, line.body):
            chat.questions.learn(knows=False)
            self.in_words = True
            return Next.ROUND
        verdict = judge_status(line.status, line.body)
        if chat.questions.takes_other_limit(line.status, line.body):
            return self.fail(verdict.error_type, verdict.message)
        if verdict.kind is Kind.DOCUMENT:
            return self.end(verdict)
        return self._again(verdict)

    def _again(self, verdict: Verdict) -> Next:
        following = self.fail(
            alone(verdict).error_type if verdict.kind is Kind.JOB else verdict.error_type, verdict.message
        )
        return Next.STOP if verdict.kind is Kind.JOB and following is Next.ROUND else following

    def fail(self, error_type: str, message: str) -> Next:
        """A round that brought no answer."""
        self.failures += 1
        if self.failures < MOST_FAILURES:
            return Next.ROUND
        return self.end(Verdict(Kind.TRANSIENT, error_type, message))

    def end(self, verdict: Verdict) -> Next:
        """The error stays; after a re-ask that of the invalid answer which led to it."""
        self.answer.error = verdict
        if self.invalid is not None:
            self.answer = after_reask(self.answer, self.invalid)
        return Next.ROW

    def body(self, payload: bytes, chat: Chat) -> bytes:
        """The request of its next line; `payload` is the first one, as it would be sent online."""
        questions = chat.questions
        if self.in_words and questions.has_format(payload):
            payload = questions.in_prompt(payload)
        self.in_words = chat.reader is not None and not questions.has_format(payload)
        if self.invalid is None or self.invalid.error is None:
            return payload
        return questions.reask(payload, self.invalid.text or "", self.invalid.error.message)
