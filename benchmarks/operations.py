"""What running it takes beside the model: billable Temporal actions, S3 requests, and how much one worker does a night.

Actions are counted by the Temporal server itself (its `action` counter), and once more from the run's histories; S3
requests by SeaweedFS; CPU by the kernel. All are of one real run of one worker process with default settings. The fixed
part of a run (about ten actions) is scaled up with the rest, so the figures for a million documents are a little high.
"""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

from batch.job.limits import Limits
from batch.local.ports import choose_ports
from batch.local.stack import LocalStack
from batch.network.connection import connect_temporal
from benchmarks.figures import Figure, same
from benchmarks.lab import job, measure, stack, upload

MILLION = 1_000_000
NIGHT = 8 * 3600
"""Seconds."""
CONCURRENCY = 128
LATENCY = 0.2
CORE_SHARE = 0.8
"""Of one core that a worker process should use at most: beyond it, answers wait for the event loop."""
SLOW_LATENCY = 5.0
"""Seconds: what a mid-sized model takes for some hundred tokens of answer."""

USD_PER_ACTION = 50 / MILLION
"""Temporal Cloud, pay as you go, first 5 million a month (temporal.io/pricing)."""
USD_PER_WRITE, USD_PER_READ = 5 / MILLION, 0.4 / MILLION
"""S3 Standard in us-east-1: PUT and LIST; GET and HEAD (aws.amazon.com/s3/pricing). DELETE is free."""

Counts = Mapping[str, float]

# Each of these events is one action; a child is billed for its start and for being started.
# https://docs.temporal.io/cloud/actions
_EVENTS = {
    EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED: 1,
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED: 1,
    EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED: 1,
    EventType.EVENT_TYPE_TIMER_STARTED: 1,
    EventType.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED: 1,
    EventType.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES: 1,
    EventType.EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED: 1,
}


SETTLE = 3.0
"""Seconds after which the servers' counters have what a run did last: Temporal hands its own over once a second."""


def run(quick: bool) -> list[Figure]:
    """Must show 7 of issue 4."""
    count = 4_000 if quick else 20_000
    port = choose_ports(["s3_metrics"])["s3_metrics"]
    with stack(provider_args=["--latency", str(LATENCY)], s3_args=[f"-metricsPort={port}"]) as running:
        work = job(upload(running, count), concurrency=CONCURRENCY)
        worker = running.start_worker()
        s3_url = f"http://127.0.0.1:{port}/metrics"
        requests, actions = _requests(s3_url), _actions(running)
        found = measure(running, work, run_id="operations")
        time.sleep(SETTLE)
        requests, actions = _since(requests, _requests(s3_url)), _since(actions, _actions(running))
        from_histories = asyncio.run(_from_histories("operations"))
        segments = _samples(running.metrics_url(worker), "docbatch_ledger_segments_total", "status")["written"]
        ledger = segments / (count / found.answer_rate)
    print(f"  actions: {_text(actions)}\n  S3 requests: {_text(requests)}")
    looked = actions.get("grpc_QueryWorkflow", 0)
    heartbeats = actions.get("grpc_RecordActivityTaskHeartbeat", 0)
    of_run = sum(actions.values()) - looked
    reads = requests["GET"] + requests["HEAD"]
    writes = requests["PUT"] + requests["LIST"] + requests["POST"]
    to_million = MILLION / count
    usd = of_run * USD_PER_ACTION + reads * USD_PER_READ + writes * USD_PER_WRITE
    most = 1e3 * CORE_SHARE / found.cpu_ms
    in_flight = Limits().concurrency
    slow = in_flight / SLOW_LATENCY
    return [
        same("run reconciled", found.result.ok == found.result.documents == count),
        same("histories hold as many actions as the server counted", from_histories == of_run - heartbeats),
        Figure("billable Temporal actions per million documents", of_run * to_million, at_most=6_000),
        Figure("  of them heartbeats", heartbeats * to_million),
        Figure("S3 GET and HEAD per million documents", reads * to_million, at_most=1.1 * MILLION),
        Figure("S3 PUT and LIST per million documents", writes * to_million),
        Figure("S3 DELETE per million documents", requests["DELETE"] * to_million),
        Figure("ledger PUTs a second and process", ledger, at_most=4.0),
        Figure("Temporal Cloud and S3 per million documents", usd * to_million, "US$"),
        Figure("worker CPU a document", found.cpu_ms, "ms"),
        Figure(f"documents/s at {CORE_SHARE:.0%} of a core, whatever the latency".replace("%", " %"), most),
        Figure("  the same for a night of 8 hours", most * NIGHT),
        Figure(f"documents a night, {in_flight} in flight, {SLOW_LATENCY:g} s an answer (computed)", slow * NIGHT),
        Figure("  S3 PUTs of its ledger per million documents (computed)", ledger / slow * MILLION),
    ]


def _actions(running: LocalStack) -> Counts:
    """Billable actions by type, as the server counts them; the parser gives its `action` the ending of counters."""
    return _samples(running.temporal_metrics_url, "action_total", "action_type", namespace="default")


def _requests(url: str) -> Counter[str]:
    return Counter(_samples(url, "SeaweedFS_s3_request_total", "type"))


def _samples(url: str, name: str, by: str, **wanted: str) -> dict[str, float]:
    """The values of one metric, added up by a label."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        text = answer.read().decode()
    found = Counter[str]()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and wanted.items() <= sample.labels.items():
                found[sample.labels[by]] += sample.value  # type: ignore[assignment]
    return dict(found)


def _since(before: Counts, after: Counts) -> Counter[str]:
    return Counter({name: int(value - before.get(name, 0)) for name, value in after.items()})


def _text(counts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.0f}" for name, value in sorted(counts.items()) if value)


async def _from_histories(run_id: str) -> int:
    client = await connect_temporal()
    query = f"WorkflowId = '{run_id}' OR WorkflowId STARTS_WITH '{run_id}/'"
    return sum([await _in_history(client, each.id, each.run_id) async for each in client.list_workflows(query)])


async def _in_history(client: Client, workflow_id: str, run_id: str) -> int:
    handle = client.get_workflow_handle(workflow_id, run_id=run_id)
    return sum([_EVENTS.get(event.event_type, 0) async for event in handle.fetch_history_events()])
