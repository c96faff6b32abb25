"""What passes through Temporal: names, inputs and outputs of workflows, activities, signals and queries.

Small dataclasses of identifiers and counters only. Documents, plans, answers and lists of failures stay in S3.
Nothing here has state: the module passes through the workflow sandbox (`workers/process/sandbox.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from batch.workflows.budget import BudgetView
from batch.workflows.states import State

RUN_WORKFLOW = "docbatch-run"
SHARD_WORKFLOW = "docbatch-shard"
CHECK_WORKFLOW = "docbatch-check"

CLAIM_RUN = "claim_run"
PLAN_SHARD = "plan_shard"
PLAN_RERUN = "plan_rerun"
PROCESS_PARTITION = "process_partition"
WRITE_CONTROL = "write_control"
FIND_CLOSED_SHARDS = "find_closed_shards"
FINISH_RUN = "finish_run"
CHECK_MODEL = "check_model"

RESERVE_BUDGET = "reserve_budget"
"""The coordinator's update by which worker processes draw on the run's budget (see `batch.workflows.budget`)."""

# Search attributes, both of type Keyword: runs are found by them where the namespace has them.
JOB_ATTRIBUTE = "DocbatchJob"
STATE_ATTRIBUTE = "DocbatchState"

DEFAULT_TASK_QUEUE = "docbatch"
FAILING_TOLD = 8
"""Partitions with errors at most that a shard names to who asks it."""


def control_queue(task_queue: str) -> str:
    """The task queue of workflows, planner, finisher and checks, apart from the one of partitions."""
    return f"{task_queue}-control"


def shard_workflow_id(run_id: str, generation: int, shard: int) -> str:
    """Deterministic, so that a shard that died is started again under the same id."""
    return f"{run_id}/g{generation}/shard-{shard:05d}"


FIRST_SHARDS = (20, 100)
"""Partitions at most of a run's first shards."""


@dataclass(frozen=True)
class Tuning:
    """How a run is cut up and watched; none of it changes an answer. Times are in seconds."""

    shard_partitions: int = 500
    window: int = 50
    plan_ahead: int = 2
    continue_every_shards: int = 0
    """Continue-as-new after so many started shards; 0: only when the server suggests it."""
    heartbeat_timeout: float = 60.0
    watch_shards_every: float = 180.0
    max_barren_attempts: int = 5
    """Attempts in a row that added nothing to the ledger before a partition is given up."""
    probe_every: float = 15.0
    upgrade_after: float = 60.0
    """Age of an execution before it continues as new on a newer version of the workers."""

    def partitions_of(self, shard: int) -> int:
        """At most, of a shard. The first ones are small: they are at work before a long listing has got far."""
        return min([self.shard_partitions, *FIRST_SHARDS[shard : shard + 1]])


@dataclass(frozen=True)
class RunRef:
    """Which run, and where its folder is."""

    run_id: str
    output_uri: str


@dataclass(frozen=True)
class Totals:
    """Counters that add up: of a partition, a shard or a run. Tokens and cost are of the rows that stand."""

    documents: int = 0
    ok: int = 0
    errors: int = 0
    retryable_errors: int = 0
    partitions: int = 0
    partitions_failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    unpriced: int = 0
    """Documents whose answers have no known price, or did not say what they used: `cost_usd` lacks them."""
    errors_by_type: dict[str, int] = field(default_factory=dict)
    """As many keys at most as the error taxonomy has types."""
    carried: int = 0
    """Documents whose rows an incremental run copied from the last one: their tokens and cost are not counted again."""

    @classmethod
    def sum(cls, several: Iterable[Totals]) -> Totals:
        """All of them added up."""
        return sum(several, cls())

    def __add__(self, other: Totals) -> Totals:
        return self._with(other, 1)

    def __sub__(self, other: Totals) -> Totals:
        return self._with(other, -1)

    def _with(self, other: Totals, sign: int) -> Totals:
        types = {**self.errors_by_type, **other.errors_by_type}
        counts = {
            kind: self.errors_by_type.get(kind, 0) + sign * other.errors_by_type.get(kind, 0) for kind in sorted(types)
        }
        numbers = [name for name in self.__dataclass_fields__ if name != "errors_by_type"]
        return Totals(
            **{name: getattr(self, name) + sign * getattr(other, name) for name in numbers},
            errors_by_type={kind: count for kind, count in counts.items() if count},
        )


