"""At the provider's limit: minute limits shared by workers and jobs, and a provider that says nothing but gets slower.

Each case is one stack with a simulated provider of the given limits. Shares are of what the provider accepted, by its
own account; latencies are those that it gave, by its journal.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from batch.client.run import connect
from batch.job.job import Job
from batch.local.simulator.account import document_key
from batch.local.stack import LocalStack
from benchmarks.figures import Figure
from benchmarks.lab import DOCUMENT_BYTES, MODEL, Provider, job, stack, upload
from benchmarks.synthetic import synthetic_documents

REQUESTS, TOKENS = 3_000, 1_000_000
LATENCY = 0.2
WORKERS = 4
START_EVERY = 6.0
"""Seconds between two starts of workers."""
SETTLED = 10.0
"""Seconds after the last start from which on the quota has to be used."""
CAPACITY = 200.0
FOLLOWS = 30.0
"""Seconds within which a changed capacity is followed."""


def run(quick: bool) -> list[Figure]:
    """Must show 3, 4 and 5 of the model layer."""
    steady = 40.0 if quick else 120.0
    figures = []
    for unit, limit in (("requests", REQUESTS), ("tokens", TOKENS)):
        for headers in (True, False):
            figures += _shown(_quota(unit, limit, steady if headers else steady / 2, headers=headers))
    return [*figures, *_shown(_sharing(steady / 3)), *_shown(_capacity(steady / 3))]


def _shown(figures: list[Figure]) -> list[Figure]:
    """The figures, printed at once: a later case that fails must not lose them."""
    for figure in figures:
        print("  " + "  ".join(figure.cells()), flush=True)
    return figures


def _quota(unit: str, limit: int, steady: float, *, headers: bool) -> list[Figure]:
    """Four workers, one after the other, one killed midway. Without headers the job says the limit."""
    how = "headers" if headers else "no headers, limit in the job"
    print(f"  {limit:,} {unit} a minute, {how}")
    args = ["--latency", str(LATENCY), f"--{unit}-per-minute", str(limit)]
    if not headers:
        args.append("--no-ratelimit-headers")
    with stack(provider_args=args) as running:
        limits = {} if headers else {f"{unit}_per_minute": limit}
        work = _limited(upload(running, int((steady + 120) * REQUESTS / 60)), limits)
        asyncio.run(_start([work]))
        for _ in range(WORKERS):
            running.start_worker()
            time.sleep(START_EVERY)
        time.sleep(SETTLED - START_EVERY)
        provider = Provider(running)
        before, began = provider.stats(), time.monotonic()
        time.sleep(steady / 2)
        running.workers[1].kill()
        time.sleep(steady / 2)
        after, minutes = provider.stats(), (time.monotonic() - began) / 60
        asyncio.run(_cancel([work]))
    counted = ("accepted",) if unit == "requests" else ("prompt_tokens", "completion_tokens")
    used = sum(after[key] - before[key] for key in counted) / (limit * minutes)
    refused = after["errors"].get("rate_limit_exceeded", 0)
    share = refused / after["requests"]
    what = f"{limit:,} {unit}/min, {'headers' if headers else 'no headers'}"
    return [
        Figure(f"{what}: used", used, "%", at_least=0.95 if headers else 0.90),
        Figure(f"{what}: requests answered 429, from the start", share, "%", at_most=0.01 if headers else 0.03),
    ]


def _sharing(seconds: float) -> list[Figure]:
    """Two jobs on four workers under one quota."""
    args = ["--latency", str(LATENCY), "--requests-per-minute", str(REQUESTS)]
    found = []
    for what, priorities in (("equal weights", (3, 3)), ("priorities 1 and 5", (1, 5))):
        print(f"  two jobs, {what}")
        with stack(provider_args=args, workers=WORKERS) as running:
            count = int((seconds + 120) * REQUESTS / 60)
            source = upload(running, count)
            jobs = [
                _limited(
                    source, {"requests_per_minute": REQUESTS}, name=f"job-{index}", priority=priority, partition=20
                )
                for index, priority in enumerate(priorities)
            ]
            asyncio.run(_start(jobs))
            time.sleep(3 * SETTLED)  # the first one has all slots until its first partitions end
            before = _paid(running)
            time.sleep(seconds)
            after = _paid(running)
            asyncio.run(_cancel(jobs))
            texts = [text.decode() for _, text in synthetic_documents(count, DOCUMENT_BYTES)]
            answered = [
                sum(
                    after.get(key, 0) - before.get(key, 0)
                    for key in (document_key(f"{work.name}\n{text}") for text in texts)
                )
                for work in jobs
            ]
        found.append(answered[0] / sum(answered))
    return [
        Figure("two jobs of equal weight: the first one's part of a half", 2 * found[0], "%", at_least=0.9),
        Figure("two jobs of equal weight: the second one's part of a half", 2 * (1 - found[0]), "%", at_least=0.9),
        Figure("two jobs, priorities 1 and 5: share of the first", found[1], "%", at_least=0.8),
    ]


def _capacity(seconds: float) -> list[Figure]:
    """A provider with a queue, that says nothing; its capacity is halved and restored."""
    print(f"  capacity of {CAPACITY:g} answers a second, no headers, no 429")
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "journal"
        args = ["--latency", str(LATENCY), "--capacity", str(CAPACITY), "--journal", str(journal)]
        with stack(provider_args=args, workers=1) as running:
            work = _limited(
                upload(running, int((2 * seconds + FOLLOWS + 60) * CAPACITY + (seconds + FOLLOWS) * CAPACITY / 2)),
                {},
                concurrency=512,
            )
            asyncio.run(_start([work]))
            time.sleep(SETTLED)
            spans = []
            for name, capacity in (("unchanged", CAPACITY), ("halved", CAPACITY / 2), ("restored", CAPACITY)):
                if name != "unchanged":
                    Provider(running).control(capacity=capacity)
                    time.sleep(FOLLOWS)
                began = time.time()
                time.sleep(seconds)
                spans.append((name, capacity, began, time.time()))
            asyncio.run(_cancel([work]))
            answers = _answers(journal)
    for name, capacity, began, ended in spans:
        seen = [took for at, took in answers if began <= at < ended]
        used, latency = len(seen) / (ended - began) / capacity, median(seen or [float("nan")]) / LATENCY
        figures.append(Figure(f"capacity {name}: used", used, "%", at_least=0.95))
        figures.append(Figure(f"capacity {name}: median latency by the unloaded one", latency, at_most=2.0))
    return figures


def _limited(
    source: str,
    limits: Mapping[str, int],
    *,
    name: str = "benchmark",
    priority: int = 3,
    concurrency: int = 256,
    partition: int = 100,
) -> Job:
    """The benchmarks' job in small partitions, so that every worker has some; its name begins the prompt."""
    plain = json.loads(job(source, concurrency=concurrency, partition=partition).to_json())
    plain["limits"] |= limits
    plain |= {"name": name, "priority": priority, "model": {"name": MODEL}}
    plain["prompt"]["user"] = name + "\n{{ text }}"
    return Job.parse(plain)


async def _start(jobs: Sequence[Job]) -> None:
    client = await connect()
    for work in jobs:
        await client.start(work, run_id=work.name, check_model=False)


async def _cancel(jobs: Sequence[Job]) -> None:
    client = await connect()
    for work in jobs:
        await (await client.run(work.name)).cancel()


def _paid(running: LocalStack) -> Mapping[str, int]:
    found: dict[str, int] = Provider(running).stats(documents=True)["documents"]
    return found


def _answers(journal: Path) -> list[tuple[float, float]]:
    """When each answer was given, and seconds after its request was accepted."""
    accepted: dict[str, float] = {}
    answers = []
    for line in journal.read_text().splitlines():
        event: dict[str, Any] = json.loads(line)
        if event["event"] == "accepted":
            accepted[event["key"]] = event["time"]
        elif event["event"] == "answered" and event["key"] in accepted:
            answers.append((event["time"], event["time"] - accepted[event["key"]]))
    return answers
