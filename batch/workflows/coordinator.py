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
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar, cast

from temporalio import workflow
from temporalio.common import RetryPolicy, SearchAttributeKey
from temporalio.exceptions import ActivityError, ApplicationError, TemporalError

from batch.workflows import contracts as c
from batch.workflows.budget import Budget, BudgetAnswer, BudgetRequest, BudgetView
from batch.workflows.preview import Estimate, Preview
from batch.workflows.quota import Quota
from batch.workflows.shard import Shard, has_failed, minding_cancellation

R = TypeVar("R")

CONTROL_HEARTBEAT_TIMEOUT = timedelta(seconds=20)
TELL_TRIES, TELL_AGAIN = 20, 10.0
"""Tries, a second apart, to tell a shard of a pause or resume; and seconds from then on until it is told again."""
SETTLED_WITHIN = 3.0
"""Seconds that a run's end waits for the last reports of what was spent; what is not reported counts as spent."""
PUBLISH_EVERY = 10.0
"""Seconds at least between two counts for visibility while the state stays."""
SLOT = SearchAttributeKey.for_datetime("TemporalScheduledStartTime")
"""Temporal's own: the nominal time of the schedule's slot, without jitter, also of a backfilled one."""
JOB, STATE = SearchAttributeKey.for_keyword(c.JOB_ATTRIBUTE), SearchAttributeKey.for_keyword(c.STATE_ATTRIBUTE)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def control_activity(
    name: str, argument: Any, result: type[R], summary: str = "", *, within: timedelta = timedelta(hours=4)
) -> R:
    """Planner, finisher and the like: repeated for as long as it takes, unless they say that repeating is no use."""
    activity = workflow.execute_activity(
        name,
        argument,
        result_type=result,
        start_to_close_timeout=within,
        heartbeat_timeout=CONTROL_HEARTBEAT_TIMEOUT,
        retry_policy=RetryPolicy(maximum_interval=timedelta(seconds=10)),
        summary=summary or None,
    )
    return cast(R, await minding_cancellation(activity))


