"""The workflow of a run: plans shard by shard, starts shard workflows, keeps the totals, finishes the run.

Deterministic, and free of heavy imports. Data flow of a run:

    coordinator: claim -> plan shard 0, 1, ... (activities) -> start shard workflows, a few dispatching at once
    shard:       see `batch.workflows.shard`; reports to the coordinator's workflow id by signal
    coordinator: totals by shard -> finish (reconcile, manifest)

The coordinator continues as new whenever the server suggests it. Its shards are abandoned children, so they outlive the
execution that started them and report to whichever execution holds the run's workflow id now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import ActivityError, ApplicationError

from batch.workflows import contracts as c
from batch.workflows.awaiting import control_activity, has_failed
from batch.workflows.budget import Budget, BudgetAnswer, BudgetRequest, BudgetView
from batch.workflows.open_shards import OpenShards
from batch.workflows.preview import Check, Estimate, Preview
from batch.workflows.quota import Quota
from batch.workflows.run_state import RunInput, RunState
from batch.workflows.shard import Shard
from batch.workflows.states import PROBED, Reason, State

SETTLED_WITHIN = 3.0
"""Seconds that a run's end waits for the last reports of what was spent; what is not reported counts as spent."""
PUBLISH_EVERY = 10.0
"""Seconds at least between two counts for visibility while the state stays."""
SLOT = SearchAttributeKey.for_datetime("TemporalScheduledStartTime")
"""Temporal's own: the nominal time of the schedule's slot, without jitter, also of a backfilled one."""
JOB, STATE = SearchAttributeKey.for_keyword(c.JOB_ATTRIBUTE), SearchAttributeKey.for_keyword(c.STATE_ATTRIBUTE)


