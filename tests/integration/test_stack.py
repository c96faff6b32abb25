"""The local stack on its real servers: storage, restarts, isolation, and that it leaves nothing behind."""

import asyncio
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from botocore.exceptions import ClientError
from temporalio.client import Client, WorkflowExecutionStatus

from batch.local.corpus import Uploaded, upload
from batch.local.endpoints import BUCKETS
from batch.local.isolation import isolated_environment, own_settings
from batch.local.options import StackError, StackOptions
from batch.local.ports import choose_ports
from batch.local.processes import Process, ProcessError, http_answers
from batch.local.stack import LocalStack
from batch.network.connection import connect_temporal
from benchmarks.synthetic import synthetic_documents


def options(**more: object) -> StackOptions:
    return StackOptions(provider=False, **more)  # type: ignore[arg-type]


def descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    events: list[str] = []
    with LocalStack(options(), on_event=events.append) as running:
        assert {line.split()[0] for line in events} == {"temporal", "s3"}
        print(running.start_seconds)
        yield running
        running.check()
    assert not running.data.exists()
    assert not [process for process in (running.temporal, running.s3) if process.running]


@pytest.fixture(scope="module")
def moto() -> Iterator[LocalStack]:
    with LocalStack(options(s3_server="moto", ui=False)) as running:
        assert "moto" in running.notes[0]
        assert running.temporal_ui_url is None
        yield running


@pytest.fixture(params=["stack", "moto"])
def either(request: pytest.FixtureRequest) -> LocalStack:
    running: LocalStack = request.getfixturevalue(request.param)
    return running


def status_of(call: Callable[[], object]) -> int:
    """HTTP status of a request, also of a refused one."""
    try:
        call()
    except ClientError as error:
        return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
    return 200


# -- storage


def test_conditional_puts(either: LocalStack) -> None:
    s3 = either.s3_client()
    assert {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]} == set(BUCKETS)

    def create() -> int:
        return status_of(lambda: s3.put_object(Bucket="results", Key="once", Body=b"first", IfNoneMatch="*"))

    assert (create(), create()) == (200, 412)
    etag = s3.head_object(Bucket="results", Key="once")["ETag"]

    def replace(body: bytes) -> int:
        return status_of(lambda: s3.put_object(Bucket="results", Key="once", Body=body, IfMatch=etag))

    assert (replace(b"second"), replace(b"third")) == (200, 412)
    assert s3.get_object(Bucket="results", Key="once")["Body"].read() == b"second"


def test_one_winner_among_racing_creations(stack: LocalStack) -> None:
    clients = [stack.s3_client() for _ in range(6)]
    with ThreadPoolExecutor(len(clients)) as pool:
        statuses = list(
            pool.map(
                lambda s3: status_of(lambda: s3.put_object(Bucket="results", Key="race", Body=b"x", IfNoneMatch="*")),
                clients,
            )
        )
    assert statuses.count(200) == 1, statuses


def test_as_on_aws_a_put_creates_no_bucket_and_a_stranger_gets_nothing(stack: LocalStack) -> None:
    s3 = stack.s3_client()
    assert status_of(lambda: s3.put_object(Bucket="absent", Key="x", Body=b"x")) == 404
    assert status_of(lambda: s3.list_objects_v2(Bucket="absent")) == 404
    with pytest.raises(ConnectionError, match="403"):
        http_answers(int(stack.s3_endpoint.rsplit(":", 1)[1]), "/corpus")


def test_upload(stack: LocalStack) -> None:
    began = time.monotonic()
    documents = synthetic_documents(2_000, 2_048)
    assert upload(stack.environment(), "corpus", "/many/", documents) == Uploaded(2_000, 2_000 * 2_048)
    print(f"2,000 documents of 2 KB in {time.monotonic() - began:.1f} s")
    pages = stack.s3_client().get_paginator("list_objects_v2").paginate(Bucket="corpus", Prefix="many/documents/")
    listed = [item for page in pages for item in page["Contents"]]
    assert len(listed) == 2_000
    assert {item["Size"] for item in listed} == {2_048}


def test_many_buckets(stack: LocalStack) -> None:
    s3 = stack.s3_client()
    for number in range(12):
        s3.create_bucket(Bucket=f"bucket-{number}")
        s3.put_object(Bucket=f"bucket-{number}", Key="x", Body=b"x" * 10_000)


