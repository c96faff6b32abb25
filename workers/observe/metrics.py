"""Every Prometheus metric of docbatch, declared in one place.

Base units, prefix `docbatch_`, labels of bounded cardinality: never a document or a run id, and a word that no list
here knows counts as `other`. Label sets start at 0 when the process first works on a job, and stay for as long as it
lives, so that a finished run does not vanish from a rate.
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.gc_collector import GCCollector

from batch.schema.error_types import ErrorType, Stage, words_of
from batch.workflows.states import ENDED, YIELDS, Outcome, Reason, State

REQUEST_BUCKETS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 20, 30, 45, 60, 90, 120, 300)
PARTITION_BUCKETS = (1, 2, 5, 10, 20, 30, 45, 60, 90, 120, 180, 240, 300, 450, 600, 900, 1800, 3600)
STORAGE_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)

LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

OTHER = "other"
DOCUMENT_STATUSES = ("ok", "error")
PARTITION_STATUSES = tuple(Outcome)
GOING = (State.RUNNING, State.PAUSED)
ABORTED = "aborted"
"""The end of a run that left no account: its coordinator failed, was terminated or timed out."""
ENDS = (*sorted(ENDED), ABORTED)

TRANSIENT = (
    *words_of(Stage.CALL),
    *(f"http_{status}" for status in (408, 409, 425, 500, 502, 503, 504, 520, 522, 524, 529)),
)
"""Failures of a call that is repeated in place (see `workers.llm.answers.errors`)."""
LEFT_OUT = words_of(Stage.BATCH)
REFUSED_DOCUMENT = words_of(Stage.PROVIDER, Stage.ANSWER)
"""The provider's answers that say that this document cannot be answered."""
REFUSED_JOB, REFUSED_BATCH = words_of(Stage.JOB), words_of(Stage.JOB_BATCH)
BATCH_STATES = ("created", "adopted", "completed", "failed", "expired", "cancelled")
LLM_OUTCOMES = ("ok", *TRANSIENT, *LEFT_OUT, *REFUSED_DOCUMENT, *REFUSED_JOB, OTHER)
UNREADABLE = words_of(Stage.SOURCE, Stage.OBJECT, Stage.EXTRACTION, Stage.PROMPT)
"""Why a document never reached the model."""
ANSWER_OUTCOMES = (
    "ok",
    *UNREADABLE,
    *REFUSED_DOCUMENT,
    ErrorType.INVALID_ANSWER,
    *TRANSIENT,
    *LEFT_OUT,
    ErrorType.PARTITION_FAILED,
    OTHER,
)
PAUSE_REASONS = (*(reason for reason in Reason if reason not in YIELDS), *REFUSED_JOB, *REFUSED_BATCH, OTHER)
STORAGE_OPERATIONS = ("get", "head", "put", "delete", "list", "read")

disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double the number of series