@workflow.defn(name=c.RUN_WORKFLOW)
class Coordinator:
    """One execution of a run (or of its rerun, a generation later). Holds the run's state, epoch and reason alone."""

    @workflow.init
    def __init__(self, start: RunInput) -> None:
        self._tuning = start.tuning
        self._partitions_queue = start.partitions_queue
        self._state = start.carried or RunState(started_at=workflow.time(), rerun=start.rerun)
        self._shards = OpenShards(self._state, start)
        self._phase: str = State.RUNNING if start.carried else State.PLANNING
        self._published_at = workflow.time()
        self._leaving = False
        self._planning = False
        """Whether a plan is under way: like starts of shards, it would be lost when this continues as new."""

    @workflow.run
    async def run(self, start: RunInput) -> c.Finished:
        """Runs to the end and returns the reconciled account, or continues as new."""
        try:
            if self._state.claimed is None:
                await self._claim(start)
            self._show()
            await self._go(
                self._plan_shards(),
                self._start_shards(),
                self._watch_shards(),
                self._deliver_control(),
                self._shards.tell_the_untold(),
                self._leave_when_suggested(),
            )
            if self._leaving:
                self._continue_as_new()
        except asyncio.CancelledError:
            if self._state.claimed is not None:
                await self._cancel_run()
            raise
        return await self._finish_undisturbed()

    @workflow.signal
    def shard_report(self, report: c.ShardReport) -> None:
        """A shard's progress. Reports are keyed by shard, so a repeated one counts once."""
        shard = self._state.open_shard(report.shard)
        if shard is None:
            return
        self._state.take_report(shard, report)
        if self._state.claim.shows_progress and workflow.time() - self._published_at >= PUBLISH_EVERY:
            self._publish_progress()
        self._show()

    @workflow.signal
    def pause(self, message: str) -> None:
        """Pauses by hand; also a run that an outage has paused, so that no probe resumes it."""
        control = self._state.control
        if control.state == State.PAUSED and control.reason in PROBED:
            self._set_control(c.Control(State.PAUSED, control.epoch, Reason.BY_USER, message))
        self._pause(Reason.BY_USER, message)

    @workflow.signal
    def request_pause(self, request: c.PauseRequest) -> None:
        """A worker met what stops the whole run. Ignored when it speaks of an epoch that is over."""
        if request.epoch == self._state.control.epoch:
            self._pause(request.reason, request.message)

    @workflow.signal
    def resume(self, max_cost_usd: float | None = None) -> None:
        """Goes on where the run was paused; first sets the maximum cost of a run that has one, paused or not."""
        control, budget = self._state.control, self._state.budget
        if max_cost_usd is not None and budget is not None:
            budget.max_usd = max_cost_usd
        if control.state == State.PAUSED:
            if budget is not None:
                budget.begin_epoch(control.epoch + 1)
            self._set_control(c.Control(epoch=control.epoch + 1))

    @workflow.update(name=c.RESERVE_BUDGET)
    def reserve_budget(self, request: BudgetRequest) -> BudgetAnswer:
        """A worker process reports what it has spent, and learns what it may spend."""
        if self._state.budget is None:
            raise ApplicationError("the run has no limits.max_cost_usd", non_retryable=True)
        may_grant = self._state.control.state == State.RUNNING
        answer = self._state.budget.ask(request, workflow.time(), may_grant=may_grant)
        if workflow.time() - self._published_at >= PUBLISH_EVERY:
            self._publish_progress()
        self._show()
        return answer

    @workflow.query
    def progress(self) -> c.Progress:
        """Where the run stands. `totals` holds finished shards and the last report of each open one."""
        return self._state.progress(self._phase)

    # -- the parts that run side by side -----------------------------------------------------------------------------

    async def _go(self, *parts: Coroutine[Any, Any, None]) -> None:
        """Runs the parts together; the first failure or a cancellation ends all of them."""
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            await workflow.wait_condition(lambda: self._done() or any(has_failed(task) for task in tasks))
            for task in tasks:
                if has_failed(task):
                    task.result()
        except (Exception, asyncio.CancelledError):  # whoever is thrown away, by GeneratorExit, can wait for nothing
            await _end(tasks)
            raise
        await _end(tasks)

    def _done(self) -> bool:
        if self._leaving:
            return workflow.all_handlers_finished() and not self._planning and not self._shards.starting
        return self._state.plan_done and not self._state.waiting and not self._state.open

    async def _plan_shards(self) -> None:
        """Plans ahead of the shards that dispatch, so that planning and processing overlap."""
        state = self._state
        while not state.plan_done:
            await workflow.wait_condition(lambda: len(state.waiting) < self._tuning.plan_ahead or self._leaving)
            if self._leaving:
                return
            self._planning = True
            try:
                if state.rerun is None or state.rerun_found:
                    await self._plan_one()
                else:
                    await self._plan_rerun(state.rerun)
            except ActivityError as error:
                if not isinstance(error.cause, ApplicationError):
                    raise
                await self._planning_failed(error.cause)
                continue
            finally:
                self._planning = False
            self._phase = State.RUNNING
            self._show()

    async def _planning_failed(self, error: ApplicationError) -> None:
        """Repeating was no use: planning goes on when somebody who mended the cause has the run go on."""
        self._pause(error.type if error.type == Reason.STORAGE_REFUSED else Reason.PLANNING_FAILED, error.message)
        await workflow.wait_condition(lambda: self._state.control.state != State.PAUSED or self._leaving)

    async def _plan_one(self) -> None:
        state = self._state
        plan = c.PlanInput(
            run=state.claim.run,
            shard=state.next_shard,
            first_partition=state.next_partition,
            cursor=state.cursor,
            partitions=self._tuning.partitions_of(state.next_shard),
        )
        state.take_plan(await control_activity(c.PLAN_SHARD, plan, c.PlannedShard, f"shard {plan.shard}"))

    async def _plan_rerun(self, request: c.RerunRequest) -> None:
        state = self._state
        plan = c.RerunPlanInput(
            run=state.claim.run, generation=state.generation, request=request, start_shard=state.next_shard
        )
        state.take_rerun_plan(await control_activity(c.PLAN_RERUN, plan, c.RerunPlan), request)

    async def _start_shards(self) -> None:
        """Keeps enough shards dispatching for the wanted in-flight count; a new one starts when one has dispatched."""
        state, wanted = self._state, self._shards.wanted
        while True:
            await workflow.wait_condition(
                lambda: not self._leaving and bool(state.waiting) and state.dispatching < wanted
            )
            await self._shards.start_next()

    async def _watch_shards(self) -> None:
        """Looks now and then for shards that have died."""
        while True:
            await asyncio.sleep(self._tuning.watch_shards_every)
            if self._state.open and not self._leaving:
                await self._shards.start_dead_ones(lambda: self._leaving)

    async def _leave_when_suggested(self) -> None:
        """Continue-as-new before the history grows long, or when the workers have a new version.

        Nothing waits for it but the plan that is being written.
        """
        every = self._tuning.continue_every_shards
        await workflow.wait_condition(
            lambda: (
                workflow.info().is_continue_as_new_suggested()
                or 0 < every <= self._shards.started
                or self._may_upgrade()
            )
        )
        self._leaving = True

    def _may_upgrade(self) -> bool:
        """Whether the workers have a newer version than this execution, which is pinned, and it has not just begun."""
        info = workflow.info()
        age = (workflow.now() - info.start_time).total_seconds()
        return info.is_target_worker_deployment_version_changed() and age >= self._tuning.upgrade_after

    async def _deliver_control(self) -> None:
        """Makes each change of state known: to workers by `control.json`, to open shards by signal; probes outages."""
        state = self._state
        while True:
            control = state.control
            if not state.control_delivered:
                # First, and side by side: a folder that cannot be written must hide the state from nobody.
                if state.claim.shows_progress:
                    self._publish(control.state)
                await asyncio.gather(
                    self._write_control(control),
                    *(self._shards.tell(shard, control) for shard in state.open_shards),
                )
                state.control_delivered = state.control == control
                if not state.claim.shows_progress:  # so was the order of runs that were claimed before
                    self._publish(control.state)
            if control.state == State.PAUSED and control.reason in PROBED:
                await self._probe(control)
            await workflow.wait_condition(lambda: not state.control_delivered)

    async def _probe(self, control: c.Control) -> None:
        """One probe at a time until what was unreachable answers again; then the run resumes by itself."""
        wait = self._tuning.probe_every
        while self._state.control == control:
            with suppress(TimeoutError):
                await workflow.wait_condition(lambda: self._state.control != control, timeout=wait)
                return
            result = await control_activity(
                c.CHECK_MODEL,
                c.CheckInput(run=self._state.claim.run, reason=control.reason),
                c.CheckResult,
                f"probe after {control.reason}",
            )
            if not result.problem and self._state.control == control:
                self.resume()
            wait = min(wait * 1.5, 300.0)

    # -- the ends ------------------------------------------------------------------------------------------------------

    async def _claim(self, start: RunInput) -> None:
        slot = workflow.info().typed_search_attributes.get(SLOT)
        claimed = await control_activity(
            c.CLAIM_RUN,
            c.ClaimInput(
                run_id=workflow.info().workflow_id,
                job_json=start.job_json,
                execution_run_id=workflow.info().first_execution_run_id,
                run=start.run,
                rerun=start.rerun,
                nominal=start.nominal or (slot or workflow.info().workflow_start_time).isoformat(),
                time_zone=start.time_zone,
                scheduled=slot is not None,
                full=start.full,
            ),
            c.Claimed,
        )
        self._state.take_claim(claimed)
        capped = claimed.max_cost_usd is not None
        budget = {"max_cost_usd": claimed.max_cost_usd, "charged_usd": claimed.charged_usd} if capped else {}
        workflow.upsert_memo({"job_name": claimed.job_name, "output_uri": claimed.run.output_uri, **budget})
        if claimed.searchable:
            workflow.upsert_search_attributes([JOB.value_set(claimed.job_name), STATE.value_set(State.RUNNING)])

    def _publish(self, state: str) -> None:
        """State and counts where visibility finds them: `docbatch list` and Temporal's UI."""
        self._publish_progress(state=state)
        if self._state.claim.searchable:
            workflow.upsert_search_attributes([STATE.value_set(state)])

    def _publish_progress(self, **more: str) -> None:
        self._published_at = workflow.time()
        totals = self._state.totals_now + self._state.answered_now
        counts = {"documents": totals.documents, "errors": totals.errors, "cost_usd": round(totals.cost_usd, 6)}
        if (budget := self._state.budget) is not None:
            counts |= {"max_cost_usd": budget.max_usd, "charged_usd": round(budget.charged_usd, 6)}
        workflow.upsert_memo({**more, **counts})

    def _continue_as_new(self) -> None:
        if self._shards.untold:
            self._state.control_delivered = False
        workflow.continue_as_new(
            RunInput(tuning=self._tuning, partitions_queue=self._partitions_queue, carried=self._state),
            # With what was upserted: without it the next execution gets the memo of the very first start.
            memo=workflow.memo(),
            # Executions are pinned to the version that they began on; the next one begins on the newest.
            initial_versioning_behavior=workflow.ContinueAsNewVersioningBehavior.AUTO_UPGRADE,
        )

    async def _finish_undisturbed(self) -> c.Finished:
        """The end of a run whose work is done: a cancellation that comes by now finds nothing to stop."""
        finishing = asyncio.create_task(self._finish(self._end_state()))
        try:
            return await asyncio.shield(finishing)
        except asyncio.CancelledError:
            return await finishing

    def _end_state(self) -> str:
        totals = self._state.totals
        return State.COMPLETED_WITH_FAILURES if totals.errors or totals.partitions_failed else State.COMPLETED

    async def _cancel_run(self) -> None:
        """Stops the workers, then the shards, then accounts for what there is."""
        self._phase = State.CANCELLING
        control = c.Control(state=State.CANCELLED, epoch=self._state.control.epoch + 1, reason=Reason.BY_USER)
        self._set_control(control)
        told = asyncio.create_task(self._write_control(control))
        await workflow.wait([told], timeout=timedelta(seconds=10).total_seconds())
        await self._shards.cancel_all()
        try:
            await workflow.wait_condition(lambda: not self._state.open, timeout=timedelta(minutes=10))
        except TimeoutError:
            workflow.logger.warning("shards %s did not report after their cancellation", self._state.open_shards)
        await self._finish(State.CANCELLED)

    async def _last_reports(self, budget: Budget) -> None:
        """Waits a little for what worker processes say when they have nothing more to do."""
        if budget.awaits(workflow.time()):
            with suppress(TimeoutError):
                await workflow.wait_condition(lambda: not budget.awaits(workflow.time()), timeout=SETTLED_WITHIN)

    async def _finish(self, state: str) -> c.Finished:
        run = self._state
        if run.budget is not None:
            await self._last_reports(run.budget)
        finished = await control_activity(
            c.FINISH_RUN,
            c.FinishInput(
                run=run.claim.run,
                generation=run.generation,
                state=state,
                reason=run.control.reason,
                started_at=run.started_at,
                plan_complete=run.plan_done,
                execution_run_id=workflow.info().first_execution_run_id,
                budget=BudgetView.of(run.budget),
            ),
            c.Finished,
        )
        self._phase = finished.state
        run.totals, run.answered = finished.totals, c.Totals()
        self._publish(finished.state)
        self._show()
        return finished

    # -- small things --------------------------------------------------------------------------------------------------

    def _pause(self, reason: str, message: str) -> None:
        if self._state.control.state == State.RUNNING:
            self._set_control(c.Control(State.PAUSED, self._state.control.epoch, reason, message))

    def _set_control(self, control: c.Control) -> None:
        self._state.set_control(control)
        self._show()

    async def _write_control(self, control: c.Control) -> None:
        await control_activity(
            c.WRITE_CONTROL,
            c.ControlInput(self._state.claim.run, control, self._state.claim.job_name),
            type(None),
            control.state,
            within=timedelta(seconds=10),  # a pause must not wait for a worker that was killed
        )

    def _show(self) -> None:
        """The run in Temporal's UI."""
        workflow.set_current_details(self._state.details(self._phase))


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


WORKFLOWS = [Coordinator, Shard, Check, Quota, Preview, Estimate]
