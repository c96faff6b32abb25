"""Activity: account for the run. Reconcile plan and results, settle partitions given up, write the manifest.

A cancelled run's unfinished partitions get a partial result file: a row for each answered document, none for others.
May be repeated at any point: each step looks at what stands. Ledgers go last, and only those whose rows a committed
result file holds; those of partitions given up, and of a cancelled run's unfinished ones, stay for a rerun.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from dataclasses import replace
from datetime import UTC, datetime

from temporalio import activity

from batch.corpus.planning import PlannedDocument
from batch.files import result_file
from batch.files.kept_text import packed
from batch.files.ledger_segment import LedgerName
from batch.files.manifest import Manifest, write_manifest
from batch.files.plan_file import read_documents
from batch.files.reconcile import Account, Reconciler
from batch.files.result_file import ERROR, OK, NotOurs, ResultFooter
from batch.files.run_file import RunFile, load_run
from batch.schema.answer_reader import AnswerReader, InvalidAnswer
from batch.schema.error_types import ErrorType
from batch.storage.compare_and_set import compare_and_set
from batch.storage.layout import RunLayout
from batch.storage.store import Storage
from batch.workflows import contracts as c
from batch.workflows.states import State
from workers.batch_mode.api import BatchApi, BatchApiError
from workers.batch_mode.batch_records import CREATED, BatchRecords
from workers.documents.long_documents import chunk_answer, summed
from workers.documents.rows import Row, RowMaker, carried, failed
from workers.finish.state_writer import StateWriter
from workers.llm.answer import Answer
from workers.llm.prices import pricer
from workers.observe.metrics import Metrics
from workers.partition.earlier_rows import EarlierRows
from workers.partition.ledger import Replayed, read_ledger

GIVEN_UP = "the partition was given up after several attempts without progress; see the worker's log"

log = logging.getLogger(__name__)


class Finisher:
    """Holds storage, metrics, and the Batch API, where a cancelled run's batches are cancelled."""

    def __init__(self, storage: Storage, metrics: Metrics, batches: BatchApi) -> None:
        self._storage, self._metrics, self._batches = storage, metrics, batches

    @activity.defn(name=c.FINISH_RUN)
    async def finish_run(self, task: c.FinishInput) -> c.Finished:
        """The reconciled account. A mismatch makes the state `failed` and is named in `problems`."""
        layout = RunLayout.of(task.run.output_uri, task.run.run_id)
        file = await load_run(self._storage, task.run)
        self._metrics.start_job(file.job.name)
        cancelled = task.state == State.CANCELLED
        if cancelled and file.job.model.mode == "batch":
            await self._cancel_batches(layout)
        settler = Settler(self._storage, layout, file, task.generation, self._metrics)
        writer = StateWriter(self._storage, layout, file, task.generation) if file.job.incremental else None
        account = await Reconciler(
            self._storage,
            layout,
            settle=settler.keep_answered if cancelled else settler.settle,
            take=writer.add if writer is not None else None,
            may_lack=cancelled,
        ).run(plan_complete=task.plan_complete)
        state = _state(task, account)
        if writer is not None and state != State.FAILED:
            await writer.move(complete=account.listed_to_end and not (account.missing or account.partial))
        manifest = _manifest(task, file, account, state)
        await write_manifest(self._storage, layout, manifest)
        await self._clean(layout, account)
        settled = task.plan_complete and len(account.settled) == account.planned_partitions
        if file.job.source.duplicates == "text" and settled:  # else a rerun goes by the claims
            await self._storage.delete_below(layout.output.bucket, layout.texts)
        if account.problem_count and not cancelled:
            log.error("run %s does not reconcile: %s", task.run.run_id, "; ".join(account.problems[:10]))
        return c.Finished(
            state=state,
            totals=account.totals,
            problems=[problem[:200] for problem in account.problems[:20]],
            manifest_uri=layout.uri(layout.manifest),
            results_uri=layout.uri(layout.results),
        )

    async def _cancel_batches(self, layout: RunLayout) -> None:
        """Ends what still goes on at the provider. The records stay: a rerun reads what was answered, and paid."""
        for held in await BatchRecords(self._storage, layout).read():
            if held.record.state == CREATED:
                try:
                    await self._batches.cancel(held.record.batch_id)
                except BatchApiError as error:
                    log.warning("batch %s goes on: %s", held.record.batch_id, error)

    async def _clean(self, layout: RunLayout, account: Account) -> None:
        """Removes the ledger segments whose answers stand in a result file of their generation or a later one."""

        def is_settled(key: str) -> bool:
            match = re.search(r"/partition-(\d+)/g(\d+)-", key)
            return match is not None and int(match[2]) <= account.settled.get(int(match[1]), 0)

        await self._storage.delete_below(layout.output.bucket, layout.ledgers, is_settled)


