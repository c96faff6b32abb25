"""Start, watch, pause, cancel and rerun runs, from Python. Needs Temporal and S3; never the model's credentials."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

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
from batch.client.status import RunResult, StatusReader, failure_of, manifest_of
from batch.files.manifest import Manifest
from batch.files.reconcile import Account, verify
from batch.files.results import RerunScope, frame_of, rerun_scope, scan
from batch.files.run_file import load_run
from batch.files.uncommitted import uncommitted_rows
from batch.job.job import Job
from batch.job.logical_date import Nominal
from batch.job.part import JobError
from batch.network.connection import connect_temporal
from batch.storage.layout import RunLayout, check_run_id
from batch.storage.store import Storage
from batch.workflows import contracts as c
from batch.workflows.run_state import RunInput
from batch.workflows.states import Reason, State

if TYPE_CHECKING:
    import polars as pl

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

CLAIMED_WITHIN = 5.0
"""Seconds that a scheduled run which has just begun is given to be claimed."""
MESSAGE = 1000
"""Characters at most of what is said about a pause."""


class RunNotFound(LookupError):
    """Neither Temporal nor object storage knows the run."""


class RunBusy(RuntimeError):
    """The run is still going, or shards of it are: nothing may work beside them."""


class BudgetTooSmall(ValueError):
    """A run cannot go on with this maximum cost, or has none."""


def new_run_id(job: Job) -> str:
    """Returns the job's name, the time and four random digits."""
    return f"{job.name}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"


async def connect(*, task_queue: str = c.DEFAULT_TASK_QUEUE) -> Connection:
    """Returns a connection by the environment: `TEMPORAL_*`, `AWS_*`. Raises `TemporalUnreachable`."""
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
        """Returns the run's execution; unless no worker claims it in time, with its folder in the memo."""
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
        return f"run {description.id!r} ended before it began: {await failure_of(self.temporal, description.id)}"

    async def list(self, *, job: str | None = None, state: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """Returns the latest runs, newest first; see `visibility.list_runs`."""
        return await visibility.list_runs(self.temporal, job=job, state=state, limit=limit)


@dataclass
class Run:
    """One run: watch it, pause it, cancel it, read its account."""

    connection: Connection
    run_id: str
    output_uri: str

    @property
    def layout(self) -> RunLayout:
        return RunLayout.of(self.output_uri, self.run_id)

    @property
    def handle(self) -> WorkflowHandle[Any, Any]:
        return self.connection.temporal.get_workflow_handle(self.run_id)

    async def manifest(self) -> Manifest | None:
        """Returns the account in object storage; None while the run has not ended once."""
        return await manifest_of(self.connection.storage, self.layout)

    @cached_property
    def _reader(self) -> StatusReader:
        return StatusReader(self.connection.temporal, self.connection.storage, self.layout)

    async def status(self, *, examples: bool = False) -> RunResult:
        """Says where the run stands now, or how it ended.

        `examples`: also of a run that is not paused a few documents that failed are read, from object storage.
        """
        return await self._reader.status(examples=examples)

    async def watch(self, *, every: float = 1.0, every_shard: float = 0.0) -> AsyncIterator[RunResult]:
        """Yields the status again and again, until the run has ended; the last one is the end.

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
        """Returns all rows so far, lazily: the columns of `row_schema`, `result` typed by the job's schema."""
        return scan(self.output_uri, self.run_id)

    async def uncommitted_results(self) -> pl.DataFrame:
        """Returns rows of what is answered and not committed yet, with the columns of `results`, read from the ledgers.

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
        """Returns what a rerun would ask again; None for a run that ended without a manifest."""
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


def blocking(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Makes of a coroutine function one for scripts without an event loop."""

    @wraps(function)
    def run(*args: P.args, **options: P.kwargs) -> T:
        return asyncio.run(function(*args, **options))

    return run


@blocking
async def run_blocking(
    job: Job, *, run_id: str | None = None, day: date | None = None, task_queue: str = c.DEFAULT_TASK_QUEUE
) -> RunResult:
    """Starts a run and waits for its end; for scripts without an event loop."""
    return await (await start(job, run_id=run_id, day=day, task_queue=task_queue)).wait()


@blocking
async def rerun_blocking(
    run_id: str,
    *,
    all_errors: bool = False,
    partitions: list[int] | None = None,
    task_queue: str = c.DEFAULT_TASK_QUEUE,
) -> RunResult:
    """Does again what failed in a run, and waits for its end."""
    return await (await rerun(run_id, all_errors=all_errors, partitions=partitions, task_queue=task_queue)).wait()
