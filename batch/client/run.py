"""Start, watch, pause, cancel and rerun runs, from Python. Needs Temporal and S3; never the model's credentials."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from temporalio.client import (
    Client,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
)
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ActivityError, CancelledError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from batch.client import checks, visibility
from batch.client.live_counts import LiveCounts
from batch.files.manifest import Manifest, load_manifest
from batch.files.plan_file import read_footer
from batch.files.reconcile import Account, verify
from batch.files.results import RerunScope, frame_of, rerun_scope, scan
from batch.files.run_file import load_run
from batch.files.uncommitted import ErrorExample, committed_error_examples, error_examples, uncommitted_rows
from batch.job.job import Job, JobError
from batch.job.logical_date import Nominal
from batch.network.connection import connect_temporal
from batch.storage.layout import RunLayout, check_run_id
from batch.storage.store import Storage, StorageError
from batch.workflows import contracts as c
from batch.workflows.run_state import RunInput
from batch.workflows.states import ENDED, Reason, State

if TYPE_CHECKING:
    import polars as pl
    from temporalio.api.workflow.v1 import PendingActivityInfo

log = logging.getLogger(__name__)

QUERY_WITHIN = timedelta(seconds=10)
CLAIMED_WITHIN = 5.0
"""Seconds that a scheduled run which has just begun is given to be claimed."""
FAILING_AFTER = 4
"""Attempts of an activity, some seven seconds, after which a status tells of its failure."""
MESSAGE = 1000
"""Characters at most of what is said about a pause."""
SHARDS_ASKED = 25
"""Open shards that a status asks for live numbers; the rest counts by its last report."""


class RunNotFound(LookupError):
    """Neither Temporal nor object storage knows the run."""


class RunBusy(RuntimeError):
    """The run is still going, or shards of it are: nothing may work beside them."""


class BudgetTooSmall(ValueError):
    """A run cannot go on with this maximum cost, or has none."""


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


def new_run_id(job: Job) -> str:
    """The job's name, the time and four random digits."""
    return f"{job.name}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"


async def connect(*, task_queue: str = c.DEFAULT_TASK_QUEUE) -> Connection:
    """A connection by the environment: `TEMPORAL_*`, `AWS_*`. Raises `TemporalUnreachable`."""
    return Connection(await connect_temporal(), Storage(), task_queue)


