"""Workflow histories and payloads stay small, and continue-as-new after every shard costs no throughput."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from google.protobuf.message import Message
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.client import Client, WorkflowExecutionStatus

from batch.job.job import Job
from batch.local.stack import LocalStack
from batch.network.connection import connect_temporal
from batch.workflows.contracts import Tuning
from benchmarks.figures import Figure, same
from benchmarks.lab import Measured, job, measure, stack, upload

PARTITION, SHARD = 25, 50
CONCURRENCY = 8
"""In each of two workers: so few that the provider, not the processor, is what is waited for, and a gap would show."""
HISTORY_BOUND = 4_096
PAYLOAD_BOUND = 64 * 1024


@dataclass
class Histories:
    """What the histories of one run hold: its coordinator's executions and its shards."""

    continued: int = 0
    executions: int = 0
    most_events: int = 0
    largest_payload: int = 0
    """Bytes of the largest payload, or list of payloads of one field, in any event."""


def run(quick: bool) -> list[Figure]:
    """Must show 3."""
    count, pairs = (4_000, 1) if quick else (20_000, 3)
    shards = -(-count // (PARTITION * SHARD))
    forced_runs: list[Measured] = []
    plain_runs: list[Measured] = []
    with stack(workers=2, provider_args=["--latency", "0.05"]) as running:
        work = job(upload(running, count), concurrency=CONCURRENCY, partition=PARTITION)
        for pair in range(pairs):
            for forced in (True, False) if pair % 2 == 0 else (False, True):
                found = _run(running, work, pair, forced=forced)
                (forced_runs if forced else plain_runs).append(found)
        histories = asyncio.run(_histories("forced-0"))
        plain = asyncio.run(_histories("plain-0"))
    print(f"  forced: {histories}\n  not forced: {plain}")
    ratios = [_ratio(*pair) for pair in zip(forced_runs, plain_runs, strict=True)]
    wall = [a.wall_rate / b.wall_rate for a, b in zip(forced_runs, plain_runs, strict=True)]
    print(f"  ratios of throughput: {', '.join(f'{ratio:.3f}' for ratio in ratios)}")
    return [
        same("every run reconciled, each answer paid once", all(_clean(f, count) for f in forced_runs + plain_runs)),
        Figure("continue-as-new in a run", histories.continued, at_least=shards - 1),
        Figure("events of the longest history", max(histories.most_events, plain.most_events), at_most=HISTORY_BOUND),
        Figure(
            "largest payload",
            max(histories.largest_payload, plain.largest_payload),
            "bytes",
            at_most=PAYLOAD_BOUND,
        ),
        Figure("throughput with / without, median of pairs", median(ratios), "%", at_least=0.95),
        Figure("the same by wall time, start and end included", median(wall), "%"),
        Figure("documents a second with it, median", median(f.answer_rate for f in forced_runs)),
        Figure("documents a second without, median", median(f.answer_rate for f in plain_runs)),
        Figure("workflow executions in a run", histories.executions),
    ]


def _run(running: LocalStack, work: Job, pair: int, *, forced: bool) -> Measured:
    tuning = Tuning(shard_partitions=SHARD, continue_every_shards=1 if forced else 0)
    return measure(running, work, run_id=f"{'forced' if forced else 'plain'}-{pair}", tuning=tuning)


def _ratio(forced: Measured, plain: Measured) -> float:
    return forced.answer_rate / plain.answer_rate


def _clean(found: Measured, count: int) -> bool:
    stats = found.stats
    return (
        found.result.state == "completed"
        and found.result.ok == found.result.documents == count
        and stats["answered"] == stats["paid"] == count
    )


async def _histories(run_id: str) -> Histories:
    client = await connect_temporal()
    found = Histories()
    await _look(client, f"WorkflowId = '{run_id}'", found)
    await _look(client, f"WorkflowId STARTS_WITH '{run_id}/'", found)
    return found


async def _look(client: Client, query: str, found: Histories) -> None:
    async for execution in client.list_workflows(query):
        found.executions += 1
        found.continued += execution.status == WorkflowExecutionStatus.CONTINUED_AS_NEW
        events = 0
        handle = client.get_workflow_handle(execution.id, run_id=execution.run_id)
        async for event in handle.fetch_history_events():
            events += 1
            sizes = (payload.ByteSize() for payload in _payloads(event))
            found.largest_payload = max(found.largest_payload, *sizes, 0)
        found.most_events = max(found.most_events, events)


def _payloads(message: Message) -> Iterator[Message]:
    """Every payload, and every list of payloads, anywhere in a message."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            parts = [part for part in value.values() if isinstance(part, Message)]
        else:
            parts = [value] if isinstance(value, Message) else list(value)
        for part in parts:
            if isinstance(part, (Payload, Payloads)):
                yield part
            else:
                yield from _payloads(part)
