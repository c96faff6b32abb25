"""Documents that are too long for one question: what the model is shown of them, and one answer from that to many.

    text -> does it fit (by `workers.documents.token_estimate`)? -> whole
                                                     -> error: `too_long`
                                                     -> truncate: its beginning
                                                     -> chunks (`workers.documents.chunks`), each asked, a few at once
                                                        -> combined by a second prompt, or by rules, into one answer

Each chunk's question is one as any other: by the limiter, the budget, with its re-asks. What all of them took counts in
the document's one row, also where one ended in an error and there is no answer. The answer to a chunk is noted as it
comes (in a run: in the ledger), by its place and its text, and is not paid again by the next attempt.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from batch.corpus.planning import PlannedDocument
from batch.job.job import Job
from batch.job.templates import Prompt
from batch.schema.answer_reader import InvalidAnswer
from batch.schema.error_types import ErrorType
from workers.documents.chunks import first_end, pieces
from workers.documents.combining import combined
from workers.documents.prompt import CompiledPrompt
from workers.documents.reading import messages_of, rendered
from workers.documents.token_estimate import UNIT, WORST, measure_for, tokens
from workers.extract import Unreadable
from workers.llm.answer import Answer
from workers.llm.answers.errors import Kind, Verdict
from workers.llm.chat import Chat
from workers.llm.prices import Pricer, cost_of

AT_ONCE = 8
"""Chunks of one document that are asked at once: as documents do, they wait for their turn with the limiter."""
SLOW_CHARACTERS = 50_000
"""Texts of more take milliseconds to measure and cut: for a thread."""

Ask = Callable[[bytes], Awaitable[Answer | None]]
"""Asks one question; None when stopped before there was an answer."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What the model is shown of a document: `text`, or one after the other its `chunks`.

    `truncated`: whether `text` is only its beginning; None where the job does not truncate.
    """

    text: str
    chunks: tuple[str, ...] = ()
    truncated: bool | None = None


@dataclass(frozen=True, slots=True)
class Combined:
    """The answer to a document that was asked in chunks; tokens, attempts, seconds and cost are those of all calls."""

    answer: Answer
    cost_usd: float | None
    chunks: int


class LongDocuments:
    """What a job says of long documents, at work. `settings` None: all are sent as they are."""

    def __init__(self, job: Job) -> None:
        self.settings = settings = job.long_documents
        if settings is None:
            return
        self._whole = False if settings.on_too_long == "truncate" else None
        self._limit = settings.max_tokens * UNIT
        self._measure = measure_for(job.model.name)
        self._combine = combine = settings.combine
        self._prompt = (
            CompiledPrompt(Prompt(system=combine.system, user=combine.user)) if combine and combine.user else None
        )

    async def shown(self, text: str) -> Shown:
        """Returns what the model is shown of a document with this text. Raises `Unreadable`."""
        if self.settings is None:
            return Shown(text)
        if len(text) * WORST <= self._limit:
            return Shown(text, truncated=self._whole)
        if len(text) > SLOW_CHARACTERS:
            return await asyncio.to_thread(self._cut, text)
        return self._cut(text)

    def _cut(self, text: str) -> Shown:
        settings, measure = self.settings, self._measure
        assert settings is not None
        weight = measure(text)
        if weight <= self._limit:
            return Shown(text, truncated=self._whole)
        if settings.on_too_long == "error":
            raise Unreadable(ErrorType.TOO_LONG, f"{self._about(weight)}; long_documents.on_too_long is error")
        text = text.strip()
        if settings.on_too_long == "truncate":
            end = first_end(text, limit=self._limit, measure=measure)
            return Shown(text[:end], truncated=end < len(text))
        spans = pieces(text, limit=self._limit, overlap=settings.overlap_tokens * UNIT, measure=measure)
        chunks = tuple(islice(_filled(text, spans), settings.most_chunks + 1))
        if len(chunks) > settings.most_chunks:
            problem = f"more than long_documents.most_chunks ({settings.most_chunks}) chunks"
            raise Unreadable(ErrorType.TOO_LONG, f"{self._about(weight)}: {problem}")
        return Shown(text) if len(chunks) == 1 else Shown("", chunks)

    def _about(self, weight: int) -> str:
        assert self.settings is not None
        most = self.settings.max_tokens
        return f"the document has about {tokens(weight):,} tokens; long_documents.max_tokens is {most:,}"

    async def combine(
        self, document: PlannedDocument, answers: list[str], *, chat: Chat, dates: Mapping[str, str], ask: Ask
    ) -> Answer | None:
        """Returns one answer of those to a document's chunks; None when stopped before there was one."""
        if self._prompt is not None:
            try:
                messages = rendered(self._prompt, dates, document, answers=answers)
            except Unreadable as error:
                return _failed(error.error_type, str(error))
            return await ask(chat.payload(messages))
        assert self._combine is not None and self._combine.rules is not None
        try:
            text = combined(answers, self._combine.rules, chat.reader)
            return Answer(text, None, result=chat.reader.read(text) if chat.reader is not None else None)
        except InvalidAnswer as error:
            return _failed(ErrorType.INVALID_ANSWER, f"combined by long_documents.combine.rules: {error}")


