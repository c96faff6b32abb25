"""Activity: one partition, documents in, one result file out.

    committed already? -> read plan, subtract ledger -> fetch -> extract text -> render prompt -> permit -> model
    -> validate -> ledger -> result Parquet by one conditional PUT -> a few numbers back

Promises held here: a committed partition is never paid again, an answer is durable about a second after it arrived, two
attempts at once end in one file. What a `kill -9` loses is what was in flight and the last flush.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from temporalio import activity

from batch.corpus.duplicates import reference
from batch.corpus.planning import PlannedDocument
from batch.files import result_file
from batch.files.kept_text import pack, packed
from batch.files.ledger_segment import LedgerName
from batch.files.plan_file import read_documents
from batch.files.reconcile import PARTITION_FAILED
from batch.files.result_file import ERROR, OK, NotOurs, ResultFooter
from batch.files.run_file import RunMissing
from batch.schema.answer_reader import InvalidAnswer
from batch.storage.etags import content_hash, is_hash_of, is_proven, proves
from batch.storage.layout import bucket_and_key
from batch.storage.listing import ObjectEntry
from batch.storage.store import (
    ObjectArchived,
    ObjectMissing,
    PreconditionFailed,
    Storage,
    StorageError,
    StorageRefused,
    StorageUnreachable,
)
from batch.workflows import contracts as c
from batch.workflows.states import Outcome, Reason
from workers.documents.long_documents import Ask, ChunkedQuestion, Combined, chunk_answer, chunk_fields
from workers.documents.reading import (
    ARCHIVED,
    check_key,
    check_pages,
    check_size,
    messages_of,
    planned_text,
    reading,
    row_answered,
    row_unread,
)
from workers.documents.rows import Row, RowMaker, carried, shared
from workers.extract import Extracted, Unreadable
from workers.llm.answer import Answer
from workers.llm.limits.stop import Stop
from workers.llm.prices import Pricer, cost_of
from workers.observe.metrics import Metrics
from workers.partition.earlier_rows import EarlierRows
from workers.partition.heartbeat import Pulse
from workers.partition.ledger import Ledger, Replayed, read_ledger
from workers.partition.planned_reads import hashed, read_planned
from workers.partition.runs import ActiveRun, Runs
from workers.partition.same_texts import SameText, TextClaims
from workers.partition.shared_answers import Content, SharedAnswers, content_of, is_usable, usable

BURST = 32
BURST_BYTES = 2**20
"""Documents, and bytes of them, that are fetched at one go: half the CPU of fetching them one by one (measured)."""
SOURCE_OUTAGE_AFTER, SOURCE_REFUSED_AFTER = 60.0, 5.0
"""Seconds that a document is tried again whose source does not answer, or refuses, before anything is concluded."""

PROCESS = secrets.token_hex(4)
"""Names this process in heartbeats."""
PAYER_HINT = " (of a requester pays bucket: source.requester_pays: true)"

log = logging.getLogger(__name__)


class Stopped(Exception):
    """There may be no more calls."""


class Unchanged(Exception):
    """The job's last run answered this very content: `row` is that answer as a row of this run."""

    def __init__(self, row: Row) -> None:
        super().__init__(row["document_id"])
        self.row = row


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about a document: one request `payload`, or its `chunks`; `etag` of the version that was read.

    `truncated`: whether the payload holds only the beginning; None where the job does not truncate.
    """

    etag: str
    payload: bytes = b""
    chunks: tuple[str, ...] = ()
    truncated: bool | None = None


class Processor:
    """The activity's home: holds what partitions share."""

    def __init__(
        self, storage: Storage, runs: Runs, metrics: Metrics, attempts: Mapping[str, Callable[..., Attempt]]
    ) -> None:
        """`attempts`: what makes an `Attempt`, for each `model.mode`."""
        self._storage, self._runs, self._metrics, self._attempts = storage, runs, metrics, attempts

    @activity.defn(name=c.PROCESS_PARTITION)
    async def process_partition(self, task: c.PartitionInput) -> c.PartitionOutcome:
        """Ends with a commit, a yield (drain, pause, outage) or by giving the partition up."""
        try:
            return await self._process(task)
        except (StorageError, RunMissing) as error:
            # Of `run.json`, or of something of ours that is gone: an outage or a person's affair, never an attempt
            # without progress that would count towards giving the partition up.
            reason = Reason.STORAGE_UNREACHABLE if isinstance(error, StorageUnreachable) else Reason.STORAGE_REFUSED
            log.warning("partition %d yields, %s: %s", task.partition, reason, error)
            return c.PartitionOutcome(
                task.partition, Outcome.YIELDED, reason=reason, message=str(error)[:500], epoch=task.epoch
            )

    async def _process(self, task: c.PartitionInput) -> c.PartitionOutcome:
        started = time.monotonic()
        async with Pulse() as pulse, self._runs.use(task.run, task.epoch) as run:
            make = self._attempts[run.file.job.model.mode]
            attempt = make(task, run, self._storage, self._metrics, pulse)
            work = asyncio.create_task(attempt.run())
            try:
                outcome = await asyncio.shield(work)
            except asyncio.CancelledError:
                details = activity.cancellation_details()
                draining = details is not None and details.worker_shutdown
                if draining:  # the grace period is over: calls in flight end here, answers become durable
                    attempt.cut()
                else:  # cancelled, or another attempt took over: keep what is in flight, make it durable, then say so
                    attempt.stop_soon()
                await asyncio.wait([work])
                if not draining and not (details is not None and details.cancel_requested):
                    raise
                outcome = work.result()
            job_name = run.file.job.name
            self._metrics.partitions.labels(job_name, outcome.outcome).inc()
            self._metrics.partition_seconds.labels(job_name).observe(time.monotonic() - started)
            return outcome


