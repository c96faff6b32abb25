"""The worker process: wiring, signals, health and metrics.

Each process polls two task queues: partitions on `QUEUE`, and on `QUEUE-control`, with a few slots of its own, the
workflows, planner, finisher and checks, so that a full night never starves the control of it. In a cluster `--poll`
splits them over two deployments, which scale and roll out apart.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from functools import partial

import uvloop
from temporalio.client import Client
from temporalio.runtime import PrometheusConfig
from temporalio.worker import Worker

from batch.network.connection import TemporalUnreachable, connect_temporal
from batch.network.telemetry import make_runtime
from batch.storage.store import Storage, StorageError
from batch.terminal.printable import LineFormatter, printable
from batch.workflows.contracts import DEFAULT_TASK_QUEUE, control_queue
from batch.workflows.coordinator import WORKFLOWS
from workers.batch_mode.api import BatchApi
from workers.batch_mode.rounds import BatchRounds
from workers.extract.pool import Extractors, Limits
from workers.finish.finisher import Finisher
from workers.llm.limits.quotas import QuotaClient, Quotas
from workers.llm.transport.keys import CredentialsMissing, Keys
from workers.llm.transport.transport import Transport
from workers.observe.metrics import Metrics
from workers.partition.asker import AskerMaker, Online
from workers.partition.processor import Processor
from workers.partition.runs import Runs
from workers.plan.planner import Planner
from workers.preview.previewer import Previewer
from workers.process.control import RunControl
from workers.process.control_heartbeat import ControlActivities
from workers.process.exposition import Exposition, PortTaken
from workers.process.sandbox import workflow_runner
from workers.process.versioning import VersionIncomplete, deployment_config

log = logging.getLogger("docbatch.worker")

POLL_ALL, POLL_PARTITIONS, POLL_CONTROL = "all", "partitions", "control"
DEFAULT_SLOTS = 8
CONTROL_SLOTS = 8
COLLECT_EVERY = 60.0
"""Seconds between two full rounds of the collector: 3 ms for 30,000 objects (measured)."""
LONG_ACTIVITY_BUCKETS = [0.1, 1, 5, 10, 30, 60, 120, 180, 300, 450, 600, 1200, 3600]
"""Seconds. Temporal's own buckets end at 60 s; a partition takes 30 to 300."""
LONG_LATENCIES = (
    "temporal_activity_execution_latency",
    "temporal_activity_succeed_endtoend_latency",
    "temporal_activity_schedule_to_start_latency",
)


def parser() -> argparse.ArgumentParser:
    """Returns the worker's options; `docbatch worker` hands its arguments over to this."""
    options = argparse.ArgumentParser(
        prog="docbatch worker",
        description="Runs partitions and the control of runs until it is told to stop (SIGTERM, Ctrl-C). Temporal, S3 "
        "and the model's endpoint are set by TEMPORAL_*, AWS_* and OPENAI_* in the environment.",
    )
    options.add_argument("--task-queue", default=DEFAULT_TASK_QUEUE, help="(default: %(default)s)")
    options.add_argument(
        "--poll",
        default=POLL_ALL,
        choices=[POLL_ALL, POLL_PARTITIONS, POLL_CONTROL],
        help="partitions (QUEUE), the control of runs (QUEUE-control: workflows, planning, checks), or both "
        "(default: %(default)s)",
    )
    options.add_argument("--metrics-port", type=int, default=9464, metavar="P", help="/metrics and /healthz; 0: none")
    options.add_argument("--metrics-host", default="0.0.0.0", metavar="H", help="(default: %(default)s)")
    options.add_argument("--processes", type=int, default=1, metavar="N", help="worker processes, on ports P, P+1, ...")
    options.add_argument("--slots", type=int, default=DEFAULT_SLOTS, help="partitions at once (default: %(default)s)")
    options.add_argument(
        "--extractors",
        type=int,
        default=2,
        metavar="N",
        help="processes for text from PDF, Office and other documents, started when needed (default: %(default)s)",
    )
    options.add_argument(
        "--extraction-seconds",
        type=int,
        default=Limits.seconds,
        metavar="S",
        help="CPU that the text of one document may take (default: %(default)s)",
    )
    options.add_argument(
        "--extraction-mib",
        type=int,
        default=Limits.memory // 2**20,
        metavar="M",
        help="MiB of memory that each of these processes may have (default: %(default)s)",
    )
    options.add_argument(
        "--grace-seconds",
        type=float,
        default=45.0,
        metavar="S",
        help="how long calls in flight may take to end after SIGTERM (default: %(default)g)",
    )
    options.add_argument(
        "--heartbeat-throttle-seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="most seconds between two heartbeats that are sent; each is a billed action on Temporal Cloud "
        "(default: %(default)g)",
    )
    options.add_argument(
        "--count-runs-seconds",
        type=float,
        default=30.0,
        metavar="S",
        help="seconds between two looks at Temporal's list of runs, for the metrics (default: %(default)g)",
    )
    options.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    options.add_argument("--supervised", action="store_true", help=argparse.SUPPRESS)
    return options


