"""What chaos tests stand on: real servers, workers that can be killed by name, corpora, and the account of each death.

    await chaos.corpus(1500)            documents with unique texts below s3://corpus/NAME/, and their provider's keys
    chaos.worker("a")                   a worker process; .start(), .kill(), .terminate(), .freeze(), .thaw()
    run = await chaos.start(job(...))   short heartbeat timeout, a task queue of the test's own
    await chaos.complete(run, corpus)   waits, and checks rows, reconciliation, and ledgers

A worker's every start is an incarnation with an `OPENAI_ORG_ID` of its own, by which the provider's journal tells whose
each request was (see `tests.chaos.journal`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl
from temporalio.client import WorkflowFailureError
from temporalio.service import RPCError

from batch import Job, connect
from batch.client.run import Connection, Run
from batch.client.status import RunResult
from batch.files.reconcile import Account, Reconciler
from batch.local.corpus import upload_async
from batch.local.ports import choose_ports
from batch.local.processes import Process, http_answers
from batch.local.simulator.account import document_key
from batch.local.stack import LocalStack
from batch.storage.store import Storage
from batch.workflows import contracts as c
from batch.workflows.states import State
from benchmarks.figures import Figure, print_table, write
from benchmarks.synthetic import synthetic_documents
from tests.chaos.journal import Journal, Loss
from tests.chaos.s3_proxy import S3Proxy
from tests.provider import ask

USER_PROMPT = "Label this.\n{{ text }}"
SEED = int(os.environ.get("DOCBATCH_CHAOS_SEED") or random.SystemRandom().randrange(10**6))
"""Of all that chaos does at random; printed, and set by the environment variable to repeat a failure."""

TUNING = replace(c.Tuning(), heartbeat_timeout=5.0, probe_every=2.0, watch_shards_every=10.0)
SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string", "enum": ["red", "green", "blue"]}, "urgent": {"type": "boolean"}},
    "required": ["label", "urgent"],
    "additionalProperties": False,
}
_numbers = count(1)


WRITE_FIGURES = bool(os.environ.get("DOCBATCH_WRITE_FIGURES"))
"""Read before the tests' environment is isolated."""


def say(text: str) -> None:
    """A figure, with the time: pytest shows it for failures, and always with `-s`."""
    print(f"[chaos {time.strftime('%H:%M:%S')}] {text}", flush=True)


def measured(test: str, title: str, *figures: Figure) -> None:
    """Prints the figures of a test; under `DOCBATCH_WRITE_FIGURES=1` they become its section of `FIGURES.md`."""
    print_table(test, figures)
    if WRITE_FIGURES:
        command = f"DOCBATCH_CHAOS_SEED={SEED} python -m pytest tests/chaos -m '' -k {test}"
        write(f"chaos-{test.replace('_', '-')}", title, figures, command=command)
    assert all(figure.holds is not False for figure in figures), figures


@dataclass(frozen=True)
class Corpus:
    """Documents below `s3://corpus/NAME/`. `keys`: document id -> the provider's name for it."""

    name: str
    keys: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.keys)