class Metrics:
    """The metrics of one worker process, on a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self.documents = Counter(
            "docbatch_documents_total", "Documents whose row was committed.", ["job_name", "status"], registry=registry
        )
        self.planned_documents = Counter(
            "docbatch_planned_documents_total",
            "Documents that a plan, or a rerun's, holds.",
            ["job_name"],
            registry=registry,
        )
        self._answers = Counter(
            "docbatch_answers_total",
            "Documents answered or given up, by outcome, when it happened; one asked again counts again.",
            ["job_name", "outcome"],
            registry=registry,
        )
        self.partitions = Counter(
            "docbatch_partitions_total", "Attempts at partitions, by end.", ["job_name", "status"], registry=registry
        )
        self.cost = Counter(
            "docbatch_cost_usd_total", "Cost of committed rows in US dollars.", ["job_name", "model"], registry=registry
        )
        self.partition_seconds = Histogram(
            "docbatch_partition_seconds",
            "Time from an attempt's start to its end.",
            ["job_name"],
            buckets=PARTITION_BUCKETS,
            registry=registry,
        )
        self.llm_requests = Counter(
            "docbatch_llm_requests_total", "Calls to the model, by outcome.", ["model", "outcome"], registry=registry
        )
        self.llm_retries = Counter(
            "docbatch_llm_retries_total", "Calls repeated in place, by reason.", ["model", "reason"], registry=registry
        )
        self.llm_reasks = Counter(
            "docbatch_llm_reasks_total",
            "Calls that ask again for an answer that did not fit its schema.",
            ["model"],
            registry=registry,
        )
        self.llm_batches = Counter(
            "docbatch_llm_batches_total",
            "Batches at the provider: created or adopted by this process, and how those it followed ended.",
            ["model", "state"],
            registry=registry,
        )
        self.llm_seconds = Histogram(
            "docbatch_llm_request_seconds",
            "Time of one call to the model.",
            ["model"],
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )
        self.llm_in_flight = Gauge(
            "docbatch_llm_in_flight", "Calls to the model in flight.", ["model"], registry=registry
        )
        self.llm_concurrency_limit = Gauge(
            "docbatch_llm_concurrency_limit", "Calls allowed in flight in this process.", ["model"], registry=registry
        )
        self.batch_documents = Gauge(
            "docbatch_batch_documents",
            "Documents in batches at the provider that this process waits for.",
            ["job_name"],
            registry=registry,
        )
        self.llm_rate_limit_wait = Counter(
            "docbatch_llm_rate_limit_wait_seconds_total",
            "Time in which calls waited for the provider's minute limits, or for a pause that it asked for.",
            ["model"],
            registry=registry,
        )
        self.llm_quota_share = Gauge(
            "docbatch_llm_quota_share",
            "Share of the provider's minute limits that this process may use; 0 without known limits.",
            ["model"],
            registry=registry,
        )
        self.llm_quota_limit = Gauge(
            "docbatch_llm_quota_limit_per_minute",
            "The whole quota's limit, of requests or tokens; 0 where none is known. Read with max by.",
            ["model", "unit"],
            registry=registry,
        )
        self.tokens = Counter(
            "docbatch_tokens_total", "Tokens of all calls.", ["model", "direction"], registry=registry
        )
        self.ledger_segments = Counter(
            "docbatch_ledger_segments_total", "Ledger segments, by what became of them.", ["status"], registry=registry
        )
        self.ledger_replayed = Counter(
            "docbatch_ledger_replayed_documents_total",
            "Answers taken from a ledger, not paid again.",
            registry=registry,
        )
        self.runs = Gauge(
            "docbatch_runs",
            "Runs that are going; every process says the same: read with max by.",
            ["job_name", "state"],
            registry=registry,
        )
        self.ended_runs = Gauge(
            "docbatch_ended_runs",
            "Runs that ended within the last hour; every process says the same: read with max by.",
            ["job_name", "state"],
            registry=registry,
        )
        self.budget = Gauge(
            "docbatch_budget_usd",
            "Maximum cost in US dollars of a job's runs that are going and have one; read with max by.",
            ["job_name"],
            registry=registry,
        )
        self.budget_charged = Gauge(
            "docbatch_budget_charged_usd",
            "US dollars of it that are spent, or set aside for workers that are spending them; read with max by.",
            ["job_name"],
            registry=registry,
        )
        self._pauses = Counter(
            "docbatch_pauses_total", "Pauses of runs, by reason.", ["job_name", "reason"], registry=registry
        )
        self.storage_seconds = Histogram(
            "docbatch_s3_request_seconds",
            "Time of one request to object storage.",
            ["operation"],
            buckets=STORAGE_BUCKETS,
            registry=registry,
        )
        self.event_loop_lag = Histogram(
            "docbatch_event_loop_lag_seconds",
            "How late the event loop woke a sleeper, once a second.",
            buckets=LAG_BUCKETS,
            registry=registry,
        )
        self._jobs: set[str] = set()
        self._seen_jobs: set[str] = set()
        self._budgeted_jobs: set[str] = set()
        for status in ("written", "ignored"):
            self.ledger_segments.labels(status)
        self._storage = {operation: self.storage_seconds.labels(operation) for operation in STORAGE_OPERATIONS}

    def start_job(self, job_name: str) -> None:
        """Starts the label sets of a job at 0; called whenever this process works on it."""
        if job_name in self._jobs:
            return
        self._jobs.add(job_name)
        self.planned_documents.labels(job_name)
        self.partition_seconds.labels(job_name)
        self.batch_documents.labels(job_name)
        for status in DOCUMENT_STATUSES:
            self.documents.labels(job_name, status)
        for outcome in ANSWER_OUTCOMES:
            self._answers.labels(job_name, outcome)
        for status in PARTITION_STATUSES:
            self.partitions.labels(job_name, status)
        for reason in PAUSE_REASONS:
            self._pauses.labels(job_name, reason)

    def answers(self, job_name: str, outcome: str, count: int = 1) -> None:
        self._answers.labels(job_name, outcome if outcome in ANSWER_OUTCOMES else OTHER).inc(count)

    def pauses(self, job_name: str, reason: str) -> None:
        self._pauses.labels(job_name, reason if reason in PAUSE_REASONS else OTHER).inc()

    def show_runs(self, going: Mapping[tuple[str, str], int], ended: Mapping[tuple[str, str], int]) -> None:
        """Sets the gauges of runs to counts by (job name, state), 0 for the other states of every job ever seen."""
        self._seen_jobs.update(job_name for job_name, _ in (*going, *ended))
        for gauge, states, counts in ((self.runs, GOING, going), (self.ended_runs, ENDS, ended)):
            for job_name in self._seen_jobs:
                for state in states:
                    gauge.labels(job_name, state).set(counts.get((job_name, state), 0))

    def show_budgets(self, budgets: Mapping[str, tuple[float, float]]) -> None:
        """Sets the gauges of budgets to (maximum, charged) by job name, 0 for the jobs whose runs with one are over."""
        self._budgeted_jobs.update(budgets)
        for job_name in self._budgeted_jobs:
            most, charged = budgets.get(job_name, (0.0, 0.0))
            self.budget.labels(job_name).set(most)
            self.budget_charged.labels(job_name).set(charged)

    def forget_runs(self) -> None:
        """Says nothing of runs any more: an old count would outlive the truth in a `max by`."""
        for gauge in (self.runs, self.ended_runs, self.budget, self.budget_charged):
            gauge.clear()

    def observe_storage(self, operation: str, seconds: float) -> None:
        self._storage[operation].observe(seconds)

    def llm(self, model: str) -> LlmMetrics:
        return LlmMetrics(self, model)

    def limiter(self, model: str) -> LimiterMetrics:
        return LimiterMetrics(self, model)


class LlmMetrics:
    """The `llm_*` metrics of one model, with their labels resolved once."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._seconds = metrics.llm_seconds.labels(model)
        self._in_flight = metrics.llm_in_flight.labels(model)
        self._requests = {outcome: metrics.llm_requests.labels(model, outcome) for outcome in LLM_OUTCOMES}
        self._retries = {reason: metrics.llm_retries.labels(model, reason) for reason in (*TRANSIENT, OTHER)}
        self._reasks = metrics.llm_reasks.labels(model)
        self._batches = {state: metrics.llm_batches.labels(model, state) for state in BATCH_STATES}
        self._tokens = [metrics.tokens.labels(model, direction) for direction in ("prompt", "cached", "completion")]

    def began(self) -> None:
        """A call went out."""
        self._in_flight.inc()

    def ended(self, seconds: float) -> None:
        """A call that went out came back, or was given up, after so many seconds."""
        self._in_flight.dec()
        self._seconds.observe(seconds)

    def requests(self, outcome: str) -> None:
        self._requests.get(outcome, self._requests[OTHER]).inc()

    def retries(self, reason: str) -> None:
        self._retries.get(reason, self._retries[OTHER]).inc()

    def reasks(self) -> None:
        self._reasks.inc()

    def batches(self, state: str) -> None:
        self._batches[state].inc()

    def tokens(self, *counts: int) -> None:
        for counter, count in zip(self._tokens, counts, strict=True):
            counter.inc(count)


class LimiterMetrics:
    """What is to be seen of one quota's limiter. Quotas of one model add up, but for their limits."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._concurrency = metrics.llm_concurrency_limit.labels(model)
        self._share = metrics.llm_quota_share.labels(model)
        self._limits = [metrics.llm_quota_limit.labels(model, unit) for unit in ("requests", "tokens")]
        self._waited = metrics.llm_rate_limit_wait.labels(model)
        self._shown = (0.0, 0.0, 0.0)

    def show(
        self, *, concurrency: float, share: float, waited_seconds: float, limits: tuple[int | None, int | None]
    ) -> None:
        """`waited_seconds`: all time since the process began."""
        shown, self._shown = self._shown, (concurrency, share, waited_seconds)
        self._concurrency.inc(concurrency - shown[0])
        self._share.inc(share - shown[1])
        self._waited.inc(max(0.0, waited_seconds - shown[2]))
        for gauge, limit in zip(self._limits, limits, strict=True):
            gauge.set(limit or 0)