def main(argv: list[str] | None = None) -> None:
    """Runs until told to stop. Exits 2 when the environment does not let it start."""
    options = parser().parse_args(argv)
    if options.processes < 1 or options.slots < 1:
        parser().error("--processes and --slots are at least 1")
    if options.extractors < 1 or options.extraction_seconds < 1 or options.extraction_mib < 128:
        parser().error("--extractors and --extraction-seconds are at least 1, --extraction-mib at least 128")
    if options.count_runs_seconds <= 0:
        parser().error("--count-runs-seconds is more than 0")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=options.log_level.upper(), handlers=[handler])
    sys.excepthook = lambda kind, error, trace: log.critical("ended by an error", exc_info=(kind, error, trace))
    for name in ("botocore", "httpx", "httpx2"):  # a line for each request of theirs
        logging.getLogger(name).setLevel(logging.WARNING)
    if options.processes > 1:
        sys.exit(Supervisor(options, sys.argv[1:] if argv is None else argv).run())
    try:
        uvloop.run(WorkerProcess(options).run())
    except (TemporalUnreachable, CredentialsMissing, StorageError, PortTaken, VersionIncomplete) as error:
        print(f"docbatch worker: {printable(str(error))}", file=sys.stderr)  # noqa: T201
        sys.exit(2)