# -- restarts


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_restarts_keep_ports_and_data(stack: LocalStack, number: int) -> None:
    address, endpoint = stack.temporal_address, stack.s3_endpoint
    name = f"kept-{number}"
    stack.s3_client().put_object(Bucket="results", Key=name, Body=b"kept")
    client = await Client.connect(address)
    await client.start_workflow("Nobody", id=name, task_queue="nobody")

    await asyncio.to_thread(stack.s3.restart, number)
    await asyncio.to_thread(stack.temporal.restart, number)

    assert (address, endpoint) == (stack.temporal_address, stack.s3_endpoint)
    assert stack.s3_client().get_object(Bucket="results", Key=name)["Body"].read() == b"kept"
    client = await Client.connect(address)
    description = await client.get_workflow_handle(name).describe()
    assert description.status == WorkflowExecutionStatus.RUNNING
    await client.start_workflow("Nobody", id=f"{name}-after", task_queue="nobody")
    stack.check()


def test_an_unexpected_death_shows(stack: LocalStack) -> None:
    os.kill(stack.s3.pid, signal.SIGKILL)
    with pytest.raises(ProcessError, match=r"s3 ended unexpectedly with signal SIGKILL. Log .*s3\.log"):
        stack.wait(10)
    stack.s3.start()
    stack.check()


# -- isolation


def test_environment_and_its_file(stack: LocalStack, tmp_path: Path) -> None:
    file = tmp_path / "new" / "stack.env"
    stack.write_env_file(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["stack.env"]
    names = {"TEMPORAL_ADDRESS", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"}
    assert names | own_settings().keys() == stack.environment().keys()
    command = f"set -a; . {shlex.quote(str(file))}; env"
    shown = subprocess.run(["sh", "-c", command], env={"PATH": os.defpath}, capture_output=True, text=True, check=True)
    exported = dict(line.split("=", 1) for line in shown.stdout.splitlines())
    assert {name: exported[name] for name in stack.environment()} == stack.environment()


async def test_children_see_nothing_of_the_users_accounts(stack: LocalStack, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "AWS_PROFILE",
        "AWS_SESSION_TOKEN",
        "OPENAI_API_KEY",
        "OPENAI_ORG_ID",
        "TEMPORAL_API_KEY",
        "S3_BUCKET",
    ):
        monkeypatch.setenv(name, "the-users-own")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "the-users-own")
    monkeypatch.setenv("no_proxy", "example.com")
    variables = stack.child_environment()
    assert "the-users-own" not in variables.values()
    assert variables["PATH"] == os.environ["PATH"]
    assert variables["NO_PROXY"] == "example.com,127.0.0.1,localhost"
    for server in (stack.s3, stack.temporal):
        assert "OPENAI_API_KEY" not in psutil.Process(server.pid).environ()
    with stack.applied_environment():
        connection = await connect_temporal()
        assert connection.service_client.config.target_host == stack.temporal_address
        assert "OPENAI_ORG_ID" not in os.environ
    assert os.environ["OPENAI_ORG_ID"] == "the-users-own"


def test_servers_listen_on_loopback_alone(stack: LocalStack) -> None:
    for server in (stack.s3, stack.temporal):
        listening = [c.laddr.ip for c in psutil.Process(server.pid).net_connections() if c.status == psutil.CONN_LISTEN]
        assert listening and set(listening) == {"127.0.0.1"}


# -- workers and providers


def test_workers_and_another_provider(tmp_path: Path) -> None:
    """With stand-ins: what is tested is how they are started, watched, killed and started again."""
    (tmp_path / "workers.py").write_text(
        textwrap.dedent("""
            import http.server, os, sys
            class Handler(http.server.BaseHTTPRequestHandler):
                def do_GET(self):
                    self.send_response(200)
                    self.end_headers()
            print(sys.argv[1:], os.environ["OPENAI_BASE_URL"], flush=True)
            port = int(sys.argv[sys.argv.index("--metrics-port") + 1])
            http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
        """)
    )
    provider = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(tmp_path), "{port}"]
    wanted = StackOptions(
        workers=2,
        worker_args=["--processes", "1"],
        worker_grace=1,
        environment={"PYTHONPATH": str(tmp_path)},
        provider_command=provider,
        provider_health="/",
        ui=False,
    )
    with LocalStack(wanted) as stack:
        assert {"worker-0", "worker-1", "provider", "total"} <= set(stack.start_seconds)
        assert stack.environment()["OPENAI_BASE_URL"] == f"{stack.provider_url}/v1"
        first, second = stack.workers
        assert "'--processes', '1'] " + f"{stack.provider_url}/v1" in first.log_tail()
        first.kill()
        stack.check()
        first.start()
        second.kill(signal.SIGTERM)
        second.wait(5)
        assert stack.start_worker(int(second.name[-1]), ["--again"]) is second
        assert "'--again'" in second.log_tail()
        third = stack.start_worker()
        assert third.name == "worker-2" and len({stack.metrics_url(worker) for worker in stack.workers}) == 3
        os.kill(third.pid, signal.SIGKILL)
        with pytest.raises(ProcessError, match="worker-2 ended unexpectedly with signal SIGKILL"):
            stack.wait(5)


# -- ports and data folders


