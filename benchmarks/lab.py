"""What the benchmarks share: a local stack with a corpus, a measured run, a process's CPU and memory (Linux only)."""

from __future__ import annotations

import asyncio
import json
import os
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batch.client.run import Run, connect
from batch.client.status import RunResult
from batch.job.job import Job
from batch.local import corpus
from batch.local.options import StackOptions
from batch.local.stack import LocalStack
from batch.workflows.contracts import Tuning
from benchmarks.synthetic import synthetic_documents

DOCUMENT_BYTES = 2_000
PROMPT = "Label this ticket.\n"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "label": {"type": "string", "enum": ["bug", "question", "order", "other"]},
        "summary": {"type": "string"},
        "urgent": {"type": "boolean"},
    },
    "required": ["label", "summary", "urgent"],
    "additionalProperties": False,
}
MODEL = "simulated-small"
CORPUS, RESULTS = "corpus", "results"
FOLDER = "docs"
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Measured:
    """One run. Rates are documents a second; CPU is of the whole process trees of the workers, over the whole run."""

    result: RunResult
    stats: dict[str, Any]
    wall_seconds: float
    cpu_seconds: float

    @property
    def answer_rate(self) -> float:
        """Between the first and the last answer, by the provider's clock."""
        return answer_rate(self.stats)

    @property
    def wall_rate(self) -> float:
        return self.result.documents / self.wall_seconds

    @property
    def cpu_ms(self) -> float:
        """Milliseconds of worker CPU a document."""
        return 1e3 * self.cpu_seconds / self.result.documents


def answer_rate(stats: dict[str, Any]) -> float:
    """Answers a second between the first and the last one."""
    return float((stats["answered"] - 1) / (stats["last_answer_at"] - stats["first_answer_at"]))


@contextmanager
def stack(*, workers: int = 0, provider_args: Sequence[str] = (), s3_args: Sequence[str] = ()) -> Iterator[LocalStack]:
    """A stack on temporary data, its environment applied to this process; heartbeats as seldom as in production.

    S3 and Temporal, which in earnest run elsewhere, stand aside where a core is wanted by a worker or by the provider,
    whose answers would come late.
    """
    throttle = ["--heartbeat-throttle-seconds", "60"]
    options = StackOptions(
        workers=workers, worker_args=throttle, provider_args=provider_args, s3_args=s3_args, ui=False
    )
    with (
        LocalStack(options, on_event=lambda line: print(f"  {line}", flush=True)) as running,
        running.applied_environment(),
    ):
        for server in (running.s3, running.temporal):
            _stand_aside(server.pid)
        yield running


def _stand_aside(pid: int) -> None:
    """By the share of the CPU that the kernel gives the process' session; its nice value counts within that alone."""
    weight = Path(f"/proc/{pid}/autogroup")
    try:
        time.sleep(0.15)  # the kernel takes one a tenth of a second from who is not root, see sched(7)
        weight.write_text("10")
    except OSError as error:
        print(f"  {weight} stays as it is, which costs throughput: {error}", flush=True)


def upload(running: LocalStack, count: int, *, prefix: str = FOLDER) -> str:
    """Synthetic documents, the same ones for the same count, and the URI of their folder."""
    documents = synthetic_documents(count, DOCUMENT_BYTES)
    began = time.monotonic()
    corpus.upload(running.environment(), CORPUS, prefix, documents)
    print(f"  {count:,} documents of {DOCUMENT_BYTES:,} bytes uploaded in {time.monotonic() - began:.1f} s", flush=True)
    return f"s3://{CORPUS}/{prefix}/"


def job(source: str, *, concurrency: int, partition: int = 500) -> Job:
    """The job of all benchmarks: a schema of three fields."""
    return Job.parse(
        {
            "name": "benchmark",
            "source": {"uri": source},
            "prompt": {"user": PROMPT + "{{ text }}"},
            "model": {"name": MODEL},
            "output": {"uri": f"s3://{RESULTS}/benchmarks/", "schema": SCHEMA},
            "limits": {"concurrency": concurrency},
            "partitions": {"documents": partition},
        }
    )


class Provider:
    """The simulated provider's account and its behaviour."""

    def __init__(self, running: LocalStack) -> None:
        assert running.provider_url is not None
        self.url = running.provider_url

    def stats(self, *, documents: bool = False) -> dict[str, Any]:
        """`documents`: with how often each was paid, by its key."""
        return self._ask("/stats?documents=1" if documents else "/stats")

    def reset(self) -> None:
        self._ask("/stats/reset", {})

    def control(self, **options: Any) -> None:
        """Changes options, see `batch.local.simulator.options.ProviderOptions`."""
        self._ask("/control", options)

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
            return found


def measure(running: LocalStack, work: Job, *, run_id: str, tuning: Tuning | None = None) -> Measured:
    """Runs the job as a user would, and measures the stack's running workers while it lasts."""
    provider = Provider(running)
    provider.reset()
    pids = [worker.pid for worker in running.workers if worker.running]
    cpu = sum(map(cpu_seconds, pids))
    began = time.monotonic()
    result = asyncio.run(_run(work, run_id, tuning))
    wall = time.monotonic() - began
    cpu = sum(map(cpu_seconds, pids)) - cpu
    if result.problems or result.message:
        print(f"  {result.message} {result.problems}")
    found = Measured(result, provider.stats(), wall, cpu)
    print(
        f"  {run_id}: {result.state}, {result.documents:,} documents, {found.answer_rate:.0f}/s between the answers, "
        f"{found.wall_rate:.0f}/s in all ({wall:.1f} s), {found.cpu_ms:.2f} ms CPU a document",
        flush=True,
    )
    return found


async def _run(work: Job, run_id: str, tuning: Tuning | None) -> RunResult:
    run: Run = await (await connect()).start(work, run_id=run_id, tuning=tuning, check_model=False)
    async for status in run.watch():
        last = status
    return last


# -- processes --------------------------------------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, its living descendants, and those that it has waited for."""
    own = _cpu(pid)
    return own + sum(map(cpu_seconds, _children(pid)))


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS  # utime, stime, cutime, cstime


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # a thread that ended meanwhile
            found += map(int, (task / "children").read_text().split())
    return found


def peak_memory(pid: int) -> int:
    """The largest resident set that a process ever had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def tree_memory(pid: int) -> tuple[int, int]:
    """Resident bytes of a process, and of it and its living descendants together."""
    try:
        own = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return own, own + sum(tree_memory(child)[1] for child in _children(pid))
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0


def idle_share(seconds: float = 2.0) -> float:
    """Share of all cores that nobody uses right now."""
    before, at = _idle(), time.monotonic()
    time.sleep(seconds)
    return min(1.0, (_idle() - before) / (time.monotonic() - at) / (os.cpu_count() or 1))


def _idle() -> float:
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return (int(fields[4]) + int(fields[5])) / _TICKS  # idle, iowait
