"""The simulated provider by itself: how many requests a second it answers, so that it is never what is measured."""

from __future__ import annotations

from benchmarks import loops
from benchmarks.figures import Figure
from benchmarks.lab import Provider, answer_rate, cpu_seconds, stack

CONNECTIONS = 128


def run(quick: bool) -> list[Figure]:
    """Loaded by prepared bytes on bare connections, once to warm up and once to measure."""
    count = 10_000 if quick else 40_000
    with stack() as running:
        assert running.provider is not None
        provider = Provider(running)
        loops.run("raw", 2_000, CONNECTIONS)
        provider.reset()
        cpu = cpu_seconds(running.provider.pid)
        client = loops.run("raw", count, CONNECTIONS)
        cpu_ms = 1e3 * (cpu_seconds(running.provider.pid) - cpu) / count
        stats = provider.stats()
    return [
        Figure("requests answered", stats["answered"], exactly=count),
        Figure("requests a second on one core", answer_rate(stats), at_least=3_000),
        Figure("provider CPU a request", cpu_ms, "ms", at_most=1 / 3),
        Figure("CPU a request of the client that loads it", client.cpu_ms, "ms"),
    ]
