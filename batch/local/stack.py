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
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Literal

from batch.local.errors import StackError
from batch.local.folder import KEPT, TEMPORARY_PREFIX, lock_folder, remove_abandoned, write_private
from batch.local.isolation import bypass_proxies, env_file, isolated_environment, isolated_session, own_settings
from batch.local.ports import GRPC_OFFSET, LOOPBACK, choose_ports
from batch.local.processes import Process, ProcessError, http_answers, port_answers, stop_all
from batch.local.prometheus import INSTALL, ScrapeTargets, find_prometheus
from batch.workflows.contracts import JOB_ATTRIBUTE, STATE_ATTRIBUTE

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKETS = ("corpus", "results")
"""The buckets that exist once the stack is healthy."""
REGION = "us-east-1"
API_KEY = "simulated-key"
"""What the provider is called with. No secret: it opens nothing."""
TASK_QUEUE = "docbatch"
SEARCH_ATTRIBUTES = (JOB_ATTRIBUTE, STATE_ATTRIBUTE)

_TEMPORAL_PORTS = {
    "temporal": "--port",
    "temporal_ui": "--ui-port",
    "temporal_http": "--http-port",
    "temporal_metrics": "--metrics-port",
}
_S3_PORTS = {
    "s3": "-s3.port",
    "s3_grpc": "-s3.port.grpc",
    "s3_master": "-master.port",
    "s3_master_grpc": "-master.port.grpc",
    "s3_volume": "-volume.port",
    "s3_volume_grpc": "-volume.port.grpc",
    "s3_filer": "-filer.port",
    "s3_filer_grpc": "-filer.port.grpc",
    "s3_admin": "-admin.port",
}


HEARTBEAT_THROTTLE = 2.0
"""Seconds. Heartbeats carry what progress displays show, and nobody bills them here."""


@dataclass(frozen=True, kw_only=True)
class StackOptions:
    """What to start.

    Attributes:
        data: Folder of all that the servers store, kept between starts with its credentials and ports; one stack at a
            time. None: a temporary folder, removed at the end unless that end is an error.
        logs: Folder of the log files, one a child. None: `logs` in the data folder.
        workers: Worker processes to start; more can be started later.
        worker_args: Further arguments of every worker.
        worker_grace: Seconds that a worker has to end its work on stop.
        provider: Whether to start a provider. Without, workers have no `OPENAI_*` but what `environment` says.
        provider_args: Further arguments of the simulated provider.
        provider_command: A provider to start instead, OpenAI's HTTP at `/v1`; `{port}` in it becomes the port.
        provider_health: Path on the provider that answers 200 once it is ready.
        ui: Whether to serve Temporal's web UI. It asks nobody for a password: see docs/operations.md.
        scrape_seconds: Time between two scrapes of the workers by a Prometheus of the stack's own, where one is
            installed. None: no Prometheus.
        temporal_args: Further arguments of `temporal server start-dev`, such as `--dynamic-config-value`.
        s3_args: Further arguments of SeaweedFS' `weed mini`, such as `-metricsPort`.
        temporal_port, temporal_ui_port, s3_port, provider_port: Fixed ports. None: those that the data folder had last
            time, else free ones.
        s3_server: `auto` is SeaweedFS where it is installed, else moto's server, which keeps objects in memory only.
        environment: Further variables for `environment()` and the children; they win over the stack's own.
    """

    data: Path | None = None
    logs: Path | None = None
    workers: int = 0
    worker_args: Sequence[str] = ()
    worker_grace: float = 30.0
    provider: bool = True
    provider_args: Sequence[str] = ()
    provider_command: Sequence[str] | None = None
    provider_health: str = "/healthz"
    ui: bool = False
    scrape_seconds: float | None = None
    temporal_args: Sequence[str] = ()
    s3_args: Sequence[str] = ()
    temporal_port: int | None = None
    temporal_ui_port: int | None = None
    s3_port: int | None = None
    provider_port: int | None = None
    s3_server: Literal["auto", "seaweedfs", "moto"] = "auto"
    environment: Mapping[str, str] | None = None


