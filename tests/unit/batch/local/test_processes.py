"""Child processes: what their errors say, and that none of them outlives anybody."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from batch.local.processes import Process, ProcessError, http_answers, port_answers, stop_all

MakeProcess = Callable[..., Process]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[MakeProcess]:
    """Makes processes that run Python code; ends them after the test."""
    made: list[Process] = []

    def make(code: str, name: str = "child", **options: object) -> Process:
        command = [sys.executable, "-I", "-S", "-u", "-c", textwrap.dedent(code)]
        made.append(Process(name, command, log=tmp_path / "logs" / f"{name}.log", **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    stop_all(made)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def assert_gone(pids: list[int], within: float = 5.0) -> None:
    deadline = time.monotonic() + within
    while alive := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < deadline, f"still alive after {within} s: {alive}"
        time.sleep(0.02)


def read_when_written(path: Path, within: float = 10.0) -> str:
    deadline = time.monotonic() + within
    while not (path.exists() and (text := path.read_text())):
        assert time.monotonic() < deadline, f"{path} was not written within {within} s"
        time.sleep(0.01)
    return text


SLEEP = "import time; print('hello'); time.sleep(600)"


def test_starts_and_stops_the_command(process: MakeProcess) -> None:
    child = process(SLEEP)
    assert not child.running and child.returncode is None
    child.start()
    assert child.running
    assert "time.sleep(600)" in psutil.Process(child.pid).cmdline()[-1]
    assert os.getsid(child.pid) != os.getsid(0), "Ctrl-C in a terminal would reach the child"
    read_when_written(child.log)
    child.stop()
    assert (child.running, child.returncode) == (False, -signal.SIGTERM)
    assert child.log_tail() == "hello"
    child.check()  # it was asked to end
    assert_gone([child.pid], within=0)


def test_a_death_is_an_error_with_exit_code_and_end_of_the_log(process: MakeProcess) -> None:
    child = process("import sys; print('\\x1b[31mno such table\\x1b[0m'); sys.exit(7)", name="database")
    child.start()
    assert child.wait(10) == 7
    with pytest.raises(ProcessError) as raised:
        child.check()
    assert str(raised.value) == (
        f"database ended unexpectedly with exit code 7. Log {child.log}: its last lines:\n  | no such table"
    )


def test_a_death_by_a_signal_names_it(process: MakeProcess) -> None:
    child = process(SLEEP)
    child.start()
    os.kill(child.pid, signal.SIGKILL)
    child.wait(10)
    with pytest.raises(ProcessError, match=r"child ended unexpectedly with signal SIGKILL"):
        child.check()


def test_death_before_healthy(process: MakeProcess) -> None:
    child = process("print('bad option')", healthy=lambda: port_answers(1))
    with pytest.raises(
        ProcessError, match=r"ended unexpectedly before it was healthy with exit code 0.*\n  \| bad option"
    ):
        child.start()


def test_never_healthy(process: MakeProcess) -> None:
    child = process(SLEEP, healthy=lambda: http_answers(1, "/healthz"), healthy_timeout=0.5)
    with pytest.raises(
        ProcessError, match=r"was not healthy within 0.5 s .*refused.*child\.log: its last lines:\n  \| hello"
    ):
        child.start()
    assert not child.running


def test_only_the_current_start_counts_in_the_tail(process: MakeProcess) -> None:
    child = process("print('address already in use'); import sys; sys.exit(1)", healthy=lambda: port_answers(1))
    with pytest.raises(ProcessError) as first:
        child.start()
    assert first.value.address_in_use
    child.command[-1] = "raise SystemExit('other trouble')"
    with pytest.raises(ProcessError) as second:
        child.start()
    assert not second.value.address_in_use
    assert child.log_tail() == "other trouble"


def test_a_missing_program(tmp_path: Path) -> None:
    child = Process("server", ["/nonexistent/server"], log=tmp_path / "server.log")
    with pytest.raises(ProcessError, match=r"server could not be started: /nonexistent/server(?s:.*)No such file"):
        child.start()
    assert not child.running


def test_waiting_can_be_abandoned(process: MakeProcess) -> None:
    child = process(SLEEP, healthy=lambda: port_answers(1))
    abandoned = threading.Event()
    threading.Timer(0.3, abandoned.set).start()
    with pytest.raises(ProcessError, match="abandoned"):
        child.start(abandoned=abandoned)
    assert not child.running


def test_sigkill_after_the_grace(process: MakeProcess) -> None:
    child = process(
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready'); time.sleep(600)", grace=0.5
    )
    child.start()
    read_when_written(child.log)
    began = time.monotonic()
    child.stop()
    assert child.returncode == -signal.SIGKILL
    assert 0.5 <= time.monotonic() - began < 3


def test_stops_a_stopped_process(process: MakeProcess) -> None:
    child = process(SLEEP, grace=5)
    child.start()
    child.kill(signal.SIGSTOP)
    child.stop()
    assert child.returncode == -signal.SIGTERM


def test_kill_and_start_again(process: MakeProcess) -> None:
    child = process(SLEEP)
    child.start()
    first = child.pid
    child.kill()
    assert child.returncode == -signal.SIGKILL
    child.check()
    child.start()
    assert child.running and child.pid != first
    with pytest.raises(ProcessError, match=rf"runs already, as process {child.pid}"):
        child.start()
    child.restart()
    assert child.running
    child.restart(signal.SIGKILL)
    assert child.running


def test_the_whole_process_group_ends(process: MakeProcess, tmp_path: Path) -> None:
    family = f"""
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open({str(tmp_path / "grandchild")!r}, "w").write(str(child.pid))
        time.sleep(600)
    """
    for end in (Process.stop, Process.kill):
        (tmp_path / "grandchild").unlink(missing_ok=True)
        child = process(family, name=f"child-{end.__name__}")
        child.start()
        grandchild = int(read_when_written(tmp_path / "grandchild"))
        end(child)
        assert_gone([grandchild])


def test_several_stop_together(process: MakeProcess) -> None:
    slow = """
        import signal, sys, time
        def end(*_): time.sleep(0.7); sys.exit()
        signal.signal(signal.SIGTERM, end); print("ready"); time.sleep(600)
    """
    children = [process(slow, name=f"child-{number}") for number in range(3)]
    for child in children:
        child.start()
        read_when_written(child.log)
    began = time.monotonic()
    stop_all(children)
    assert time.monotonic() - began < 1.8
    assert [child.returncode for child in children] == [0, 0, 0]


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_a_killed_launcher_takes_the_command_with_it(process: MakeProcess) -> None:
    child = process(SLEEP)
    child.start()
    launcher = psutil.Process(child.pid).parent()
    assert launcher is not None and "processes.py" in " ".join(launcher.cmdline())
    launcher.kill()
    assert_gone([child.pid])
    assert not child.running


PARENT = """
    import os, sys, time
    from pathlib import Path
    from batch.local.processes import Process
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready'); time.sleep(600)"
    child = Process("child", [sys.executable, "-uc", stubborn], log=Path(sys.argv[1]) / "child.log", grace=0.5)
    child.start()
    while not child.log_tail():
        time.sleep(0.01)
    helper = os.fork() if "fork" in sys.argv else 1
    if helper == 0:
        time.sleep(20)  # holds copies of all our pipes
        os._exit(0)
    (Path(sys.argv[1]) / "pids").write_text(f"{child.pid} {helper}")
    if "exception" in sys.argv:
        raise RuntimeError
    if "exit" not in sys.argv:
        time.sleep(600)
"""


@pytest.mark.parametrize("way", ["exit", "exception", "sigint", "sigterm", "sigkill", "sigkill fork"])
def test_no_child_outlives_its_parent(tmp_path: Path, way: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), str(tmp_path), *way.split()], stderr=subprocess.DEVNULL
    )
    child, helper = map(int, read_when_written(tmp_path / "pids").split())
    try:
        if way.startswith("sig"):
            assert psutil.pid_exists(child)
            parent.send_signal(getattr(signal, way.split(maxsplit=1)[0].upper()))
        parent.wait(5)
        assert_gone([child])
    finally:
        if helper != 1:
            os.kill(helper, signal.SIGKILL)
