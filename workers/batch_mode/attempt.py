"""A partition in batch mode: its documents go to the provider's Batch API, round by round, until each has a row.

    ledger -> batches that there are -> render what is left to a file -> create a batch of it -> poll -> read both
    files -> rows into the ledger -> the rest in another round, or online -> result Parquet, files deleted

What a batch answered stays in its files, which every attempt reads again until the commit: an answer that leads to
another round is in no ledger, and is paid once all the same. How a batch survives us:
`workers.batch_mode.partition_batches`.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from typing import Any

from openai.types import Batch

from batch.corpus.planning import PlannedDocument
from batch.workflows import contracts as c
from batch.workflows.states import Outcome
from workers.batch_mode.api import (
    CANCELLED,
    EXPIRED,
    FAILED,
    AnsweredLine,
    BatchApi,
    BatchApiError,
    Failure,
    judge_failure,
    read_lines,
    request_line,
    seconds_of,
)
from workers.batch_mode.batch_answers import Asked, Next
from workers.batch_mode.batch_records import BatchRecords, Held, TakenOver
from workers.batch_mode.partition_batches import PartitionBatches
from workers.batch_mode.spool import Spool, SpoolWriter, fitting
from workers.documents.reading import row_unread
from workers.documents.rows import TOKENS, Row
from workers.extract import Unreadable
from workers.llm.answer import Answer
from workers.llm.answers.errors import Kind, Verdict, judge_status
from workers.llm.limits.waiting import sleep_while
from workers.llm.prices import Pricer, cost_of, pricer
from workers.partition.ledger import Replayed
from workers.partition.processor import Attempt, Stopped, Unchanged, groups, marked

QUEUE_FIRST, QUEUE_MOST = 5.0, 300.0
"""Seconds to wait when the provider has no room for more enqueued tokens, twice as long each time, with jitter."""
GROUPS_AT_ONCE = 4
"""Groups of documents that are fetched at once for an input file."""

log = logging.getLogger(__name__)


class BatchAttempt(Attempt):
    """One attempt at one partition, in batch mode."""

    def __init__(self, *arguments: Any, api: BatchApi) -> None:
        super().__init__(*arguments)
        task, job = self._task, self._active.file.job
        self._batch_price: Pricer = pricer(job.model, batch=True)
        self._llm = self._metrics.llm(job.model.name)
        self._batches = PartitionBatches(
            api,
            BatchRecords(self._storage, self._active.layout, task.partition),
            run_id=task.run.run_id,
            partition=task.partition,
            generation=task.generation,
            brakes=self._active.brakes,
            is_stopping=self._must_stop,
            metrics=self._llm,
        )
        self._spooling = api.spooling
        long_documents = job.long_documents
        self._truncates = long_documents is not None and long_documents.on_too_long == "truncate"
        self._open: dict[int, Asked] = {}
        """Documents without a row, by place in the plan."""
        self._places: dict[str, int] = {}
        self._asked_anew: dict[str, int] = {}
        """Document -> generation of its row in the ledger that does not stand; nor does what batches until then say."""
        self._ready: list[Spool] = []
        """Input files that wait for room."""
        self._spools: list[Spool] = []
        self._most_tokens: int | None = None
        self._queue_full = 0
        self._whole = 0
        """Tokens of the largest input file that found no room."""
        self._last_took = 0.0
        self._marked = False
        self._work: asyncio.Task[None] | None = None

    # -- life ----------------------------------------------------------------------------------------------------------

    async def run(self) -> c.PartitionOutcome:
        outcome = await super().run()
        if outcome.outcome == Outcome.COMMITTED and not outcome.totals.partitions_failed:
            await self._batches.tidy()
        return outcome

    def cut(self) -> None:
        super().cut()
        if self._work is not None:
            self._work.cancel()

    def _replay(self, documents: list[PlannedDocument], replayed: Replayed) -> None:
        super()._replay(documents, replayed)
        self._places = {document.document_id: place for place, document in enumerate(documents)}
        self._asked_anew = {
            document_id: row["generation"]
            for document_id, row in replayed.rows.items()
            if document_id not in self._rows
        }

    async def _ask_all(self, todo: list[PlannedDocument]) -> None:
        """Until each document has a row, or there may be no more calls."""
        for document in todo:
            place = self._places[document.document_id]
            self._open[place] = Asked(document, place, document.etag)
        self._work = asyncio.create_task(self._work_through())
        try:
            await asyncio.wait([self._work])
        finally:
            for spool in self._spools:
                spool.remove()
        if not self._work.cancelled():
            self._work.result()

    async def _work_through(self) -> None:
        try:
            for held in await self._batches.adopt(after=self._settled):
                await self._follow(held)
            while self._open:
                if self._seconds_left() <= self._last_took:  # another batch, which takes as long, would be too late
                    await self._ask_online()
                    return
                for held in await self._send():
                    await self._follow(held)
        except TakenOver as error:
            log.warning("partition %d: %s", self._task.partition, error)
            self.stop_soon()
        except BatchApiError as error:
            self._active.brakes.stop_job(Verdict(Kind.JOB, "batch_refused", str(error)))
        except Stopped:
            pass

    def _seconds_left(self) -> float:
        """Until `model.batch_deadline`, counted from the announcement of the partition's first batch."""
        deadline, began = self._active.file.job.model.batch_deadline, self._batches.began
        return float("inf") if deadline is None or began is None else began + deadline - time.time()

    async def _ask_online(self) -> None:
        log.info("partition %d asks %d documents online", self._task.partition, len(self._open))
        await super()._ask_all([asked.document for asked in self._open.values()])

    # -- a round -------------------------------------------------------------------------------------------------------

    async def _send(self) -> list[Held]:
        """Batches of what is open: all of it, or where the provider has no room the next one alone."""
        await self._stop_if_committed()
        waiting = {place for spool in self._ready for place in spool.places}
        unsent = [asked for place, asked in self._open.items() if place not in waiting]
        sent: list[Held] = []
        async with self._spooling:
            if unsent:
                self._ready += await self._render(unsent)
            while self._ready and not (sent and self._queue_full):
                held = await self._batches.create(self._ready[0])
                if held is not None:
                    del self._ready[0]
                    sent.append(held)
        return sent

    async def _stop_if_committed(self) -> None:
        """An attempt that comes late, when the records of the batches are gone too, has nothing more to do."""
        footer = await self._stored()
        if footer is not None and footer.generation >= self._task.generation:
            self.stop_soon()
            raise Stopped

    async def _render(self, unsent: list[Asked]) -> list[Spool]:
        """Input files of the documents' next lines; those that cannot be read become rows."""
        slots = asyncio.Semaphore(GROUPS_AT_ONCE)
        limit = self._active.file.job.source.max_document_bytes
        writer = SpoolWriter(tokens=self._most_tokens)
        try:
            async with asyncio.TaskGroup() as tasks:
                for group in groups([asked.document for asked in unsent], limit):
                    await slots.acquire()
                    task = tasks.create_task(self._render_group(group, writer))
                    task.add_done_callback(lambda _: slots.release())
        finally:
            self._spools += writer.spools
        self._batches.check()
        return writer.spools

    async def _render_group(self, group: list[PlannedDocument], writer: SpoolWriter) -> None:
        room = self._active.room
        size = sum(min(document.size, self._active.file.job.source.max_document_bytes) for document in group)
        await room.enter(size, len(group))
        try:
            if self._must_stop():
                return
            for document, found in zip(group, await self._burst(group), strict=True):
                asked = self._open[self._places[document.document_id]]
                try:
                    question = await self._prepare(document, found)
                except Unreadable as error:
                    self._end(asked, self._unreadable(asked, error))
                    continue
                except Unchanged as same:
                    del self._open[asked.place]
                    self._keep(same.row)
                    continue
                asked.etag, asked.truncated = question.etag, question.truncated
                self._asked_anew.pop(document.document_id, None)
                line = request_line(asked.custom_id, asked.body(question.payload, self._active.chat))
                other = asked.etag if asked.etag != document.etag else None
                writer.add(
                    asked.place,
                    line,
                    etag=other,
                    in_words=asked.in_words,
                    truncated=bool(asked.truncated),
                    pages=self._pages.get(document.document_id),
                )
        except Stopped:
            return
        finally:
            room.leave(size, len(group))

    # -- a batch -------------------------------------------------------------------------------------------------------

    async def _follow(self, held: Held) -> None:
        """Waits for a batch's end and takes what it brought for the documents that it covers."""
        record = held.record
        covered = {
            place: self._open[place]
            for place in record.documents
            if place in self._open
            and self._asked_anew.get(self._open[place].document.document_id, 0) < record.generation
        }
        if not covered:
            return
        batch = await self._end_of(held, {asked.document.document_id for asked in covered.values()})
        if batch.status == FAILED:
            await self._take_failure(held, batch, covered)
            return
        self._last_took, self._queue_full = seconds_of(batch), 0
        words, truncated = set(record.in_words), set(record.truncated)
        for asked in covered.values():
            asked.etag = record.etags.get(str(asked.place), asked.document.etag)
            if (pages := record.pages.get(str(asked.place))) is not None:
                self._pages[asked.document.document_id] = pages
            asked.in_words = asked.place in words
            asked.truncated = asked.place in truncated if self._truncates else None
        doubtful = await self._read(batch, covered)
        await self._batches.note_read(held)
        if doubtful:
            await self._pause_if_confirmed()

    async def _pause_if_confirmed(self) -> None:
        """Of lines that failed by the key, the quota or the model, hours ago maybe: whether that still holds."""
        found = await self._active.chat.check()
        if found is not None and found.kind is Kind.JOB:
            self._batches.pause_run(found)

    async def _end_of(self, held: Held, documents: set[str]) -> Batch:
        waiting = self._metrics.batch_documents.labels(self._active.file.job.name)
        self._active.in_batches += len(documents)
        waiting.inc(len(documents))
        try:
            return await self._batches.ended(held, seconds_left=self._seconds_left, going=self._mark)
        finally:
            waiting.dec(len(documents))
            self._active.in_batches -= len(documents)

    async def _mark(self) -> None:
        """Once: an attempt that waits for a batch is none without progress, however it ends."""
        if not self._marked:
            self._marked = True
            await self._ledger.mark()

    async def _read(self, batch: Batch, covered: dict[int, Asked]) -> bool:
        """Takes both files' lines, in any order. Tells whether a line says that no call can succeed."""
        left = dict(covered)
        doubtful = False
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            with tempfile.TemporaryFile() as file:
                if not await self._batches.download(file_id, file):
                    await self._stop_if_committed()
                    log.error("partition %d: answers of %s are gone, and paid again", self._task.partition, batch.id)
                for count, line in enumerate(read_lines(file), 1):
                    place = line.custom_id.removeprefix("d")
                    asked = left.pop(int(place), None) if place.isdecimal() else None
                    if asked is not None and self._take_line(asked, line) is Next.STOP:
                        doubtful = True
                    if count % 100 == 0:
                        await asyncio.sleep(0)
                        await sleep_while(self._is_held, self._must_stop)
                        self._batches.check()
        for asked in left.values() if batch.status != CANCELLED else ():
            error_type = "batch_expired" if batch.status == EXPIRED else "batch_line_failed"
            if asked.fail(error_type, f"batch {batch.id} ({batch.status}) has no line for it") is Next.ROW:
                self._end(asked)
        return doubtful

    def _take_line(self, asked: Asked, line: AnsweredLine) -> Next:
        reasks = self._active.file.job.model.reasks
        following = asked.take(line, self._active.chat, reasks=reasks, latency=self._last_took)
        if line.status is not None:
            self._active.brakes.succeeded()
            self._llm.requests(_outcome(line, asked))
        if following is Next.ROW:
            self._end(asked)
        elif line.is_success and asked.answer.error is not None:
            self._llm.reasks()
        return following

    async def _take_failure(self, held: Held, batch: Batch, covered: dict[int, Asked]) -> None:
        """A batch that failed its validation: nothing was asked, nothing is paid."""
        failure = judge_failure(batch)
        log.info("partition %d: %s", self._task.partition, failure.verdict.message)
        for number, said in failure.lines.items():
            place = held.record.documents[number - 1] if 0 < number <= len(held.record.documents) else -1
            if failure.verdict.kind is Kind.DOCUMENT and (asked := covered.get(place)) is not None:
                asked.end(Verdict(Kind.DOCUMENT, "bad_request", f"line {number} of its batch: {said}", retryable=True))
                self._end(asked)
        spool = self._batches.reclaim(held)
        await self._batches.discard(held)
        if failure.verdict.kind is Kind.JOB:
            self._batches.pause_run(failure.verdict)
        if failure.verdict.kind is Kind.TRANSIENT:
            await self._wait_for_room(failure, spool)
            return
        if spool is not None:
            spool.remove()
        await self._batches.refused(failure.verdict.message, faulty_lines=bool(failure.lines))

    async def _wait_for_room(self, failure: Failure, spool: Spool | None) -> None:
        """Too many tokens are enqueued: waits for batches to end, and cuts what can never fit."""
        self._queue_full += 1
        if spool is not None:
            self._whole = max(self._whole, spool.tokens)
            limit = failure.enqueued_limit
            target = fitting(spool, limit=limit, tries=self._queue_full, largest=self._whole)
            if target is None:
                self._ready.insert(0, spool)
            else:
                self._most_tokens = target
                for each in (spool, *self._ready):
                    each.remove()
                self._ready.clear()
        pause = min(QUEUE_MOST, QUEUE_FIRST * 2.0 ** min(self._queue_full - 1, 30))
        await self._batches.wait(max(0.05, min(pause, self._seconds_left())))

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _end(self, asked: Asked, row: Row | None = None) -> None:
        """The document's row stands: by default that of its answer from a batch."""
        del self._open[asked.place]
        judged = row or self._judge(asked.document, asked.etag, asked.answer, self._batch_price)
        self._take(marked(judged, asked.truncated))

    def _unreadable(self, asked: Asked, error: Unreadable) -> Row:
        """The row of a document that cannot be asked, or not again; what it has cost stays in it."""
        return row_unread(self._row(asked.document, asked.etag, asked.answer, self._batch_price), error)

    def _row(self, document: PlannedDocument, etag: str, answer: Answer, price: Pricer | None = None) -> Row:
        """Of a document that was asked online, with what batches have cost for it before."""
        row = super()._row(document, etag, answer, price)
        if price is not None:
            return row
        before = self._open.pop(self._places[document.document_id]).answer
        spent = cost_of(before, self._batch_price)
        row["cost_usd"] = None if row["cost_usd"] is None or spent is None else row["cost_usd"] + spent
        row["attempts"] += before.attempts
        for name in TOKENS:
            row[name] = None if row[name] is None or before.uncounted else row[name] + getattr(before, name)
        return row


def _outcome(line: AnsweredLine, asked: Asked) -> str:
    """Of one call, as the metrics count those made online."""
    if not line.is_success:
        return judge_status(line.status or 0, line.body).error_type
    error = asked.answer.error
    return "ok" if error is None or error.error_type == "invalid_answer" else error.error_type