class ChaosWorker:
    """A worker process that is started again and again; each start is an incarnation of its own."""

    def __init__(self, process: Process, name: str, environment: Mapping[str, str]) -> None:
        self._process, self.name, self._environment = process, name, dict(environment)
        self._starts = 0

    @property
    def by(self) -> str:
        """The incarnation that runs, or ran last, as the journal calls it."""
        return f"{self.name}.{self._starts}"

    @property
    def running(self) -> bool:
        return self._process.running

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> Path:
        return self._process.log

    async def start(self, *, wait: bool = True) -> ChaosWorker:
        self._starts += 1
        self._process.environment = self._environment | {"OPENAI_ORG_ID": self.by}
        await asyncio.to_thread(self._process.start, wait=wait)
        return self

    async def ready(self) -> None:
        await asyncio.to_thread(self._process.wait_until_healthy)

    async def kill(self) -> float:
        """SIGKILL; returns when (Unix seconds)."""
        at = time.time()
        self._process.kill(signal.SIGKILL)
        return at

    def signal(self, number: int) -> float:
        at = time.time()
        self._process.kill(number)
        return at

    async def terminate(self, within: float = 60.0) -> None:
        """SIGTERM, and waits for the orderly end."""
        self.signal(signal.SIGTERM)
        code = await asyncio.to_thread(self._process.wait, within)
        assert code == 0, f"{self.name} ended with {code} after SIGTERM: {self._process.log_tail()}"

    async def died(self, within: float = 30.0) -> None:
        """Waits until it has ended by itself."""
        self._process._end_expected = True
        await asyncio.to_thread(self._process.wait, within)

    def freeze(self) -> float:
        return self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def resident_bytes(self) -> int:
        """RSS by the kernel."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        if self._process.running:
            self._process.kill(signal.SIGCONT)
            self._process.kill(signal.SIGKILL)


@dataclass
class Chaos:
    """One test's hold on the stack."""

    stack: LocalStack
    proxy: S3Proxy
    journal_path: Path
    test: str
    queue: str = field(default_factory=lambda: f"chaos-{next(_numbers)}")
    workers: dict[str, ChaosWorker] = field(default_factory=dict)
    ends: list[tuple[str, float]] = field(default_factory=list)
    """Incarnations that were ended without warning, and when."""

    def __post_init__(self) -> None:
        self.journal = Journal(self.journal_path)
        self.random = random.Random(f"{SEED}/{self.test}")
        say(f"{self.test}: DOCBATCH_CHAOS_SEED={SEED}")

    # -- the provider

    def ask(self, path: str, body: Any = None) -> Any:
        """The simulated provider's own endpoints."""
        return ask(self.stack, path, body)

    def provider(self, **options: Any) -> None:
        """Changes how the provider behaves."""
        self.ask("/control", options)

    def requests(self) -> int:
        """Calls to the provider so far, failed ones too."""
        return int(self.ask("/stats")["requests"])

    # -- workers

    def worker(
        self,
        name: str,
        *,
        fault: str = "none",
        slots: int = 8,
        arguments: Iterable[str] = (),
        environment: Mapping[str, str] | None = None,
        proxied: bool = False,
    ) -> ChaosWorker:
        """A worker, not started yet. `proxied`: it reaches S3 by the proxy. `fault`: see `tests.chaos.worker`."""
        name = f"{self.queue}-{name}"
        port = choose_ports([name])[name]
        command = [sys.executable, "-m", "tests.chaos.worker", fault, "--", "--task-queue", self.queue]
        command += ["--metrics-port", str(port), "--heartbeat-throttle-seconds", "1", "--slots", str(slots), *arguments]
        child = self.stack.child_environment() | dict(environment or {})
        if proxied:
            child["AWS_ENDPOINT_URL_S3"] = self.proxy.url
        process = Process(
            name,
            command,
            log=self.stack.logs / f"{name}.log",
            healthy=partial(http_answers, port, "/healthz"),
            healthy_timeout=90,
            cwd=Path(__file__).parents[2],
        )
        self.workers[name] = ChaosWorker(process, name, child)
        return self.workers[name]

    async def start_workers(self, *names: str, **options: Any) -> list[ChaosWorker]:
        return list(await asyncio.gather(*(self.worker(name, **options).start() for name in names)))

    async def kill(self, worker: ChaosWorker) -> str:
        """SIGKILL, entered into the account; returns the incarnation."""
        by = worker.by
        self.ends.append((by, await worker.kill()))
        return by

    async def kill_in_flight(
        self, workers: Sequence[ChaosWorker], at_least: int, *, within: float = 60.0
    ) -> Loss | None:
        """SIGKILL of any of the workers with so many requests in flight; None if that came not in time."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            self.journal.refresh()
            if busy := [worker for worker in workers if self.journal.in_flight(worker.by) >= at_least]:
                by = await self.kill(self.random.choice(busy))
                await asyncio.sleep(0.3)  # the journal is written every 0.1 s
                return self.journal.refresh().loss(by, self.ends[-1][1])
            await asyncio.sleep(0.02)
        return None

    def losses(self) -> list[Loss]:
        """What each sudden end cost, printed."""
        self.journal.refresh()
        losses = [self.journal.loss(by, at) for by, at in self.ends]
        for loss in losses:
            say(str(loss))
        return losses

    def unexplained(self) -> int:
        """Documents paid again although the incarnation that had paid for them was not ended by the test."""
        ended = {by for by, _ in self.ends}
        return sum(count for by, count in self.journal.refresh().paid_again().items() if by not in ended)

    # -- runs

    async def corpus(
        self, count: int, *, size: int = 300, name: str = "", texts: Mapping[str, str] | None = None
    ) -> Corpus:
        """Uploads documents with unique texts; `texts` are further ones, or replace some."""
        name = name or f"{self.test}-{next(_numbers)}".replace("_", "-").replace("[", "-").replace("]", "").lower()
        documents = {
            key: data.decode() for key, data in synthetic_documents(count, size, random.Random(name).randrange(10**6))
        }
        documents |= texts or {}
        await upload_async(
            self.stack.environment(), "corpus", name, ((key, text.encode()) for key, text in documents.items())
        )
        keys = {
            f"{name}/{key}": document_key(USER_PROMPT.replace("{{ text }}", text)) for key, text in documents.items()
        }
        return Corpus(name, keys)

    def job(
        self,
        corpus: Corpus,
        *,
        documents: int = 50,
        concurrency: int = 32,
        timeout: float = 120,
        mode: str = "online",
        **limits: Any,
    ) -> Job:
        """A job over the corpus; `documents` a partition, `timeout` seconds of one call."""
        return Job.parse(
            {
                "name": corpus.name[:60],
                "source": {"uri": f"s3://corpus/{corpus.name}/"},
                "prompt": {"user": USER_PROMPT},
                "model": {"name": "simulated-small", "timeout_seconds": timeout, "mode": mode},
                "output": {"uri": f"s3://results/{corpus.name}/", "schema": SCHEMA},
                "partitions": {"documents": documents},
                "limits": {"concurrency": concurrency, **limits},
            }
        )

    async def connection(self) -> Connection:
        connection = await connect()
        connection.task_queue = self.queue
        return connection

    async def start(self, job: Job, *, tuning: c.Tuning = TUNING, run_id: str | None = None) -> Run:
        return await (await self.connection()).start(job, tuning=tuning, run_id=run_id, check_model=False)

    async def wait(self, run: Run, *, within: float = 120.0) -> RunResult:
        """The end of the run, waited for across restarts of Temporal."""
        deadline = time.monotonic() + within
        while True:
            left = deadline - time.monotonic()
            assert left > 0, f"run {run.run_id} did not end within {within:g} s: {await run.status()}"
            try:
                with contextlib.suppress(WorkflowFailureError):
                    await asyncio.wait_for(run.handle.result(), left)
                return await run.status()
            except (RPCError, TimeoutError):
                await asyncio.sleep(0.5)

    async def complete(self, run: Run, corpus: Corpus, *, within: float = 120.0, latecomers: bool = False) -> RunResult:
        """The run ends, with one ok row for each document, reconciled, and no ledger is left.

        `latecomers`: workers may have woken up so late that they wrote to the ledger after it had been cleared away.
        """
        began = time.monotonic()
        result = await self.wait(run, within=within)
        say(
            f"{self.test}: {result.state}, {result.documents} rows, {result.ok} ok, {result.errors} errors "
            f"{result.errors_by_type or ''} in {result.seconds:.1f} s (waited {time.monotonic() - began:.1f} s)"
        )
        assert (result.state, result.documents, result.ok, result.errors) == (
            State.COMPLETED,
            len(corpus),
            len(corpus),
            0,
        ), result
        await self.check_rows(run, corpus)
        left = await Storage().list_all("results", run.layout.ledgers)
        if latecomers and left:
            say(f"{len(left)} ledger segments were written after the run's end, for example {left[0].key}")
            return result
        assert left == [], f"{len(left)} ledger segments are left, for example {left[0].key}"
        return result

    async def check_rows(self, run: Run, corpus: Corpus) -> pl.DataFrame:
        """Each document once, by two ways: reading the rows, and the reconciliation against plan and manifest."""
        rows = await asyncio.to_thread(run.results().collect)
        assert rows.height == rows["document_id"].n_unique() == len(corpus)
        assert set(rows["document_id"]) == set(corpus.keys)
        account = await self.verify(run)
        assert account.problems == [], account.problems
        assert account.totals.documents == len(corpus)
        return rows

    async def verify(self, run: Run) -> Account:
        """What `docbatch verify` does."""
        manifest = await run.manifest()
        assert manifest is not None
        expected = {entry.partition: entry for entry in manifest.files}
        return await Reconciler(Storage(), run.layout, expected=expected).run()

    async def until(
        self, what: Callable[[], bool], *, within: float = 30.0, every: float = 0.05, say_what: str = "it"
    ) -> None:
        deadline = time.monotonic() + within
        while not what():
            assert time.monotonic() < deadline, f"{say_what} did not come within {within:g} s"
            await asyncio.sleep(every)

    async def until_status(self, run: Run, what: Callable[[RunResult], bool], *, within: float = 30.0) -> RunResult:
        deadline = time.monotonic() + within
        while True:
            status = await run.status()
            if what(status):
                return status
            assert time.monotonic() < deadline, f"not within {within:g} s: {status}"
            await asyncio.sleep(0.2)

    # -- the end

    def clear(self) -> None:
        """Ends the workers and lifts the faults, whatever the test left."""
        for worker in self.workers.values():
            worker.stop()
        if self.proxy.mode != "pass":
            self.proxy.set("pass")
        self.provider(**CALM)


CALM: dict[str, Any] = {
    "latency": 0.0,
    "latency_median": 0.0,
    "latency_sigma": 0.0,
    "capacity": 0.0,
    "requests_per_minute": 0.0,
    "retry_after": 1.0,
    "rate_500": 0.0,
    "rate_503": 0.0,
    "rate_429": 0.0,
    "rate_timeout": 0.0,
    "rate_reset": 0.0,
    "poison_marker": None,
    "fail_all": None,
    "batch_seconds": 3.0,
    "batch_expire_share": 0.0,
}


@asynccontextmanager
async def sampled(read: Callable[[], int], every: float = 0.25) -> AsyncIterator[list[tuple[float, int]]]:
    """(monotonic seconds, value) again and again while the context lasts."""
    samples: list[tuple[float, int]] = []

    async def go() -> None:
        while True:
            samples.append((time.monotonic(), await asyncio.to_thread(read)))
            await asyncio.sleep(every)

    task = asyncio.create_task(go())
    try:
        yield samples
    finally:
        task.cancel()
