"""Activities that keep a run's state: claim its folder, write `control.json`, look for dead shards, ask the model."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import Counter
from collections.abc import Mapping
from contextlib import aclosing, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio import activity
from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from batch.client import visibility
from batch.corpus.key_list import ManifestBroken
from batch.corpus.keys import SourceKeys
from batch.files.manifest import Manifest, load_manifest
from batch.files.run_file import RunFile, RunMissing, load_run
from batch.files.state import read_pointer
from batch.job.job import Job
from batch.job.logical_date import Nominal
from batch.job.part import JobError
from batch.schema.error_types import ErrorType
from batch.storage.compare_and_set import compare_and_set, update
from batch.storage.errors import StorageError, StorageUnreachable
from batch.storage.layout import RunLayout, S3Uri
from batch.storage.listing import is_addressable
from batch.storage.output_check import OutputUnfit, check_place
from batch.storage.records import read_record
from batch.storage.store import Storage
from batch.workflows import contracts as c
from batch.workflows.states import ENDED, Reason, State
from workers.llm.answers.errors import Kind
from workers.llm.prices import unpriced_budget
from workers.llm.short_question import probe
from workers.llm.transport.transport import Transport
from workers.observe.metrics import ABORTED, Metrics
from workers.plan.rerun import cost_so_far

CHECKED_AGAIN_AFTER = (0.5, 2.0)
"""Seconds; one failure that may pass must not refuse a run before it begins."""
RUNS_COUNTED = 1000
"""Runs at most that the gauges look at."""
ENDED_WITHIN = timedelta(hours=1)
DOCUMENTS_TRIED = 3
"""Documents that are tried; each of a source that is away takes the seconds of its retries."""


class RunControl:
    """Holds storage, Temporal client and the model's transport."""

    def __init__(self, storage: Storage, client: Client, transport: Transport, metrics: Metrics) -> None:
        self._storage, self._client, self._transport, self._metrics = storage, client, transport, metrics
        self._fit: set[str] = set()
        """Places that were found to do for an output."""

    @activity.defn(name=c.CLAIM_RUN)
    async def claim_run(self, task: c.ClaimInput) -> c.Claimed:
        """Creates `run.json`, with the URIs of the job resolved for the run's nominal start.

        A run id that is taken by another execution fails the run at once; but a schedule's slot that has been run, and
        is backfilled once more, becomes a rerun of what failed in it.
        """
        claimed = await self._claim(task)
        return replace(claimed, shows_progress=True, searchable=await visibility.registered(self._client))

    async def _claim(self, task: c.ClaimInput) -> c.Claimed:
        if task.run is not None:
            return await self._claim_rerun(task, task.run)
        try:
            nominal = Nominal.parse(task.nominal, task.time_zone) if task.nominal else Nominal.now()
            job = Job.parse(json.loads(task.job_json)).resolved(nominal)
            if mistake := unpriced_budget(job):
                raise JobError(mistake)
        except (JobError, ValueError) as error:  # of a client that knows other rules: no repetition mends it
            raise ApplicationError(str(error), type="JobError", non_retryable=True) from None
        self._metrics.start_job(job.name)
        layout = RunLayout.of(job.output.uri, task.run_id)
        state = await read_pointer(self._storage, job.state_layout) if job.incremental else None
        manifest = await SourceKeys(self._storage, job.source).manifest() if job.source.manifest is not None else None
        file = RunFile.of(
            task.run_id,
            job,
            task.execution_run_id,
            datetime.now(UTC).isoformat(),
            nominal,
            state=state[0] if state is not None else None,
            full=task.full,
            manifest_etag=manifest.etag if manifest is not None else "",
        )
        ref = c.RunRef(task.run_id, job.output.uri)
        await self._check_places(job)
        bucket, key, data = layout.output.bucket, layout.run_json, file.to_bytes()
        if not (await compare_and_set(self._storage, bucket, key, data, over=None)).ours:
            stored = await load_run(self._storage, ref)
            if stored.execution_run_id != task.execution_run_id:
                same_job = stored.fingerprint == file.fingerprint
                if task.scheduled and same_job and not await visibility.open_shards(self._client, task.run_id):
                    return replace(await self._claim_rerun(task, ref), rerun=c.RerunRequest())
                another = "" if same_job else ", with a job that asks something else"
                raise ApplicationError(
                    f"run id {task.run_id!r} exists already at {layout.uri(layout.root)}{another}; choose another "
                    "--run-id, or use `docbatch rerun` to do again what failed in it",
                    type="RunExists",
                    non_retryable=True,
                )
        return _claimed(ref, job)

    async def _check_places(self, job: Job) -> None:
        """Before anything is paid: what the client may not have tried, or not from here. Once a process and place.

        Raises `ApplicationError` where it is no use to repeat.
        """
        places = {"output.uri": S3Uri.parse(job.output.uri)}
        if job.incremental:
            places["state.uri"] = job.state_layout.uri
        for name, place in places.items():
            if str(place) in self._fit:
                continue
            try:
                await check_place(self._storage, place)
            except OutputUnfit as error:
                raise ApplicationError(f"{name}: {error}", type="OutputUnfit", non_retryable=True) from None
            self._fit.add(str(place))

    async def _claim_rerun(self, task: c.ClaimInput, ref: c.RunRef) -> c.Claimed:
        """Marks the manifest `rerunning`, a generation later, and lifts the brakes of the last one."""
        layout = RunLayout.of(ref.output_uri, ref.run_id)
        file = await load_run(self._storage, ref)
        control = await self._stored_control(layout)
        while True:
            found = await load_manifest(self._storage, layout)
            if found is not None and found[0].execution_run_id == task.execution_run_id:
                marked = found[0]
                break
            last = found[0] if found is not None else _no_manifest(file)
            marked = replace(
                last,
                state=State.RERUNNING,
                generation=last.generation + 1,
                execution_run_id=task.execution_run_id,
                charged_usd=await self._charged(layout, file, found[0] if found is not None else None),
            )
            bucket, over = layout.output.bucket, found[1] if found is not None else None
            if (await compare_and_set(self._storage, bucket, layout.manifest, marked.to_bytes(), over=over)).ours:
                break
        epoch = max(control.epoch + 1, marked.generation * 1000)
        await self.write_control(c.ControlInput(ref, c.Control(epoch=epoch), file.job.name))
        return replace(
            _claimed(ref, file.job),
            generation=marked.generation,
            epoch=epoch,
            max_cost_usd=marked.max_cost_usd or file.job.limits.max_cost_usd,
            charged_usd=marked.charged_usd or 0.0,
        )

    async def _charged(self, layout: RunLayout, file: RunFile, last: Manifest | None) -> float | None:
        """US dollars that the generations before were charged; None for a run without a budget."""
        if file.job.limits.max_cost_usd is None:
            return None
        accounted = max(last.charged_usd or 0.0, last.totals.cost_usd) if last is not None else 0.0
        if last is not None and last.state in ENDED:
            return accounted
        # The last coordinator was terminated, and took what it knew with it.
        return max(accounted, await cost_so_far(self._storage, layout, file.fingerprint))

    async def _stored_control(self, layout: RunLayout) -> c.Control:
        found = await self._storage.get_entry(layout.output.bucket, layout.control)
        return read_record(c.Control, json.loads(found[0])) if found else c.Control(epoch=0)

    @activity.defn(name=c.WRITE_CONTROL)
    async def write_control(self, task: c.ControlInput) -> None:
        """Never over a later epoch: an attempt that comes late changes nothing."""
        layout = RunLayout.of(task.run.output_uri, task.run.run_id)

        def written(found: bytes | None) -> bytes | None:
            later = found is not None and _rank(read_record(c.Control, json.loads(found))) > _rank(task.control)
            return None if later else json.dumps(asdict(task.control)).encode()

        if not await update(self._storage, layout.output.bucket, layout.control, written):
            return
        if task.control.state == State.PAUSED:
            self._metrics.pauses(task.job_name, task.control.reason)

    async def count_runs(self) -> None:
        """Refreshes the gauges of runs, by job and state, from visibility. Raises `RPCError`, and forgets them then."""
        since = (datetime.now(UTC) - ENDED_WITHIN).isoformat(timespec="seconds").replace("+00:00", "Z")
        query = f"WorkflowType = '{c.RUN_WORKFLOW}' AND (ExecutionStatus = 'Running' OR CloseTime > '{since}')"
        latest: dict[str, tuple[WorkflowExecution, Mapping[str, Any]]] = {}
        jobs: dict[str, str] = {}
        try:
            async for execution in self._client.list_workflows(query, limit=RUNS_COUNTED):
                memo = await execution.memo()
                if "job_name" in memo:
                    jobs[execution.id] = str(memo["job_name"])
                known = latest.get(execution.id)
                if known is None or execution.start_time > known[0].start_time:
                    latest[execution.id] = execution, memo  # a rerun takes the place of what it does again
        except RPCError:
            self._metrics.forget_runs()
            raise
        going: Counter[tuple[str, str]] = Counter()
        ended: Counter[tuple[str, str]] = Counter()
        budgets: dict[str, tuple[float, float]] = {}
        for execution, memo in latest.values():
            job_name, state = jobs.get(execution.id, ""), str(memo.get("state", State.RUNNING))
            if not job_name:
                continue  # a rerun that is not claimed yet
            if execution.status == WorkflowExecutionStatus.RUNNING:
                going[job_name, State.PAUSED if state == State.PAUSED else State.RUNNING] += 1
                if "max_cost_usd" in memo:
                    most, charged = budgets.get(job_name, (0.0, 0.0))
                    budgets[job_name] = most + float(memo["max_cost_usd"]), charged + float(memo["charged_usd"])
            elif execution.status != WorkflowExecutionStatus.CONTINUED_AS_NEW:
                cancelled = execution.status == WorkflowExecutionStatus.CANCELED  # before its claim: without a state
                ended[job_name, State.CANCELLED if cancelled else state if state in ENDED else ABORTED] += 1
        self._metrics.show_runs(going, ended)
        self._metrics.show_budgets(budgets)

    @activity.defn(name=c.FIND_CLOSED_SHARDS)
    async def find_closed_shards(self, task: c.ClosedShardsInput) -> list[str]:
        """Those of the workflows that run no more."""
        closed = []
        for workflow_id in task.workflow_ids:
            try:
                description = await self._client.get_workflow_handle(workflow_id).describe()
            except RPCError as error:
                if error.status != RPCStatusCode.NOT_FOUND:
                    raise
                closed.append(workflow_id)
            else:
                if description.status != WorkflowExecutionStatus.RUNNING:
                    closed.append(workflow_id)
        return closed

    @activity.defn(name=c.CHECK_MODEL)
    async def check_model(self, task: c.CheckInput) -> c.CheckResult:
        """One short question to the model; for a run that is there, also whether its folder can be read.

        Of a run that is paused because storage was away: whether its folder can be written and its source read.
        """
        try:
            job = (await load_run(self._storage, task.run)).job if task.run else Job.parse(json.loads(task.job_json))
        except (StorageError, RunMissing) as error:
            return c.CheckResult(problem=str(error)[:500])
        if task.run is not None and task.reason == Reason.STORAGE_UNREACHABLE:
            return c.CheckResult(problem=await storage_problem(self._storage, job, task.run))
        if task.run is None and (mistake := unpriced_budget(job)):
            return c.CheckResult(mistake=mistake)
        verdict = await probe(job, self._transport, as_the_job_asks=task.run is None)
        for pause in CHECKED_AGAIN_AFTER if task.run is None else ():
            if verdict is None or verdict.kind is not Kind.TRANSIENT:
                break
            await asyncio.sleep(pause)
            verdict = await probe(job, self._transport, as_the_job_asks=True)
        if verdict is None:
            return c.CheckResult()
        if verdict.kind is Kind.TRANSIENT and verdict.error_type == ErrorType.RATE_LIMITED:
            return c.CheckResult()  # it answers; the limiter does the rest
        return c.CheckResult(problem=f"{verdict.error_type}: {verdict.message}"[:500])


