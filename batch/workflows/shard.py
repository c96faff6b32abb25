"""The workflow of a shard: keeps a sliding window of partitions in flight, reports to the coordinator.

Deterministic, and free of heavy imports. A shard continues as new only where many of its partitions have yielded. It
reports to the run's workflow id, whichever execution of the coordinator holds that.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import Priority, RetryPolicy
from temporalio.exceptions import ActivityError, TemporalError, is_cancelled_exception

from batch.workflows import contracts as c
from batch.workflows.awaiting import has_failed, minding_cancellation
from batch.workflows.states import Outcome, Reason, State

PROCESS_TIMEOUT = timedelta(hours=24)
PROCESS_RETRY = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30))


@workflow.defn(name=c.SHARD_WORKFLOW)
class Shard:
    """A bounded stretch of partitions behind a sliding window of activities; a failed partition is data."""

    @workflow.init
    def __init__(self, start: c.ShardInput) -> None:
        self._start = start
        # Which run's partitions come next is the server's business: by priority, and, where it has fairness switched on
        # (self-hosted: `matching.enableFairness`), in turns by weight. Its fairness keys have at most 64 bytes.
        run = hashlib.sha256(start.run.run_id.encode()).hexdigest()[:16]
        self._priority = Priority(priority_key=start.priority, fairness_key=run, fairness_weight=start.weight)
        self._planned = start.planned
        self._control = start.control
        stretch = range(start.planned.first_partition, start.planned.first_partition + start.planned.partitions)
        partitions = list(stretch if start.planned.only is None else start.planned.only)
        self._count = len(partitions)
        self._state = start.carried or c.ShardState(partitions)
        self._in_flight: dict[int, asyncio.Task[None]] = {}
        self._cancelled = False
        self._failure: BaseException | None = None

    @workflow.run
    async def run(self, start: c.ShardInput) -> c.Totals:
        """Returns the totals of the shard; the coordinator has them by signal."""
        try:
            while self._state.pending or self._in_flight:
                await workflow.wait_condition(
                    lambda: (
                        self._failure is not None
                        or self._may_dispatch()
                        or not (self._state.pending or self._in_flight)
                        or self._may_continue()
                    )
                )
                if self._failure is not None:
                    raise self._failure
                if self._may_continue():
                    self._continue_as_new()
                while self._may_dispatch():
                    self._dispatch(self._state.pending.pop(0))
                await self._report_if_due()
        except asyncio.CancelledError:
            self._cancelled = True
            for task in self._in_flight.values():
                task.cancel()
            await workflow.wait_condition(lambda: not self._in_flight)
            await self._report(finished=True)
            raise
        await self._report(finished=True)
        return self._state.totals

    @workflow.signal
    def control(self, control: c.Control) -> None:
        """The coordinator's word: go on, or dispatch nothing."""
        if control.epoch > self._control.epoch or (
            control.epoch == self._control.epoch and control.state != State.RUNNING
        ):
            self._control = control

    @workflow.query
    def totals(self) -> c.ShardReport:
        """Live numbers of this shard."""
        report = self._make_report(finished=not (self._state.pending or self._in_flight))
        known = sorted(self._state.answered.items())
        held = [c.Held(each, answered) for each, answered in known if each in self._in_flight]
        at_rest = {each: answered for each, answered in self._state.answered.items() if each not in self._in_flight}
        failing = [each for each, answered in at_rest.items() if answered.errors][: c.FAILING_TOLD]
        return replace(report, answered=c.Totals.sum(at_rest.values()), held=held, failing=failing)

    def _may_dispatch(self) -> bool:
        return (
            bool(self._state.pending)
            and not self._cancelled
            and not self._is_long()
            and self._control.state == State.RUNNING
            and len(self._in_flight) < self._start.window
        )

    def _is_long(self) -> bool:
        """Whether the history is so long that what is pending is for the next execution."""
        return self._start.continues and workflow.info().is_continue_as_new_suggested()

    def _may_continue(self) -> bool:
        """Nothing may be in flight: the next execution would hear nothing of it."""
        return self._is_long() and bool(self._state.pending) and not self._in_flight

    def _continue_as_new(self) -> None:
        workflow.continue_as_new(
            replace(self._start, control=self._control, carried=self._state),
            initial_versioning_behavior=workflow.ContinueAsNewVersioningBehavior.AUTO_UPGRADE,
        )

    def _dispatch(self, partition: int) -> None:
        dispatch = self._state.dispatches[partition] = self._state.dispatches.get(partition, 0) + 1
        task = asyncio.create_task(self._process(partition, dispatch))
        self._in_flight[partition] = task
        task.add_done_callback(lambda done: self._ended(partition, done))

    def _ended(self, partition: int, task: asyncio.Task[None]) -> None:
        if self._in_flight.get(partition) is task:
            del self._in_flight[partition]
        if has_failed(task):
            self._failure = task.exception()

    async def _process(self, partition: int, dispatch: int) -> None:
        epoch = self._control.epoch
        try:
            outcome: c.PartitionOutcome = await workflow.execute_activity(
                c.PROCESS_PARTITION,
                c.PartitionInput(
                    run=self._start.run,
                    shard=self._planned.shard,
                    partition=partition,
                    row_group=partition - self._planned.first_partition,
                    generation=self._start.generation,
                    dispatch=dispatch,
                    epoch=epoch,
                    max_barren_attempts=self._start.tuning.max_barren_attempts,
                    rerun=self._start.rerun,
                ),
                result_type=c.PartitionOutcome,
                task_queue=self._start.partitions_queue,
                start_to_close_timeout=PROCESS_TIMEOUT,
                heartbeat_timeout=timedelta(seconds=self._start.tuning.heartbeat_timeout),
                retry_policy=PROCESS_RETRY,
                cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
                summary=f"partition {partition}",
                priority=self._priority,
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                outcome = c.PartitionOutcome(partition, Outcome.YIELDED, reason=Reason.BY_USER)
            else:  # an activity that cannot be retried: the partition failed, the shard goes on
                workflow.logger.error("partition %s failed: %s", partition, error.cause)
                outcome = c.PartitionOutcome(partition, Outcome.GIVEN_UP, message=str(error.cause))
        except asyncio.CancelledError:
            outcome = c.PartitionOutcome(partition, Outcome.YIELDED, reason=Reason.BY_USER)
        await self._take(outcome)

    async def _take(self, outcome: c.PartitionOutcome) -> None:
        if outcome.answered.documents:  # an attempt that got not so far says nothing against what the ledger has
            self._state.answered[outcome.partition] = outcome.answered
        if outcome.outcome == Outcome.COMMITTED:
            self._state.answered.pop(outcome.partition, None)
            self._state.totals += outcome.totals
        elif outcome.outcome == Outcome.GIVEN_UP:
            self._state.totals += replace(c.Totals(), partitions=1, partitions_failed=1)
        elif outcome.reason == Reason.AWAITS_ANSWERS:
            self._state.pending.append(outcome.partition)
        else:
            self._state.pending.insert(0, outcome.partition)
            await self._hold(outcome)

    async def _hold(self, outcome: c.PartitionOutcome) -> None:
        """After a yield that was no drain: asks for a pause, and dispatches nothing until the coordinator says so."""
        if outcome.reason == Reason.DRAIN or self._cancelled or outcome.epoch < self._control.epoch:
            return
        if self._control.state == State.RUNNING:
            self._control = c.Control(State.PAUSED, outcome.epoch, outcome.reason, outcome.message)
            if outcome.reason != Reason.BY_USER:
                await self._tell("request_pause", c.PauseRequest(outcome.epoch, outcome.reason, outcome.message))

    async def _report_if_due(self) -> None:
        """At most ten reports of progress, and one when the last partition is dispatched: history stays bounded."""
        state = self._state
        tenth = state.totals.partitions * 10 // max(1, self._count)
        dispatched = not state.pending
        if (tenth > state.reported_tenth or (dispatched and not state.dispatched_told)) and (
            state.pending or self._in_flight
        ):
            state.reported_tenth, state.dispatched_told = tenth, dispatched or state.dispatched_told
            await self._report(finished=False)

    async def _report(self, *, finished: bool) -> None:
        await self._tell("shard_report", self._make_report(finished=finished))

    def _make_report(self, *, finished: bool) -> c.ShardReport:
        return c.ShardReport(
            shard=self._planned.shard,
            totals=self._state.totals,
            dispatched=not self._state.pending,
            finished=finished,
            answered=c.Totals.sum(self._state.answered.values()),
        )

    async def _tell(self, signal: str, argument: Any) -> None:
        """To the run's workflow id, whichever execution holds it; a run that is gone needs no report."""
        try:
            run = workflow.get_external_workflow_handle(self._start.run.run_id)
            await minding_cancellation(run.signal(signal, argument))
        except TemporalError as error:
            workflow.logger.warning("the coordinator could not be told %s: %s", signal, error)
