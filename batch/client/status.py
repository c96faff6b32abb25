"""Where a run stands, or how it ended: from Temporal while it goes, from its manifest in object storage afterwards."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from temporalio.client import Client, WorkflowExecutionDescription, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ActivityError
from temporalio.service import RPCError, RPCStatusCode

from batch.client import checks
from batch.client.live_counts import LiveCounts
from batch.files.manifest import Manifest, load_manifest
from batch.files.plan_file import read_footer
from batch.files.uncommitted import ErrorExample, committed_error_examples, error_examples
from batch.storage.layout import RunLayout
from batch.storage.store import Storage, StorageError
from batch.workflows import contracts as c
from batch.workflows.states import ENDED, State

if TYPE_CHECKING:
    from temporalio.api.workflow.v1 import PendingActivityInfo

log = logging.getLogger(__name__)

QUERY_WITHIN = timedelta(seconds=10)
FAILING_AFTER = 4
"""Attempts of an activity, some seven seconds, after which a status tells of its failure."""
SHARDS_ASKED = 25
"""Open shards that a status asks for live numbers; the rest counts by its last report."""


@dataclass(frozen=True)
class RunResult:
    """How a run stands or ended. Counts are documents, `seconds` wall time, `cost_usd` US dollars.

    `documents`, errors, tokens and cost are of all that is answered, also of partitions that are not committed yet
    (`in_progress`): those answers are durable, and get their row with the commit, or when the run is cancelled.
    `planned` are those of the plan, which still grows while `plan_done` is false.
    """

    run_id: str
    state: str
    documents: int
    ok: int
    errors: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    results_uri: str
    manifest_uri: str
    seconds: float
    planned: int = 0
    plan_done: bool = False
    reason: str = ""
    message: str = ""
    generation: int = 1
    cached_tokens: int = 0
    max_cost_usd: float | None = None
    """The run's budget, if it has one, and what counts against it: spent, or set aside for workers that spend it."""
    charged_usd: float | None = None
    unpriced: int = 0
    """Answered documents whose model has no known price: `cost_usd` lacks them."""
    retryable_errors: int = 0
    in_progress: int = 0
    """Of `documents`, those of partitions that are not committed yet, by their last heartbeats."""
    in_flight: int = 0
    """Calls to the model that are waited for: of each worker process by its last heartbeat."""
    shards: dict[str, int] = field(default_factory=dict)
    partitions: dict[str, int] = field(default_factory=dict)
    errors_by_type: dict[str, int] = field(default_factory=dict)
    errors_in_progress: dict[str, int] = field(default_factory=dict)
    """Of `errors_by_type`, those of partitions that are not committed yet."""
    error_examples: list[ErrorExample] = field(default_factory=list)
    """A few documents that failed, of a paused run, or where they were asked for; not of one that has ended."""
    carried: int = 0
    """Documents whose rows an incremental run copied from the last one, without a call."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Of an incremental run: planned documents by the reason why they are asked about, or not (`unchanged`)."""
    deleted: int = 0
    """Of an incremental run: documents of the last one that are not listed any more."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Keys of the source that are no documents, by the rule (`_SUCCESS` and the like; docs/sources.md)."""
    problems: list[str] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class StatusReader:
    """Reads one run's status again and again."""

    def __init__(self, temporal: Client, storage: Storage, layout: RunLayout) -> None:
        self._temporal, self._storage, self._layout = temporal, storage, layout
        self._handle = temporal.get_workflow_handle(layout.run_id)
        self._examples: tuple[dict[str, int], list[ErrorExample]] = {}, []
        """Those read last, and the counts of errors that there were then."""

    async def status(self, *, examples: bool = False) -> RunResult:
        """Tells where the run stands now, or how it ended.

        `examples`: also of a run that is not paused a few documents that failed are read, from object storage.
        """
        try:
            description = await self._handle.describe()
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            return await self._ended_status(None, "")
        if description.status == WorkflowExecutionStatus.RUNNING:
            live = await self._live_status(description, examples=examples)
            if live is not None:
                return live
        by_itself = description.status in (WorkflowExecutionStatus.COMPLETED, WorkflowExecutionStatus.CANCELED)
        failure = "" if by_itself else await failure_of(self._temporal, self._layout.run_id)
        return await self._ended_status(description.status, failure)

    async def _live_status(self, description: WorkflowExecutionDescription, *, examples: bool) -> RunResult | None:
        try:
            progress: c.Progress = await self._handle.query(
                "progress", result_type=c.Progress, rpc_timeout=QUERY_WITHIN
            )
        except RPCError:
            description = await self._handle.describe()
            if description.status != WorkflowExecutionStatus.RUNNING:
                return None
            return await self._unanswered_status(description)
        live = LiveCounts(progress)
        ids = [c.shard_workflow_id(self._layout.run_id, progress.generation, shard) for shard in progress.shards_open]
        for found in await asyncio.gather(*(self._shard(workflow_id) for workflow_id in ids[:SHARDS_ASKED])):
            if found is not None:
                live.add_shard(*found)
        message = progress.control.message or failing(description)
        at_work = progress.state in (State.PLANNING, State.RUNNING) and bool(progress.shards_open)
        if not message and at_work and not live.beating:
            message = await self._unpolled(description.task_queue.removesuffix(c.control_queue("")))
        with_examples = examples or progress.state == State.PAUSED
        return self._result(
            progress.state,
            live.all,
            seconds=datetime.now(UTC).timestamp() - progress.started_at,
            planned=progress.planned_documents,
            plan_done=progress.plan_done,
            reason=progress.control.reason,
            message=message,
            generation=progress.generation,
            in_progress=live.answered.documents,
            in_flight=live.in_flight,
            errors_in_progress=live.answered.errors_by_type,
            error_examples=await self._error_examples(live) if with_examples and live.all.errors else [],
            max_cost_usd=progress.budget.max_usd if progress.budget else None,
            charged_usd=round(progress.budget.charged_usd, 6) if progress.budget else None,
            reasons=progress.reasons,
            deleted=progress.deleted,
            left_out=progress.left_out,
            shards={"open": len(progress.shards_open), "finished": progress.shards_finished},
            partitions={
                "planned": progress.planned_partitions,
                "committed": live.committed.partitions - live.committed.partitions_failed,
                "failed": live.committed.partitions_failed,
            },
        )

    async def _error_examples(self, live: LiveCounts) -> list[ErrorExample]:
        """Reads a few examples, anew when there are other errors than the last time."""
        storage, errors = self._storage, live.all.errors_by_type
        if self._examples[0] != errors:
            try:
                found = await error_examples(storage, self._layout, live.failing)
                found = found or await committed_error_examples(storage, self._layout)
            except StorageError as error:
                log.warning("no examples of errors: %s", error)
                return []
            self._examples = errors, found
        return self._examples[1]

    async def _unanswered_status(self, description: WorkflowExecutionDescription) -> RunResult:
        """Reports on a run for which no worker answers: what it last told visibility, and what its plan in S3 holds."""
        memo = await description.memo()
        errors, documents = int(memo.get("errors", 0)), int(memo.get("documents", 0))
        totals = c.Totals(
            documents=documents, ok=documents - errors, errors=errors, cost_usd=float(memo.get("cost_usd", 0.0))
        )
        planned, plan_done = 0, False
        try:
            async for page in self._storage.pages(self._layout.output.bucket, self._layout.plans):
                for entry in page:
                    footer = await asyncio.to_thread(read_footer, self._storage, self._layout.output.bucket, entry.key)
                    planned, plan_done = planned + footer.documents, footer.last
        except StorageError as error:
            log.warning("the plan is not read: %s", error)
        message = await self._unpolled(description.task_queue) or (
            f"no worker answers for the run, though one polled the task queue {description.task_queue!r} lately"
        )
        return self._result(
            str(memo.get("state", State.RUNNING if planned else State.WAITING)),
            totals,
            seconds=(datetime.now(UTC) - description.start_time).total_seconds(),
            planned=planned,
            plan_done=plan_done,
            message=message,
        )

    async def _unpolled(self, queue: str) -> str:
        """Says that no worker polls the queue; empty where one does."""
        try:
            polled = await checks.pollers(self._temporal, queue)
        except RPCError:
            return ""
        return "" if polled else checks.no_worker(queue, "the run waits for one")

    async def _shard(self, workflow_id: str) -> tuple[c.ShardReport, list[tuple[PendingActivityInfo, c.Beat]]] | None:
        """Asks an open shard for its numbers, and reads what its activities said in their heartbeats."""
        handle = self._temporal.get_workflow_handle(workflow_id)
        try:
            report: c.ShardReport = await handle.query("totals", result_type=c.ShardReport, rpc_timeout=QUERY_WITHIN)
            description = await handle.describe()
        except RPCError:
            return None
        beats = []
        converter = self._temporal.data_converter
        for pending in description.raw_description.pending_activities:
            if pending.HasField("heartbeat_details"):
                for beat in await converter.decode(pending.heartbeat_details.payloads, [c.Beat]):
                    beats.append((pending, beat))
        return report, beats

    async def _ended_status(self, status: WorkflowExecutionStatus | None, failure: str) -> RunResult:
        manifest = await manifest_of(self._storage, self._layout)
        if manifest is None:
            ended = State.CANCELLED if status == WorkflowExecutionStatus.CANCELED else State.FAILED
            failure = failure or "the run ended without a manifest; `docbatch rerun` goes on with it"
            return self._result(ended, c.Totals(), seconds=0.0, message=failure)
        state = manifest.state
        if state == State.RERUNNING:
            state, failure = State.FAILED, failure or "the rerun did not end; `docbatch rerun` goes on with it"
        if status in (WorkflowExecutionStatus.TERMINATED, WorkflowExecutionStatus.TIMED_OUT):
            failure = failure or f"the coordinator was {status.name.lower()}; `docbatch rerun` goes on with it"
        return self._result(
            state,
            manifest.totals,
            seconds=manifest.seconds,
            planned=manifest.planned_documents,
            plan_done=True,
            reason=manifest.reason,
            message=failure,
            generation=manifest.generation,
            max_cost_usd=manifest.max_cost_usd,
            charged_usd=manifest.charged_usd,
            reasons=manifest.reasons,
            deleted=manifest.deleted,
            left_out=manifest.left_out,
            partitions={
                "planned": len(manifest.files),
                "committed": manifest.totals.partitions - manifest.totals.partitions_failed,
                "failed": manifest.totals.partitions_failed,
            },
            shards={"open": 0, "finished": len({entry.shard for entry in manifest.files})},
            problems=manifest.problems[:20],
        )

    def _result(self, state: str, totals: c.Totals, **fields: Any) -> RunResult:
        layout = self._layout
        return RunResult(
            run_id=layout.run_id,
            state=state,
            documents=totals.documents,
            ok=totals.ok,
            errors=totals.errors,
            prompt_tokens=totals.prompt_tokens,
            cached_tokens=totals.cached_tokens,
            completion_tokens=totals.completion_tokens,
            cost_usd=round(totals.cost_usd, 6),
            unpriced=totals.unpriced,
            carried=totals.carried,
            retryable_errors=totals.retryable_errors,
            errors_by_type=totals.errors_by_type,
            results_uri=layout.uri(layout.results),
            manifest_uri=layout.uri(layout.manifest),
            **{**fields, "seconds": round(fields["seconds"], 3)},
        )


def failing(description: WorkflowExecutionDescription) -> str:
    """Tells what the coordinator repeats without success: planning, say, or the end of the run."""
    for pending in description.raw_description.pending_activities:
        if pending.attempt >= FAILING_AFTER and pending.HasField("last_failure"):
            return f"{pending.activity_type.name} fails and is repeated: {pending.last_failure.message}"
    return ""


async def manifest_of(storage: Storage, layout: RunLayout) -> Manifest | None:
    """Returns a run's account; None while the run has not ended once."""
    found = await load_manifest(storage, layout)
    return found[0] if found else None


async def failure_of(client: Client, run_id: str) -> str:
    """Tells why the coordinator failed, as far as Temporal knows."""
    try:
        await asyncio.wait_for(client.get_workflow_handle(run_id).result(), 10)
    except WorkflowFailureError as error:
        cause = error.cause
        cause = cause.cause if isinstance(cause, ActivityError) and cause.cause else cause
        return str(cause)
    except TimeoutError:
        pass
    return ""
