"""One attempt at one partition, documents in, one result file out.

    committed already? -> replay the ledger -> carry what did not change -> ask -> share -> commit

Promises held here: a committed partition is never paid again, an answer is durable about a second after it arrived, two
attempts at once end in one file. What a `kill -9` loses is what was in flight and the last flush.
"""

from __future__ import annotations

import asyncio
import secrets

from batch.corpus.planning import PlannedDocument
from batch.files import result_file
from batch.files.ledger_segment import LedgerName
from batch.files.plan_file import read_documents
from batch.files.result_file import ERROR, OK
from batch.schema.error_types import ErrorType
from batch.storage.store import Storage, StorageRefused, StorageUnreachable
from batch.workflows import contracts as c
from batch.workflows.states import Outcome, Reason
from workers.documents.rows import Row
from workers.llm.limits.stop import Stop
from workers.observe.metrics import Metrics
from workers.partition.answered import Answered
from workers.partition.asker import AskerMaker, Work
from workers.partition.attempt_stop import AttemptStop, reason_of
from workers.partition.heartbeat import Pulse
from workers.partition.ledger import Ledger, Replayed, read_ledger
from workers.partition.reader import DocumentReader
from workers.partition.result import PartitionResult
from workers.partition.runs import ActiveRun
from workers.partition.sharing import Sharing

PROCESS = secrets.token_hex(4)
"""Names this process in heartbeats."""


