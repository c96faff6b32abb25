"""A run's state: what it takes from plans and reports, and the JSON in which it is carried."""

from __future__ import annotations

import json
from dataclasses import asdict

from batch.workflows import contracts as c
from batch.workflows.run_state import RunState
from batch.workflows.states import Reason, State

CLAIMED = c.Claimed(c.RunRef("r", "s3://results/"), "tickets", 3, 100, generation=2, epoch=4)


def planned(shard: int, partitions: int = 10) -> c.PlannedShard:
    return c.PlannedShard(
        shard, shard * 10, partitions, 50 * bool(partitions), f"key-{shard}", last=False, left_out={"empty": 1}
    )


def test_it_is_carried_by_the_names_that_running_workflows_have() -> None:
    names = """claimed generation control started_at control_delivered cursor next_shard next_partition plan_done
        planned_documents planned_partitions totals waiting open rerun rerun_found finished_shards budget reasons
        deleted left_out answered"""
    assert list(json.loads(json.dumps(asdict(RunState())))) == names.split()


def test_plans_go_on_behind_each_other_and_an_empty_one_moves_nothing() -> None:
    state = RunState()
    for plan in (planned(0), planned(1), planned(2, partitions=0)):
        state.take_plan(plan)
    assert (state.next_shard, state.next_partition, state.cursor) == (2, 20, "key-1")
    assert (state.planned_documents, state.planned_partitions, state.left_out) == (100, 20, {"empty": 3})
    assert [plan.shard for plan in state.waiting] == [0, 1]


def test_open_shards_count_by_their_last_report_until_they_finish() -> None:
    state = RunState(claimed=CLAIMED)
    for shard in (1, 0):
        report = c.ShardReport(shard, c.Totals(), dispatched=False, finished=False)
        state.put(c.OpenShard(planned(shard), report))
    assert (state.open_shards, state.dispatching) == ([0, 1], 2)
    for documents, finished in ((5, False), (9, True)):
        shard = state.open_shard(0)
        assert shard is not None
        state.take_report(shard, c.ShardReport(0, c.Totals(documents=documents), dispatched=True, finished=finished))
        assert (state.totals_now.documents, state.dispatching) == (documents, 1)
    assert (state.open_shards, state.finished_shards, state.open_shard(0)) == ([1], 1, None)


def test_a_claim_leaves_a_pause_that_came_before_it_to_be_made_known() -> None:
    state = RunState()
    state.take_claim(CLAIMED)
    assert (state.generation, state.control, state.control_delivered) == (2, c.Control(epoch=4), True)
    state = RunState()
    state.set_control(c.Control(State.PAUSED, 1, Reason.BY_USER))
    state.take_claim(CLAIMED)
    assert (state.control, state.control_delivered) == (c.Control(State.PAUSED, 4, Reason.BY_USER), False)
    assert state.progress(State.PLANNING).state == State.PAUSED
    assert state.progress(State.CANCELLING).state == State.CANCELLING
