"""A run waits for the model alone: one worker at a slow provider, beside bare loops of requests in the same minutes. S3
and Temporal, which share the machine, stand aside for worker and provider.

The ladder of one run: bare loops of aiohttp and of AsyncOpenAI with documents from memory, a bare pipeline from S3 to
Parquet with nothing durable in between, docbatch; at 200 ms, with lognormal latency, and with an instant provider.
"""

from __future__ import annotations

from benchmarks import loops
from benchmarks.figures import Figure
from benchmarks.lab import Provider, answer_rate, job, measure, stack, upload

CONCURRENCY = 128
LATENCY = 0.2
IDEAL = CONCURRENCY / LATENCY
ASKED_MS = 0.6
"""What the model layer's issue asks for; of a bare pipeline it says 0.45."""


def run(quick: bool) -> list[Figure]:
    """Must show 5 of the spine, 1 and 2 of the model layer."""
    count = 4_000 if quick else 20_000
    with stack() as running:
        work = job(upload(running, count), concurrency=CONCURRENCY)
        provider = Provider(running)

        def bare(kind: str) -> tuple[float, float]:
            provider.reset()
            cpu_ms = loops.run(kind, count, CONCURRENCY).cpu_ms
            rate = answer_rate(provider.stats())
            print(f"  bare {kind}: {rate:.0f}/s between the answers, {cpu_ms:.2f} ms CPU a document", flush=True)
            return rate, cpu_ms

        running.start_worker()
        provider.control(latency=LATENCY)
        print(f"  latency {LATENCY} s")
        fixed = measure(running, work, run_id="fixed")
        aiohttp_rate, aiohttp_cpu = bare("aiohttp")
        openai_rate, openai_cpu = bare("openai")
        pipeline_rate, pipeline_cpu = bare("pipeline")
        provider.control(latency=0.0, latency_median=LATENCY, latency_sigma=1.0)
        print(f"  lognormal latency, median {LATENCY} s, sigma 1")
        lognormal = measure(running, work, run_id="lognormal")
        bare_rate, _ = bare("aiohttp")
        provider.control(latency=0.0, latency_median=0.0, latency_sigma=0.0)
        print("  no latency")
        instant = measure(running, work, run_id="instant")
        instant_rate, _ = bare("aiohttp")
    where = f"{LATENCY * 1e3:.0f} ms"
    return [
        Figure(
            "documents reconciled, all runs",
            fixed.result.ok + lognormal.result.ok + instant.result.ok,
            exactly=3 * count,
        ),
        Figure(f"share of the ideal {IDEAL:.0f}/s at {where}", fixed.answer_rate / IDEAL, "%", at_least=0.95),
        Figure("worker CPU a document", fixed.cpu_ms, "ms", at_most=1.2),
        Figure(f"worker CPU, by the {ASKED_MS} ms that were asked for", fixed.cpu_ms / ASKED_MS),
        Figure("worker CPU, by a bare pipeline's", fixed.cpu_ms / pipeline_cpu),
        Figure("lognormal latency: share of a bare loop", lognormal.answer_rate / bare_rate, "%", at_least=0.93),
        Figure("worker CPU a document, lognormal", lognormal.cpu_ms, "ms"),
        Figure(f"docbatch at {where}", fixed.answer_rate, "documents/s"),
        Figure(f"bare loop of aiohttp at {where}", aiohttp_rate, "documents/s"),
        Figure(f"bare pipeline, S3 to Parquet, at {where}", pipeline_rate, "documents/s"),
        Figure(f"bare loop of AsyncOpenAI at {where}", openai_rate, "documents/s"),
        Figure("bare loop of aiohttp, CPU a document", aiohttp_cpu, "ms"),
        Figure("bare pipeline, CPU a document", pipeline_cpu, "ms"),
        Figure("bare loop of AsyncOpenAI, CPU a document", openai_cpu, "ms"),
        Figure("docbatch, lognormal", lognormal.answer_rate, "documents/s"),
        Figure("bare loop of aiohttp, lognormal", bare_rate, "documents/s"),
        Figure("docbatch at an instant provider", instant.answer_rate, "documents/s"),
        Figure("worker CPU a document, instant provider", instant.cpu_ms, "ms"),
        Figure("bare loop of aiohttp at an instant provider", instant_rate, "documents/s"),
    ]
