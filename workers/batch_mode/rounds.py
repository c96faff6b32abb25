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

from openai.types import Batch

from batch.corpus.planning import PlannedDocument
from batch.schema.error_types import ErrorType
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
from workers.extract import Extracted, Unreadable
from workers.llm.answer import Answer
from workers.llm.answers.errors import Kind, Verdict, judge_status
from workers.llm.limits.waiting import doubled, sleep_while
from workers.llm.prices import Pricer, cost_of, pricer
from workers.partition.answered import marked
from workers.partition.asker import Online, Work
from workers.partition.attempt_stop import Stopped
from workers.partition.ledger import Replayed
from workers.partition.reader import Unchanged

QUEUE_FIRST, QUEUE_MOST = 5.0, 300.0
"""Seconds to wait when the provider has no room for more enqueued tokens, twice as long each time, with jitter."""
GROUPS_AT_ONCE = 4
"""Groups of documents that are fetched at once for an input file."""

log = logging.getLogger(__name__)


class BatchRounds:
    """Asks about the documents of one attempt in batches (an `Asker`), and online what is left at the deadline."""

    def __init__(self, work: Work, *, api: BatchApi) -> None:
        task, job = work.task, work.run.file.job
        self._work, self._answered = work, work.answered
        self._price: Pricer = pricer(job.model, batch=True)
        self._llm = work.metrics.llm(job.model.name)
        self._batches = PartitionBatches(
            api,
            BatchRecords(work.storage, work.run.layout, task.partition),
            run_id=task.run.run_id,
            partition=task.partition,
            generation=task.generation,
            brakes=work.run.brakes,
            is_stopping=work.stop.must,
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
        self._asking: asyncio.Task[None] | None = None
        self._online: Online | None = None

    # -- what an attempt wants of it -----------------------------------------------------------------------------------

    def begin(self, documents: list[PlannedDocument], replayed: Replayed) -> None:
        """Notes the documents' places, by which their lines are named."""
        self._places = {document.document_id: place for place, document in enumerate(documents)}
        self._asked_anew = {
            document_id: row["generation"]
            for document_id, row in replayed.rows.items()
            if document_id not in self._answered.rows
        }

    async def ask(self, documents: list[PlannedDocument]) -> None:
        """Asks until each document has a row, or there may be no more calls."""
        for document in documents:
            place = self._places[document.document_id]
            self._open[place] = Asked(document, place, document.etag)
        self._asking = asyncio.create_task(self._work_through())
        try:
            await asyncio.wait([self._asking])
        finally:
            for spool in self._spools:
                spool.remove()
        if not self._asking.cancelled():
            self._asking.result()

    def cut(self) -> None:
        """Ends the waiting for batches, and the calls made online."""
        if self._online is not None:
            self._online.cut()
        if self._asking is not None:
            self._asking.cancel()

    async def tidy(self) -> None:
        """Deletes the partition's files at the provider."""
        await self._batches.tidy()

    async def _work_through(self) -> None:
        try:
            for held in await self._batches.adopt(after=self._work.result.settled):
                await self._follow(held)
            while self._open:
                if self._seconds_left() <= self._last_took:  # another batch, which takes as long, would be too late
                    await self._ask_online()
                    return
                for held in await self._send():
                    await self._follow(held)
        except TakenOver as error:
            log.warning("partition %d: %s", self._work.task.partition, error)
            self._work.stop.soon()
        except BatchApiError as error:
            self._work.run.brakes.stop_job(Verdict(Kind.JOB, ErrorType.BATCH_REFUSED, str(error)))
        except Stopped:
            pass

    def _seconds_left(self) -> float:
        """Until `model.batch_deadline`, counted from the announcement of the partition's first batch."""
        deadline, began = self._work.run.file.job.model.batch_deadline, self._batches.began
        return float("inf") if deadline is None or began is None else began + deadline - time.time()

    async def _ask_online(self) -> None:
        """Asks about what is open; a row then has what batches have cost for its document before."""
        left, self._open = [*self._open.values()], {}
        log.info("partition %d asks %d documents online", self._work.task.partition, len(left))
        before = {asked.document.document_id: asked.answer for asked in left}
        price = self._price
        self._online = Online(self._work, finish=lambda row: _added(row, before[row["document_id"]], price))
        await self._online.ask([asked.document for asked in left])

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
        if await self._work.result.standing() is not None:
            self._work.stop.soon()
            raise Stopped

    async def _render(self, unsent: list[Asked]) -> list[Spool]:
        """Input files of the documents' next lines; those that cannot be read become rows."""
        slots = asyncio.Semaphore(GROUPS_AT_ONCE)
        writer = SpoolWriter(tokens=self._most_tokens)
        try:
            async with asyncio.TaskGroup() as tasks:
                for group, sizes in self._work.reader.groups([asked.document for asked in unsent]):
                    await slots.acquire()
                    task = tasks.create_task(self._render_group(group, sum(sizes), writer))
                    task.add_done_callback(lambda _: slots.release())
        finally:
            self._spools += writer.spools
        self._batches.check()
        return writer.spools

    async def _render_group(self, group: list[PlannedDocument], size: int, writer: SpoolWriter) -> None:
        room = self._work.run.room
        await room.enter(size, len(group))
        try:
            if self._work.stop.must():
                return
            for document, found in zip(group, await self._work.reader.burst(group), strict=True):
                asked = self._open[self._places[document.document_id]]
                try:
                    question = await self._work.question(document, found)
                except Unreadable as error:
                    self._end(asked, self._unreadable(asked, error))
                    continue
                except Unchanged as same:
                    del self._open[asked.place]
                    self._answered.keep(same.row)
                    continue
                known = self._answered.columns.get(document.document_id, {})
                asked.etag, asked.truncated = question.etag, question.truncated
                self._asked_anew.pop(document.document_id, None)
                line = request_line(asked.custom_id, asked.body(question.payload, self._work.run.chat))
                other = asked.etag if asked.etag != document.etag else None
                writer.add(
                    asked.place,
                    line,
                    etag=other,
                    in_words=asked.in_words,
                    truncated=bool(asked.truncated),
                    pages={name: known[name] for name in Extracted("").counts if name in known} or None,
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
                self._answered.columns[asked.document.document_id] |= pages
            asked.in_words = asked.place in words
            asked.truncated = asked.place in truncated if self._truncates else None
        doubtful = await self._read(batch, covered)
        await self._batches.note_read(held)
        if doubtful:
            await self._pause_if_confirmed()

    async def _pause_if_confirmed(self) -> None:
        """Of lines that failed by the key, the quota or the model, hours ago maybe: whether that still holds."""
        found = await self._work.run.chat.check()
        if found is not None and found.kind is Kind.JOB:
            self._batches.pause_run(found)

    async def _end_of(self, held: Held, documents: set[str]) -> Batch:
        waiting = self._work.metrics.batch_documents.labels(self._work.run.file.job.name)
        self._work.run.in_batches += len(documents)
        waiting.inc(len(documents))
        try:
            return await self._batches.ended(held, seconds_left=self._seconds_left, going=self._mark)
        finally:
            waiting.dec(len(documents))
            self._work.run.in_batches -= len(documents)

    async def _mark(self) -> None:
        """Once: an attempt that waits for a batch is none without progress, however it ends."""
        if not self._marked:
            self._marked = True
            await self._work.ledger.mark()

    async def _read(self, batch: Batch, covered: dict[int, Asked]) -> bool:
        """Takes both files' lines, in any order. Tells whether a line says that no call can succeed."""
        left = dict(covered)
        doubtful = False
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            with tempfile.TemporaryFile() as file:
                if not await self._batches.download(file_id, file):
                    await self._stop_if_committed()
                    log.error(
                        "partition %d: answers of %s are gone, and paid again", self._work.task.partition, batch.id
                    )
                for count, line in enumerate(read_lines(file), 1):
                    place = line.custom_id.removeprefix("d")
                    asked = left.pop(int(place), None) if place.isdecimal() else None
                    if asked is not None and self._take_line(asked, line) is Next.STOP:
                        doubtful = True
                    if count % 100 == 0:
                        await asyncio.sleep(0)
                        await sleep_while(self._work.is_held, self._work.stop.must)
                        self._batches.check()
        for asked in left.values() if batch.status != CANCELLED else ():
            error_type = ErrorType.BATCH_EXPIRED if batch.status == EXPIRED else ErrorType.BATCH_LINE_FAILED
            if asked.fail(error_type, f"batch {batch.id} ({batch.status}) has no line for it") is Next.ROW:
                self._end(asked)
        return doubtful

    def _take_line(self, asked: Asked, line: AnsweredLine) -> Next:
        reasks = self._work.run.file.job.model.reasks
        following = asked.take(line, self._work.run.chat, reasks=reasks, latency=self._last_took)
        if line.status is not None:
            self._work.run.brakes.succeeded()
            self._llm.requests(_outcome(line, asked))
        if following is Next.ROW:
            self._end(asked)
        elif line.is_success and asked.answer.error is not None:
            self._llm.reasks()
        return following

    async def _take_failure(self, held: Held, batch: Batch, covered: dict[int, Asked]) -> None:
        """A batch that failed its validation: nothing was asked, nothing is paid."""
        failure = judge_failure(batch)
        log.info("partition %d: %s", self._work.task.partition, failure.verdict.message)
        for number, said in failure.lines.items():
            place = held.record.documents[number - 1] if 0 < number <= len(held.record.documents) else -1
            if failure.verdict.kind is Kind.DOCUMENT and (asked := covered.get(place)) is not None:
                asked.end(Verdict(Kind.DOCUMENT, ErrorType.BAD_REQUEST, f"line {number} of its batch: {said}"))
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
        pause = doubled(QUEUE_FIRST, self._queue_full, QUEUE_MOST)
        await self._batches.wait(max(0.05, min(pause, self._seconds_left())))

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _end(self, asked: Asked, row: Row | None = None) -> None:
        """The document's row stands: by default that of its answer from a batch."""
        del self._open[asked.place]
        judged = row or self._answered.judged(asked.document, asked.etag, asked.answer, self._price)
        self._answered.take(marked(judged, asked.truncated))

    def _unreadable(self, asked: Asked, error: Unreadable) -> Row:
        """The row of a document that cannot be asked, or not again; what it has cost stays in it."""
        return row_unread(self._answered.row(asked.document, asked.etag, asked.answer, self._price), error)


def _added(row: Row, before: Answer, price: Pricer) -> Row:
    """The row of a document that was asked online, with what batches have cost for it before."""
    spent = cost_of(before, price)
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
    return "ok" if error is None or error.error_type == ErrorType.INVALID_ANSWER else error.error_type
