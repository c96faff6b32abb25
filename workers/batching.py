"""A partition in batch mode: its documents go to the provider's Batch API, round by round, until each has a row.

    ledger -> records of batches: settle, adopt, follow, read -> render what is left to a file -> announce -> upload
    -> create -> record -> poll -> read both files -> rows into the ledger -> the rest in another round, or online

A batch is paid whether or not somebody comes for it, so its id must not be lost and it must not be created twice. Each
is announced in S3 first, under a token that its metadata carry, then its input file's id is recorded, then it is
created, then its own id is recorded. Whoever finds a record that stopped short of that looks for the batch by token; if
there is none, it deletes the input file, by which a creation that is still under way fails, looks once more, and only
then starts anew. What a batch answered is read again from its files by every attempt until the commit.
"""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from openai.types import Batch

from batch import contracts as c
from batch.planning import PlannedDocument
from batch.store import StorageError
from workers.batch_answers import Asked, Next
from workers.batch_records import (
    CREATED,
    INTENDED,
    READ,
    UPLOADED,
    BatchRecord,
    BatchRecords,
    Held,
    TakenOver,
    metadata_of,
)
from workers.extract import Unreadable
from workers.ledger import Replayed
from workers.llm.batches import (
    CANCELLED,
    ENDED,
    EXPIRED,
    FAILED,
    AnsweredLine,
    BatchApi,
    BatchApiError,
    Failure,
    judge_failure,
    read_lines,
    request_line,
)
from workers.llm.chat import Answer, backoff
from workers.llm.errors import Kind, Verdict, judge_status
from workers.llm.prices import Pricer, pricer
from workers.processor import Attempt, Stopped, groups
from workers.rows import Row, failed
from workers.spool import Spool, SpoolWriter
from workers.waiting import sleep_unless

POLL_FIRST, POLL_MOST = 1.0, 60.0
"""Seconds between two looks at a batch: from the first on half as long again each time, with jitter."""
POLL_CANCELLED = 5.0
QUEUE_FIRST, QUEUE_MOST = 5.0, 300.0
"""Seconds to wait when the provider has no room for more enqueued tokens, twice as long each time, with jitter."""
QUEUE_TRIES = 3
"""Times that a batch must find no room before it is cut in two, where the provider does not say how much there is."""
TOKENS_SHARE, MOST_PIECES = 0.8, 20
"""Of the enqueued tokens that a batch may take at most, which are only estimated; files that it is cut into at most."""
FENCE_PAUSE = 3.0
"""Seconds between the deletion of an input file and the last look for a batch made of it."""
MOST_REFUSALS, MOST_FAULTY = 2, 10
"""Batches in a row that fail as a whole, for no reason given and for lines at fault, before the run pauses."""
GROUPS_AT_ONCE = 4
TIDY_TRIES, TIDY_WITHIN = 3, 30.0
"""Tries for each batch, and seconds for all, to delete the files of a committed partition."""

T = TypeVar("T")
log = logging.getLogger(__name__)


