"""Every Prometheus metric of docbatch, declared in one place.

Base units, prefix `docbatch_`, labels of bounded cardinality: never a document or a run id. Label sets that a dashboard
rates start at 0, so that the first event counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.gc_collector import GCCollector

REQUEST_BUCKETS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 20, 30, 45, 60, 90, 120, 300)
PARTITION_BUCKETS = (1, 2, 5, 10, 20, 30, 45, 60, 90, 120, 180, 240, 300, 450, 600, 900, 1800, 3600)
STORAGE_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)

DOCUMENT_STATUSES = ("ok", "error", "skipped")
PARTITION_STATUSES = ("committed", "yielded", "given_up")


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
            "docbatch_runs", "Runs that are going; read with max by.", ["job_name", "state"], registry=registry
        )
        self.pauses = Counter(
            "docbatch_pauses_total", "Pauses of runs, by reason.", ["job_name", "reason"], registry=registry
        )
        self.reconciliation_failures = Counter(
            "docbatch_reconciliation_failures_total",
            "Runs whose plan and results did not agree.",
            ["job_name"],
            registry=registry,
        )
        self.storage_seconds = Histogram(
            "docbatch_s3_request_seconds",
            "Time of one request to object storage.",
            ["operation"],
            buckets=STORAGE_BUCKETS,
            registry=registry,
        )
        self.event_loop_lag = Gauge(
            "docbatch_event_loop_lag_seconds", "How late the event loop last woke a sleeper.", registry=registry
        )
        for status in ("written", "ignored"):
            self.ledger_segments.labels(status)

    def start_job(self, job_name: str, model: str) -> None:
        """Starts the label sets of a job at 0."""
        for status in DOCUMENT_STATUSES:
            self.documents.labels(job_name, status)
        for status in PARTITION_STATUSES:
            self.partitions.labels(job_name, status)
        self.cost.labels(job_name, model)

    def observe_storage(self, operation: str, seconds: float) -> None:
        self.storage_seconds.labels(operation).observe(seconds)

    def llm(self, model: str) -> LlmMetrics:
        return LlmMetrics(self, model)


class LlmMetrics:
    """The `llm_*` metrics of one model, with their labels resolved once."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics, self._model = metrics, model
        self._seconds = metrics.llm_seconds.labels(model)
        self._in_flight = metrics.llm_in_flight.labels(model)
        self._ok = metrics.llm_requests.labels(model, "ok")
        self._tokens = [metrics.tokens.labels(model, direction) for direction in ("prompt", "cached", "completion")]

    @contextmanager
    def timed(self) -> Iterator[None]:
        self._in_flight.inc()
        try:
            with self._seconds.time():
                yield
        finally:
            self._in_flight.dec()

    def requests(self, outcome: str) -> None:
        (self._ok if outcome == "ok" else self._metrics.llm_requests.labels(self._model, outcome)).inc()

    def retries(self, reason: str) -> None:
        self._metrics.llm_retries.labels(self._model, reason).inc()

    def tokens(self, *counts: int) -> None:
        for counter, count in zip(self._tokens, counts, strict=True):
            counter.inc(count)
