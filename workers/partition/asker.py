"""Asking about documents: what any way of it has to do, and the way that asks online, a call at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from batch.corpus.planning import PlannedDocument
from batch.files.ledger_segment import LedgerName
from batch.storage.store import Storage
from batch.workflows import contracts as c
from workers.documents.long_documents import Ask, ChunkedQuestion, chunk_fields
from workers.documents.reading import messages_of, row_answered, row_unread
from workers.documents.rows import Row
from workers.extract import Unreadable
from workers.llm.answer import Answer
from workers.observe.metrics import Metrics
from workers.partition.answered import Answered, marked
from workers.partition.attempt_stop import AttemptStop, Stopped
from workers.partition.ledger import Ledger, Replayed
from workers.partition.reader import DocumentReader, Found, Unchanged
from workers.partition.result import PartitionResult
from workers.partition.runs import ActiveRun
from workers.partition.same_texts import SameText


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about a document: one request `payload`, or its `chunks`; `etag` of the version that was read.

    `truncated`: whether the payload holds only the beginning; None where the job does not truncate.
    """

    etag: str
    payload: bytes = b""
    chunks: tuple[str, ...] = ()
    truncated: bool | None = None


@dataclass(frozen=True)
class Work:
    """One attempt's work: what its parts have in common."""

    task: c.PartitionInput
    run: ActiveRun
    storage: Storage
    metrics: Metrics
    name: LedgerName
    ledger: Ledger
    stop: AttemptStop
    answered: Answered
    reader: DocumentReader
    result: PartitionResult

    def is_held(self) -> bool:
        """Holds intake while answers wait too long to become durable: S3 is slow or away."""
        return not self.ledger.is_ready()

    async def question(self, document: PlannedDocument, found: Found) -> Question:
        """What to ask about the document; `found`: what a burst brought of it.

        Raises `Unreadable`, `Unchanged`, `SameText`, `Stopped`.
        """
        run = self.run
        text, etag = await self.reader.text(document, found)
        shown = await run.long.shown(text)
        if shown.chunks:
            return Question(etag, chunks=shown.chunks)
        payload = run.chat.payload(messages_of(run.prompt, run.dates, document, shown.text))
        return Question(etag, payload, truncated=shown.truncated)


class Asker(Protocol):
    """One attempt's way of asking, `model.mode`."""

    def begin(self, documents: list[PlannedDocument], replayed: Replayed) -> None:
        """Is told, before any asking, which documents the partition has, and what its ledger held."""

    async def ask(self, documents: list[PlannedDocument]) -> None:
        """Asks until each of the documents has a row, shares another's answer, or there may be no more calls."""

    def cut(self) -> None:
        """Ends what is in flight; no more calls are to begin."""

    async def tidy(self) -> None:
        """Clears up after a commit that has an answer for each document."""


AskerMaker = Callable[[Work], Asker]


class Online:
    """Asks online: a task a document, as many at once as the run has room for in this process."""

    def __init__(self, work: Work, *, finish: Callable[[Row], Row] = lambda row: row) -> None:
        """`finish` has the last word on each row of a document that was asked about."""
        self._work, self._finish = work, finish
        self._asking: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    def begin(self, documents: list[PlannedDocument], replayed: Replayed) -> None:
        """Needs to know nothing."""

    async def tidy(self) -> None:
        """Leaves nothing behind."""

    async def ask(self, documents: list[PlannedDocument]) -> None:
        """Asks in the order of the plan; where partitions share the room, the first one's documents come first."""
        work = self._work
        room, tasks = work.run.room, self._asking
        try:
            for group, sizes in work.reader.groups(documents):
                turn = work.task.partition + 1 if work.ledger.has_answers else 0
                if not await room.enter(sum(sizes), len(group), turn=turn, stopped=work.stop.must):
                    break
                if work.stop.must():
                    room.leave(sum(sizes), len(group))
                    break
                burst = asyncio.ensure_future(work.reader.burst(group))
                for index, (document, size) in enumerate(zip(group, sizes, strict=True)):
                    task = asyncio.create_task(self._one(document, size, burst, index))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                    task.add_done_callback(self._note_failure)
        finally:
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._failure is not None:
            raise self._failure

    def cut(self) -> None:
        """Ends the calls in flight."""
        for task in self._asking:
            task.cancel()

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        """A mistake of ours in one document's task ends the attempt, after the others' answers are kept."""
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
            self._work.stop.soon()

    async def _one(self, document: PlannedDocument, size: int, burst: asyncio.Future[list[Found]], index: int) -> None:
        """Reads one document, whose places in the room it gives back, and asks about it."""
        work = self._work
        try:
            row = await self._row(document, await work.question(document, (await burst)[index]))
            if row is not None:
                work.answered.take(self._finish(row))
        except Unreadable as error:
            unread = work.answered.row(document, document.etag, Answer(None, None))
            work.answered.take(self._finish(row_unread(unread, error)))
        except Unchanged as same:
            work.answered.keep(same.row)
        except (SameText, Stopped):
            pass
        finally:
            work.run.room.leave(size)

    async def _row(self, document: PlannedDocument, question: Question) -> Row | None:
        """The document's row by what the model answers; None when stopped before."""
        work = self._work
        ask = partial(
            work.run.chat.ask,
            stopped=work.stop.must,
            abandoned=work.stop.abandons,
            held=work.is_held,
            about=document.uri,
        )
        if question.chunks:
            return await self._row_of_chunks(document, question, ask)
        answer = await ask(question.payload)
        if answer is None:
            return None
        return marked(work.answered.judged(document, question.etag, answer), question.truncated)

    async def _row_of_chunks(self, document: PlannedDocument, asked: Question, ask: Ask) -> Row | None:
        """One row of the answers to a document's chunks, each durable and paid once as an answer to a document is."""
        work, run = self._work, self._work.run

        def note(key: str, answer: Answer) -> None:
            work.ledger.add_chunk(document.document_id, key, chunk_fields(answer))

        known = work.answered.chunks.pop(document.document_id, {})
        question = ChunkedQuestion(
            document, asked.chunks, run.long, run.prompt, run.dates, run.chat, run.price, ask, known=known, note=note
        )
        found = await question.answer()
        if found is None:
            return None
        row = row_answered(work.answered.made(document, asked.etag, found.answer, found.cost_usd), found.answer)
        return {**row, "chunks": found.chunks}