class WorkerProcess:
    """One process: a Temporal worker for each task queue that it polls, on one event loop."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._metrics = Metrics()
        self._deployment = deployment_config(os.environ)
        self._counting: asyncio.Task[None] | None = None

    async def run(self) -> None:
        options = self._options
        drain = asyncio.Event()
        self._install_signals(drain)
        sdk_port = _free_port()
        runtime = make_runtime(
            PrometheusConfig(
                bind_address=f"127.0.0.1:{sdk_port}",
                durations_as_seconds=True,
                unit_suffix=True,
                counters_total_suffix=True,
                histogram_bucket_overrides=dict.fromkeys(LONG_LATENCIES, LONG_ACTIVITY_BUCKETS),
            )
        )
        keys = Keys()
        transport, batches = Transport(keys), BatchApi(keys)
        client = await connect_temporal(runtime=runtime)
        storage = Storage(observe=self._metrics.observe_storage)
        await asyncio.to_thread(storage.open)  # before anything polls: a run's first calls would wait for it
        quotas = Quotas(transport.base_url, keys.identity, self._metrics, QuotaClient(client, options.task_queue))
        limits = Limits(seconds=options.extraction_seconds, memory=options.extraction_mib * 2**20)
        extractors = Extractors(options.extractors, limits)
        workers = self._workers(
            client, storage, transport, batches=batches, quotas=quotas, extractors=extractors, drain=drain
        )
        exposition = Exposition(self._metrics.registry, sdk_port, asyncio.get_running_loop())
        if options.metrics_port:
            exposition.serve(options.metrics_host, options.metrics_port)
        chores = [asyncio.create_task(self._measure_lag()), asyncio.create_task(_collect_always())]
        _calm_collector()
        versioned = self._deployment.use_worker_versioning
        version = f" as {self._deployment.version.to_canonical_string()}" if versioned else ""
        log.info("polling %s%s", " and ".join(worker.task_queue for worker in workers), version)
        try:
            await self._run_workers(workers, drain, exposition)
        finally:
            for chore in chores:
                chore.cancel()
            if self._counting is not None:
                self._counting.cancel()
            await quotas.close()
            await transport.close()
            await batches.close()
            await extractors.close()
            exposition.close()
        log.info("stopped")

    def _workers(
        self,
        client: Client,
        storage: Storage,
        transport: Transport,
        *,
        batches: BatchApi,
        quotas: Quotas,
        extractors: Extractors,
        drain: asyncio.Event,
    ) -> list[Worker]:
        workers = []
        if self._options.poll != POLL_CONTROL:
            askers: dict[str, AskerMaker] = {"online": Online, "batch": partial(BatchRounds, api=batches)}
            runs = Runs(storage, transport, quotas, extractors, self._metrics, drain=drain, temporal=client)
            processor = Processor(storage, runs, self._metrics, askers)
            workers.append(self._partitions_worker(client, processor))
        if self._options.poll != POLL_PARTITIONS:
            control = RunControl(storage, client, transport, self._metrics)
            self._counting = asyncio.create_task(self._count_runs(control))
            previewer = Previewer(storage, transport, quotas, self._metrics, drain, extractors=extractors)
            workers.append(self._control_worker(client, storage, control, previewer, batches))
        return workers

    def _partitions_worker(self, client: Client, processor: Processor) -> Worker:
        throttle = timedelta(seconds=self._options.heartbeat_throttle_seconds)
        return Worker(
            client,
            task_queue=self._options.task_queue,
            activities=[processor.process_partition],
            max_concurrent_activities=self._options.slots,
            max_heartbeat_throttle_interval=throttle,
            default_heartbeat_throttle_interval=throttle,
            graceful_shutdown_timeout=timedelta(seconds=self._options.grace_seconds),
            deployment_config=self._deployment,
        )

    def _control_worker(
        self, client: Client, storage: Storage, control: RunControl, previewer: Previewer, batches: BatchApi
    ) -> Worker:
        planner, finisher = Planner(storage, self._metrics), Finisher(storage, self._metrics, batches)
        return Worker(
            client,
            task_queue=control_queue(self._options.task_queue),
            workflows=WORKFLOWS,
            activities=[
                control.claim_run,
                control.write_control,
                control.find_closed_shards,
                control.check_model,
                planner.plan_shard,
                planner.plan_rerun,
                finisher.finish_run,
                previewer.preview_documents,
                previewer.estimate_run,
            ],
            max_concurrent_activities=CONTROL_SLOTS,
            interceptors=[ControlActivities()],
            graceful_shutdown_timeout=timedelta(seconds=self._options.grace_seconds),
            workflow_runner=workflow_runner(),
            deployment_config=self._deployment,
        )

    async def _run_workers(self, workers: list[Worker], drain: asyncio.Event, exposition: Exposition) -> None:
        tasks = [asyncio.create_task(worker.run()) for worker in workers]
        exposition.ready = True
        stopping = asyncio.create_task(drain.wait())
        await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
        exposition.ready = False
        drain.set()  # partitions take in nothing more, keep what is in flight, and yield
        log.info("draining: calls in flight may take %g s to end", self._options.grace_seconds)
        await asyncio.gather(*(worker.shutdown() for worker in workers))
        await asyncio.gather(*tasks)
        stopping.cancel()

    def _install_signals(self, drain: asyncio.Event) -> None:
        def stop() -> None:
            if drain.is_set():  # a second signal: at once; the ledger has what was answered
                os._exit(1)
            drain.set()

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop)
        # A terminal's Ctrl-C reaches the supervisor too, which then sends its one SIGTERM.
        loop.add_signal_handler(signal.SIGINT, (lambda: None) if self._options.supervised else stop)
        if self._options.supervised:
            self._orphaned = asyncio.create_task(self._drain_when_orphaned(drain))

    async def _drain_when_orphaned(self, drain: asyncio.Event) -> None:
        """A supervisor that was killed cannot say so."""
        parent = os.getppid()
        while os.getppid() == parent:  # noqa: ASYNC110 - nothing tells of a parent's death but its id
            await asyncio.sleep(1.0)
        log.warning("the supervisor is gone")
        drain.set()

    async def _count_runs(self, control: RunControl) -> None:
        while True:
            try:
                await control.count_runs()
            except Exception as error:
                log.warning("runs not counted: %r", error)
            await asyncio.sleep(self._options.count_runs_seconds * random.uniform(0.8, 1.2))

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 1.0
            await asyncio.sleep(1.0)
            self._metrics.event_loop_lag.observe(max(0.0, loop.time() - due))


class Supervisor:
    """Runs several worker processes, starts one that died again, and passes signals on."""

    RESTART_AFTER = 2.0

    def __init__(self, options: argparse.Namespace, argv: list[str]) -> None:
        self._options = options
        self._argv = argv
        self._children: list[subprocess.Popen[bytes]] = []
        self._told: set[int] = set()
        self._restarted: set[int] = set()
        self._stopping = False

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        for index in range(self._options.processes):
            self._children.append(self._start(index))
        while True:
            time.sleep(0.2)
            alive = False
            for index, child in enumerate(self._children):
                code = child.poll()
                alive = alive or code is None
                if code is None or self._stopping:
                    continue
                if code == 2 and index not in self._restarted:  # it cannot start at all: neither can the others
                    self._on_signal()
                    return 2
                log.error("worker process %d ended with code %d; starting it again", index, code)
                time.sleep(self.RESTART_AFTER)
                if not self._stopping:  # a signal may have come while it slept
                    self._children[index] = self._start(index)
                    self._restarted.add(index)
                    alive = True
            if self._stopping:  # also one that was being started when the signal came
                self._stop_children()
            if not alive:
                return max((abs(child.returncode) for child in self._children), default=0)

    def _start(self, index: int) -> subprocess.Popen[bytes]:
        port = self._options.metrics_port
        own = ["--processes", "1", "--metrics-port", str(port + index if port else 0), "--supervised"]
        # -P: nothing in the current folder may be taken for our packages.
        return subprocess.Popen([sys.executable, "-P", "-m", "workers", *self._argv, *own])

    def _on_signal(self, *_: object) -> None:
        self._stopping = True
        self._stop_children()

    def _stop_children(self) -> None:
        """One SIGTERM each: a second one ends a worker at once."""
        for child in self._children:
            if child.pid not in self._told:
                self._told.add(child.pid)
                with contextlib.suppress(ProcessLookupError):
                    child.terminate()


def _calm_collector() -> None:
    """Collects cycles seldom, and never looks at what start-up made: a tenth of the CPU a document (measured)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def _collect_always() -> None:
    """Frees what failures leave behind: they are cycles, and the calm collector hardly ever makes a full round."""
    while True:
        await asyncio.sleep(COLLECT_EVERY)
        gc.collect()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
