"""A worker's memory does not grow with the corpus: the peak of a fresh worker, for ten times as many documents."""

from __future__ import annotations

from benchmarks.figures import Figure
from benchmarks.lab import job, measure, peak_memory, stack, upload

MB = 1e6


def run(quick: bool) -> list[Figure]:
    """Must show 4."""
    few, many = (1_000, 5_000) if quick else (2_000, 20_000)
    peaks = {}
    with stack(provider_args=["--latency", "0.05"]) as running:
        for count in (few, many):
            work = job(upload(running, count, prefix=f"docs-{count}"), concurrency=64)
            worker = running.start_worker()
            start = peak_memory(worker.pid)
            measure(running, work, run_id=f"memory-{count}")
            peaks[count] = peak_memory(worker.pid)
            print(f"  peak {peaks[count] / MB:.0f} MB, {start / MB:.0f} MB before the run", flush=True)
            worker.stop()
    return [
        Figure(f"peak for {many:,} documents / peak for {few:,}", peaks[many] / peaks[few], at_most=1.15),
        Figure(f"peak RSS for {few:,} documents", peaks[few] / MB, "MB"),
        Figure(f"peak RSS for {many:,} documents", peaks[many] / MB, "MB"),
    ]