def test_ports_are_distinct_and_free() -> None:
    ports = choose_ports([str(number) for number in range(50)])
    assert len(set(ports.values())) == 50
    again = choose_ports(["a", "b"], preferred={"a": ports["0"]}, taken=[ports["1"]])
    assert again["a"] == ports["0"] and again["b"] not in ports.values()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        busy = listener.getsockname()[1]
        assert choose_ports(["a"], preferred={"a": busy})["a"] != busy
        with pytest.raises(StackError, match=rf"port {busy}, asked for a, is in use"):
            choose_ports(["a"], fixed={"a": busy})


def test_a_taken_fixed_port_starts_nothing(tmp_path: Path) -> None:
    before = len(descendants())
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(StackError, match="asked for temporal, is in use"),
        LocalStack(options(data=tmp_path, temporal_port=listener.getsockname()[1])),
    ):
        pass
    assert len(descendants()) == before


def test_a_port_taken_meanwhile_is_chosen_anew(tmp_path: Path) -> None:
    stack = LocalStack(options())
    server = Process("server", log=tmp_path / "server.log", environment=isolated_environment())
    server.healthy = lambda: http_answers(stack.ports["server"], "/")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        busy = stack.ports["server"] = listener.getsockname()[1]

        def command() -> list[str]:
            return [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(stack.ports["server"])]

        # What answers on the busy port may look healthy; it is not ours.
        stack._start_server(server, command, ["server"])
        assert stack.ports["server"] != busy
        server.stop()


def test_a_failed_start_keeps_its_logs_and_stops_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    before = len(descendants())
    events: list[str] = []
    with (
        pytest.raises(ProcessError, match=r"temporal ended unexpectedly.*(?s:.*)unknown flag") as raised,
        LocalStack(options(temporal_args=["--no-such-flag"]), on_event=events.append),
    ):
        pass
    assert len(descendants()) == before
    kept = Path(events[-1].removeprefix("logs and data are kept in "))
    assert (kept / "logs" / "temporal.log").exists() and str(kept) in str(raised.value)
    os.utime(kept / "lock-children", (0, 0))
    with LocalStack(options()):
        assert kept.exists()
    # As if its owner had been killed: the next stack clears up after it.
    (kept / "kept-after-an-error").unlink()
    with LocalStack(options()):
        assert not kept.exists()


# -- nothing left behind

OWNER = """
    import sys, time
    from pathlib import Path
    from batch.local.stack import LocalStack, StackOptions
    data = Path(sys.argv[2]) if sys.argv[2:] else None
    with LocalStack(StackOptions(provider=False, data=data)) as stack:
        stack.s3_client().put_object(Bucket="results", Key="kept", Body=b"kept")
        stack.write_env_file(Path(sys.argv[1]))
        Path(sys.argv[1] + ".data").write_text(str(stack.data))
        time.sleep(600)
"""


def test_whatever_ends_the_owner_ends_the_children(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    ways = {signal.SIGINT: [], signal.SIGTERM: [], signal.SIGKILL: [str(kept)]}
    owners = {
        number: subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(OWNER), str(tmp_path / str(number)), *arguments],
            stderr=subprocess.DEVNULL,
        )
        for number, arguments in ways.items()
    }
    folders: dict[int, Path] = {}
    for number, owner in owners.items():
        ready = tmp_path / f"{number}.data"
        deadline = time.monotonic() + 60
        while not (ready.exists() and ready.read_text()):
            assert owner.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        folders[number] = Path(ready.read_text())

    with pytest.raises(StackError, match=rf"in use by another local stack \(process {owners[signal.SIGKILL].pid}\)"):
        LocalStack(options(data=kept)).start()

    family = {number: psutil.Process(owner.pid).children(recursive=True) for number, owner in owners.items()}
    for number, owner in owners.items():
        assert len(family[number]) == 4  # two servers, two launchers
        owner.send_signal(number)
    began = time.monotonic()
    assert owners[signal.SIGKILL].wait(5) == -signal.SIGKILL
    before = json.loads((kept / "stack.json").read_text())

    # The killed one's folder can be used again at once: the start waits for the last of the old children.
    with LocalStack(options(data=kept)) as stack:
        assert stack.s3_client().get_object(Bucket="results", Key="kept")["Body"].read() == b"kept"
        assert json.loads((kept / "stack.json").read_text()) == before
        assert (kept / "stack.json").stat().st_mode & 0o777 == 0o600
    assert kept.exists()

    _, alive = psutil.wait_procs([p for processes in family.values() for p in processes], timeout=0)
    assert not alive, f"alive {time.monotonic() - began:.1f} s after the end of their owners"
    assert owners[signal.SIGTERM].wait(10) == 128 + signal.SIGTERM
    assert owners[signal.SIGINT].wait(10) == -signal.SIGINT
    assert not folders[signal.SIGINT].exists() and not folders[signal.SIGTERM].exists()