def _rank(control: c.Control) -> tuple[int, bool]:
    """Later words rank higher; within an epoch the way leads from running to paused only."""
    return control.epoch, control.state != State.RUNNING


def _no_manifest(file: RunFile) -> Manifest:
    """Stands in for the first generation's account where its coordinator was terminated before it wrote one."""
    return Manifest(
        run_id=file.run_id,
        job_name=file.job.name,
        model=file.job.model.name,
        fingerprint=file.fingerprint,
        state=State.FAILED,
        reason="",
        generation=1,
        execution_run_id=file.execution_run_id,
        started_at=file.created_at,
        finished_at=file.created_at,
        seconds=0.0,
        totals=c.Totals(),
        planned_documents=0,
    )


def _claimed(ref: c.RunRef, job: Job) -> c.Claimed:
    return c.Claimed(
        run=ref,
        job_name=job.name,
        priority=job.priority,
        in_flight=job.partitions.in_flight,
        model=job.model.name,
        max_cost_usd=job.limits.max_cost_usd,
        weight=job.weight,
    )


async def storage_problem(storage: Storage, job: Job, run: c.RunRef) -> str:
    """What is still away of a run's output and source; "" if both answer.

    A refusal is an answer: then it is no outage that the run waits for, and it says itself what is wrong.
    """
    try:
        await _probe_output(storage, RunLayout.of(run.output_uri, run.run_id))
        await _probe_source(storage, job)
    except StorageUnreachable as error:
        return str(error)[:500]
    except (StorageError, ManifestBroken):
        pass
    return ""


async def _probe_output(storage: Storage, layout: RunLayout) -> None:
    key = f"{layout.root}probe-{secrets.token_hex(6)}"
    await storage.put(layout.output.bucket, key, b"")
    with suppress(StorageError):
        await storage.delete(layout.output.bucket, [key])


async def _probe_source(storage: Storage, job: Job) -> None:
    """A byte of one of the first documents that have any: one may be away for good."""
    keys = SourceKeys(storage, job.source, leave_refused=True)
    failures: list[StorageUnreachable] = []
    async with aclosing(keys.documents()) as pages:
        async for page in pages:
            for entry in page:
                if entry.size and entry.problem is None and is_addressable(entry.key):
                    try:
                        await asyncio.to_thread(storage.read_range, keys.prefixes.bucket, entry.key, 0, 1)
                        return
                    except StorageUnreachable as error:
                        failures.append(error)
                if len(failures) == DOCUMENTS_TRIED:
                    break
            if len(failures) == DOCUMENTS_TRIED:
                break
    if failures:
        raise failures[0]