@dataclass(frozen=True)
class RerunRequest:
    """What to do again. With nothing set: partitions given up and documents with retryable errors."""

    all_errors: bool = False
    partitions: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class ClaimInput:
    run_id: str
    job_json: str
    execution_run_id: str
    run: RunRef | None = None
    rerun: RerunRequest | None = None
    nominal: str = ""
    """When the run is for, ISO 8601 with an offset."""
    time_zone: str = ""
    """Whose calendar gives the date; empty: that of `nominal`."""
    scheduled: bool = False
    full: bool = False


@dataclass(frozen=True)
class Claimed:
    """What the coordinator needs to know of the job; the job itself stays in `run.json`."""

    run: RunRef
    job_name: str
    priority: int
    in_flight: int
    model: str = ""
    generation: int = 1
    epoch: int = 1
    rerun: RerunRequest | None = None
    """Of a schedule's slot that has been run before: what is left to do in it."""
    shows_progress: bool = False
    """Whether counts go into the memo as they grow. No in claims of older versions: their histories replay."""
    searchable: bool = False
    """Whether the namespace has our search attributes; setting one that it does not have would stop the workflow."""
    max_cost_usd: float | None = None
    """The job's, or what it was raised to in an earlier generation."""
    charged_usd: float = 0.0
    """What earlier generations were charged."""
    weight: float = 1.0


@dataclass(frozen=True)
class PlanInput:
    """Plan shard number `shard`, from the key after `cursor` on."""

    run: RunRef
    shard: int
    first_partition: int
    cursor: str
    partitions: int


@dataclass(frozen=True)
class PlannedShard:
    """A stretch of partitions whose plan file stands. `cursor` is the last key taken."""

    shard: int
    first_partition: int
    partitions: int
    documents: int
    cursor: str
    last: bool
    only: list[int] | None = None
    """A rerun's partitions; None: all of the stretch."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Of an incremental run: documents by the reason why they are asked about, or not."""
    deleted: int = 0
    """Of an incremental run: documents of the last one that are gone from this stretch."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Keys of this stretch that are no documents, by the rule (`batch.corpus.hidden`)."""


@dataclass(frozen=True)
class RerunPlanInput:
    run: RunRef
    generation: int
    request: RerunRequest
    start_shard: int
    """Scan from this shard on; a page of the answer holds a bounded number of shards."""


@dataclass(frozen=True)
class RerunPlan:
    """A page. At its end (`next_shard` None) it says where the plan stands: a cancelled run's may be unfinished."""

    shards: list[PlannedShard]
    next_shard: int | None
    plan_complete: bool = False
    cursor: str = ""
    plan_shards: int = 0
    plan_partitions: int = 0


@dataclass(frozen=True)
class PartitionInput:
    run: RunRef
    shard: int
    partition: int
    row_group: int
    generation: int
    dispatch: int
    """How many times the shard has dispatched this partition, from 1."""
    epoch: int
    max_barren_attempts: int
    rerun: RerunRequest | None = None


@dataclass(frozen=True)
class PartitionOutcome:
    """How one activity execution ended. `totals` are of the committed rows, zero for a yield.

    `answered`: of a partition that is not committed, what its ledger holds by then; no partition is counted in it.
    """

    partition: int
    outcome: str
    totals: Totals = field(default_factory=Totals)
    reason: str = ""
    message: str = ""
    epoch: int = 0
    answered: Totals = field(default_factory=Totals)


@dataclass(frozen=True)
class Beat:
    """The heartbeat of a partition's attempt: `answered` of its `of` documents, and the state of its process.

    `in_flight` are the calls of the whole run in that process at this instant: of several beats of one `process` the
    last one holds.
    """

    partition: int = -1
    of: int = 0
    answered: Totals = field(default_factory=Totals)
    process: str = ""
    in_flight: int = 0


