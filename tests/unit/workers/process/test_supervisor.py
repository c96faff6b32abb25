"""Several worker processes under one: how they are started, and that a signal is never lost on one of them."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from workers.process import main as worker
from workers.process.exposition import Exposition, PortTaken
from workers.process.main import Supervisor, parser


class FakeChild:
    """Ends by SIGTERM, or by itself with `code`."""

    made: list[FakeChild]

    def __init__(self, command: list[str], code: int | None = None) -> None:
        self.command, self.returncode, self.terminated = command, code, 0
        self.pid = len(self.made)
        self.made.append(self)

    def poll(self) -> int | None:
        return self.returncode

    def terminate(self) -> None:
        self.terminated += 1
        self.returncode = 0


def ended(number: int, code: int) -> None:
    """The n-th child that was started ends."""
    FakeChild.made[number].returncode = code


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    """Two processes, none of them real."""
    FakeChild.made = []
    monkeypatch.setattr(subprocess, "Popen", FakeChild)
    monkeypatch.setattr(worker.signal, "signal", lambda *_: None)
    arguments = ["--processes", "2", "--metrics-port", "9000"]
    return Supervisor(parser().parse_args(arguments), arguments)


def at_sleeps(monkeypatch: pytest.MonkeyPatch, actions: dict[int, Callable[[], None]]) -> list[float]:
    """Does something during the supervisor's n-th sleeps, whose seconds it returns as they come."""
    sleeps: list[float] = []

    def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        actions.get(len(sleeps), lambda: None)()
        assert len(sleeps) < 20

    monkeypatch.setattr(time, "sleep", sleep)
    return sleeps


def test_each_process_has_its_port_and_takes_no_package_from_the_folder(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_sleeps(monkeypatch, {2: supervisor._on_signal})
    assert supervisor.run() == 0
    commands = [child.command for child in FakeChild.made]
    assert [command[:4] for command in commands] == [[sys.executable, "-P", "-m", "workers"]] * 2
    assert [command[-2] for command in commands] == ["9000", "9001"]
    assert [child.terminated for child in FakeChild.made] == [1, 1]


def test_nothing_is_started_after_a_signal(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    at_sleeps(monkeypatch, {1: lambda: ended(0, 1)})
    first = time.sleep

    def sleep(seconds: float) -> None:
        if seconds == supervisor.RESTART_AFTER:
            supervisor._on_signal()
        first(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    supervisor.run()
    assert len(FakeChild.made) == 2


def test_only_one_that_never_worked_ends_the_others(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started again, it may fail for a while: S3's credentials or Temporal cannot be had."""
    actions = {1: lambda: ended(0, -9), 3: lambda: ended(2, 2), 6: lambda: ended(1, 2)}
    sleeps = at_sleeps(monkeypatch, actions)
    assert supervisor.run() == 2
    assert len(FakeChild.made) == 4, "the first one twice again"
    assert len(sleeps) == 6


def test_a_signal_while_a_process_starts_reaches_it(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    start = supervisor._start

    def signalled(index: int) -> Any:
        child = start(index)
        if index == 1:
            supervisor._on_signal()
        return child

    monkeypatch.setattr(supervisor, "_start", signalled)
    at_sleeps(monkeypatch, {})
    assert supervisor.run() == 0
    assert [child.terminated for child in FakeChild.made] == [1, 1]


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Process:
        def __init__(self, options: Any) -> None:
            self.port = options.metrics_port

        async def run(self) -> None:
            Exposition(CollectorRegistry(), 0, asyncio.get_running_loop()).serve("127.0.0.1", self.port)

    monkeypatch.setattr(worker, "WorkerProcess", Process)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SystemExit) as ended:
            worker.main(["--metrics-port", str(port)])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"docbatch worker: /metrics cannot be served on 127.0.0.1:{port}: " in said
    assert "choose another --metrics-port" in said and "Traceback" not in said


def test_a_port_beyond_the_last_is_named() -> None:
    with pytest.raises(PortTaken, match=r"127\.0\.0\.1:70000"):
        Exposition(CollectorRegistry(), 0, asyncio.new_event_loop()).serve("127.0.0.1", 70000)
