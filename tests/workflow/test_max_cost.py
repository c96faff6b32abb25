"""The coordinator's side of a maximum cost: kept through continue-as-new, it pauses the run, and raised it goes on."""

from __future__ import annotations

from temporalio.client import Client, WorkflowUpdateFailedError

from batch.workflows import contracts as c
from batch.workflows.budget import CLOSED, BudgetView
from batch.workflows.states import Reason, State
from tests.workflow.standin import StandIns, Till, until


async def view(work: StandIns, client: Client, run_id: str) -> c.Progress:
    progress: c.Progress = await client.get_workflow_handle(run_id).query("progress", result_type=c.Progress)
    return progress


async def test_it_pauses_when_it_is_spent_and_goes_on_when_it_is_raised(temporal: Client) -> None:
    work = StandIns(shards=3, partitions=6, max_cost_usd=7.5)
    tuning = c.Tuning(shard_partitions=6, window=3, plan_ahead=1, continue_every_shards=1)
    async with work.worker(temporal) as queue:
        handle = await work.start(temporal, queue, tuning)
        till = Till(temporal, handle.id)
        work.process = till.charges(work)
        await until(lambda: bool(work.controls))
        stood = await view(work, temporal, handle.id)
        assert (stood.state, stood.control.reason) == (State.PAUSED, Reason.MAX_COST)
        assert stood.budget == BudgetView(7.5, 7.0, 7.0)
        assert len(till.paid) == 7

        await handle.signal("resume")  # without more money it pauses again, and nothing is spent
        await until(lambda: len(work.controls) == 3)
        assert len(till.paid) == 7

        await handle.signal("resume", 100.0)
        await until(lambda: len(till.paid) == 18)
        await till.close()
        finished = await handle.result()
        executions = [e async for e in temporal.list_workflows(f"WorkflowId = '{handle.id}'")]
    assert finished.state == State.COMPLETED
    assert len(executions) > 1
    assert work.begun.keys() == set(range(18))
    account = work.finished[0].budget
    assert account is not None
    assert (account.max_usd, account.charged_usd, account.spent_usd) == (100.0, 18.0, 18.0)
    memo = await (await handle.describe()).memo()
    assert (memo["max_cost_usd"], memo["charged_usd"]) == (100.0, 18.0)


async def test_a_run_ends_without_the_last_report_of_a_process_that_died(temporal: Client) -> None:
    """What it was allowed counts as spent."""
    work = StandIns(shards=1, partitions=2, max_cost_usd=10.0)
    async with work.worker(temporal) as queue:
        handle = await work.start(temporal, queue)
        till = Till(temporal, handle.id)

        async def process(task: c.PartitionInput) -> c.PartitionOutcome:
            assert await till.pay(1.0, task.epoch)
            return work.committed(task)

        work.process = process
        await handle.result()
    account = work.finished[0].budget
    assert account is not None and (account.charged_usd, account.spent_usd) == (2.0, 1.0)


async def test_requests_of_an_epoch_that_is_over_and_of_a_run_without_a_budget(temporal: Client) -> None:
    work = StandIns(shards=1, partitions=1, max_cost_usd=10.0, seconds=0.7)
    async with work.worker(temporal) as queue:
        handle = await work.start(temporal, queue)
        await until(lambda: bool(work.begun))
        late = Till(temporal, handle.id)
        assert not await late.pay(1.0, 7)
        assert late.answers[0].verdict == CLOSED
        await handle.result()
        work.max_cost_usd = None
        handle = await work.start(temporal, queue)
        await until(lambda: work.running > 0)
        try:
            await Till(temporal, handle.id).pay(1.0, 1)
        except WorkflowUpdateFailedError as error:
            assert "no limits.max_cost_usd" in str(error.cause)
        else:
            raise AssertionError("a budget out of nothing")
        await handle.result()