class LocalStack:
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
    prometheus: Process | None
    data: Path
    logs: Path

    def __init__(self, options: StackOptions | None = None, *, on_event: Callable[[str], None] | None = None) -> None:
        self.options = options or StackOptions()
        self.notes: list[str] = []
        self.start_seconds: dict[str, float] = {}
        self.workers: list[Process] = []
        self._on_event = on_event or (lambda line: None)
        self._servers: list[Process] = []
        self._scraped: ScrapeTargets | None = None
        self._worker_lock = threading.Lock()
        self._abandoned = threading.Event()
        self._started = False
        self._ports: dict[str, int] = {}
        self._fixed_ports: dict[str, int] = {}
        self._credentials: dict[str, str] = {}
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
            self._remember()
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

    def restart_temporal(self, number: int = signal.SIGTERM) -> None:
        """End Temporal by the signal and start it again: same ports, same data."""
        self.temporal.restart(number)

    def restart_s3(self, number: int = signal.SIGTERM) -> None:
        """End the S3 server by the signal and start it again: same ports, same data (moto's forgets everything)."""
        self.s3.restart(number)

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
                port = choose_ports([name], taken=self._ports.values())[name]
                self._ports[name] = port
                healthy = functools.partial(http_answers, port, "/healthz")
                grace = self.options.worker_grace
                known[name] = self._process(name, healthy, self.child_environment(), grace=grace, timeout=60)
                self.workers.append(known[name])
        worker, port = known[name], self._ports[name]
        # -P: a file `batch.py` in the user's folder must not be taken for ours.
        program = [sys.executable, "-P", "-m", "workers", "--task-queue", TASK_QUEUE, "--metrics-port", str(port)]
        program += ["--metrics-host", LOOPBACK, "--heartbeat-throttle-seconds", str(HEARTBEAT_THROTTLE)]
        worker.command = [*program, *self.options.worker_args, *extra_args]
        if self._scraped is not None:
            self._scraped.add_worker(worker.name, port, worker.command)
        began = time.monotonic()
        worker.start(wait=wait, abandoned=self._abandoned)
        self._report(worker, began, f"process {worker.pid}, {self.metrics_url(worker)}")
        return worker

    # -- addresses and environment

    @property
    def temporal_address(self) -> str:
        return f"{LOOPBACK}:{self._ports['temporal']}"

    @property
    def temporal_ui_url(self) -> str | None:
        return f"http://{LOOPBACK}:{self._ports['temporal_ui']}" if self.options.ui else None

    @property
    def temporal_metrics_url(self) -> str:
        return f"http://{LOOPBACK}:{self._ports['temporal_metrics']}/metrics"

    @property
    def s3_endpoint(self) -> str:
        return f"http://{LOOPBACK}:{self._ports['s3']}"

    @property
    def provider_url(self) -> str | None:
        """The provider's root; `OPENAI_BASE_URL` is its `/v1`."""
        return f"http://{LOOPBACK}:{self._ports['provider']}" if self.options.provider else None

    @property
    def prometheus_url(self) -> str | None:
        return f"http://{LOOPBACK}:{self._ports['prometheus']}{self._prometheus_path}" if self.prometheus else None

    @property
    def _prometheus_path(self) -> str:
        return f"/{self._token('prometheus')}"

    @property
    def _temporal_http_host(self) -> str:
        """The one name in `Host` that Temporal's HTTP API answers to: it cannot be switched off, nor asks for a key."""
        return f"{self._token('temporal')}.docbatch.invalid"

    def _token(self, purpose: str) -> str:
        """What no web page can guess, the same at every start on this data folder."""
        secret = self._credentials["AWS_SECRET_ACCESS_KEY"].encode()
        return blake2b(purpose.encode(), key=secret, digest_size=12).hexdigest()

    def metrics_url(self, worker: Process) -> str:
        return f"http://{LOOPBACK}:{self._ports[worker.name]}/metrics"

    def environment(self) -> dict[str, str]:
        """The endpoints and credentials, under the ecosystem's own names, and what keeps settings files out."""
        variables = own_settings() | {
            "TEMPORAL_ADDRESS": self.temporal_address,
            "AWS_ENDPOINT_URL_S3": self.s3_endpoint,
            **self._credentials,
            "AWS_REGION": REGION,
        }
        if self.provider_url:
            variables |= {"OPENAI_BASE_URL": f"{self.provider_url}/v1", "OPENAI_API_KEY": API_KEY}
        return variables | dict(self.options.environment or {})

    def child_environment(self) -> dict[str, str]:
        """What `isolated_environment` lets pass of ours, plus `environment()`."""
        return isolated_environment() | self.environment()

    @contextlib.contextmanager
    def applied_environment(self) -> Iterator[None]:
        """Give this very process the children's environment for a while, for clients that read it.

        `os.environ` alone is exchanged. C's environment has no lock, and native threads read it at any time (polars'
        every millisecond), so whoever changes it beside them crashes now and then.
        """
        before = os.environ
        os.environ = self.child_environment()  # type: ignore[assignment]  # noqa: B003 - C's is not to change
        try:
            yield
        finally:
            os.environ = before  # noqa: B003

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

    def s3_client(self) -> S3Client:
        """A boto3 client of the stack's S3 server, whatever the environment says. It does not retry."""
        import boto3
        from botocore.config import Config

        session = boto3.session.Session(
            botocore_session=isolated_session(),
            aws_access_key_id=self._credentials["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self._credentials["AWS_SECRET_ACCESS_KEY"],
            region_name=REGION,
        )
        no_proxies: dict[str, str] = {}
        config = Config(
            retries={"total_max_attempts": 1, "mode": "standard"},
            s3={"addressing_style": "path"},
            connect_timeout=2,
            read_timeout=20,
            proxies=no_proxies,
        )
        return session.client("s3", endpoint_url=self.s3_endpoint, config=config)

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
        self._credentials = {
            "AWS_ACCESS_KEY_ID": "LOCAL" + secrets.token_hex(8).upper(),
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
        }
        last_ports: dict[str, int] = {}
        try:
            last = json.loads((self.data / "stack.json").read_text())
            self._credentials, last_ports = dict(last["credentials"]), dict(last["ports"])
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError) as error:
            raise StackError(
                f"{self.data / 'stack.json'} is damaged ({error!r}): remove it; data stays, endpoints become new ones"
            ) from None
        asked = {
            "temporal": self.options.temporal_port,
            "temporal_ui": self.options.temporal_ui_port,
            "s3": self.options.s3_port,
            "provider": self.options.provider_port,
        }
        self._fixed_ports = {name: port for name, port in asked.items() if port is not None}
        names = [*_TEMPORAL_PORTS, *_S3_PORTS, "provider", "prometheus"]
        self._ports = choose_ports(names, fixed=self._fixed_ports, preferred=last_ports)
        self._remember()

    def _remember(self) -> None:
        """Keep credentials and ports beside the data written under them: an env file of the last start stays true."""
        ports = {name: port for name, port in self._ports.items() if not name.startswith("worker-")}
        text = json.dumps({"credentials": self._credentials, "ports": ports}, indent=2)
        write_private(self.data / "stack.json", text + "\n")

    def _leave_data(self, failed: bool) -> None:
        for name in _S3_PORTS.keys() & self._ports.keys():  # SeaweedFS leaves its Unix sockets behind
            for port in (self._ports[name], self._ports[name] + GRPC_OFFSET):
                for leftover in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                    leftover.unlink(missing_ok=True)
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
        private = base | self._credentials | {"HOME": str(home)}
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
            self._scraped = ScrapeTargets(self.data / "prometheus", self.options.scrape_seconds, self._prometheus_path)
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
        program = find_program("temporal")
        if program is None:
            raise StackError("`temporal` is missing: install docbatch[local], which carries it, or put it on PATH")
        # 1,000 activities took 13 s with SQLite's default journal, 8 with WAL, 6 without fsync (two cores). WAL without
        # fsync survives any `kill -9`, only no power cut; NORMAL survives that too.
        synchronous = "NORMAL" if self.options.data else "OFF"
        command = [
            *(program, "server", "start-dev", "--ip", LOOPBACK, "--log-level", "error"),
            *("--db-filename", str(self.data / "temporal.db")),
            *("--sqlite-pragma", "journal_mode=WAL", "--sqlite-pragma", f"synchronous={synchronous}"),
            *(part for name in SEARCH_ATTRIBUTES for part in ("--search-attribute", f"{name}=Keyword")),
            *("--dynamic-config-value", "matching.enableFairness=true"),
            *("--dynamic-config-value", f"frontend.httpAllowedHosts={json.dumps([self._temporal_http_host])}"),
            *(["--ui-disable-news-fetch"] if self.options.ui else ["--headless"]),
            *self.options.temporal_args,
        ]

        def with_ports() -> list[str]:
            return command + [x for name, flag in _TEMPORAL_PORTS.items() for x in (flag, str(self._ports[name]))]

        began = self._start_server(self.temporal, with_ports, _TEMPORAL_PORTS)
        ui = f", UI {self.temporal_ui_url}" if self.temporal_ui_url else ""
        self._report(self.temporal, began, f"{self.temporal_address}{ui}")

    def _temporal_healthy(self) -> None:
        port_answers(self._ports["temporal"])
        headers = {"Host": self._temporal_http_host}
        http_answers(self._ports["temporal_http"], "/api/v1/namespaces/default", headers=headers)

    def _start_s3(self) -> None:
        weed = None if self.options.s3_server == "moto" else find_program("weed")
        moto = self.options.s3_server != "seaweedfs" and find_spec("moto") is not None
        if weed is None and not moto:
            raise StackError("no S3 server: install docbatch[local], which carries `weed`, or put that on PATH")
        home = self.data / "s3"
        command = [
            *(weed or "", "-logtostderr", "mini", f"-dir={home}", f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false", "-master.telemetry=false"),
            # As on AWS, a bucket does not come into being by a PUT into it.
            "-s3.autoCreateBucket=false",
            # Only the S3 server talks HTTP to strangers, and asks them for a signature; filer and master would hand
            # out and delete what there is to anybody who asks, and the volume server wants a token (security.toml).
            "-disableHttp",
            # Volumes are files that grow as needed. The default allows as many as the free disk divides into, and each
            # bucket takes some: a small disk could run out of volumes long before it is full.
            *("-master.volumeSizeLimitMB=256", "-volume.max=1000", "-volume.preStopSeconds=0"),
            *self.options.s3_args,
        ]
        if weed is None:
            self.notes.append(
                "SeaweedFS is not installed (it has no wheel for Linux on ARM): moto's S3 server takes its place, "
                "keeps objects in memory only, and forgets them when it ends."
            )

        def with_ports() -> list[str]:
            if weed is None:
                return [sys.executable, "-P", "-m", "batch.local.moto_server", str(self._ports["s3"])]
            return command + [f"{flag}={self._ports[name]}" for name, flag in _S3_PORTS.items()]

        write_private(home / "security.toml", _security())
        began = self._start_server(self.s3, with_ports, _S3_PORTS)
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
            simulated = [sys.executable, "-P", "-m", "batch.local.simulator.provider", "--port", "{port}"]
            command = self.options.provider_command or [*simulated, *self.options.provider_args]
            return [part.replace("{port}", str(self._ports["provider"])) for part in command]

        began = self._start_server(self.provider, with_port, ["provider"])
        kind = self.options.provider_command[0] if self.options.provider_command else "simulated"
        self._report(self.provider, began, f"{self.provider_url}/v1 ({kind})")

    def _provider_healthy(self) -> None:
        headers = {"Authorization": f"Bearer {API_KEY}"}
        http_answers(self._ports["provider"], self.options.provider_health, headers=headers)

    def _start_prometheus(self) -> None:
        program = find_prometheus()
        assert self.prometheus is not None and self._scraped is not None and program is not None
        scraped = self._scraped

        def with_port() -> list[str]:
            return scraped.command(program, self._ports["prometheus"])

        began = self._start_server(self.prometheus, with_port, ["prometheus"])
        self._report(self.prometheus, began, f"{self.prometheus_url}, with docbatch's rules and alerts")

    def _prometheus_healthy(self) -> None:
        http_answers(self._ports["prometheus"], f"{self._prometheus_path}/-/ready")

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
            self._ports |= choose_ports(movable, taken=self._ports.values())
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


def _security() -> str:
    """SeaweedFS' settings by which its parts know each other, by keys that are made anew at each start."""
    names = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
    return "".join(f'[{name}]\nkey = "{secrets.token_hex(16)}"\n' for name in names) + "[access]\nui = false\n"


def find_program(name: str) -> str | None:
    """The program that a wheel put beside our Python, else the one on PATH."""
    beside = Path(sys.executable).parent / name
    return str(beside) if os.access(beside, os.X_OK) else shutil.which(name)


def _exit_in_order(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
