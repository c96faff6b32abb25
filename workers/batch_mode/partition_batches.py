"""The batches of one partition at the provider: created once, found again, followed to their end, tidied up.

A batch is paid whether or not somebody comes for it, so its id must not be lost and it must not be created twice. Each
is announced in S3 first, under a token that its metadata carry, then its input file's id is recorded, then it is
created, then its own id is recorded. Whoever finds a record that stopped short of that looks for the batch by token; if
there is none, it deletes the input file, by which a creation that is still under way fails, looks once more, and only
then starts anew.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import IO, NoReturn, TypeVar

from openai.types import Batch

from batch.schema.error_types import ErrorType
from batch.storage.store import StorageError
from workers.batch_mode.api import ENDED, FAILED, BatchApi, BatchApiError, InputFile
from workers.batch_mode.batch_records import (
    CREATED,
    INTENDED,
    READ,
    UPLOADED,
    BatchRecord,
    BatchRecords,
    Held,
    metadata_of,
)
from workers.batch_mode.spool import Spool
from workers.llm.answers.errors import Kind, Verdict
from workers.llm.chat import backoff
from workers.llm.limits.stop import Brakes
from workers.llm.limits.waiting import sleep_unless
from workers.observe.metrics import LlmMetrics
from workers.partition.attempt_stop import Stopped

POLL_FIRST, POLL_MOST = 1.0, 60.0
"""Seconds between two looks at a batch: from the first on half as long again each time, with jitter."""
POLL_CANCELLED = 5.0
FENCE_PAUSE = 3.0
"""Seconds between the deletion of an input file and the last look for a batch made of it."""
MOST_REFUSALS, MOST_FAULTY = 2, 10
"""Batches in a row that are refused, for no reason given and for lines at fault, before the run pauses."""
PROCESSED_FIRST, PROCESSED_WITHIN = 1.0, 3600.0
"""Seconds until the first look at an input file that is not processed yet, and until that is an error."""
TIDY_TRIES, TIDY_WITHIN = 3, 30.0
"""Tries for each batch, and seconds for all, to delete the files of a committed partition."""

T = TypeVar("T")
log = logging.getLogger(__name__)


class PartitionBatches:
    """One attempt's hold on them.

    All but `tidy` raises `Stopped` once there may be no more calls, and `TakenOver`
    (`workers.batch_mode.batch_records`) where another attempt works on the same batch.
    """

    def __init__(
        self,
        api: BatchApi,
        records: BatchRecords,
        *,
        run_id: str,
        partition: int,
        generation: int,
        brakes: Brakes,
        is_stopping: Callable[[], bool],
        metrics: LlmMetrics,
    ) -> None:
        self.began: float | None = None
        """When the first batch of this generation was announced; Unix seconds."""
        self._api, self._records = api, records
        self._run_id, self._partition, self._generation = run_id, partition, generation
        self._brakes, self._is_stopping, self._metrics = brakes, is_stopping, metrics
        self._number = 0
        self._refusals = 0
        self._unaccepted: dict[int, Spool] = {}
        """Input files of batches that the provider has not accepted yet, by the batch's number."""

    # -- calls ---------------------------------------------------------------------------------------------------------

    async def call(self, call: Callable[[], Awaitable[T]], *, once: bool = False) -> T:
        """The result. Repeats what may pass, but with `once` nothing of unknown outcome.

        Raises `BatchApiError` for what the caller has to judge: something missing, or a request that is not accepted.
        """
        calls = 0
        while True:
            self.check()
            try:
                result = await call()
            except BatchApiError as error:
                verdict = error.verdict
                if error.missing or verdict.kind is Kind.DOCUMENT or (once and error.unknown):
                    raise
                if verdict.kind is Kind.JOB:
                    self.pause_run(verdict)
                if self._brakes.transient() and verdict.error_type != ErrorType.RATE_LIMITED:
                    self._brakes.outage(verdict.message)
                calls += 1
                log.info("partition %d, trying again: %s", self._partition, error)
                await sleep_unless(self._is_stopping, backoff(calls, error.retry_after))
            else:
                self._brakes.succeeded()
                return result

    def check(self) -> None:
        if self._is_stopping():
            raise Stopped

    async def wait(self, seconds: float) -> None:
        """Sleeps, with jitter."""
        if await sleep_unless(self._is_stopping, seconds * random.uniform(0.8, 1.2)):
            raise Stopped

    def pause_run(self, verdict: Verdict) -> NoReturn:
        """No call can succeed until somebody acts."""
        self._brakes.stop_job(verdict)
        raise Stopped

    async def refused(self, message: str, *, faulty_lines: bool = False) -> None:
        """Counts a batch that was not accepted; one too many in a row pauses the run."""
        self._refusals += 1
        if self._refusals >= (MOST_FAULTY if faulty_lines else MOST_REFUSALS):
            self.pause_run(Verdict(Kind.JOB, ErrorType.BATCH_REFUSED, message))
        await self.wait(POLL_FIRST)

    # -- creation ------------------------------------------------------------------------------------------------------

    async def adopt(self, *, after: int) -> list[Held]:
        """The batches that there are, of later generations than `after`; what was begun of others is settled."""
        found = await self._records.read()
        own = [held.record for held in found if held.record.generation == self._generation]
        self._number = max((record.number for record in own), default=0)
        self.began = min((record.created_at for record in own), default=None)
        found = [held for held in found if held.record.generation > after]
        for held in found:
            if held.record.state in (INTENDED, UPLOADED):
                await self._settle(held)
        return [held for held in found if held.record.state in (CREATED, READ)]

    async def create(self, spool: Spool) -> Held | None:
        """One batch, announced before and recorded after; None if it was not accepted, and may be another time."""
        self._number += 1
        record = BatchRecord(
            partition=self._partition,
            generation=self._generation,
            number=self._number,
            token="",
            created_at=time.time(),
            documents=spool.places,
            etags=spool.etags,
            in_words=spool.in_words,
            truncated=spool.truncated,
            pages=spool.pages,
        )
        held = await self._records.announce(record)
        self.began = self.began or record.created_at
        name = f"{self._run_id}-p{record.partition:08d}-g{record.generation}-{record.number:04d}.jsonl"
        try:
            file = await self.call(lambda: self._api.upload(spool.file, name))
            await self._records.step(held, state=UPLOADED, input_file=file.id, input_created_at=file.created_at)
            metadata = metadata_of(self._run_id, held.record)
            batch = await self._made_of(file, metadata)
        except BatchApiError as error:
            if not (error.unknown and held.record.state == UPLOADED):
                await self.discard(held)
                await self.refused(error.verdict.message)
                return None
            await self._settle(held)
            if held.record.state != CREATED:
                await self.wait(backoff(1, error.retry_after))
                return None
        else:
            await self._records.step(held, state=CREATED, batch_id=batch.id)
            self._metrics.batches("created")
        self._unaccepted[held.record.number] = spool
        return held

    async def _made_of(self, file: InputFile, metadata: dict[str, str]) -> Batch:
        """A batch of an uploaded file, once the provider has looked through it. Raises `BatchApiError`."""
        deadline = time.monotonic() + PROCESSED_WITHIN
        pending, pause = file.pending, PROCESSED_FIRST
        while True:
            while pending and time.monotonic() < deadline:
                await self.wait(pause)
                pause = min(POLL_MOST, pause * 1.5)
                pending = await self.call(lambda: self._api.is_pending(file.id))
            try:
                return await self.call(lambda: self._api.create(file.id, metadata), once=True)
            except BatchApiError as error:
                if not error.unprocessed or time.monotonic() >= deadline:
                    raise
                log.info("partition %d, waiting for its input file: %s", self._partition, error)
                pending = True

    async def _settle(self, held: Held) -> None:
        """Of a batch that was announced, and may have been created: adopts it, or makes sure that it never will be."""
        record = held.record
        if record.state == UPLOADED:

            def is_it(batch: Batch) -> bool:
                token = (batch.metadata or {}).get("docbatch_token")
                return batch.input_file_id == record.input_file or token == record.token

            async def find() -> Batch | None:
                return await self.call(lambda: self._api.find(is_it, since=record.input_created_at))

            batch = await find()
            if batch is None:
                await self.call(lambda: self._api.delete(record.input_file))
                await self.wait(FENCE_PAUSE)
                batch = await find()
            if batch is not None:
                log.info("partition %d adopts batch %s", record.partition, batch.id)
                await self._records.step(held, state=CREATED, batch_id=batch.id)
                self._metrics.batches("adopted")
                return
        await self._records.void(held)

    async def discard(self, held: Held) -> None:
        """Of a batch that answered nothing and never will: its documents are asked anew."""
        if held.record.input_file:
            await self.call(lambda: self._api.delete(held.record.input_file))
        await self._records.void(held)

    # -- a batch -------------------------------------------------------------------------------------------------------

    async def ended(
        self, held: Held, *, seconds_left: Callable[[], float], going: Callable[[], Awaitable[None]]
    ) -> Batch:
        """The batch at its end; `going` is called while it is not there.

        One that is not there after `seconds_left` is cancelled: what it answered by then counts.
        """
        record = held.record
        pause, cancelled = POLL_FIRST, False
        while True:
            try:
                batch = await self.call(lambda: self._api.retrieve(record.batch_id))
            except BatchApiError as error:
                self.pause_run(Verdict(Kind.JOB, ErrorType.BATCH_MISSING, self._about_missing(record, error)))
            if batch.status not in ("validating", FAILED):
                self._refusals = 0
                if (spool := self._unaccepted.pop(record.number, None)) is not None:
                    spool.remove()
            if batch.status in ENDED:
                if record.state == CREATED:
                    self._metrics.batches(batch.status)
                return batch
            await going()
            if not cancelled and seconds_left() <= 0:
                log.info("partition %d: batch %s would miss model.batch_deadline", record.partition, record.batch_id)
                await self.call(lambda: self._api.cancel(record.batch_id))
                cancelled = True
            await self.wait(min(pause, POLL_CANCELLED if cancelled else max(0.05, seconds_left())))
            pause = min(POLL_MOST, pause * 1.5)

    def _about_missing(self, record: BatchRecord, error: BatchApiError) -> str:
        return (
            f"{error}. If the key or OPENAI_BASE_URL has changed since the batch was created, set them back; if the "
            f"batch is lost, delete {self._records.uri(record)} to have its documents asked, and paid, again"
        )

    def reclaim(self, held: Held) -> Spool | None:
        """The input file of a batch that was not accepted, if this attempt wrote it."""
        return self._unaccepted.pop(held.record.number, None)

    async def download(self, file_id: str, file: IO[bytes]) -> bool:
        """Whether the file is there."""
        try:
            await self.call(lambda: self._api.download(file_id, file))
        except BatchApiError as error:
            if not error.missing:
                raise
            return False
        return True

    async def note_read(self, held: Held) -> None:
        """Notes that all that the batch brought was taken once."""
        if held.record.state != READ:
            await self._records.step(held, state=READ)

    # -- the end -------------------------------------------------------------------------------------------------------

    async def tidy(self) -> None:
        """After the commit: deletes the partition's files at the provider, ends batches that nobody needs any more.

        What cannot be deleted, OpenAI deletes after 30 days.
        """
        try:
            records = [held for held in await self._records.read() if held.record.generation <= self._generation]
            async with asyncio.timeout(TIDY_WITHIN):
                for held in records:
                    await self._tidy_batch(held.record)
            await self._records.forget(records)
        except TimeoutError:
            log.warning("partition %d: files of its batches are left to the provider", self._partition)
        except StorageError as error:
            log.warning("partition %d: records of its batches are left to the finisher: %s", self._partition, error)

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