@dataclass
class ChunkedQuestion:
    """The question about one document in chunks.

    Args:
        known: answers that are paid already, by `chunk_key`.
        note: is told each new answer to a chunk, with its key.
    """

    document: PlannedDocument
    chunks: tuple[str, ...]
    long: LongDocuments
    prompt: CompiledPrompt
    dates: Mapping[str, str]
    chat: Chat
    price: Pricer
    ask: Ask
    known: Mapping[str, Answer] = field(default_factory=dict)
    note: Callable[[str, Answer], None] = lambda key, answer: None

    async def answer(self) -> Combined | None:
        """Returns what all of it came to; None when stopped before. The first error of a chunk is the document's."""
        self._answers: list[Answer | None] = [None] * len(self.chunks)
        self._ended = False
        waiting = iter(range(len(self.chunks)))
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(AT_ONCE, len(self.chunks))):
                tasks.create_task(self._ask_some(waiting))
        answers = [answer for answer in self._answers if answer is not None]
        for place, answer in enumerate(self._answers):
            if answer is not None and answer.error is not None:
                message = f"chunk {place + 1} of {len(self.chunks)}: {answer.error.message}"
                last = replace(answer, error=replace(answer.error, message=message))
                return self._combined([*(other for other in answers if other is not answer), last])
        if len(answers) < len(self.chunks):
            return None
        texts = [answer.text or "" for answer in answers]
        last_answer = await self.long.combine(self.document, texts, chat=self.chat, dates=self.dates, ask=self.ask)
        if last_answer is None:
            return None
        if last_answer.error is not None:
            message = f"combining the answers to {len(answers)} chunks: {last_answer.error.message}"
            last_answer = replace(last_answer, error=replace(last_answer.error, message=message))
        if last_answer.model is None:
            last_answer.finish_reason, last_answer.model = answers[-1].finish_reason, answers[-1].model
        return self._combined([*answers, last_answer])

    async def _ask_some(self, waiting: Iterator[int]) -> None:
        """Chunk after chunk, until one has an error or there may be no more calls."""
        for place in waiting:
            if self._ended:
                return
            chunk = self.chunks[place]
            key = chunk_key(place, chunk)
            answer = self.known.get(key)
            if answer is None:
                try:
                    messages = messages_of(self.prompt, self.dates, self.document, chunk)
                except Unreadable as error:
                    answer = _failed(error.error_type, str(error))
                else:
                    answer = await self.ask(self.chat.payload(messages))
                if answer is not None and answer.error is None:
                    self.note(key, answer)
            self._answers[place] = answer
            self._ended = self._ended or answer is None or answer.error is not None

    def _combined(self, answers: list[Answer]) -> Combined:
        return Combined(*summed(answers, self.price), len(self.chunks))


def summed(answers: Sequence[Answer], price: Pricer) -> tuple[Answer, float | None]:
    """The last of them with what all took, and their cost, each by itself: prices may depend on a call's length."""
    costs = [cost_of(answer, price) for answer in answers]
    known = [cost for cost in costs if cost is not None]
    total = replace(answers[-1], **{name: sum(getattr(each, name) for each in answers) for name in _ADD_UP})
    total.uncounted = any(each.uncounted for each in answers)
    return total, sum(known) if len(known) == len(costs) else None


_ADD_UP = ("attempts", "prompt_tokens", "cached_tokens", "completion_tokens", "latency_seconds",
           "cache_write_tokens", "reasoning_tokens")  # fmt: skip
_OF_CHUNK = (*_ADD_UP, "text", "finish_reason", "model", "uncounted")


def chunk_fields(answer: Answer) -> dict[str, Any]:
    """Returns what the ledger holds of the answer to a chunk."""
    return {name: getattr(answer, name) for name in _OF_CHUNK}


def chunk_answer(fields: Mapping[str, Any]) -> Answer:
    """Returns the answer to a chunk, of what the ledger holds of it."""
    return Answer(error=None, **{name: fields[name] for name in _OF_CHUNK if name in fields})


def chunk_key(place: int, chunk: str) -> str:
    """By which the answer to a chunk is found again: the same place and text, under the same fingerprint."""
    return f"{place}-{hashlib.blake2b(chunk.encode('utf-8', 'surrogatepass'), digest_size=12).hexdigest()}"


def _filled(text: str, spans: Iterator[tuple[int, int]]) -> Iterator[str]:
    """Pieces in which there is something to ask about."""
    return filter(str.strip, (text[start:end] for start, end in spans))


def _failed(error_type: str, message: str) -> Answer:
    return Answer(None, Verdict(Kind.DOCUMENT, error_type, message, final=True))