def _state(task: c.FinishInput, account: Account) -> str:
    if task.state == State.CANCELLED:
        return State.CANCELLED
    if account.problem_count or account.missing:
        return State.FAILED
    return State.COMPLETED_WITH_FAILURES if account.totals.errors else State.COMPLETED


def _manifest(task: c.FinishInput, file: RunFile, account: Account, state: str) -> Manifest:
    now = datetime.now(UTC)
    started = datetime.fromtimestamp(task.started_at, UTC)
    return Manifest(
        run_id=task.run.run_id,
        job_name=file.job.name,
        model=file.job.model.name,
        fingerprint=file.fingerprint,
        state=state,
        reason=task.reason,
        generation=task.generation,
        execution_run_id=task.execution_run_id,
        started_at=started.isoformat(),
        finished_at=now.isoformat(),
        seconds=round((now - started).total_seconds(), 3),
        totals=account.totals,
        planned_documents=account.planned_documents,
        max_cost_usd=task.budget.max_usd if task.budget else None,
        charged_usd=task.budget.charged_usd if task.budget else None,
        reasons=dict(account.reasons),
        deleted=account.deleted,
        left_out=dict(account.left_out),
        problems=account.problems,
        files=account.files,
    )


class Settler:
    """Writes result files of partitions that no worker commits any more, by what their ledgers hold."""

    def __init__(self, storage: Storage, layout: RunLayout, file: RunFile, generation: int, metrics: Metrics) -> None:
        self._storage, self._layout, self._file, self._generation = storage, layout, file, generation
        self._metrics = metrics
        schema = file.job.output.json_schema
        self._reader = AnswerReader(schema) if schema is not None else None

    async def settle(self, shard: int, partition: int, row_group: int, data: bytes | None) -> bytes | None:
        """Of a partition that was given up, or not done again: answered rows as they are, the rest error rows.

        Also in the place of a partial file, for the run is not cancelled any more.
        """
        try:
            if data is not None and not result_file.read_footer(data).partial:
                return data
            stand = await asyncio.to_thread(_rows_of, data) if data is not None else {}
        except NotOurs:  # the account tells of it
            return data
        documents, ledger, maker = await self._read(shard, partition, row_group)
        found, _ = await self._newest(documents, stand, ledger, maker)
        pairs = zip(documents, found, strict=True)
        rows = [row if row is not None else self._given_up(document, maker, ledger) for document, row in pairs]
        totals = replace(result_file.totals_of(rows, self._layout.run_id), partitions_failed=1)
        return await self._write(shard, partition, rows, totals, partial=False, replaced=data)

    async def keep_answered(self, shard: int, partition: int, row_group: int, data: bytes | None) -> bytes | None:
        """Of a cancelled run's partition: the rows that stand, with those that its ledger has beyond them.

        A document that was not answered gets none. In a rerun one that was not answered again keeps the row that it
        had.
        """
        try:
            if data is not None and result_file.read_footer(data).generation >= self._generation:
                return data
            if not await self._storage.list_all(self._layout.output.bucket, self._layout.ledger(partition)):
                return data
            stand = await asyncio.to_thread(_rows_of, data) if data is not None else {}
        except NotOurs:  # the account tells of it
            return data
        documents, ledger, maker = await self._read(shard, partition, row_group)
        found, news = await self._newest(documents, stand, ledger, maker)
        if not news:
            return data
        rows = [row for row in found if row is not None]
        totals = result_file.totals_of(rows, self._layout.run_id)
        if ErrorType.PARTITION_FAILED in totals.errors_by_type:
            totals = replace(totals, partitions_failed=1)
        return await self._write(shard, partition, rows, totals, partial=True, replaced=data)

    async def _newest(
        self, documents: list[PlannedDocument], stand: dict[str, Row], ledger: Replayed, maker: RowMaker
    ) -> tuple[list[Row | None], int]:
        """The newest row of each document, None where there is none, and how many are of the ledger."""
        earlier, news = EarlierRows(self._storage), 0
        rows: list[Row | None] = []
        for document in documents:
            row = stand.get(document.document_id)
            answered = self._answered(document, ledger)
            if answered is not None and (row is None or _comes_after(answered, row)):
                news += 1
                row = answered
            if row is None and (last := await earlier.unchanged(document, self._file.fingerprint)) is not None:
                row = carried(last, maker, document)
            rows.append(row)
        return rows, news

    async def _read(
        self, shard: int, partition: int, row_group: int
    ) -> tuple[list[PlannedDocument], Replayed, RowMaker]:
        layout = self._layout
        documents = await asyncio.to_thread(read_documents, self._storage, layout, shard, row_group)
        name = LedgerName(layout.run_id, self._file.fingerprint, partition, self._generation, 0, 0)
        ledger = await read_ledger(self._storage, layout, name)
        keep = tuple(self._file.job.source.keep)
        maker = RowMaker(layout.run_id, self._file.fingerprint, self._generation, shard, partition, keep)
        return documents, ledger, maker

    async def _write(
        self,
        shard: int,
        partition: int,
        rows: list[Row],
        totals: c.Totals,
        *,
        partial: bool,
        replaced: bytes | None = None,
    ) -> bytes | None:
        """Writes the file, unless another one came in between; gives what stands then."""
        layout = self._layout
        bucket, key = layout.output.bucket, layout.result(shard, partition)
        footer = ResultFooter(
            layout.run_id, shard, partition, self._generation, secrets.token_hex(6), totals, partial=partial
        )
        data = await result_file.encode_in_thread(rows, self._file.schema, footer)
        found = await self._storage.get_entry(bucket, key) if replaced is not None else None
        if found is not None and found[0] != replaced:
            return found[0]
        over = found[1].etag if found is not None else None
        standing = await compare_and_set(self._storage, bucket, key, data, over=over)
        if standing.ours:
            self._count(rows)
        return standing.data

    def _count(self, rows: list[Row]) -> None:
        """Rows of this generation; answered ones counted as answers when they came."""
        job_name = self._file.job.name
        fresh = [row for row in rows if row["generation"] == self._generation]
        totals = result_file.totals_of(fresh, self._layout.run_id)
        for status, count in ((OK, totals.ok), (ERROR, totals.errors)):
            self._metrics.documents.labels(job_name, status).inc(count)
        self._metrics.cost.labels(job_name, self._file.job.model.name).inc(totals.cost_usd)
        given_up = sum(row["error_type"] == ErrorType.PARTITION_FAILED for row in fresh)
        self._metrics.answers(job_name, ErrorType.PARTITION_FAILED, given_up)

    def _answered(self, document: PlannedDocument, ledger: Replayed) -> Row | None:
        """The ledger's row of the document, with its typed result; None for one that it has not, or not any more."""
        answered = ledger.rows.get(document.document_id)
        if answered is None:
            return None
        row = {**answered, "processed_at": datetime.fromisoformat(answered["processed_at"])}
        if self._reader is None or row["status"] != OK:
            return row
        try:
            return {**row, "result": self._reader.read(row["output_text"])}
        except InvalidAnswer:
            log.warning("the ledger's answer for %s is not valid any more", document.document_id)
            return None

    def _given_up(self, document: PlannedDocument, maker: RowMaker, ledger: Replayed) -> Row:
        """An error row, with what was paid for chunks of the document (none, most times)."""
        chunks = ledger.chunks.get(document.document_id, {}).values()
        spent = Answer(None, None)
        cost: float | None = 0.0
        if chunks:
            spent, cost = summed([*map(chunk_answer, chunks), spent], pricer(self._file.job.model))
        row = maker.row(document, document.etag, spent, cost)
        return failed(row, ErrorType.PARTITION_FAILED, GIVEN_UP, retryable=True)


def _rows_of(data: bytes) -> dict[str, Row]:
    table, _ = result_file.decode(data)
    return {row["document_id"]: packed(row) for row in table.to_pylist()}


def _comes_after(answered: Row, row: Row) -> bool:
    """Whether a ledger's row is of a later generation than the one that stands, which it then replaces."""
    return bool(row["status"] == ERROR and answered["generation"] > row["generation"])