class BatchAttempt(Attempt):
    """One attempt at one partition, in batch mode."""

    def __init__(self, *arguments: Any, api: BatchApi) -> None:
        super().__init__(*arguments)
        self._api = api
        job = self._active.file.job
        self._batch_price: Pricer = pricer(job.model, batch=True)
        self._llm = self._metrics.llm(job.model.name)
        self._records = BatchRecords(self._storage, self._active.layout, self._task.partition)
        self._open: dict[int, Asked] = {}
        """Documents without a row, by place in the plan."""
        self._places: dict[str, int] = {}
        self._asked_anew: dict[str, int] = {}
        """Document -> generation of its row in the ledger that does not stand; nor does what batches until then say."""
        self._number = 0
        self._began: float | None = None
        self._last_took = 0.0
        self._spools: dict[int, Spool] = {}
        """Of batches that the provider has not accepted yet, by number."""
        self._ready: list[Spool] = []
        self._most_tokens: int | None = None
        self._queue_full = 0
        self._refusals = 0
        self._marked = False
        self._work: asyncio.Task[None] | None = None
        self._folder = Path()

    # -- life ----------------------------------------------------------------------------------------------------------

    async def run(self) -> c.PartitionOutcome:
        outcome = await super().run()
        if outcome.outcome == c.COMMITTED and not outcome.totals.partitions_failed:
            await self._tidy()
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
        self._folder = Path(tempfile.mkdtemp(prefix="docbatch-"))
        self._work = asyncio.create_task(self._work_through())
        try:
            await asyncio.wait([self._work])
        finally:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
        if not self._work.cancelled():
            self._work.result()

    async def _work_through(self) -> None:
        try:
            found = await self._records.read()
            own = [held.record for held in found if held.record.generation == self._task.generation]
            records = [held for held in found if held.record.generation > self._settled]
            self._number = max((record.number for record in own), default=0)
            self._began = min((record.created_at for record in own), default=None)
            for held in records:
                if held.record.state in (INTENDED, UPLOADED):
                    await self._settle(held)
            for held in records:
                if held.record.state in (CREATED, READ):
                    await self._follow(held)
            while self._open:
                if self._is_too_late():
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
        finally:
            self._in_flight = 0

    # -- the provider --------------------------------------------------------------------------------------------------

    async def _call(self, call: Callable[[], Awaitable[T]], *, once: bool = False) -> T:
        """The result. Repeats what may pass, but with `once` nothing of unknown outcome. Raises `Stopped`, and
        `BatchApiError` for what the caller has to judge: something missing, or a request that is not accepted."""
        brakes = self._active.brakes
        calls = 0
        while True:
            self._check()
            try:
                result = await call()
            except BatchApiError as error:
                verdict = error.verdict
                if error.missing or verdict.kind is Kind.DOCUMENT or (once and error.unknown):
                    raise
                if verdict.kind is Kind.JOB:
                    self._pause_job(verdict)
                if brakes.transient() and verdict.error_type != "rate_limited":
                    brakes.outage(verdict.message)
                calls += 1
                log.info("partition %d, trying again: %s", self._task.partition, error)
                await sleep_unless(self._is_stopping, backoff(calls, error.retry_after))
            else:
                brakes.succeeded()
                return result

    def _is_stopping(self) -> bool:
        return self._stopping() is not None

    def _check(self) -> None:
        if self._is_stopping():
            raise Stopped

    async def _wait(self, seconds: float) -> None:
        if await sleep_unless(self._is_stopping, seconds * random.uniform(0.8, 1.2)):
            raise Stopped

    def _pause_job(self, verdict: Verdict) -> None:
        self._active.brakes.stop_job(verdict)
        raise Stopped

    # -- a round -------------------------------------------------------------------------------------------------------

    async def _send(self) -> list[Held]:
        """Batches of what is open: all of it, or where the provider has no room the next one alone."""
        waiting = {place for spool in self._ready for place in spool.places}
        unsent = [asked for place, asked in self._open.items() if place not in waiting]
        sent: list[Held] = []
        async with self._api.spooling:
            if unsent:
                self._ready += await self._render(unsent)
            while self._ready and not (sent and self._queue_full):
                held = await self._create(self._ready.pop(0))
                if held is not None:
                    sent.append(held)
        return sent

    async def _render(self, unsent: list[Asked]) -> list[Spool]:
        """Input files of the documents' next lines; those that cannot be read become rows."""
        slots = asyncio.Semaphore(GROUPS_AT_ONCE)
        limit = self._active.file.job.source.max_document_bytes
        first = len(list(self._folder.iterdir()))
        with SpoolWriter(self._folder, first, tokens=self._most_tokens) as writer:
            async with asyncio.TaskGroup() as tasks:
                for group in groups([asked.document for asked in unsent], limit):
                    await slots.acquire()
                    task = tasks.create_task(self._render_group(group, writer))
                    task.add_done_callback(lambda _: slots.release())
        self._check()
        return writer.spools

    async def _render_group(self, group: list[PlannedDocument], writer: SpoolWriter) -> None:
        room = self._active.room
        size = sum(min(document.size, self._active.file.job.source.max_document_bytes) for document in group)
        await room.enter(size, len(group))
        try:
            if self._is_stopping():
                return
            for document, found in zip(group, await self._burst(group), strict=True):
                asked = self._open[self._places[document.document_id]]
                try:
                    etag, payload = await self._prepare(document, found)
                except Unreadable as error:
                    self._end(asked, self._unreadable(asked, error))
                    continue
                asked.etag = etag
                self._asked_anew.pop(document.document_id, None)
                line = request_line(asked.custom_id, asked.body(payload, self._active.chat))
                other = etag if etag != document.etag else None
                writer.add(asked.place, line, etag=other, in_words=asked.in_words)
        except Stopped:
            return
        finally:
            room.leave(size, len(group))

    def _unreadable(self, asked: Asked, error: Unreadable) -> Row:
        """The row of a document that cannot be asked, or not again; what it has cost stays in it."""
        row = self._row(asked.document, asked.etag, asked.answer, self._batch_price)
        return failed(row, error.error_type, str(error), retryable=error.error_type.startswith("source_"))

    async def _create(self, spool: Spool) -> Held | None:
        """One batch, announced before and recorded after; None if it has to be tried again."""
        self._number += 1
        record = BatchRecord(
            partition=self._task.partition,
            generation=self._task.generation,
            number=self._number,
            token="",
            created_at=time.time(),
            documents=spool.places,
            etags=spool.etags,
            in_words=spool.in_words,
        )
        held = await self._records.announce(record)
        self._began = self._began or record.created_at
        name = f"{self._task.run.run_id}-p{record.partition:08d}-g{record.generation}-{record.number:04d}.jsonl"
        try:
            file = await self._call(lambda: self._api.upload(spool.path, name))
            await self._records.step(held, state=UPLOADED, input_file=file.id, input_created_at=file.created_at)
            metadata = metadata_of(self._task.run.run_id, held.record)
            batch = await self._call(lambda: self._api.create(file.id, metadata), once=True)
        except BatchApiError as error:
            if error.unknown and held.record.state == UPLOADED:
                await self._settle(held)
                if held.record.state == CREATED:
                    self._spools[held.record.number] = spool
                    return held
                await self._wait(backoff(1, error.retry_after))
            else:
                if held.record.input_file:
                    await self._call(lambda: self._api.delete(held.record.input_file))
                await self._records.void(held)
                await self._refused(error.verdict.message, MOST_REFUSALS)
            self._ready.append(spool)
            return None
        await self._record(held, batch)
        self._llm.batches("created")
        self._spools[held.record.number] = spool
        return held

    async def _record(self, held: Held, batch: Batch) -> None:
        await self._records.step(held, state=CREATED, batch_id=batch.id)

    async def _settle(self, held: Held) -> None:
        """Of a batch that was announced, and may have been created: adopts it, or makes sure that it never will be."""
        record = held.record
        if record.state == UPLOADED:

            def is_it(batch: Batch) -> bool:
                token = (batch.metadata or {}).get("docbatch_token")
                return batch.input_file_id == record.input_file or token == record.token

            async def find() -> Batch | None:
                return await self._call(lambda: self._api.find(is_it, since=record.input_created_at))

            batch = await find()
            if batch is None:
                await self._call(lambda: self._api.delete(record.input_file))
                await self._wait(FENCE_PAUSE)
                batch = await find()
            if batch is not None:
                log.info("partition %d adopts batch %s", record.partition, batch.id)
                self._llm.batches("adopted")
                await self._record(held, batch)
                return
        await self._records.void(held)

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
        self._in_flight = len(covered)
        batch = await self._ended(held)
        self._in_flight = 0
        if record.state == CREATED:
            self._llm.batches(batch.status)
        ended_at = batch.completed_at or batch.expired_at or batch.cancelled_at or batch.failed_at or batch.created_at
        took = max(0.0, float(ended_at - batch.created_at))
        if batch.status == FAILED:
            await self._take_failure(held, batch, covered)
            return
        self._last_took, self._refusals, self._queue_full = took, 0, 0
        words = set(record.in_words)
        for asked in covered.values():
            asked.etag = record.etags.get(str(asked.place), asked.document.etag)
            asked.in_words = asked.place in words
        stop = await self._read(batch, covered, took)
        if held.record.state == CREATED:
            await self._records.step(held, state=READ)
            if stop is not None:
                self._pause_job(stop)

    async def _ended(self, held: Held) -> Batch:
        """The batch at its end. One that would miss the deadline is cancelled, and what it answered by then counts."""
        record = held.record
        pause, cancelled = POLL_FIRST, False
        while True:
            try:
                batch = await self._call(lambda: self._api.retrieve(record.batch_id))
            except BatchApiError as error:
                where = self._active.layout.uri(self._records.key(record))
                self._pause_job(
                    Verdict(
                        Kind.JOB,
                        "batch_missing",
                        f"{error}. If the key or OPENAI_BASE_URL has changed since the batch was created, set them "
                        f"back; if the batch is lost, delete {where} to have its documents asked and paid again",
                    )
                )
            if batch.status not in ("validating", FAILED) and (spool := self._spools.pop(record.number, None)):
                spool.remove()
            if batch.status in ENDED:
                return batch
            if not self._marked:
                self._marked = True
                await self._ledger.mark()
            if not cancelled and self._seconds_left() <= 0:
                log.info("partition %d: batch %s would miss model.batch_deadline", record.partition, record.batch_id)
                await self._call(lambda: self._api.cancel(record.batch_id))
                cancelled = True
            await self._wait(min(pause, POLL_CANCELLED if cancelled else max(0.05, self._seconds_left())))
            pause = min(POLL_MOST, pause * 1.5)

    async def _read(self, batch: Batch, covered: dict[int, Asked], took: float) -> Verdict | None:
        """Takes both files' lines, in any order. Tells why the run has to pause, if a line says so."""
        left = dict(covered)
        stop: Verdict | None = None
        reasks = self._active.file.job.model.reasks
        for number, file_id in enumerate(filter(None, (batch.output_file_id, batch.error_file_id))):
            path = self._folder / f"{batch.id}-{number}"
            if not await self._download(file_id, path):
                continue
            for count, line in enumerate(read_lines(path), 1):
                place = line.custom_id.removeprefix("d")
                asked = left.pop(int(place), None) if place.isdecimal() else None
                if asked is None:
                    continue
                following = asked.take(line, self._active.chat, reasks=reasks, latency=took)
                if line.status is not None:
                    self._active.brakes.succeeded()
                    self._llm.requests(_outcome(line, asked))
                if following is Next.STOP:
                    stop = asked.answer.error
                elif following is Next.ROW:
                    self._end(asked)
                elif line.status == 200 and asked.answer.error is not None:
                    self._llm.reasks()
                if count % 100 == 0:
                    await asyncio.sleep(0)
                    await self._until_durable()
                    self._check()
            path.unlink()
        for asked in left.values() if batch.status != CANCELLED else ():
            error_type = "batch_expired" if batch.status == EXPIRED else "batch_line_failed"
            if asked.fail(error_type, f"batch {batch.id} ({batch.status}) has no line for it") is Next.ROW:
                self._end(asked)
        return stop

    async def _download(self, file_id: str, path: Path) -> bool:
        """Whether the file is there."""
        try:
            await self._call(lambda: self._api.download(file_id, path))
            return True
        except BatchApiError as error:
            if not error.missing:
                raise
            await self._stop_if_committed()
            log.error("partition %d: answers of a batch are gone, and paid again: %s", self._task.partition, error)
            return False

    async def _take_failure(self, held: Held, batch: Batch, covered: dict[int, Asked]) -> None:
        """A batch that failed its validation: nothing was asked, nothing is paid."""
        failure = judge_failure(batch)
        log.info("partition %d: %s", self._task.partition, failure.verdict.message)
        spool = self._spools.pop(held.record.number, None)
        for number, said in failure.lines.items():
            place = held.record.documents[number - 1] if 0 < number <= len(held.record.documents) else -1
            asked = covered.get(place)
            if asked is not None:
                asked.end(Verdict(Kind.DOCUMENT, "bad_request", f"line {number} of its batch: {said}", retryable=True))
                self._end(asked)
        await self._call(lambda: self._api.delete(held.record.input_file))
        await self._records.void(held)
        if failure.verdict.kind is Kind.JOB:
            self._pause_job(failure.verdict)
        if failure.verdict.kind is Kind.TRANSIENT:
            await self._wait_for_room(failure, spool)
        else:
            if spool is not None:
                spool.remove()
            await self._refused(failure.verdict.message, MOST_FAULTY if failure.lines else MOST_REFUSALS)

    async def _refused(self, message: str, most: int) -> None:
        """Counts a batch that was not accepted; one too many pauses the run."""
        self._refusals += 1
        if self._refusals >= most:
            self._pause_job(Verdict(Kind.JOB, "batch_refused", message))
        await self._wait(POLL_FIRST)

    async def _wait_for_room(self, failure: Failure, spool: Spool | None) -> None:
        """Too many tokens are enqueued: waits for batches to end, and cuts what can never fit."""
        self._queue_full += 1
        if spool is not None:
            limit = failure.enqueued_limit
            if limit is None or spool.tokens < limit:
                limit = spool.tokens if self._queue_full >= QUEUE_TRIES and len(spool.places) > 1 else None
                limit = limit and limit // 2 + 1
            if limit is None:
                self._ready.insert(0, spool)
            else:
                self._most_tokens = max(int(limit * TOKENS_SHARE), spool.tokens // MOST_PIECES, 1)
                for each in (spool, *self._ready):
                    each.remove()
                self._ready.clear()
        pause = min(QUEUE_MOST, QUEUE_FIRST * 2.0 ** (self._queue_full - 1))
        await self._wait(max(0.05, min(pause, self._seconds_left())))

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _end(self, asked: Asked, row: Row | None = None) -> None:
        """The document's row stands: by default that of its answer from a batch."""
        del self._open[asked.place]
        self._take(row or super()._judge(asked.document, asked.etag, asked.answer, self._batch_price))

    def _judge(self, document: PlannedDocument, etag: str, answer: Answer, price: Pricer | None = None) -> Row:
        """The row of an answer that came online, with what batches have cost for the document before."""
        asked = self._open.pop(self._places[document.document_id])
        row = super()._judge(document, etag, answer, price)
        before = asked.answer
        spent = self._batch_price(before.prompt_tokens, before.cached_tokens, before.completion_tokens)
        row["cost_usd"] = None if row["cost_usd"] is None or spent is None else row["cost_usd"] + spent
        for name in ("attempts", "prompt_tokens", "cached_tokens", "completion_tokens"):
            row[name] += getattr(before, name)
        return row

    # -- online --------------------------------------------------------------------------------------------------------

    def _seconds_left(self) -> float:
        """Until `model.batch_deadline`, counted from the announcement of the partition's first batch."""
        deadline = self._active.file.job.model.batch_deadline
        if deadline is None or self._began is None:
            return float("inf")
        return self._began + deadline - time.time()

    def _is_too_late(self) -> bool:
        """Whether another batch, which takes as long as the last one, would miss the deadline."""
        return self._seconds_left() <= self._last_took

    async def _ask_online(self) -> None:
        log.info("partition %d asks %d documents online", self._task.partition, len(self._open))
        await super()._ask_all([asked.document for asked in self._open.values()])

    # -- the end -------------------------------------------------------------------------------------------------------

    async def _stop_if_committed(self) -> None:
        """An attempt that comes late finds the files gone: it has nothing more to do."""
        footer = await self._stored()
        if footer is not None and footer.generation >= self._task.generation:
            self.stop_soon()
            raise Stopped

    async def _tidy(self) -> None:
        """After the commit: deletes the partition's files at the provider, ends batches that nobody needs any more.

        What cannot be deleted, OpenAI deletes after 30 days.
        """
        try:
            records = [held for held in await self._records.read() if held.record.generation <= self._task.generation]
            async with asyncio.timeout(TIDY_WITHIN):
                for held in records:
                    await self._tidy_batch(held.record)
            await self._records.forget(records)
        except TimeoutError:
            log.warning("partition %d: files of its batches are left to the provider", self._task.partition)
        except StorageError as error:
            log.warning("records of batches are left for the finisher: %s", error)

    async def _tidy_batch(self, record: BatchRecord) -> None:
        for tries in range(TIDY_TRIES):
            try:
                files = [record.input_file]
                if record.batch_id:
                    batch = await self._api.retrieve(record.batch_id)
                    if batch.status not in ENDED:
                        await self._api.cancel(batch.id)
                    files += [batch.output_file_id or "", batch.error_file_id or ""]
                for file_id in filter(None, files):
                    await self._api.delete(file_id)
                return
            except BatchApiError as error:
                log.info("files of a batch are not deleted: %s", error)
                await asyncio.sleep(backoff(tries + 1, error.retry_after))


def _outcome(line: AnsweredLine, asked: Asked) -> str:
    """Of one call, as the metrics count those made online."""
    if line.status != 200:
        return judge_status(line.status or 0, line.body).error_type
    error = asked.answer.error
    return "ok" if error is None or error.error_type == "invalid_answer" else error.error_type
