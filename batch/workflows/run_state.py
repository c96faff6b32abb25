"""How far a run has come: what its coordinator holds, and hands to the next execution when it continues as new.

Plain data and its arithmetic, without clock or I/O: it passes through the workflow sandbox
(`workers/process/sandbox.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from temporalio.exceptions import ApplicationError

from batch.workflows import contracts as c
from batch.workflows.budget import Budget, BudgetView
from batch.workflows.states import State


@dataclass
class RunState:
    """The state of a run: bounded by the number of shards that dispatch at once."""

    claimed: c.Claimed | None = None
    generation: int = 1
    control: c.Control = field(default_factory=c.Control)
    started_at: float = 0.0
    control_delivered: bool = True
    """Whether all know of `control` who have to."""
    cursor: str = ""
    next_shard: int = 0
    next_partition: int = 0
    plan_done: bool = False
    planned_documents: int = 0
    planned_partitions: int = 0
    totals: c.Totals = field(default_factory=c.Totals)
    """Of shards that have finished."""
    waiting: list[c.PlannedShard] = field(default_factory=list)
    open: list[c.OpenShard] = field(default_factory=list)
    """In the order of their numbers."""
    rerun: c.RerunRequest | None = None
    rerun_found: bool = False
    """Whether a rerun has gone through the plan that stands."""
    finished_shards: int = 0
    budget: Budget | None = None
    reasons: dict[str, int] = field(default_factory=dict)
    deleted: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    answered: c.Totals = field(default_factory=c.Totals)
    """What finished shards leave that is answered and not committed."""

    @property
    def claim(self) -> c.Claimed:
        """What is known of the job; raises before the run is claimed."""
        if self.claimed is None:
            raise ApplicationError("the run is not claimed yet", non_retryable=True)
        return self.claimed

    def take_claim(self, claimed: c.Claimed) -> None:
        """Begins the generation; a pause from before the claim stands."""
        self.claimed, self.generation = claimed, claimed.generation
        self.rerun = claimed.rerun or self.rerun
        self.control = replace(self.control, epoch=claimed.epoch)
        self.control_delivered = self.control == c.Control(epoch=claimed.epoch)
        if claimed.max_cost_usd is not None:
            self.budget = Budget(claimed.max_cost_usd, claimed.charged_usd, claimed.epoch)

    def set_control(self, control: c.Control) -> None:
        """Changes whether the model may be called; that is not known to anybody yet."""
        self.control, self.control_delivered = control, False

    def shard_id(self, shard: int) -> str:
        """The workflow id of a shard of this generation."""
        return c.shard_workflow_id(self.claim.run.run_id, self.generation, shard)

    def take_plan(self, planned: c.PlannedShard) -> None:
        """Goes on behind the stretch that has been planned, which may be empty."""
        self.plan_done = planned.last
        self.deleted += planned.deleted
        _add(self.left_out, planned.left_out)
        if planned.partitions:
            self.take(planned)
            self.cursor = planned.cursor
            self.next_shard = planned.shard + 1
            self.next_partition = planned.first_partition + planned.partitions

    def take_rerun_plan(self, plan: c.RerunPlan, request: c.RerunRequest) -> None:
        """Takes a page of a rerun's plan, and with the last one where the run's own plan stands."""
        for planned in plan.shards:
            self.take(planned)
        if plan.next_shard is not None:
            self.next_shard = plan.next_shard
            return
        # What stands is gone through; a run that was cancelled while it planned goes on planning, unless some
        # partitions were asked for by number.
        self.rerun_found = True
        self.plan_done = plan.plan_complete or bool(request.partitions)
        self.cursor, self.next_shard, self.next_partition = plan.cursor, plan.plan_shards, plan.plan_partitions

    def take(self, planned: c.PlannedShard) -> None:
        """Has a stretch wait for its start."""
        self.waiting.append(planned)
        self.planned_documents += planned.documents
        self.planned_partitions += len(planned.only) if planned.only is not None else planned.partitions
        _add(self.reasons, planned.reasons)

    def open_shard(self, shard: int) -> c.OpenShard | None:
        """The shard, if it is open."""
        return next((each for each in self.open if each.planned.shard == shard), None)

    def put(self, shard: c.OpenShard) -> None:
        """Opens a shard, or replaces what is known of it."""
        self.drop(shard.planned.shard)
        self.open = sorted([*self.open, shard], key=lambda each: each.planned.shard)

    def drop(self, shard: int) -> None:
        """Forgets an open shard."""
        self.open = [each for each in self.open if each.planned.shard != shard]

    def take_report(self, shard: c.OpenShard, report: c.ShardReport) -> None:
        """Takes the word of an open shard, which may be its last."""
        if not report.finished:
            self.put(replace(shard, report=report))
            return
        self.drop(report.shard)
        self.totals += report.totals
        self.answered += report.answered
        self.finished_shards += 1

    @property
    def open_shards(self) -> list[int]:
        return [each.planned.shard for each in self.open]

    @property
    def dispatching(self) -> int:
        """Open shards that have partitions to dispatch."""
        return sum(not shard.report.dispatched for shard in self.open)

    @property
    def totals_now(self) -> c.Totals:
        """Those of finished shards and the last report of each open one."""
        return sum((shard.report.totals for shard in self.open), self.totals)

    @property
    def answered_now(self) -> c.Totals:
        """What is answered and not committed, of all shards."""
        return sum((shard.report.answered for shard in self.open), self.answered)

    def progress(self, phase: str) -> c.Progress:
        """Where the run stands: `phase` is what it is about, unless it is paused."""
        is_paused = self.control.state == State.PAUSED and phase in (State.RUNNING, State.PLANNING)
        return c.Progress(
            run=self.claimed.run if self.claimed else None,
            state=State.PAUSED if is_paused else phase,
            control=self.control,
            generation=self.generation,
            planned_documents=self.planned_documents,
            planned_partitions=self.planned_partitions,
            plan_done=self.plan_done,
            totals=self.totals_now,
            shards_open=self.open_shards,
            shards_reported=[shard.report.totals for shard in self.open],
            shards_finished=self.finished_shards,
            started_at=self.started_at,
            budget=BudgetView.of(self.budget),
            reasons=self.reasons,
            deleted=self.deleted,
            left_out=self.left_out,
            answered=self.answered_now,
            shards_answered=[shard.report.answered for shard in self.open],
        )

    def details(self, phase: str) -> str:
        """The run in a few lines of Markdown."""
        committed, totals = self.totals_now, self.totals_now + self.answered_now
        planned = f"{self.planned_documents}{'' if self.plan_done else '+'}"
        lines = [
            f"**{self.progress(phase).state}** generation {self.generation}",
            f"{totals.documents} of {planned} documents: {totals.ok} ok, {totals.errors} error",
            f"{committed.partitions} of {self.planned_partitions} partitions, {committed.partitions_failed} failed",
            f"shards open: {len(self.open)}, waiting: {len(self.waiting)}",
        ]
        if self.claimed is not None and self.claimed.model:
            lines.append(f"model: {self.claimed.model}")
        if self.reasons:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.reasons.items()))
            lines.append(f"incremental: {reasons}, {self.deleted} deleted")
        if self.budget is not None:
            lines.append(f"budget: ${self.budget.charged_usd:.6g} of ${self.budget.max_usd:.6g} spent or set aside")
        if self.control.reason:
            lines.append(f"reason: {self.control.reason} {self.control.message}")
        return "\n\n".join(lines)


def _add(counts: dict[str, int], more: dict[str, int]) -> None:
    for name, count in more.items():
        counts[name] = counts.get(name, 0) + count


@dataclass(frozen=True)
class RunInput:
    """Start of a run (`job_json`), of a rerun (of `run`), or its continuation (`carried`).

    `nominal` is when the run is for (ISO 8601 with an offset); empty: when its schedule's slot is, or when it started.
    `time_zone` is its schedule's, whose calendar gives the date.
    """

    tuning: c.Tuning
    partitions_queue: str
    job_json: str = ""
    rerun: c.RerunRequest | None = None
    run: c.RunRef | None = None
    carried: RunState | None = None
    nominal: str = ""
    time_zone: str = ""
    full: bool = False
    """Whether an incremental run asks about all documents all the same."""