@workflow.defn(name=c.RUN_WORKFLOW)
class Coordinator:
    """One execution of a run (or of its rerun, a generation later). Holds the run's state, epoch and reason alone."""

    @workflow.init
    def __init__(self, start: c.RunInput) -> None:
        carried = start.carried
        self._tuning = start.tuning
        self._partitions_queue = start.partitions_queue
        self._claimed = carried.claimed if carried else None
        self._control = carried.control if carried else c.Control()
        self._delivered = self._control if carried is None or carried.control_delivered else None
        self._generation = carried.generation if carried else 1
        self._started_at = carried.started_at if carried else workflow.time()
        self._cursor = carried.cursor if carried else ""
        self._next_shard = carried.next_shard if carried else 0
        self._next_partition = carried.next_partition if carried else 0
        self._plan_done = carried.plan_done if carried else False
        self._planned_documents = carried.planned_documents if carried else 0
        self._planned_partitions = carried.planned_partitions if carried else 0
        self._totals = carried.totals if carried else c.Totals()
        self._answered = carried.answered if carried else c.Totals()
        """What finished shards leave that is answered and not committed."""
        self._waiting = deque(carried.waiting if carried else [])
        self._open = {shard.planned.shard: shard for shard in carried.open} if carried else {}
        self._rerun = carried.rerun if carried else start.rerun
        self._rerun_found = carried.rerun_found if carried else False
        self._started_shards = 0
        self._finished_shards = carried.finished_shards if carried else 0
        self._budget = carried.budget if carried else None
        self._reasons = dict(carried.reasons) if carried else {}
        self._deleted = carried.deleted if carried else 0
        self._left_out = dict(carried.left_out) if carried else {}
        self._state = c.RUNNING if carried else c.PLANNING
        self._published_at = workflow.time()
        self._untold: set[int] = set()
        """Open shards that could not be told of the state."""
        self._leaving = False
        self._unfinished = 0
        """Plans and starts of shards under way: continue-as-new waits for them, or they would be lost."""

    @workflow.run
    async def run(self, start: c.RunInput) -> c.Finished:
        """Runs to the end and returns the reconciled account, or continues as new."""
        try:
            if self._claimed is None:
                self._claimed = await self._claim(start)
            self._show()
            await self._go(
                self._plan_shards(),
                self._start_shards(),
                self._watch_shards(),
                self._deliver_control(),
                self._tell_the_untold(),
                self._leave_when_suggested(),
            )
            if self._leaving:
                self._continue_as_new()
        except asyncio.CancelledError:
            if self._claimed is not None:
                await self._cancel_run()
            raise
        return await self._finish_undisturbed()

    @workflow.signal
    def shard_report(self, report: c.ShardReport) -> None:
        """A shard's progress. Reports are keyed by shard, so a repeated one counts once."""
        shard = self._open.get(report.shard)
        if shard is None:
            return
        if report.finished:
            del self._open[report.shard]
            self._totals += report.totals
            self._answered += report.answered
            self._finished_shards += 1
        else:
            self._open[report.shard] = replace(shard, report=report)
        if self._the_claim().shows_progress and workflow.time() - self._published_at >= PUBLISH_EVERY:
            self._publish_progress()
        self._show()

    @workflow.signal
    def pause(self, message: str) -> None:
        """Pauses by hand; also a run that an outage has paused, so that no probe resumes it."""
        if self._control.state == c.PAUSED and self._control.reason in c.PROBED:
            self._control = c.Control(c.PAUSED, self._control.epoch, c.BY_USER, message)
            self._show()
        self._pause(c.BY_USER, message)

    @workflow.signal
    def request_pause(self, request: c.PauseRequest) -> None:
        """A worker met what stops the whole run. Ignored when it speaks of an epoch that is over."""
        if request.epoch == self._control.epoch:
            self._pause(request.reason, request.message)

    @workflow.signal
    def resume(self, max_cost_usd: float | None = None) -> None:
        """Goes on where the run was paused; first sets the maximum cost of a run that has one, paused or not."""
        if max_cost_usd is not None and self._budget is not None:
            self._budget.max_usd = max_cost_usd
        if self._control.state == c.PAUSED:
            self._control = c.Control(epoch=self._control.epoch + 1)
            if self._budget is not None:
                self._budget.begin_epoch(self._control.epoch)
            self._show()

    @workflow.update(name=c.RESERVE_BUDGET)
    def reserve_budget(self, request: BudgetRequest) -> BudgetAnswer:
        """A worker process reports what it has spent, and learns what it may spend."""
        if self._budget is None:
            raise ApplicationError("the run has no limits.max_cost_usd", non_retryable=True)
        may_grant = self._control.state == c.RUNNING
        answer = self._budget.ask(request, workflow.time(), may_grant=may_grant)
        if workflow.time() - self._published_at >= PUBLISH_EVERY:
            self._publish_progress()
        self._show()
        return answer

    @workflow.query
    def progress(self) -> c.Progress:
        """Where the run stands. `totals` holds finished shards and the last report of each open one."""
        return c.Progress(
            run=self._claimed.run if self._claimed else None,
            state=c.PAUSED
            if self._control.state == c.PAUSED and self._state in (c.RUNNING, c.PLANNING)
            else self._state,
            control=self._control,
            generation=self._generation,
            planned_documents=self._planned_documents,
            planned_partitions=self._planned_partitions,
            plan_done=self._plan_done,
            totals=self._totals_now(),
            shards_open=sorted(self._open),
            shards_reported=[self._open[shard].report.totals for shard in sorted(self._open)],
            shards_finished=self._finished_shards,
            started_at=self._started_at,
            budget=BudgetView.of(self._budget),
            reasons=self._reasons,
            deleted=self._deleted,
            left_out=self._left_out,
            answered=self._answered_now(),
            shards_answered=[self._open[shard].report.answered for shard in sorted(self._open)],
        )

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
            return workflow.all_handlers_finished() and not self._unfinished
        return self._plan_done and not self._waiting and not self._open

    async def _plan_shards(self) -> None:
        """Plans ahead of the shards that dispatch, so that planning and processing overlap."""
        claimed = self._the_claim()
        while not self._plan_done:
            await workflow.wait_condition(lambda: len(self._waiting) < self._tuning.plan_ahead or self._leaving)
            if self._leaving:
                return
            self._unfinished += 1
            try:
                if self._rerun is None or self._rerun_found:
                    await self._plan_one(claimed)
                else:
                    await self._plan_rerun(claimed, self._rerun)
            except ActivityError as error:
                if not isinstance(error.cause, ApplicationError):
                    raise
                await self._planning_failed(error.cause)
                continue
            finally:
                self._unfinished -= 1
            self._state = c.RUNNING
            self._show()

    async def _planning_failed(self, error: ApplicationError) -> None:
        """Repeating was no use: planning goes on when somebody who mended the cause has the run go on."""
        self._pause(error.type if error.type == c.STORAGE_REFUSED else c.PLANNING_FAILED, error.message)
        await workflow.wait_condition(lambda: self._control.state != c.PAUSED or self._leaving)

    async def _plan_one(self, claimed: c.Claimed) -> None:
        planned = await control_activity(
            c.PLAN_SHARD,
            c.PlanInput(
                run=claimed.run,
                shard=self._next_shard,
                first_partition=self._next_partition,
                cursor=self._cursor,
                partitions=self._tuning.partitions_of(self._next_shard),
            ),
            c.PlannedShard,
            f"shard {self._next_shard}",
        )
        self._plan_done = planned.last
        self._deleted += planned.deleted
        for rule, count in planned.left_out.items():
            self._left_out[rule] = self._left_out.get(rule, 0) + count
        if planned.partitions:
            self._take(planned)
            self._cursor = planned.cursor
            self._next_shard = planned.shard + 1
            self._next_partition = planned.first_partition + planned.partitions

    async def _plan_rerun(self, claimed: c.Claimed, request: c.RerunRequest) -> None:
        plan = await control_activity(
            c.PLAN_RERUN,
            c.RerunPlanInput(
                run=claimed.run, generation=self._generation, request=request, start_shard=self._next_shard
            ),
            c.RerunPlan,
        )
        for planned in plan.shards:
            self._take(planned)
        if plan.next_shard is not None:
            self._next_shard = plan.next_shard
            return
        # What stands is gone through; a run that was cancelled while it planned goes on planning, unless some
        # partitions were asked for by number.
        self._rerun_found = True
        self._plan_done = plan.plan_complete or bool(request.partitions)
        self._cursor, self._next_shard, self._next_partition = plan.cursor, plan.plan_shards, plan.plan_partitions

    def _take(self, planned: c.PlannedShard) -> None:
        self._waiting.append(planned)
        self._planned_documents += planned.documents
        self._planned_partitions += len(planned.only) if planned.only is not None else planned.partitions
        for reason, count in planned.reasons.items():
            self._reasons[reason] = self._reasons.get(reason, 0) + count

    async def _start_shards(self) -> None:
        """Keeps enough shards dispatching for the wanted in-flight count; a new one starts when one has dispatched."""
        wanted = max(1, -(-self._the_claim().in_flight // self._window()))
        while True:
            await workflow.wait_condition(
                lambda: not self._leaving and bool(self._waiting) and self._dispatching() < wanted
            )
            await self._start_shard(self._waiting.popleft())
            self._started_shards += 1

    async def _leave_when_suggested(self) -> None:
        """Continue-as-new before the history grows long, or when the workers have a new version.

        Nothing waits for it but the plan that is being written.
        """
        every = self._tuning.continue_every_shards
        await workflow.wait_condition(
            lambda: (
                workflow.info().is_continue_as_new_suggested()
                or 0 < every <= self._started_shards
                or self._may_upgrade()
            )
        )
        self._leaving = True

    def _may_upgrade(self) -> bool:
        """Whether the workers have a newer version than this execution, which is pinned, and it has not just begun."""
        info = workflow.info()
        age = (workflow.now() - info.start_time).total_seconds()
        return info.is_target_worker_deployment_version_changed() and age >= self._tuning.upgrade_after

    async def _start_shard(self, planned: c.PlannedShard) -> None:
        claimed = self._the_claim()
        self._open[planned.shard] = c.OpenShard(
            planned, c.ShardReport(planned.shard, c.Totals(), dispatched=False, finished=False)
        )
        self._unfinished += 1
        try:
            starting = workflow.start_child_workflow(
                c.SHARD_WORKFLOW,
                c.ShardInput(
                    run=claimed.run,
                    planned=planned,
                    generation=self._generation,
                    window=self._window(),
                    tuning=self._tuning,
                    control=self._control,
                    priority=claimed.priority,
                    partitions_queue=self._partitions_queue,
                    rerun=self._rerun,
                    weight=claimed.weight,
                    continues=True,
                ),
                id=c.shard_workflow_id(claimed.run.run_id, self._generation, planned.shard),
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                static_summary=f"{planned.partitions} partitions, {planned.documents} documents",
            )
            await minding_cancellation(starting)
        except TemporalError as error:
            if type(error).__name__ != "WorkflowAlreadyStartedError":
                raise  # one that runs already, for example after a lost answer, reports all the same
        finally:
            self._unfinished -= 1

    async def _watch_shards(self) -> None:
        """Starts an open shard again that closed without its last report, for example because it was terminated."""
        while True:
            await asyncio.sleep(self._tuning.watch_shards_every)
            ids = {
                c.shard_workflow_id(self._the_claim().run.run_id, self._generation, shard): shard
                for shard in self._open
            }
            if not ids or self._leaving:
                continue
            closed = await control_activity(c.FIND_CLOSED_SHARDS, c.ClosedShardsInput(sorted(ids)), list[str])
            for workflow_id in closed:
                shard = self._open.get(ids[workflow_id])
                if shard is not None and not self._leaving:
                    workflow.logger.warning("shard %s closed without its last report; starting it again", workflow_id)
                    await self._start_shard(shard.planned)

    async def _deliver_control(self) -> None:
        """Makes each change of state known: to workers by `control.json`, to open shards by signal; probes outages."""
        while True:
            control = self._control
            if self._delivered != control:
                # First, and side by side: a folder that cannot be written must hide the state from nobody.
                if self._the_claim().shows_progress:
                    self._publish(control.state)
                await asyncio.gather(
                    self._write_control(control),
                    *(self._signal_shard(shard, control, TELL_TRIES) for shard in sorted(self._open)),
                )
                self._delivered = control
                if not self._the_claim().shows_progress:  # so was the order of runs that were claimed before
                    self._publish(control.state)
            if control.state == c.PAUSED and control.reason in c.PROBED:
                await self._probe(control)
            await workflow.wait_condition(lambda: self._delivered != self._control)

    async def _tell_the_untold(self) -> None:
        """Tells shards that could not be told of a change of state how it stands now, until each knows."""
        while True:
            await workflow.wait_condition(lambda: bool(self._untold))
            await asyncio.sleep(TELL_AGAIN)
            await asyncio.gather(*(self._signal_shard(shard, self._control, 1) for shard in sorted(self._untold)))

    async def _probe(self, control: c.Control) -> None:
        """One probe at a time until what was unreachable answers again; then the run resumes by itself."""
        wait = self._tuning.probe_every
        while self._control == control:
            with suppress(TimeoutError):
                await workflow.wait_condition(lambda: self._control != control, timeout=wait)
                return
            result = await control_activity(
                c.CHECK_MODEL,
                c.CheckInput(run=self._the_claim().run, reason=control.reason),
                c.CheckResult,
                f"probe after {control.reason}",
            )
            if not result.problem and self._control == control:
                self.resume()
            wait = min(wait * 1.5, 300.0)

    # -- the ends ------------------------------------------------------------------------------------------------------

    async def _claim(self, start: c.RunInput) -> c.Claimed:
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
        self._rerun = claimed.rerun or self._rerun
        self._generation = claimed.generation
        self._delivered = c.Control(epoch=claimed.epoch)
        self._control = replace(self._control, epoch=claimed.epoch)  # it may have been paused already
        if claimed.max_cost_usd is not None:
            self._budget = Budget(claimed.max_cost_usd, claimed.charged_usd, claimed.epoch)
        budget = {"max_cost_usd": claimed.max_cost_usd, "charged_usd": claimed.charged_usd} if self._budget else {}
        workflow.upsert_memo({"job_name": claimed.job_name, "output_uri": claimed.run.output_uri, **budget})
        if claimed.searchable:
            workflow.upsert_search_attributes([JOB.value_set(claimed.job_name), STATE.value_set(c.RUNNING)])
        return claimed

    def _publish(self, state: str) -> None:
        """State and counts where visibility finds them: `docbatch list` and Temporal's UI."""
        self._publish_progress(state=state)
        if self._the_claim().searchable:
            workflow.upsert_search_attributes([STATE.value_set(state)])

    def _publish_progress(self, **more: str) -> None:
        self._published_at = workflow.time()
        totals = self._totals_now() + self._answered_now()
        counts = {"documents": totals.documents, "errors": totals.errors, "cost_usd": round(totals.cost_usd, 6)}
        if self._budget is not None:
            counts |= {"max_cost_usd": self._budget.max_usd, "charged_usd": round(self._budget.charged_usd, 6)}
        workflow.upsert_memo({**more, **counts})

    def _continue_as_new(self) -> None:
        workflow.continue_as_new(
            c.RunInput(
                tuning=self._tuning,
                partitions_queue=self._partitions_queue,
                carried=c.Carried(
                    claimed=self._the_claim(),
                    generation=self._generation,
                    control=self._control,
                    control_delivered=self._delivered == self._control and not self._untold,
                    started_at=self._started_at,
                    cursor=self._cursor,
                    next_shard=self._next_shard,
                    next_partition=self._next_partition,
                    plan_done=self._plan_done,
                    planned_documents=self._planned_documents,
                    planned_partitions=self._planned_partitions,
                    totals=self._totals,
                    waiting=list(self._waiting),
                    open=[self._open[shard] for shard in sorted(self._open)],
                    rerun=self._rerun,
                    rerun_found=self._rerun_found,
                    finished_shards=self._finished_shards,
                    budget=self._budget,
                    reasons=self._reasons,
                    deleted=self._deleted,
                    left_out=self._left_out,
                    answered=self._answered,
                ),
            ),
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
        return c.COMPLETED_WITH_FAILURES if self._totals.errors or self._totals.partitions_failed else c.COMPLETED

    async def _cancel_run(self) -> None:
        """Stops the workers, then the shards, then accounts for what there is."""
        self._state = c.CANCELLING
        self._control = c.Control(state=c.CANCELLED, epoch=self._control.epoch + 1, reason=c.BY_USER)
        self._show()
        told = asyncio.create_task(self._write_control(self._control))
        await workflow.wait([told], timeout=timedelta(seconds=10).total_seconds())
        await asyncio.gather(*(self._cancel_shard(shard) for shard in sorted(self._open)))
        try:
            await workflow.wait_condition(lambda: not self._open, timeout=timedelta(minutes=10))
        except TimeoutError:
            workflow.logger.warning("shards %s did not report after their cancellation", sorted(self._open))
        await self._finish(c.CANCELLED)

    async def _cancel_shard(self, shard: int) -> None:
        handle = workflow.get_external_workflow_handle(
            c.shard_workflow_id(self._the_claim().run.run_id, self._generation, shard)
        )
        try:
            await handle.cancel()
        except TemporalError:
            self._open.pop(shard, None)  # closed already

    async def _last_reports(self, budget: Budget) -> None:
        """Waits a little for what worker processes say when they have nothing more to do."""
        if budget.awaits(workflow.time()):
            with suppress(TimeoutError):
                await workflow.wait_condition(lambda: not budget.awaits(workflow.time()), timeout=SETTLED_WITHIN)

    async def _finish(self, state: str) -> c.Finished:
        claimed = self._the_claim()
        if self._budget is not None:
            await self._last_reports(self._budget)
        finished = await control_activity(
            c.FINISH_RUN,
            c.FinishInput(
                run=claimed.run,
                generation=self._generation,
                state=state,
                reason=self._control.reason,
                started_at=self._started_at,
                plan_complete=self._plan_done,
                execution_run_id=workflow.info().first_execution_run_id,
                budget=BudgetView.of(self._budget),
            ),
            c.Finished,
        )
        self._state = finished.state
        self._totals, self._answered = finished.totals, c.Totals()
        self._publish(finished.state)
        self._show()
        return finished

    # -- small things --------------------------------------------------------------------------------------------------

    def _pause(self, reason: str, message: str) -> None:
        if self._control.state == c.RUNNING:
            self._control = c.Control(c.PAUSED, self._control.epoch, reason, message)
            self._show()

    async def _write_control(self, control: c.Control) -> None:
        await control_activity(
            c.WRITE_CONTROL,
            c.ControlInput(self._the_claim().run, control, self._the_claim().job_name),
            type(None),
            control.state,
            within=timedelta(seconds=10),  # a pause must not wait for a worker that was killed
        )

    async def _signal_shard(self, shard: int, control: c.Control, tries: int) -> None:
        """Tries again for a while: a shard that is just being started cannot be signalled yet."""
        handle = workflow.get_external_workflow_handle(
            c.shard_workflow_id(self._the_claim().run.run_id, self._generation, shard)
        )
        self._untold.discard(shard)
        for _ in range(tries):
            try:
                await handle.signal("control", control)
                return
            except TemporalError as error:
                if shard not in self._open:
                    return
                workflow.logger.warning("shard %s could not be told %s: %s", shard, control.state, error)
                await asyncio.sleep(1)
        self._untold.add(shard)

    def _dispatching(self) -> int:
        return sum(not shard.report.dispatched for shard in self._open.values())

    def _window(self) -> int:
        return max(1, min(self._tuning.window, self._the_claim().in_flight))

    def _totals_now(self) -> c.Totals:
        return sum((shard.report.totals for shard in self._open.values()), self._totals)

    def _answered_now(self) -> c.Totals:
        return sum((shard.report.answered for shard in self._open.values()), self._answered)

    def _the_claim(self) -> c.Claimed:
        if self._claimed is None:
            raise ApplicationError("the run is not claimed yet", non_retryable=True)
        return self._claimed

    def _show(self) -> None:
        """The run in Temporal's UI."""
        committed, totals = self._totals_now(), self._totals_now() + self._answered_now()
        planned = f"{self._planned_documents}{'' if self._plan_done else '+'}"
        lines = [
            f"**{self.progress().state}** generation {self._generation}",
            f"{totals.documents} of {planned} documents: {totals.ok} ok, {totals.errors} error",
            f"{committed.partitions} of {self._planned_partitions} partitions, {committed.partitions_failed} failed",
            f"shards open: {len(self._open)}, waiting: {len(self._waiting)}",
        ]
        if self._reasons:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self._reasons.items()))
            lines.append(f"incremental: {reasons}, {self._deleted} deleted")
        if self._budget is not None:
            lines.append(f"budget: ${self._budget.charged_usd:.6g} of ${self._budget.max_usd:.6g} spent or set aside")
        if self._control.reason:
            lines.append(f"reason: {self._control.reason} {self._control.message}")
        workflow.set_current_details("\n\n".join(lines))


@workflow.defn(name=c.CHECK_WORKFLOW)
class Check:
    """Asks the model one short question by way of a worker, since only workers hold its credentials."""

    @workflow.run
    async def run(self, start: c.CheckInput) -> c.CheckResult:
        """Never raises for a model that does not answer: the result says what is wrong."""
        result: c.CheckResult = await workflow.execute_activity(
            c.CHECK_MODEL,
            start,
            result_type=c.CheckResult,
            start_to_close_timeout=timedelta(seconds=90),
            retry_policy=RetryPolicy(maximum_attempts=2),
        )
        return result


WORKFLOWS = [Coordinator, Shard, Check, Quota, Preview, Estimate]
