"""The open shards of a run, as its coordinator handles them: starts, tells, watches and cancels their workflows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from temporalio import workflow
from temporalio.exceptions import TemporalError

from batch.workflows import contracts as c
from batch.workflows.awaiting import control_activity, minding_cancellation
from batch.workflows.run_state import RunInput, RunState

TELL_TRIES, TELL_AGAIN = 20, 10.0
"""Tries, a second apart, to tell a shard of a pause or resume; and seconds from then on until it is told again."""


class OpenShards:
    """The workflows behind `state.open`."""

    def __init__(self, state: RunState, start: RunInput) -> None:
        self._state = state
        self._tuning = start.tuning
        self._partitions_queue = start.partitions_queue
        self.starting = 0
        self.started = 0
        """By this execution, first starts only."""
        self.untold: set[int] = set()
        """Open shards that could not be told of the state."""

    @property
    def window(self) -> int:
        """Partitions in flight at once of one shard."""
        return max(1, min(self._tuning.window, self._state.claim.in_flight))

    @property
    def wanted(self) -> int:
        """Shards that have to dispatch at once for the run's partitions in flight."""
        return max(1, -(-self._state.claim.in_flight // self.window))

    async def start_next(self) -> None:
        """Starts the shard that has waited longest."""
        await self._start(self._state.waiting.pop(0))
        self.started += 1

    async def _start(self, planned: c.PlannedShard) -> None:
        state, claimed = self._state, self._state.claim
        report = c.ShardReport(planned.shard, c.Totals(), dispatched=False, finished=False)
        state.put(c.OpenShard(planned, report))
        self.starting += 1
        try:
            starting = workflow.start_child_workflow(
                c.SHARD_WORKFLOW,
                c.ShardInput(
                    run=claimed.run,
                    planned=planned,
                    generation=state.generation,
                    window=self.window,
                    tuning=self._tuning,
                    control=state.control,
                    priority=claimed.priority,
                    partitions_queue=self._partitions_queue,
                    rerun=state.rerun,
                    weight=claimed.weight,
                    continues=True,
                ),
                id=state.shard_id(planned.shard),
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                static_summary=f"{planned.partitions} partitions, {planned.documents} documents",
            )
            await minding_cancellation(starting)
        except TemporalError as error:
            if type(error).__name__ != "WorkflowAlreadyStartedError":
                raise  # one that runs already, for example after a lost answer, reports all the same
        finally:
            self.starting -= 1

    async def start_dead_ones(self, leaving: Callable[[], bool]) -> None:
        """Starts open shards again that closed without their last report, unless this execution is `leaving`."""
        ids = {self._state.shard_id(shard): shard for shard in self._state.open_shards}
        closed = await control_activity(c.FIND_CLOSED_SHARDS, c.ClosedShardsInput(sorted(ids)), list[str])
        for workflow_id in closed:
            shard = self._state.open_shard(ids[workflow_id])
            if shard is not None and not leaving():
                workflow.logger.warning("shard %s closed without its last report; starting it again", workflow_id)
                await self._start(shard.planned)

    async def tell(self, shard: int, control: c.Control, tries: int = TELL_TRIES) -> None:
        """Tries again for a while: a shard that is just being started cannot be signalled yet."""
        handle = workflow.get_external_workflow_handle(self._state.shard_id(shard))
        for _ in range(tries):
            try:
                await handle.signal("control", control)
                if control == self._state.control:  # else it has heard an older word only
                    self.untold.discard(shard)
                return
            except TemporalError as error:
                if self._state.open_shard(shard) is None:
                    self.untold.discard(shard)
                    return
                workflow.logger.warning("shard %s could not be told %s: %s", shard, control.state, error)
                await asyncio.sleep(1)
        self.untold.add(shard)

    async def tell_the_untold(self) -> None:
        """Tells shards that could not be told of a change of state how it stands now, until each knows."""
        while True:
            await workflow.wait_condition(lambda: bool(self.untold))
            await asyncio.sleep(TELL_AGAIN)
            await asyncio.gather(*(self.tell(shard, self._state.control, tries=1) for shard in sorted(self.untold)))

    async def cancel_all(self) -> None:
        """Asks all to end; those that have ended already are forgotten."""
        await asyncio.gather(*(self._cancel(shard) for shard in self._state.open_shards))

    async def _cancel(self, shard: int) -> None:
        try:
            await workflow.get_external_workflow_handle(self._state.shard_id(shard)).cancel()
        except TemporalError:
            self._state.drop(shard)