@dataclass
class Connection:
    """What a client needs: Temporal and object storage."""

    temporal: Client
    storage: Storage
    task_queue: str = c.DEFAULT_TASK_QUEUE

    async def start(
        self,
        job: Job,
        *,
        run_id: str | None = None,
        day: date | None = None,
        tuning: c.Tuning | None = None,
        check_model: bool = True,
        full: bool = False,
    ) -> Run:
        """Checks source, output and model, then starts the run. Raises `CheckFailed`, `JobError`, `StorageError`.

        `day` is what `{{ date }}` stands for in the job; by default today, UTC. `full`: an incremental job asks about
        all documents once more.
        """
        if full and not job.incremental:
            raise JobError(
                f"job {job.name!r} is not incremental: each run of it asks about all documents, without full"
            )
        nominal = Nominal.of_day(day) if day is not None else Nominal.now()
        job = job.resolved(nominal)
        run_id = new_run_id(job) if run_id is None else check_run_id(run_id)
        await checks.check_job(self.storage, job, run_id)
        unpolled = await checks.unpolled_queue(self.temporal, self.task_queue)
        if unpolled is not None:
            log.warning("%s", checks.no_worker(unpolled, "the run waits for one"))
        elif check_model:
            await checks.check_model(self.temporal, job, self.task_queue)
        attributes = visibility.attributes_of(job.name) if await visibility.registered(self.temporal) else None
        starting = asyncio.ensure_future(
            self.temporal.start_workflow(
                c.RUN_WORKFLOW,
                RunInput(
                    tuning=tuning or c.Tuning(),
                    partitions_queue=self.task_queue,
                    job_json=job.to_json(),
                    nominal=str(nominal),
                    full=full,
                ),
                id=run_id,
                task_queue=c.control_queue(self.task_queue),
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                memo={"job_name": job.name, "output_uri": job.output.uri},
                search_attributes=attributes,
                static_summary=f"{job.name}: {job.source.place} by {job.model.name}",
            )
        )
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:  # by Ctrl-C: the request is on its way, and a run that has begun costs money
            await starting
            log.warning("run %s has begun all the same, and goes on; stop it: docbatch cancel %s", run_id, run_id)
            raise
        except WorkflowAlreadyStartedError:
            raise checks.CheckFailed(f"run id {run_id!r} is taken in Temporal; choose another --run-id") from None
        return Run(self, run_id, job.output.uri)

    async def run(self, run_id: str, *, output_uri: str | None = None) -> Run:
        """A run that was started before. `output_uri` finds one that Temporal has forgotten. Raises `RunNotFound`.

        Where a scheduled run lies is known once a worker has claimed it: one that has just begun is waited for.
        """
        try:
            description = await self._claimed(run_id)
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
        else:
            if description.workflow_type == c.RUN_WORKFLOW:
                found = await description.memo_value("output_uri", default=None, type_hint=str)
                if found:
                    return Run(self, run_id, found)
                if output_uri is None:
                    raise RunNotFound(await self._why_unclaimed(description))
        if output_uri is not None:
            layout = RunLayout.of(output_uri, check_run_id(run_id))
            if await self.storage.head(layout.output.bucket, layout.run_json) is not None:
                return Run(self, run_id, output_uri)
        raise RunNotFound(
            f"there is no run {run_id!r} in Temporal's namespace {self.temporal.namespace!r}; `docbatch list` shows "
            "those there are, and --output s3://... finds one that Temporal has forgotten"
        )

    async def _claimed(self, run_id: str) -> WorkflowExecutionDescription:
        """The run's execution; unless no worker claims it in time, with its folder in the memo."""
        deadline = asyncio.get_running_loop().time() + CLAIMED_WITHIN
        while True:
            description = await self.temporal.get_workflow_handle(run_id).describe()
            if (
                description.workflow_type != c.RUN_WORKFLOW
                or description.status != WorkflowExecutionStatus.RUNNING
                or "output_uri" in await description.memo()
                or asyncio.get_running_loop().time() > deadline
            ):
                return description
            await asyncio.sleep(0.2)

    async def _why_unclaimed(self, description: WorkflowExecutionDescription) -> str:
        if description.status == WorkflowExecutionStatus.RUNNING:
            return f"run {description.id!r} waits for a worker to begin it: docbatch worker"
        return f"run {description.id!r} ended before it began: {await _failure(self.temporal, description.id)}"

    async def list(self, *, job: str | None = None, state: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """The latest runs, newest first; see `visibility.list_runs`."""
        return await visibility.list_runs(self.temporal, job=job, state=state, limit=limit)


@dataclass
class Run:
    """One run: watch it, pause it, cancel it, read its account."""

    connection: Connection
    run_id: str
    output_uri: str
    _examples: tuple[dict[str, int], list[ErrorExample]] = field(default=({}, []), init=False, repr=False)
    """Those read last, and the counts of errors that there were then."""

    @property
    def layout(self) -> RunLayout:
        return RunLayout.of(self.output_uri, self.run_id)

    @property
    def handle(self) -> WorkflowHandle[Any, Any]:
        return self.connection.temporal.get_workflow_handle(self.run_id)

    async def manifest(self) -> Manifest | None:
        """The account in object storage; None while the run has not ended once."""
        found = await load_manifest(self.connection.storage, self.layout)
        return found[0] if found else None

    async def status(self, *, examples: bool = False) -> RunResult:
        """Where the run stands now, or how it ended.

        `examples`: also of a run that is not paused a few documents that failed are read, from object storage.
        """
        try:
            description = await self.handle.describe()
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            return await self._ended_status(None, "")
        if description.status == WorkflowExecutionStatus.RUNNING:
            live = await self._live_status(description, examples=examples)
            if live is not None:
                return live
        return await self._ended_status(description.status, await self._failure(description.status))

    async def _live_status(self, description: WorkflowExecutionDescription, *, examples: bool) -> RunResult | None:
        try:
            progress: c.Progress = await self.handle.query("progress", result_type=c.Progress, rpc_timeout=QUERY_WITHIN)
        except RPCError:
            description = await self.handle.describe()
            if description.status != WorkflowExecutionStatus.RUNNING:
                return None
            return await self._unanswered_status(description)
        live = LiveCounts(progress)
        ids = [c.shard_workflow_id(self.run_id, progress.generation, shard) for shard in progress.shards_open]
        for found in await asyncio.gather(*(self._shard(workflow_id) for workflow_id in ids[:SHARDS_ASKED])):
            if found is not None:
                live.add_shard(*found)
        message = progress.control.message or _failing(description)
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
        """Read anew when there are other errors than the last time."""
        storage, errors = self.connection.storage, live.all.errors_by_type
        if self._examples[0] != errors:
            try:
                found = await error_examples(storage, self.layout, live.failing)
                found = found or await committed_error_examples(storage, self.layout)
            except StorageError as error:
                log.warning("no examples of errors: %s", error)
                return []
            self._examples = errors, found
        return self._examples[1]

    async def _unanswered_status(self, description: WorkflowExecutionDescription) -> RunResult:
        """Of a run for which no worker answers: what it last told visibility, and what its plan in S3 holds."""
        memo = await description.memo()
        errors, documents = int(memo.get("errors", 0)), int(memo.get("documents", 0))
        totals = c.Totals(
            documents=documents, ok=documents - errors, errors=errors, cost_usd=float(memo.get("cost_usd", 0.0))
        )
        planned, plan_done = 0, False
        try:
            async for page in self.connection.storage.pages(self.layout.output.bucket, self.layout.plans):
                for entry in page:
                    footer = await asyncio.to_thread(
                        read_footer, self.connection.storage, self.layout.output.bucket, entry.key
                    )
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
        """What to say where no worker polls the queue; empty where one does."""
        try:
            polled = await checks.pollers(self.connection.temporal, queue)
        except RPCError:
            return ""
        return "" if polled else checks.no_worker(queue, "the run waits for one")

    async def _shard(self, workflow_id: str) -> tuple[c.ShardReport, list[tuple[PendingActivityInfo, c.Beat]]] | None:
        """What an open shard says, and what its activities say in their heartbeats."""
        handle = self.connection.temporal.get_workflow_handle(workflow_id)
        try:
            report: c.ShardReport = await handle.query("totals", result_type=c.ShardReport, rpc_timeout=QUERY_WITHIN)
            description = await handle.describe()
        except RPCError:
            return None
        beats = []
        converter = self.connection.temporal.data_converter
        for pending in description.raw_description.pending_activities:
            if pending.HasField("heartbeat_details"):
                for beat in await converter.decode(pending.heartbeat_details.payloads, [c.Beat]):
                    beats.append((pending, beat))
        return report, beats

    async def _failure(self, status: WorkflowExecutionStatus | None) -> str:
        if status in (WorkflowExecutionStatus.COMPLETED, WorkflowExecutionStatus.CANCELED):
            return ""
        return await _failure(self.connection.temporal, self.run_id)

    async def _ended_status(self, status: WorkflowExecutionStatus | None, failure: str) -> RunResult:
        manifest = await self.manifest()
        if manifest is None:
            ended = State.CANCELLED if status == WorkflowExecutionStatus.CANCELED else State.FAILED
            return self._blank(ended, failure or "the run ended without a manifest; `docbatch rerun` goes on with it")
        state = manifest.state
        if state == State.RERUNNING:
            state, failure = State.FAILED, failure or "the rerun did not end; `docbatch rerun` goes on with it"
        if status in (WorkflowExecutionStatus.TERMINATED, WorkflowExecutionStatus.TIMED_OUT):
            failure = failure or f"the coordinator was {status.name.lower()}; `docbatch rerun` goes on with it"
        return replace(
            self._result(
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
            ),
            problems=manifest.problems[:20],
        )

    def _blank(self, state: str, message: str) -> RunResult:
        return self._result(state, c.Totals(), seconds=0.0, message=message)

    def _result(self, state: str, totals: c.Totals, **fields: Any) -> RunResult:
        layout = self.layout
        return RunResult(
            run_id=self.run_id,
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

    async def watch(self, *, every: float = 1.0, every_shard: float = 0.0) -> AsyncIterator[RunResult]:
        """The status again and again, until the run has ended; the last one is the end.

        Args:
            every: seconds between two of them.
            every_shard: seconds more for each open shard; each is asked by a query, which Temporal Cloud bills.
        """
        while True:
            status = await self.status()
            yield status
            if status.ended and not await self._running():
                return
            await asyncio.sleep(every + every_shard * status.shards.get("open", 0))

    async def _running(self) -> bool:
        try:
            return (await self.handle.describe()).status == WorkflowExecutionStatus.RUNNING
        except RPCError:
            return False

    async def wait(self) -> RunResult:
        """Waits for the end and returns the account."""
        try:
            await self.handle.result()
        except WorkflowFailureError as error:
            if not isinstance(error.cause, (CancelledError, ActivityError)):
                log.debug("run %s: %s", self.run_id, error.cause)
        return await self.status()

    def results(self) -> pl.LazyFrame:
        """All rows so far, lazily: the columns of `row_schema`, `result` typed by the job's schema."""
        return scan(self.output_uri, self.run_id)

    async def uncommitted_results(self) -> pl.DataFrame:
        """Rows of what is answered and not committed yet, with the columns of `results`, read from the ledgers.

        Each gets into `results` with its partition's commit, or when the run is cancelled. Raises `RunMissing`,
        `StorageError`.
        """
        file = await load_run(self.connection.storage, c.RunRef(self.run_id, self.output_uri))
        return frame_of(await uncommitted_rows(self.connection.storage, self.layout, file))

    async def cancel(self) -> None:
        """Asks the run to stop: no new calls within seconds, what is answered stays, the manifest says `cancelled`.

        Where the coordinator is gone, it is the shards that it left behind that are stopped.
        """
        if await self._running():
            await self.handle.cancel()
            return
        for shard in await visibility.open_shards(self.connection.temporal, self.run_id):
            await self.connection.temporal.get_workflow_handle(shard).cancel()

    async def pause(self, message: str = "") -> None:
        """No new calls within seconds; calls in flight are kept."""
        await self.handle.signal("pause", message[:MESSAGE])

    async def resume(self, *, max_cost_usd: float | None = None) -> None:
        """Goes on where the run was paused; with another maximum cost, if one is given. Raises `BudgetTooSmall`."""
        now = await self.status()
        if max_cost_usd is not None:
            _check_budget(now, max_cost_usd)
            await self.handle.signal("resume", max_cost_usd)
            return
        if now.state == State.PAUSED and now.reason == Reason.MAX_COST:
            raise BudgetTooSmall(
                f"run {self.run_id!r} has used up its limits.max_cost_usd, {_budget(now)}; it goes on with a higher "
                f"one: docbatch resume {self.run_id} --max-cost-usd X"
            )
        await self.handle.signal("resume")

    async def rerun(
        self,
        *,
        all_errors: bool = False,
        partitions: list[int] | None = None,
        tuning: c.Tuning | None = None,
    ) -> Run:
        """Does again what failed in the run, as its next generation. Raises `RunBusy` while anything of it works."""
        await self.check_idle()
        try:
            await self.connection.temporal.start_workflow(
                c.RUN_WORKFLOW,
                RunInput(
                    tuning=tuning or c.Tuning(),
                    partitions_queue=self.connection.task_queue,
                    run=c.RunRef(self.run_id, self.output_uri),
                    rerun=c.RerunRequest(all_errors=all_errors, partitions=partitions or []),
                ),
                id=self.run_id,
                task_queue=c.control_queue(self.connection.task_queue),
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                memo={"output_uri": self.output_uri},
            )
        except WorkflowAlreadyStartedError:
            raise RunBusy(f"run {self.run_id!r} is going; wait for its end or cancel it first") from None
        return self

    async def rerun_scope(self, *, all_errors: bool = False, partitions: list[int] | None = None) -> RerunScope | None:
        """What a rerun would ask again; None for a run that ended without a manifest."""
        manifest = await self.manifest()
        if manifest is None:
            return None
        without_row = max(0, manifest.planned_documents - manifest.totals.documents)
        if not manifest.files:
            return RerunScope(without_row=without_row)
        return rerun_scope(self.results(), without_row=without_row, all_errors=all_errors, partitions=partitions or [])

    async def verify(self, manifest: Manifest, *, on_progress: Callable[[Account], None] | None = None) -> Account:
        """Reconciles plan, results and manifest again; `Account.problems` says what does not fit."""
        return await verify(self.connection.storage, self.layout, manifest, on_progress=on_progress)

    async def check_idle(self) -> None:
        """Raises `RunBusy` while the coordinator or any shard of the run works."""
        if await self._running():
            raise RunBusy(f"run {self.run_id!r} is going; wait for its end or `docbatch cancel` it first")
        for shard in await visibility.open_shards(self.connection.temporal, self.run_id):
            raise RunBusy(
                f"shard {shard!r} of the run still works although its coordinator is gone; "
                f"`docbatch cancel {self.run_id}` stops what is left of it"
            )


def _check_budget(now: RunResult, max_cost_usd: float) -> None:
    if now.max_cost_usd is None:
        raise BudgetTooSmall(f"run {now.run_id!r} was started without limits.max_cost_usd and takes none now")
    if (now.charged_usd or 0.0) < max_cost_usd < float("inf"):
        return
    raise BudgetTooSmall(f"${max_cost_usd:g} is too little for run {now.run_id!r}: it has spent {_budget(now)} already")


def _budget(now: RunResult) -> str:
    return f"${now.charged_usd:.6g} of ${now.max_cost_usd:.6g}"


def _failing(description: WorkflowExecutionDescription) -> str:
    """What the coordinator repeats without success: planning, say, or the end of the run."""
    for pending in description.raw_description.pending_activities:
        if pending.attempt >= FAILING_AFTER and pending.HasField("last_failure"):
            return f"{pending.activity_type.name} fails and is repeated: {pending.last_failure.message}"
    return ""


async def _failure(client: Client, run_id: str) -> str:
    """Why the coordinator failed, as far as Temporal knows."""
    try:
        await asyncio.wait_for(client.get_workflow_handle(run_id).result(), 10)
    except WorkflowFailureError as error:
        cause = error.cause
        cause = cause.cause if isinstance(cause, ActivityError) and cause.cause else cause
        return str(cause)
    except TimeoutError:
        pass
    return ""


# -- for scripts -----------------------------------------------------------------------------------------------------


async def start(
    job: Job,
    *,
    run_id: str | None = None,
    day: date | None = None,
    tuning: c.Tuning | None = None,
    task_queue: str = c.DEFAULT_TASK_QUEUE,
    full: bool = False,
) -> Run:
    """Starts a run of the job; the connection is the environment's. `await run.wait()` waits for its end.

    `task_queue` is the one that the workers for it poll; `full`: an incremental job asks about all documents. Raises
    `CheckFailed`, `JobError`, `StorageError`, `TemporalUnreachable`.
    """
    connection = await connect(task_queue=task_queue)
    return await connection.start(job, run_id=run_id, day=day, tuning=tuning, full=full)


async def rerun(
    run_id: str,
    *,
    all_errors: bool = False,
    partitions: list[int] | None = None,
    task_queue: str = c.DEFAULT_TASK_QUEUE,
) -> Run:
    """Does again what failed in a run. Raises `RunNotFound`, `RunBusy`, `StorageError`, `TemporalUnreachable`."""
    run = await (await connect(task_queue=task_queue)).run(run_id)
    return await run.rerun(all_errors=all_errors, partitions=partitions)


def run_blocking(
    job: Job, *, run_id: str | None = None, day: date | None = None, task_queue: str = c.DEFAULT_TASK_QUEUE
) -> RunResult:
    """Starts a run and waits for its end; for scripts without an event loop."""

    async def go() -> RunResult:
        return await (await start(job, run_id=run_id, day=day, task_queue=task_queue)).wait()

    return asyncio.run(go())


def rerun_blocking(
    run_id: str,
    *,
    all_errors: bool = False,
    partitions: list[int] | None = None,
    task_queue: str = c.DEFAULT_TASK_QUEUE,
) -> RunResult:
    """Does again what failed in a run, and waits for its end."""

    async def go() -> RunResult:
        run = await rerun(run_id, all_errors=all_errors, partitions=partitions, task_queue=task_queue)
        return await run.wait()

    return asyncio.run(go())
