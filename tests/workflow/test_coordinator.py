"""Coordinator and shards on a real Temporal server, with stand-in activities."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from typing import Any

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner

from batch.network.connection import DATA_CONVERTER
from batch.workflows import contracts as c
from batch.workflows import open_shards
from batch.workflows.states import Outcome, Reason, State
from tests.workflow.standin import HeldAccount, StandIns, until

SIGNALED = "workflow_execution_signaled_event_attributes"


async def executions(client: Client, run_id: str) -> int:
    """How many executions the run's workflow id had."""
    return len([e async for e in client.list_workflows(f"WorkflowId = '{run_id}'")])


async def progress(handle: WorkflowHandle[Any, Any]) -> c.Progress:
    found: c.Progress = await handle.query("progress", result_type=c.Progress)
    return found


async def test_every_partition_is_processed_once(temporal: Client) -> None:
    work = StandIns(shards=3, partitions=20)
    async with work.worker(temporal) as queue:
        handle = await work.start(temporal, queue, c.Tuning(shard_partitions=20))
        finished = await handle.result()
    assert finished.state == State.COMPLETED
    assert work.begun == dict.fromkeys(range(60), 1)
    assert work.finished[0].plan_complete


@pytest.mark.alone
async def test_slots_stay_busy_across_continue_as_new_and_cancel_reaches_every_activity(temporal: Client) -> None:
    slots = 200
    work = StandIns(shards=40, partitions=50, seconds=20.0, in_flight=400, beat_every=3.0)
    async with work.worker(temporal, slots=slots) as queue:
        tuning = c.Tuning(shard_partitions=50, window=50, continue_every_shards=1, heartbeat_timeout=15)
        handle = await work.start(temporal, queue, tuning)
        await until(lambda: work.running == slots)
        start = len(work.busy)
        await asyncio.sleep(25)
        samples = work.busy[start:]
        busy = sum((after - at) * n for (at, n), (after, _) in itertools.pairwise(samples))
        share = busy / (samples[-1][0] - samples[0][0]) / slots
        continued = await executions(temporal, handle.id)
        print(f"slots busy: {share:.1%} of {slots}, over {continued} executions of the coordinator")
        assert continued >= 5
        assert share >= 0.95

        running = work.running
        assert running > 0.9 * slots
        await handle.cancel()
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        assert work.running == 0
        assert work.cancelled >= 0.8 * running, "the others ended by themselves before the cancellation came"
        assert work.controls[-1].state == State.CANCELLED
        assert work.finished[-1].state == State.CANCELLED
        open_shards = [e.id async for e in temporal.list_workflows("ExecutionStatus = 'Running'")]
        assert open_shards == []


async def test_a_failed_partition_is_data(temporal: Client) -> None:
    work = StandIns(shards=1, partitions=10)

    async def process(task: c.PartitionInput) -> c.PartitionOutcome:
        if task.partition == 3:
            raise ApplicationError("this one cannot be done", non_retryable=True)
        if task.partition == 4:
            return c.PartitionOutcome(4, Outcome.GIVEN_UP, message="no progress")
        return work.committed(task)

    work.process = process
    async with work.worker(temporal) as queue:
        handle = await work.start(temporal, queue)
        finished = await handle.result()
    assert finished.state == State.COMPLETED_WITH_FAILURES
    assert len(work.begun) == 10


async def test_a_drained_partition_is_dispatched_again(temporal: Client) -> None:
    work = StandIns(shards=1, partitions=3)

    async def process(task: c.PartitionInput) -> c.PartitionOutcome:
        if task.partition == 1 and task.dispatch < 50:
            return c.PartitionOutcome(1, Outcome.YIELDED, reason=Reason.DRAIN, epoch=task.epoch)
        return work.committed(task)

    work.process = process
    async with work.worker(temporal) as queue:
        finished = await (await work.start(temporal, queue)).result()
    assert finished.state == State.COMPLETED
    assert work.begun == {0: 1, 1: 50, 2: 1}


async def test_pause_holds_dispatch_and_resume_goes_on(temporal: Client) -> None:
    work = StandIns(shards=2, partitions=40, seconds=0.2)
    async with work.worker(temporal, slots=5) as queue:
        handle = await work.start(temporal, queue, c.Tuning(shard_partitions=40, window=5))
        await until(lambda: len(work.begun) > 8)
        await handle.signal("pause", "lunch")
        seen: list[int] = []

        async def stands() -> bool:  # for a second; a moment without work comes also between two partitions
            seen.append(len(work.begun))
            await asyncio.sleep(0.1)
            return work.running == 0 and seen[-10:] == [seen[-1]] * 10

        await until(stands)
        begun = len(work.begun)
        stood = await progress(handle)
        assert (stood.state, stood.control.reason, stood.control.message) == (State.PAUSED, Reason.BY_USER, "lunch")
        await asyncio.sleep(1)
        assert len(work.begun) == begun
        await handle.signal("resume")
        finished = await handle.result()
    assert finished.state == State.COMPLETED
    assert [control.state for control in work.controls] == [State.PAUSED, State.RUNNING]
    assert work.controls[-1].epoch == 2
    assert len(work.begun) == 80


