"""Activities that keep a run's state: claim its folder, write `control.json`, look for dead shards, ask the model."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from datetime import UTC, datetime

from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from batch import contracts as c
from batch.job import Job, JobError
from batch.layout import RunLayout
from batch.manifest import Manifest, load_manifest
from batch.run_file import RunFile, RunMissing, load_run
from batch.store import PreconditionFailed, Storage, StorageError
from workers.llm.chat import probe
from workers.llm.errors import Kind
from workers.llm.transport import Transport
from workers.metrics import Metrics

RUNS_COUNTED = 1000
"""Runs at most that the gauge looks at."""


class RunControl:
    """Holds storage, Temporal client and the model's transport."""

    def __init__(self, storage: Storage, client: Client, transport: Transport, metrics: Metrics) -> None:
        self._storage, self._client, self._transport, self._metrics = storage, client, transport, metrics
        self._counted: set[tuple[str, str]] = set()

    @activity.defn(name=c.CLAIM_RUN)
    async def claim_run(self, task: c.ClaimInput) -> c.Claimed:
        """Creates `run.json`; a run id that is taken by another execution fails the run at once."""
        if task.run is not None:
            return await self._claim_rerun(task, task.run)
        try:
            job = Job.parse(json.loads(task.job_json))
        except JobError as error:  # of a client that knows other rules: no repetition mends it
            raise ApplicationError(str(error), type="JobError", non_retryable=True) from None
        layout = RunLayout.of(job.output.uri, task.run_id)
        file = RunFile.of(task.run_id, job, task.execution_run_id, datetime.now(UTC).isoformat())
        ref = c.RunRef(task.run_id, job.output.uri)
        try:
            await self._storage.create(layout.output.bucket, layout.run_json, file.to_bytes())
        except PreconditionFailed:
            stored = await load_run(self._storage, ref)
            if stored.execution_run_id != task.execution_run_id:
                raise ApplicationError(
                    f"run id {task.run_id!r} exists already at {layout.uri(layout.root)}; choose another --run-id, "
                    "or use `docbatch rerun` to do again what failed in it",
                    type="RunExists",
                    non_retryable=True,
                ) from None
        return _claimed(ref, job)

    async def _claim_rerun(self, task: c.ClaimInput, ref: c.RunRef) -> c.Claimed:
        """Marks the manifest `rerunning`, a generation later, and lifts the brakes of the last one."""
        layout = RunLayout.of(ref.output_uri, ref.run_id)
        file = await load_run(self._storage, ref)
        control = await self._stored_control(layout)
        while True:
            found = await load_manifest(self._storage, layout)
            if found is not None and found[0].execution_run_id == task.execution_run_id:
                generation = found[0].generation
                break
            last = found[0] if found is not None else _no_manifest(file)
            generation = last.generation + 1
            marked = replace(
                last, state=c.RERUNNING, generation=generation, execution_run_id=task.execution_run_id
            ).to_bytes()
            try:
                if found is None:
                    await self._storage.create(layout.output.bucket, layout.manifest, marked)
                else:
                    await self._storage.replace(layout.output.bucket, layout.manifest, marked, etag=found[1])
                break
            except PreconditionFailed:
                continue
        epoch = max(control.epoch + 1, generation * 1000)
        await self.write_control(c.ControlInput(ref, c.Control(epoch=epoch), file.job.name))
        return replace(_claimed(ref, file.job), generation=generation, epoch=epoch)

    async def _stored_control(self, layout: RunLayout) -> c.Control:
        found = await self._storage.get_entry(layout.output.bucket, layout.control)
        return c.Control(**json.loads(found[0])) if found else c.Control(epoch=0)

    @activity.defn(name=c.WRITE_CONTROL)
    async def write_control(self, task: c.ControlInput) -> None:
        """Never over a later epoch: an attempt that comes late changes nothing."""
        layout = RunLayout.of(task.run.output_uri, task.run.run_id)
        data = json.dumps(asdict(task.control)).encode()
        while True:
            found = await self._storage.get_entry(layout.output.bucket, layout.control)
            try:
                if found is None:
                    await self._storage.create(layout.output.bucket, layout.control, data)
                elif _rank(c.Control(**json.loads(found[0]))) > _rank(task.control):
                    return
                else:
                    await self._storage.replace(layout.output.bucket, layout.control, data, etag=found[1].etag)
            except PreconditionFailed:
                continue
            break
        if task.control.state == c.PAUSED:
            self._metrics.pauses.labels(task.job_name, task.control.reason).inc()

    async def count_runs(self) -> None:
        """Refreshes the gauge of runs that are going, by job and state, from visibility."""
        counts: Counter[tuple[str, str]] = Counter()
        query = f"WorkflowType = '{c.RUN_WORKFLOW}' AND ExecutionStatus = 'Running'"
        async for execution in self._client.list_workflows(query, limit=RUNS_COUNTED):
            memo = await execution.memo()
            counts[str(memo.get("job_name", "")), str(memo.get("state", c.RUNNING))] += 1
        for labels in self._counted - set(counts):
            self._metrics.runs.labels(*labels).set(0)
        for (job_name, state), count in counts.items():
            self._metrics.runs.labels(job_name, state).set(count)
        self._counted |= set(counts)

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
        """One short question to the model; for a run that is there, also whether its folder can be read."""
        try:
            job = (await load_run(self._storage, task.run)).job if task.run else Job.parse(json.loads(task.job_json))
        except (StorageError, RunMissing) as error:
            return c.CheckResult(problem=str(error)[:500])
        verdict = await probe(job, self._transport, as_the_job_asks=task.run is None)
        if verdict is None:
            return c.CheckResult()
        if verdict.kind is Kind.TRANSIENT and verdict.error_type == "rate_limited":
            return c.CheckResult()  # it answers; the limiter does the rest
        return c.CheckResult(problem=f"{verdict.error_type}: {verdict.message}"[:500])


def _rank(control: c.Control) -> tuple[int, bool]:
    """Later words rank higher; within an epoch the way leads from running to paused only."""
    return control.epoch, control.state != c.RUNNING


def _no_manifest(file: RunFile) -> Manifest:
    """Stands in for the first generation's account where its coordinator was terminated before it wrote one."""
    return Manifest(
        run_id=file.run_id,
        job_name=file.job.name,
        model=file.job.model.name,
        fingerprint=file.job.fingerprint,
        state=c.FAILED,
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
        model=job.model.name,
        priority=job.priority,
        in_flight=job.partitions.in_flight,
    )