@dataclass(frozen=True)
class Control:
    """Whether the run may call the model. Held by the coordinator alone; `epoch` rises with each resume."""

    state: str = State.RUNNING
    epoch: int = 1
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class ControlInput:
    run: RunRef
    control: Control
    job_name: str = ""


@dataclass(frozen=True)
class PauseRequest:
    """A worker's wish, by way of its shard, to pause the run under the epoch that it worked under."""

    epoch: int
    reason: str
    message: str


@dataclass
class ShardState:
    """How far a shard has come: what its workflow holds, and what one execution of it hands to the next."""

    pending: list[int]
    dispatches: dict[int, int] = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)
    answered: dict[int, Totals] = field(default_factory=dict)
    """Of partitions that have yielded or were given up: what their ledgers held by then."""
    reported_tenth: int = 0
    dispatched_told: bool = False


@dataclass(frozen=True)
class ShardInput:
    run: RunRef
    planned: PlannedShard
    generation: int
    window: int
    tuning: Tuning
    control: Control
    priority: int
    partitions_queue: str
    rerun: RerunRequest | None = None
    weight: float = 1.0
    continues: bool = False
    """Whether it continues as new. No in those that older versions started: their histories replay."""
    carried: ShardState | None = None


@dataclass(frozen=True)
class Held:
    """What a partition that has yielded had answered by then."""

    partition: int
    answered: Totals


@dataclass(frozen=True)
class ShardReport:
    """A shard's word to the coordinator, and its answer to who asks it.

    `answered`: of partitions that have yielded or were given up. To who asks it names those apart (`held`, at most a
    window of them) that are dispatched again: their heartbeats know better.
    """

    shard: int
    totals: Totals
    dispatched: bool
    finished: bool
    answered: Totals = field(default_factory=Totals)
    held: list[Held] = field(default_factory=list)
    failing: list[int] = field(default_factory=list)
    """To who asks it: a few partitions that have yielded with errors."""


@dataclass(frozen=True)
class OpenShard:
    planned: PlannedShard
    report: ShardReport


@dataclass(frozen=True)
class FinishInput:
    run: RunRef
    generation: int
    state: str
    reason: str
    started_at: float
    plan_complete: bool
    execution_run_id: str
    budget: BudgetView | None = None


@dataclass(frozen=True)
class Finished:
    """The reconciled run, in numbers; the whole account is in `manifest.json`."""

    state: str
    totals: Totals
    problems: list[str]
    manifest_uri: str
    results_uri: str


@dataclass(frozen=True)
class Progress:
    """Where a run stands, as its coordinator knows it."""

    run: RunRef | None
    state: str
    control: Control
    generation: int
    planned_documents: int
    planned_partitions: int
    plan_done: bool
    totals: Totals
    shards_open: list[int]
    shards_reported: list[Totals]
    """What `totals` holds of each open shard, in the order of `shards_open`: who asks a shard itself subtracts it."""
    shards_finished: int
    started_at: float
    budget: BudgetView | None = None
    reasons: dict[str, int] = field(default_factory=dict)
    """Of an incremental run: planned documents by the reason why they are asked about, or not."""
    deleted: int = 0
    """Of an incremental run: documents of the last one that the listing has no more."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Keys of the source that are no documents, by the rule (`batch.corpus.hidden`)."""
    answered: Totals = field(default_factory=Totals)
    """What is answered and not committed, of partitions that have yielded or were given up."""
    shards_answered: list[Totals] = field(default_factory=list)
    """What `answered` holds of each open shard, in the order of `shards_open`."""


@dataclass(frozen=True)
class ClosedShardsInput:
    workflow_ids: list[str]


@dataclass(frozen=True)
class CheckInput:
    """The model of a job that is about to start, or of a run that is there.

    `reason`: why that run is paused. What failed is asked for: of `STORAGE_UNREACHABLE` the source and the output.
    """

    job_json: str = ""
    run: RunRef | None = None
    reason: str = ""


@dataclass(frozen=True)
class CheckResult:
    """`problem` is empty when the model answers; otherwise it says what failed, where, and what sets it.

    `mistake` is one in the job that only a worker can find.
    """

    problem: str = ""
    mistake: str = ""