async def test_a_plan_that_fails_for_good_pauses_the_run_until_somebody_mends_the_cause(temporal: Client) -> None:
    work = StandIns(shards=2, partitions=4, refused_shard=1)
    async with work.worker(temporal) as queue:
        handle = await work.start(temporal, queue)

        async def paused() -> bool:
            return (await progress(handle)).state == State.PAUSED

        await until(paused)
        control = (await progress(handle)).control
        assert (control.reason, control.message) == (Reason.STORAGE_REFUSED, "cannot be planned")
        work.refused_as = "ManifestBroken"
        await handle.signal("resume")
        await until(lambda: [each.epoch for each in work.controls if each.state == State.PAUSED] == [1, 2])
        assert (await progress(handle)).control.reason == Reason.PLANNING_FAILED
        work.refused_shard = None
        await handle.signal("resume")
        assert (await handle.result()).state == State.COMPLETED
    assert work.begun == dict.fromkeys(range(8), 1)


async def test_an_error_of_the_job_pauses_the_run_once(temporal: Client) -> None:
    work = StandIns(shards=2, partitions=20)
    broken = True

    async def process(task: c.PartitionInput) -> c.PartitionOutcome:
        if broken:
            return c.PartitionOutcome(task.partition, Outcome.YIELDED, reason="insufficient_quota", epoch=task.epoch)
        return work.committed(task)

    work.process = process
    async with work.worker(temporal, slots=4) as queue:
        handle = await work.start(temporal, queue, c.Tuning(shard_partitions=20, window=4))

        async def paused() -> bool:
            return (await progress(handle)).state == State.PAUSED

        await until(paused)
        await until(lambda: work.running == 0)
        assert (await progress(handle)).control.reason == "insufficient_quota"
        assert sum(work.begun.values()) <= 2 * 2 * 4  # two windows, each once more at most
        broken = False
        # A late request that speaks of the epoch before is ignored.
        await handle.signal("resume")
        await handle.signal("request_pause", c.PauseRequest(1, "insufficient_quota", "late"))
        assert (await handle.result()).state == State.COMPLETED


async def test_an_outage_ends_by_a_probe(temporal: Client) -> None:
    work = StandIns(shards=1, partitions=10, probe_problem="refused")
    calls = 0

    async def process(task: c.PartitionInput) -> c.PartitionOutcome:
        nonlocal calls
        calls += 1
        if task.epoch == 1:
            return c.PartitionOutcome(task.partition, Outcome.YIELDED, reason=Reason.PROVIDER_UNREACHABLE, epoch=1)
        return work.committed(task)

    work.process = process
    async with work.worker(temporal, slots=2) as queue:
        handle = await work.start(temporal, queue, c.Tuning(window=2, probe_every=0.3))
        await until(lambda: bool(work.controls))
        await asyncio.sleep(1.0)
        held = calls
        await asyncio.sleep(0.5)
        assert calls == held
        work.probe_problem = ""
        assert (await handle.result()).state == State.COMPLETED