class Attempt:
    """One attempt at one partition."""

    def __init__(
        self, task: c.PartitionInput, run: ActiveRun, storage: Storage, metrics: Metrics, pulse: Pulse
    ) -> None:
        self._task, self._active, self._storage, self._metrics = task, run, storage, metrics
        self._pulse = pulse
        pulse.details = self._beat
        info = activity.info()
        self._name = LedgerName(
            task.run.run_id, run.fingerprint, task.partition, task.generation, task.dispatch, info.attempt
        )
        keep = tuple(run.file.job.source.keep)
        self._maker = RowMaker(task.run.run_id, run.fingerprint, task.generation, task.shard, task.partition, keep)
        self._ledger = Ledger(storage, run.layout, self._name, metrics)
        self._bucket = run.layout.output.bucket
        self._key = run.layout.result(task.shard, task.partition)
        self._rows: dict[str, Row] = {}
        self._earlier = EarlierRows(storage)
        self._hashes: dict[str, str] = {}
        """Of documents that are asked about, in an incremental run: the hash of their content."""
        self._paid_chunks: dict[str, dict[str, Answer]] = {}
        """Of documents without a row: what the ledger holds of their chunks."""
        share_texts = run.file.job.source.duplicates == "text"
        self._claims = TextClaims(storage, run.layout, task.shard, task.partition) if share_texts else None
        self._likes: dict[str, tuple[PlannedDocument, str]] = {}
        """Of documents whose text another one asks about: themselves, with that one's content and place, and the etag
        of their own version that has the text."""
        self._by_themselves: set[str] = set()
        """Documents that are asked about although another one has their content: it has no answer to share."""
        self._origins: dict[str, bool] = {}
        """Of objects, by URI, whose answers others of the same etag share: whether that is the MD5 of their content."""
        self._failed_before: set[str] = set()
        """Documents with an error row of an earlier generation that does not stand."""
        self._total = 0
        self._tally = result_file.Tally(task.run.run_id)
        self._texts: dict[str, str] = {}
        """What a job with `output.keep_text` has extracted and not yet in a row, packed."""
        self._pages: dict[str, dict[str, int | None]] = {}
        """Of documents with pages, read and not yet in a row: the columns that count them."""
        self._stop: Stop | None = None
        self._replaces: str | None = None
        self._settled = 0
        """The generation whose result stands with an answer for every document; 0 if there is none."""
        self._failure: BaseException | None = None
        self._asking: set[asyncio.Task[None]] = set()

    # -- life ----------------------------------------------------------------------------------------------------------

    def stop_soon(self) -> None:
        """No new calls from here on; the attempt yields."""
        self._stop = self._stop or Stop(
            Reason.DRAIN, "the attempt was superseded or cancelled", self._active.brakes.epoch
        )

    def cut(self) -> None:
        """Ends the calls in flight too; what is answered is kept."""
        self.stop_soon()
        for task in self._asking:
            task.cancel()

    def _stopping(self) -> Stop | None:
        if self._stop is None and (self._pulse.superseded() or self._ledger.has_failed()):
            self.stop_soon()
        if self._stop is None and self._ledger.refused is not None:
            self._stop = Stop(Reason.STORAGE_REFUSED, str(self._ledger.refused), self._active.brakes.epoch)
        return self._stop or self._active.brakes.stop()

    def _must_stop(self) -> bool:
        return self._stopping() is not None

    def _abandons(self) -> bool:
        """Whether not even a document whose invalid answers are paid is asked on; a drain has a grace period for it."""
        return self._stopping() is not None and not (self._stop is None and self._active.brakes.only_draining())

    async def run(self) -> c.PartitionOutcome:
        try:
            committed = await self._committed()
            if committed is not None:
                return committed
            replayed = await read_ledger(self._storage, self._active.layout, self._name, self._metrics)
            if self._name.attempt - 1 - replayed.last_attempt >= self._task.max_barren_attempts:
                for document_id, row in replayed.rows.items():
                    if document_id not in self._rows:
                        self._tally.add(row)
                return self._outcome(
                    Outcome.GIVEN_UP, message=f"{self._task.max_barren_attempts} attempts in a row made no progress"
                )
            documents = await self._read_plan()
            self._total = len(documents)
            self._replay(documents, replayed)
            await self._carry(documents)
            todo = [document for document in documents if document.document_id not in self._rows]
            self._ledger.start()
            try:
                await self._ask_all([document for document in todo if not self._may_share(document)])
                await self._share([document for document in todo if document.document_id in self._likes])
                await self._share([document for document in todo if self._may_share(document)])
            finally:
                await self._ledger.close()
            if self._pulse.superseded():
                committed = await self._committed_by_another()
                if committed is not None:
                    return committed
            if len(self._rows) < self._total:
                stop = self._stopping() or Stop(Reason.DRAIN, "stopped", self._active.brakes.epoch)
                return self._outcome(Outcome.YIELDED, stop=stop)
            return await self._commit([self._rows[document.document_id] for document in documents])
        except StorageRefused as error:
            return self._outcome(
                Outcome.YIELDED, stop=Stop(Reason.STORAGE_REFUSED, str(error), self._active.brakes.epoch)
            )
        except StorageUnreachable as error:
            return self._outcome(
                Outcome.YIELDED, stop=Stop(Reason.STORAGE_UNREACHABLE, str(error), self._active.brakes.epoch)
            )

    def _outcome(
        self, outcome: str, *, totals: c.Totals | None = None, stop: Stop | None = None, message: str = ""
    ) -> c.PartitionOutcome:
        return c.PartitionOutcome(
            partition=self._task.partition,
            outcome=outcome,
            totals=totals or c.Totals(),
            reason=stop.reason if stop else "",
            message=(stop.message if stop else message)[:500],
            epoch=stop.epoch if stop else self._active.brakes.epoch,
            answered=c.Totals() if outcome == Outcome.COMMITTED else self._tally.totals(partitions=0),
        )

    # -- what is there already ----------------------------------------------------------------------------------------

    async def _committed(self) -> c.PartitionOutcome | None:
        """A result of this generation stands already: its totals, nothing paid. Else takes over what a rerun keeps."""
        found = await self._storage.get_entry(self._bucket, self._key)
        if found is None:
            self._replaces = None
            return None
        data, entry = found
        try:
            footer = result_file.read_footer(data)
        except NotOurs as error:
            log.warning("replacing %s: %s", self._active.layout.uri(self._key), error)
            self._replaces = entry.etag
            return None
        self._settled = footer.generation if footer.settles else 0
        if footer.generation >= self._task.generation:
            return self._outcome(Outcome.COMMITTED, totals=footer.totals)
        self._replaces = entry.etag
        table, _ = result_file.decode(data)
        for row in table.to_pylist():
            if self._keeps(row):
                self._keep(packed(row))
            elif row["error_type"] != PARTITION_FAILED:  # such a one was never asked about
                self._failed_before.add(row["document_id"])
        return None

    def _keeps(self, row: Row) -> bool:
        """Whether a row of an earlier generation stands in this one."""
        request = self._task.rerun
        if row["status"] != ERROR:
            return True
        return not (row["retryable"] or (request is not None and request.all_errors))

    async def _read_plan(self) -> list[PlannedDocument]:
        task = self._task
        return await asyncio.to_thread(read_documents, self._storage, self._active.layout, task.shard, task.row_group)

    def _replay(self, documents: list[PlannedDocument], replayed: Replayed) -> None:
        """Takes over those answers of the ledger that are of the planned documents' versions."""
        planned = {document.document_id: document for document in documents}
        count = 0
        for document_id, row in replayed.rows.items():
            document = planned.get(document_id)
            if document is None or document_id in self._rows:
                continue
            now = row["generation"] == self._task.generation
            same = row["etag"] == document.etag or not document.etag or row["generation"] > 1
            if (now or self._keeps(row)) and same:
                restored = self._restore(row)
                if restored is not None:
                    self._keep(restored)
                    count += 1
        self._metrics.ledger_replayed.inc(count)
        self._paid_chunks = {
            document_id: {key: chunk_answer(row) for key, row in chunks.items()}
            for document_id, chunks in replayed.chunks.items()
            if document_id in planned and document_id not in self._rows
        }

    async def _carry(self, documents: list[PlannedDocument]) -> None:
        """Copies the rows of documents that did not change from the result files of the job's last run.

        A file that is gone, or lacks a row, costs nothing but the question.
        """
        for document in documents:
            if document.document_id not in self._rows:
                row = await self._earlier.unchanged(document, self._active.fingerprint)
                if row is not None and self._keeps(row):
                    self._keep(carried(row, self._maker, document))

    async def _check_unchanged(self, document: PlannedDocument, data: bytes, etag: str) -> None:
        """Raises `Unchanged` for a document whose content is the same, whatever its etag; `Stopped`.

        `etag`: of the version that was read, which its row has.
        """
        found = self._hashes[document.document_id] = await hashed(content_hash, data, data, etag)
        if document.previous is not None and await hashed(is_hash_of, data, document.content_hash, data):
            try:
                row = await self._earlier.answered(document, self._active.fingerprint)
            except StorageError as error:
                reason = Reason.STORAGE_REFUSED if isinstance(error, StorageRefused) else Reason.STORAGE_UNREACHABLE
                self._stop = self._stop or Stop(reason, str(error), self._active.brakes.epoch)
                raise Stopped from None
            same = row is not None and await hashed(is_hash_of, data, row["content_hash"], data)
            if row is not None and same and self._keeps(row):
                raise Unchanged(carried({**row, "content_hash": found}, self._maker, document))

    def _restore(self, row: Row) -> Row | None:
        """A ledger row with its typed result, which is read from the answer's text anew."""
        reader = self._active.chat.reader
        if reader is not None and row["status"] == OK:
            try:
                row["result"] = reader.read(row["output_text"])
            except InvalidAnswer:
                return None
        row["processed_at"] = datetime.fromisoformat(row["processed_at"])
        return row

    # -- the documents -------------------------------------------------------------------------------------------------

    async def _ask_all(self, todo: list[PlannedDocument]) -> None:
        """A task a document, as many at once as the run has room for in this process, the first partition's first."""
        room = self._active.room
        tasks = self._asking
        limit = self._active.file.job.source.max_document_bytes
        try:
            for group in groups(todo, limit):
                sizes = [min(document.size, limit) for document in group]
                turn = self._task.partition + 1 if self._ledger.has_answers else 0
                if not await room.enter(sum(sizes), len(group), turn=turn, stopped=self._must_stop):
                    break
                if self._stopping():
                    room.leave(sum(sizes), len(group))
                    break
                burst = asyncio.ensure_future(self._burst(group))
                for index, (document, size) in enumerate(zip(group, sizes, strict=True)):
                    task = asyncio.create_task(self._one(document, size, burst, index))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                    task.add_done_callback(self._note_failure)
        finally:
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._failure is not None:
            raise self._failure

    # -- documents of the same content --------------------------------------------------------------------------------

    def _may_share(self, document: PlannedDocument) -> bool:
        return document.same_as is not None and not self._asks_itself(document)

    def _asks_itself(self, document: PlannedDocument) -> bool:
        """One that failed, in a rerun, or for whose content nobody has an answer."""
        return document.document_id in self._failed_before or document.document_id in self._by_themselves

    def _like(self, document: PlannedDocument) -> PlannedDocument:
        """The document as the one whose answer it shares."""
        return self._likes.get(document.document_id, (document, ""))[0]

    def _content(self, document: PlannedDocument) -> Content:
        """By which the row that it shares is found."""
        like = self._like(document)
        return content_of(like.etag, like.uri)

    async def _share(self, documents: list[PlannedDocument]) -> None:
        """Rows with the answers of other documents of the same content; asks about those for which there is none."""
        documents = await self._ask_unproven(documents)
        if not documents or self._stopping():
            return
        elsewhere = await self._share_here(documents)
        if not elsewhere or self._stopping():
            return
        answers = SharedAnswers(self._storage, self._active.layout, self._name)
        here = reference(self._task.shard, self._task.partition)
        found = await answers.find(
            [like for like in map(self._like, elsewhere) if like.same_as != here], self._must_stop, self._ledger.mark
        )
        if found.too_early:
            message = "documents share answers of partitions that are not committed yet"
            self._stop = self._stopping() or Stop(Reason.AWAITS_ANSWERS, message, self._active.brakes.epoch)
            return
        left = []
        for document in elsewhere:
            row = found.rows.get(document.document_id)
            if row is not None and isinstance(row["processed_at"], str):  # of a ledger
                row = self._restore(dict(row))
            if row is not None and await self._is_answer_to(row, document):
                self._keep_shared(row, document)
            else:
                left.append(document)
        await self._ask_in_place_of_others(left)

    async def _ask_unproven(self, documents: list[PlannedDocument]) -> list[PlannedDocument]:
        """Those of whose etags it is known that they are of their content. Asks about the others.

        An etag that another document has too proves nothing: a store may give one to all. It is proof if it is the MD5
        of the bytes, so they are read. A row's is the hash of the row; that of a text was found so when it was read.
        """
        limit = self._active.file.job.source.max_document_bytes
        proven: set[str] = set()
        unread: list[PlannedDocument] = []
        for document in documents:
            if document.is_planned or document.document_id in self._likes:
                proven.add(document.document_id)
            else:
                unread.append(document)
        for group in groups(unread, limit):
            sizes = sum(min(document.size, limit) for document in group)
            if not await self._active.room.enter(sizes, len(group), turn=0, stopped=self._must_stop):
                break
            try:
                found = await self._burst(group)
                for document, data in zip(group, found, strict=True):
                    with suppress(Unreadable, Stopped):
                        whole = data if isinstance(data, bytes) else (await self._fetch(document))[0]
                        if await hashed(proves, whole, document.etag, whole):
                            proven.add(document.document_id)
            finally:
                self._active.room.leave(sizes, len(group))
        if self._stopping():
            return []
        others = [document for document in documents if document.document_id not in proven]
        self._by_themselves.update(document.document_id for document in others)
        await self._ask_all(others)
        return [document for document in documents if document.document_id in proven]

    async def _is_answer_to(self, row: Row, document: PlannedDocument) -> bool:
        """Whether a row is the answer to the content of a document, of whose own etag it is known that it is its MD5.

        A store may have given that etag to the other object too, whatever is in it: AWS does not; elsewhere the other
        one is read once more. What that one shared itself was looked at then.
        """
        known = document.is_planned or document.document_id in self._likes or row.get("same_as") is not None
        if known or is_proven(row["etag"], row.get("content_hash")):
            return True
        uri = row["uri"]
        if uri not in self._origins:
            other = PlannedDocument(row["document_id"], uri, row["etag"], document.size)
            try:
                if await self._storage.etags_are_versions(bucket_and_key(uri)[0]):
                    self._origins[uri] = True
                else:
                    data, _ = await self._fetch(other)
                    self._origins[uri] = await hashed(proves, data, other.etag, data)
            except Unreadable:
                self._origins[uri] = False
            except Stopped:
                return False
        return self._origins[uri]

    async def _share_here(self, documents: Iterable[PlannedDocument]) -> list[PlannedDocument]:
        """Makes the rows of those whose answer is among this partition's own; gives the others."""
        here = usable(self._rows.values())
        left = []
        for document in documents:
            row = here.get(self._content(document))
            if row is not None and await self._is_answer_to(row, document):
                self._keep_shared(row, document)
            else:
                left.append(document)
        return left

    async def _ask_in_place_of_others(self, documents: list[PlannedDocument]) -> None:
        """Of documents whose answer nobody has: asks about the first of each content, and shares its answer."""
        self._by_themselves.update(document.document_id for document in documents)
        firsts = {self._content(document): document for document in reversed(documents)}
        await self._ask_all([*firsts.values()])
        left = []
        for document in documents:
            if document.document_id in self._rows:
                continue
            first = self._rows.get(firsts[self._content(document)].document_id)
            if first is not None and is_usable(first) and self._is_of(first, document):
                self._keep_shared(first, document)
            else:
                left.append(document)
        await self._ask_all(left)

    def _is_of(self, row: Row, document: PlannedDocument) -> bool:
        """Whether the row is of the content that the document shares, and not of a version that came after it."""
        if row["document_id"] in self._likes:
            return bool(row["etag"] == self._likes[row["document_id"]][1])
        return content_of(row["etag"], row["uri"]) == self._content(document)

    def _keep_shared(self, row: Row, document: PlannedDocument) -> None:
        """Another document's answer as this one's row.

        One of the same bytes is not in the ledger: another attempt finds it again, unpaid. One of the same text is, as
        others of its bytes may wait for it: they would wait for each other's commits.
        """
        made = shared(row, self._maker, document)
        if document.document_id in self._likes:
            made["etag"] = self._likes[document.document_id][1]
            made |= self._pages.pop(document.document_id, Extracted("").counts)
            if self._active.file.job.incremental:
                made["content_hash"] = self._hashes.pop(document.document_id, None)
            self._record(made)
        self._keep(made)

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        """A mistake of ours in one document's task ends the attempt, after the others' answers are kept."""
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
            self.stop_soon()

    async def _burst(self, group: list[PlannedDocument]) -> list[bytes | ObjectArchived | None]:
        """The group's objects as planned; None for each that `_fetch` has to look at by itself."""
        data_of: list[bytes | ObjectArchived | None] = [None] * len(group)
        places = [place for place, document in enumerate(group) if not document.is_planned and document.etag]
        if len(places) < 2 or self._task.generation != 1:
            return data_of
        bucket, _ = bucket_and_key(group[0].uri)
        if self._storage.facts(bucket).other_etags or self._storage.facts(bucket).plain_reads:
            return data_of
        planned = [group[place] for place in places]
        wanted = [ObjectEntry(bucket_and_key(each.uri)[1], each.size, each.etag) for each in planned]
        found = await self._storage.get_many(bucket, wanted, max_bytes=self._active.file.job.source.max_document_bytes)
        for entry, data in zip(wanted, found, strict=True):
            if data is not None:
                self._active.reads.note(bucket, entry.key)
                break
        for place, data in zip(places, found, strict=True):
            data_of[place] = data
        return data_of

    async def _one(
        self,
        document: PlannedDocument,
        size: int,
        burst: asyncio.Future[list[bytes | ObjectArchived | None]],
        index: int,
    ) -> None:
        active = self._active
        try:
            try:
                question = await self._prepare(document, (await burst)[index])
            except Unreadable as error:
                self._take(row_unread(self._row(document, document.etag, Answer(None, None)), error))
                return
            except Unchanged as same:
                self._keep(same.row)
                return
            except SameText as same:
                self._likes[document.document_id] = same.like, same.etag
                return
            ask = partial(
                active.chat.ask,
                stopped=self._must_stop,
                abandoned=self._abandons,
                held=self._is_held,
                about=document.uri,
            )
            if question.chunks:
                found = await self._ask_chunks(document, question.chunks, ask)
                if found is not None:
                    self._take(self._row_of_chunks(document, question.etag, found))
                return
            answer = await ask(question.payload)
            if answer is not None:
                self._take(marked(self._judge(document, question.etag, answer), question.truncated))
        except Stopped:
            return
        finally:
            active.room.leave(size)

    def _is_held(self) -> bool:
        """Holds intake while answers wait too long to become durable: S3 is slow or away."""
        return not self._ledger.is_ready()

    async def _ask_chunks(self, document: PlannedDocument, chunks: tuple[str, ...], ask: Ask) -> Combined | None:
        """One answer from those to a document's chunks, each durable and paid once as an answer to a document is."""
        active = self._active

        def note(key: str, answer: Answer) -> None:
            self._ledger.add_chunk(document.document_id, key, chunk_fields(answer))

        question = ChunkedQuestion(
            document,
            chunks,
            active.long,
            active.prompt,
            active.dates,
            active.chat,
            active.price,
            ask,
            known=self._paid_chunks.pop(document.document_id, {}),
            note=note,
        )
        return await question.answer()

    def _row_of_chunks(self, document: PlannedDocument, etag: str, found: Combined) -> Row:
        row = row_answered(self._made(document, etag, found.answer, found.cost_usd), found.answer)
        return {**row, "chunks": found.chunks}

    async def _prepare(self, document: PlannedDocument, found: bytes | ObjectArchived | None) -> Question:
        """What to ask about the document. Raises `Unreadable`, `Unchanged`, `SameText`, `Stopped`."""
        etag, text = document.etag, planned_text(document)
        if text is None:
            check_key(document)
            if isinstance(found, ObjectArchived):
                raise Unreadable(ARCHIVED, str(found))
            data, etag = (found, document.etag) if found is not None else await self._fetch(document)
            if self._active.file.job.incremental:
                await self._check_unchanged(document, data, etag)
            source = self._active.file.job.source
            extracted = await self._active.extractors.text_of(document.uri, data, html=source.html)
            if extracted.pages is not None:
                self._pages[document.document_id] = extracted.counts
            check_pages(extracted, source.min_text_pages)
            text = extracted.text
        active = self._active
        shares = self._claims is not None and not self._asks_itself(document)
        if self._claims is not None and shares and (document.is_planned or await hashed(proves, data, etag, data)):
            await self._claims.claim(document, etag, text)
        if active.file.job.output.keep_text:
            self._texts[document.document_id] = await asyncio.to_thread(pack, text)
        shown = await active.long.shown(text)
        if shown.chunks:
            return Question(etag, chunks=shown.chunks)
        payload = active.chat.payload(messages_of(active.prompt, active.dates, document, shown.text))
        return Question(etag, payload, truncated=shown.truncated)

    async def _fetch(self, document: PlannedDocument) -> tuple[bytes, str]:
        """The planned version of the object; in a rerun, or where the plan has none, the current one.

        An unreachable source never makes a row.
        """
        active = self._active
        bucket, key = bucket_and_key(document.uri)
        limit = active.file.job.source.max_document_bytes
        check_size(document, limit)
        failing_since: float | None = None
        pause = 0.5
        while True:
            if self._stopping():
                raise Stopped
            try:
                with reading(document):
                    if self._task.generation == 1:
                        read = await read_planned(self._storage, document, limit=limit)
                        active.reads.note(bucket, key)
                        return read
                    found = await self._storage.get_entry(bucket, key, max_bytes=limit)
                if found is None:
                    raise Unreadable("source_gone", f"{document.uri} is gone")
                active.reads.note(bucket, key)
                return found[0], found[1].etag
            except StorageError as error:
                failing_since = failing_since or time.monotonic()
                refused = isinstance(error, StorageRefused)
                patience = SOURCE_REFUSED_AFTER if refused else SOURCE_OUTAGE_AFTER
                if time.monotonic() - failing_since > patience:
                    if await active.reads.others_work(self._storage, failing_since):
                        raise Unreadable(
                            Reason.SOURCE_REFUSED if refused else "source_unreachable", str(error)
                        ) from None
                    reason = Reason.SOURCE_REFUSED if refused else Reason.STORAGE_UNREACHABLE
                    hint = PAYER_HINT if refused and not active.file.job.source.requester_pays else ""
                    self._stop = self._stop or Stop(reason, f"{str(error)[:400]}{hint}", active.brakes.epoch)
                    raise Stopped from None
                await active.brakes.wait_stopped(pause)
                pause = min(pause * 2, 5.0)

    def _take(self, row: Row) -> None:
        """An answered document."""
        self._keep(row)
        self._record(row)
        self._active.brakes.document(row["error_type"])
        self._metrics.answers(self._active.file.job.name, row["error_type"] or OK)

    def _record(self, row: Row) -> None:
        """Into the ledger without its typed result, which is read anew on replay."""
        self._ledger.add({name: value for name, value in row.items() if name != "result"})

    def _keep(self, row: Row) -> None:
        self._rows[row["document_id"]] = row
        self._tally.add(row)

    def _beat(self) -> c.Beat:
        waited_for = self._active.lane.in_flight + self._active.in_batches
        return c.Beat(self._task.partition, self._total, self._tally.totals(partitions=0), PROCESS, waited_for)

    def _row(self, document: PlannedDocument, etag: str, answer: Answer, price: Pricer | None = None) -> Row:
        """An ok row; `price`: another than that of online answers."""
        price = price or self._active.price
        return self._made(document, etag, answer, cost_of(answer, price))

    def _made(self, document: PlannedDocument, etag: str, answer: Answer, cost_usd: float | None) -> Row:
        row = self._maker.row(document, etag, answer, cost_usd) | self._pages.pop(document.document_id, {})
        if self._active.file.job.incremental:
            row["content_hash"] = self._hashes.pop(document.document_id, None)
        if self._active.file.job.output.keep_text:
            row["text"] = self._texts.pop(document.document_id, None)
        return row

    def _judge(self, document: PlannedDocument, etag: str, answer: Answer, price: Pricer | None = None) -> Row:
        return row_answered(self._row(document, etag, answer, price), answer)

    # -- the commit ----------------------------------------------------------------------------------------------------

    async def _commit(self, rows: list[Row]) -> c.PartitionOutcome:
        """One conditional PUT. Whoever lost it, or does not know, believes what the stored file says."""
        task = self._task
        footer = ResultFooter(
            task.run.run_id,
            task.shard,
            task.partition,
            task.generation,
            self._ledger.token,
            result_file.totals_of(rows, task.run.run_id),
        )
        data = await result_file.encode_in_thread(rows, self._active.file.schema, footer)
        pause = 0.2
        while True:
            try:
                if self._replaces is None:
                    await self._storage.create(self._bucket, self._key, data)
                else:
                    await self._storage.replace(self._bucket, self._key, data, etag=self._replaces)
                break
            except (PreconditionFailed, ObjectMissing, StorageUnreachable) as error:
                log.info("commit of partition %d undecided, reading what stands: %s", task.partition, error)
            with suppress(StorageUnreachable):
                stored = await self._stored()
                if stored is not None and stored.generation >= task.generation:
                    if stored.token != footer.token:
                        return self._outcome(Outcome.COMMITTED, totals=stored.totals)
                    break
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)
        self._count(rows, footer.totals)
        return self._outcome(Outcome.COMMITTED, totals=footer.totals)

    async def _stored(self) -> ResultFooter | None:
        """The footer of what stands at the result's key; notes its etag, which the next try has to replace."""
        found = await self._storage.get_entry(self._bucket, self._key)
        self._replaces = found[1].etag if found else None
        if found is None:
            return None
        try:
            return result_file.read_footer(found[0])
        except NotOurs:
            return None

    async def _committed_by_another(self) -> c.PartitionOutcome | None:
        """Of an attempt that comes late: the result that stands, if any. Nobody will clean up after it once more."""
        footer = await self._stored()
        if footer is None or footer.generation < self._task.generation:
            return None
        if footer.settles:  # it holds all rows
            await self._storage.delete(self._bucket, self._ledger.keys())
        return self._outcome(Outcome.COMMITTED, totals=footer.totals)

    def _count(self, rows: list[Row], totals: c.Totals) -> None:
        """Metrics of documents count commits, of this generation's rows only."""
        job = self._active.file.job
        fresh = result_file.totals_of(
            (row for row in rows if row["generation"] == self._task.generation), self._task.run.run_id
        )
        for status, count in ((OK, fresh.ok), (ERROR, fresh.errors)):
            self._metrics.documents.labels(job.name, status).inc(count)
        self._metrics.cost.labels(job.name, job.model.name).inc(fresh.cost_usd)


def marked(row: Row, truncated: bool | None) -> Row:
    """The row of a document that was sent; `truncated`: whether only its beginning was, None where no job does so."""
    return row if truncated is None else {**row, "truncated": truncated}


def groups(documents: list[PlannedDocument], limit: int) -> list[list[PlannedDocument]]:
    """Neighbours that are fetched together: at most BURST, and at most BURST_BYTES unless it is one alone."""
    groups: list[list[PlannedDocument]] = []
    size = 0
    for document in documents:
        own = min(document.size, limit)
        if not groups or len(groups[-1]) == BURST or size + own > BURST_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(document)
        size += own
    return groups