class Attempt:
    """One attempt at one partition. Its parts hold no reference to it: it is freed when it ends."""

    def __init__(
        self,
        task: c.PartitionInput,
        number: int,
        run: ActiveRun,
        *,
        storage: Storage,
        metrics: Metrics,
        pulse: Pulse,
        asker: AskerMaker,
    ) -> None:
        """`number`: of the activity's attempts, from 1; `asker` makes what asks about its documents."""
        self._task, self._run, self._storage, self._metrics = task, run, storage, metrics
        pulse.details = self._beat
        name = LedgerName(task.run.run_id, run.fingerprint, task.partition, task.generation, task.dispatch, number)
        self._name = name
        self._ledger = Ledger(storage, run.layout, name, metrics)
        self._stop = stop = AttemptStop(run.brakes, pulse, self._ledger)
        self._answered = answered = Answered(task, run, self._ledger, metrics)
        self._reader = reader = DocumentReader(storage, run, task, stop, answered)
        self._result = PartitionResult(storage, run, task, self._ledger.token)
        work = Work(task, run, storage, metrics, name, self._ledger, stop, answered, reader, self._result)
        self._asker = asker(work)
        self._sharing = Sharing(work, self._asker)
        self._total = 0

    def stop_soon(self) -> None:
        """No new calls from here on; the attempt yields."""
        self._stop.soon()

    def cut(self) -> None:
        """Ends the calls in flight too; what is answered is kept."""
        self.stop_soon()
        self._asker.cut()

    async def run(self) -> c.PartitionOutcome:
        """Ends with a commit, this attempt's or another's, a yield, or by giving the partition up."""
        try:
            outcome = await self._committed() or await self._work()
        except (StorageRefused, StorageUnreachable) as error:
            return self._outcome(Outcome.YIELDED, stop=self._stop.of(reason_of(error), str(error)))
        if outcome.outcome == Outcome.COMMITTED and not outcome.totals.partitions_failed:
            await self._asker.tidy()
        return outcome

    async def _work(self) -> c.PartitionOutcome:
        replayed = await read_ledger(self._storage, self._run.layout, self._name, self._metrics)
        if self._name.attempt - 1 - replayed.last_attempt >= self._task.max_barren_attempts:
            return self._given_up(replayed)
        task, rows = self._task, self._answered.rows
        documents = await asyncio.to_thread(read_documents, self._storage, self._run.layout, task.shard, task.row_group)
        self._total = len(documents)
        self._answered.replay(documents, replayed)
        self._asker.begin(documents, replayed)
        await self._reader.carry(documents)
        await self._answer([document for document in documents if document.document_id not in rows])
        if self._stop.is_superseded():
            committed = await self._committed_by_another()
            if committed is not None:
                return committed
        if len(rows) < self._total:
            return self._outcome(Outcome.YIELDED, stop=self._stop.why() or self._stop.of(Reason.DRAIN, "stopped"))
        return await self._commit([rows[document.document_id] for document in documents])

    async def _answer(self, todo: list[PlannedDocument]) -> None:
        """Asks about documents, the first of each content, and shares their answers; all is durable when it ends."""
        self._ledger.start()
        try:
            await self._asker.ask([document for document in todo if not self._reader.may_share(document)])
            await self._sharing.share([document for document in todo if document.document_id in self._reader.likes])
            await self._sharing.share([document for document in todo if self._reader.may_share(document)])
        finally:
            await self._ledger.close()

    def _outcome(
        self, outcome: str, *, totals: c.Totals | None = None, stop: Stop | None = None, message: str = ""
    ) -> c.PartitionOutcome:
        return c.PartitionOutcome(
            partition=self._task.partition,
            outcome=outcome,
            totals=totals or c.Totals(),
            reason=stop.reason if stop else "",
            message=(stop.message if stop else message)[:500],
            epoch=stop.epoch if stop else self._run.brakes.epoch,
            answered=c.Totals() if outcome == Outcome.COMMITTED else self._answered.tally.totals(partitions=0),
        )

    async def _committed(self) -> c.PartitionOutcome | None:
        """A result of this generation stands already: its totals, nothing paid. Else takes over what a rerun keeps."""
        found = await self._result.found()
        if found is None:
            return None
        footer, rows = found
        if self._result.is_of_now(footer):
            return self._outcome(Outcome.COMMITTED, totals=footer.totals)
        for row in rows:
            if self._answered.keeps(row):
                self._answered.keep(row)
            elif row["error_type"] != ErrorType.PARTITION_FAILED:  # such a one was never asked about
                self._reader.by_themselves.add(row["document_id"])
        return None

    def _given_up(self, replayed: Replayed) -> c.PartitionOutcome:
        for document_id, row in replayed.rows.items():
            if document_id not in self._answered.rows:
                self._answered.tally.add(row)
        message = f"{self._task.max_barren_attempts} attempts in a row made no progress"
        return self._outcome(Outcome.GIVEN_UP, message=message)

    async def _commit(self, rows: list[Row]) -> c.PartitionOutcome:
        footer = await self._result.commit(rows, self._stop)
        if footer is None:
            return self._outcome(Outcome.YIELDED, stop=self._stop.why())
        if footer.token == self._ledger.token:
            self._count(rows, footer.totals)
        return self._outcome(Outcome.COMMITTED, totals=footer.totals)

    async def _committed_by_another(self) -> c.PartitionOutcome | None:
        """Of an attempt that comes late: the result that stands, if any. Nobody will clean up after it once more."""
        footer = await self._result.standing()
        if footer is None:
            return None
        if footer.settles:  # it holds all rows
            await self._storage.delete(self._run.layout.output.bucket, self._ledger.keys())
        return self._outcome(Outcome.COMMITTED, totals=footer.totals)

    def _count(self, rows: list[Row], totals: c.Totals) -> None:
        """Metrics of documents count commits, of this generation's rows only."""
        job = self._run.file.job
        fresh = result_file.totals_of(
            (row for row in rows if row["generation"] == self._task.generation), self._task.run.run_id
        )
        for status, count in ((OK, fresh.ok), (ERROR, fresh.errors)):
            self._metrics.documents.labels(job.name, status).inc(count)
        self._metrics.cost.labels(job.name, job.model.name).inc(fresh.cost_usd)

    def _beat(self) -> c.Beat:
        waited_for = self._run.lane.in_flight + self._run.in_batches
        totals = self._answered.tally.totals(partitions=0)
        return c.Beat(self._task.partition, self._total, totals, PROCESS, waited_for)