async def test_a_shard_that_could_not_be_told_of_a_pause_is_told_once_it_can_be(
    temporal: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its workflow is gone when the run pauses, and comes back knowing nothing of it."""
    monkeypatch.setattr(open_shards, "TELL_TRIES", 2)
    monkeypatch.setattr(open_shards, "TELL_AGAIN", 1.0)
    work = StandIns(shards=1, partitions=60, seconds=0.3)
    async with work.worker(temporal, runner=UnsandboxedWorkflowRunner()) as queue:
        handle = await work.start(temporal, queue, c.Tuning(window=1))
        shard = temporal.get_workflow_handle(c.shard_workflow_id(handle.id, 1, 0))
        await until(lambda: bool(work.begun))
        start = (await anext(shard.fetch_history_events())).workflow_execution_started_event_attributes
        (planned,) = await temporal.data_converter.decode(start.input.payloads, [c.ShardInput])
        await shard.terminate()
        await handle.signal("pause", "lunch")
        await asyncio.sleep(4)  # it has been tried by then
        begun = len(work.begun)
        await temporal.start_workflow(c.SHARD_WORKFLOW, planned, id=shard.id, task_queue=c.control_queue(queue))

        async def told() -> bool:
            return any([e.HasField(SIGNALED) async for e in shard.fetch_history_events()])

        await until(told)
        assert len(work.begun) < begun + 30
        await handle.signal("resume")
        work.seconds = 0.001
        assert (await handle.result()).state == State.COMPLETED


async def test_a_pause_before_any_worker_is_there_holds(temporal: Client) -> None:
    work = StandIns(shards=1, partitions=4)
    queue = f"queue-{uuid.uuid4()}"
    handle = await work.start(temporal, queue, c.Tuning(window=2))
    await handle.signal("pause", "not yet")
    async with work.worker(temporal, queue=queue):
        await until(lambda: bool(work.controls))
        assert work.controls[0].state == State.PAUSED
        assert not work.begun
        await handle.signal("resume")
        assert (await handle.result()).state == State.COMPLETED


async def test_a_pause_by_hand_during_an_outage_stays_and_a_resume_does_not_wait_for_the_probe(
    temporal: Client,
) -> None:
    work = StandIns(shards=1, partitions=4)

    async def process(task: c.PartitionInput) -> c.PartitionOutcome:
        if task.epoch == 1:
            return c.PartitionOutcome(task.partition, Outcome.YIELDED, reason=Reason.PROVIDER_UNREACHABLE, epoch=1)
        return work.committed(task)

    work.process = process
    async with work.worker(temporal) as queue:
        handle = await work.start(temporal, queue, c.Tuning(window=2, probe_every=2.0))
        await until(lambda: bool(work.controls))
        await handle.signal("pause", "the night is over")
        await asyncio.sleep(3.0)  # a probe, which would be answered, must not resume it
        stood = await progress(handle)
        assert (stood.state, stood.control.reason) == (State.PAUSED, Reason.BY_USER)
        await handle.signal("resume")
        assert (await handle.result()).state == State.COMPLETED

    work.begun.clear()
    work.controls.clear()
    async with work.worker(temporal) as queue:
        handle = await work.start(temporal, queue, c.Tuning(window=2, probe_every=300.0))
        await until(lambda: bool(work.controls))
        await handle.signal("resume")
        assert (await asyncio.wait_for(handle.result(), 20)).state == State.COMPLETED


async def test_a_cancellation_while_the_run_accounts_leaves_its_account(temporal: Client) -> None:
    """All work is done by then, so there is nothing to stop; without a manifest it would look as if it had failed."""
    work = HeldAccount(shards=1, partitions=2, seconds=0.01)
    async with work.worker(temporal) as queue:
        handle = await work.start(temporal, queue)
        await asyncio.wait_for(work.accounting.wait(), 20)
        await handle.cancel()
        await asyncio.sleep(1.0)
        work.may_end.set()
        finished = await asyncio.wait_for(handle.result(), 20)
    assert finished.state == State.COMPLETED
    assert [task.state for task in work.finished] == [State.COMPLETED]


async def test_what_yielded_partitions_have_answered_is_known_and_counts_once(temporal: Client) -> None:
    """Paused and resumed: in the account of the coordinator and of the shard until each partition is committed."""
    answered = c.Totals(documents=3, ok=2, errors=1, errors_by_type={"refusal": 1}, completion_tokens=30, cost_usd=0.5)

    async def process(task: c.PartitionInput) -> c.PartitionOutcome:
        if task.epoch == 1 and task.partition < 2:
            return c.PartitionOutcome(
                task.partition,
                Outcome.YIELDED,
                reason=Reason.ERROR_RATE,
                message="m",
                epoch=task.epoch,
                answered=answered,
            )
        return work.committed(task)

    work = StandIns(shards=1, partitions=4, process=process)
    async with work.worker(temporal) as queue:
        handle = await work.start(temporal, queue, c.Tuning(window=2))
        shard = temporal.get_workflow_handle(c.shard_workflow_id(handle.id, 1, 0))

        async def both_yielded() -> bool:
            if (await progress(handle)).state != State.PAUSED:
                return False
            report: c.ShardReport = await shard.query("totals", result_type=c.ShardReport)
            return report.answered == answered + answered and sorted(report.failing) == [0, 1]

        await until(both_yielded)
        await handle.signal("resume")
        await handle.result()
        assert (await progress(handle)).answered == c.Totals()
    assert sorted(work.begun.values()) == [1, 1, 2, 2]


async def test_an_error_of_megabytes_is_told_with_its_beginning(temporal: Client) -> None:
    """Temporal refuses it as a whole otherwise: "Failure exceeds size limit"."""

    class Verbose(StandIns):
        @activity.defn(name=c.PLAN_SHARD)
        async def plan(self, task: c.PlanInput) -> c.PlannedShard:
            raise ApplicationError("the 7th key is odd: " + "x" * 3_000_000, "y" * 3_000_000, non_retryable=True)

    client = Client(temporal.service_client, data_converter=DATA_CONVERTER)
    work = Verbose()
    async with work.worker(client) as queue:
        handle = await work.start(client, queue)

        async def paused() -> bool:
            return (await progress(handle)).state == State.PAUSED

        await until(paused)
        assert (await progress(handle)).control.message.startswith("the 7th key is odd: xxx")
        await handle.cancel()
        with pytest.raises(WorkflowFailureError):
            await handle.result()
