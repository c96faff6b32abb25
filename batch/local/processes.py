"""Child processes that never outlive us: started with a log file, watched until healthy, and always reaped.

Every child runs under a small launcher, which is this very file run as a script. The launcher holds the read end of a
pipe whose only writer is our process. When that closes, for whatever reason (a clean stop, an exception, `kill -9`),
the launcher ends the child and everything in its process group. This needs no signal handler and no thread of ours, and
works on Linux and macOS. Launcher and child have sessions of their own, so that Ctrl-C in a terminal reaches only us
and we decide the order.

Only the standard library is imported here, so that the launcher starts in about 40 ms.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

ORPHAN_GRACE_SECONDS = 3.0
"""What a child gets between SIGTERM and SIGKILL when our process is gone and nobody waits for it any more."""

FULL_BELOW = 2**20
"""Bytes free below which a disk counts as full."""

_ENDING_SIGNALS = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGABRT}
_ANSI_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_ADDRESS_IN_USE = re.compile(r"address already in use|port \d+ .*(is in use|is not available)", re.IGNORECASE)


class ProcessError(RuntimeError):
    """A child did not start, was not healthy in time, or died. The message names its log and shows the end of it."""

    def __init__(self, message: str, *, log_tail: str = "") -> None:
        super().__init__(message)
        self.address_in_use = _ADDRESS_IN_USE.search(log_tail) is not None


class Process:
    """One child process, startable again and again with the same command.

    Args:
        name: How messages call it, for example `temporal`.
        command: Program and arguments. May also be set later, before a `start()`.
        log: File that its stdout and stderr are appended to.
        environment: The child's whole environment; None: ours.
        healthy: Called until it returns without an exception; None: the child is healthy once it runs.
        healthy_timeout: Seconds until a start counts as failed.
        grace: Seconds between SIGTERM and SIGKILL in `stop()`. 0 for a child that has nothing worth saving.
        cwd: Working directory; None: ours.
        keep_open: File descriptors that the launcher holds for as long as the child lives, such as a lock.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str] = (),
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        healthy: Callable[[], object] | None = None,
        healthy_timeout: float = 30.0,
        grace: float = 10.0,
        cwd: Path | None = None,
        keep_open: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self.environment = None if environment is None else dict(environment)
        self.healthy = healthy
        self.healthy_timeout = healthy_timeout
        self.grace = grace
        self.cwd = cwd
        self.keep_open = tuple(keep_open)
        self._launcher: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._returncode: int | None = None
        self._end_expected = True
        self._log_start = 0
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Process {self.name} {'pid ' + str(self._pid) if self.running else 'not running'}>"

    @property
    def pid(self) -> int:
        """Process id of the command itself (not of its launcher), of the last start."""
        if self._pid is None:
            raise ProcessError(f"{self.name} has not been started")
        return self._pid

    @property
    def running(self) -> bool:
        return self._launcher is not None and self._poll() is None

    @property
    def returncode(self) -> int | None:
        """Exit code of the last start, a signal's number negative; None while it runs and before the first start."""
        return None if self._launcher is None else self._poll()

    def start(self, *, wait: bool = True, abandoned: threading.Event | None = None) -> None:
        """Start the command and, with `wait`, return only when it is healthy. Raises `ProcessError`.

        A start that fails leaves no process behind. `abandoned` ends the waiting early when set.
        """
        if self.running:
            raise ProcessError(f"{self.name} runs already, as process {self.pid}")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._log_start = os.fstat(log.fileno()).st_size
            launcher = subprocess.Popen(
                # -I -S: no site-packages and no user settings; the launcher needs none and starts faster.
                [sys.executable, "-I", "-S", __file__, str(self.grace), str(ORPHAN_GRACE_SECONDS), *self.command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self.environment,
                cwd=self.cwd,
                start_new_session=True,
                pass_fds=self.keep_open,
            )
        assert launcher.stdout is not None
        started = launcher.stdout.readline().split()
        with self._lock:
            self._launcher, self._returncode, self._end_expected = launcher, None, False
            self._pid = int(started[1]) if started[:1] == [b"started"] else None
        try:
            if self._pid is None:
                launcher.wait(5)
                raise self._error(f"{self.name} could not be started: {self.command[0]}")
            if wait:
                self.wait_until_healthy(abandoned=abandoned)
        except BaseException:
            self.stop()
            raise

    def wait_until_healthy(self, *, abandoned: threading.Event | None = None) -> None:
        """Return when the health check passes. Raises `ProcessError` when the child dies first or takes too long."""
        deadline = time.monotonic() + self.healthy_timeout
        abandoned = abandoned or threading.Event()
        while True:
            self.check("before it was healthy")
            reason: Exception | None = None
            try:
                if self.healthy is not None:
                    self.healthy()
            except Exception as error:
                reason = error
            if reason is None:
                # What answered may be a stranger on the port that our child just failed to get.
                self.check("before it was healthy")
                return
            if time.monotonic() > deadline:
                message = f"{self.name} was not healthy within {self.healthy_timeout:g} s ({reason or 'no answer'})"
                raise self._error(message) from reason
            if abandoned.wait(0.02):
                raise ProcessError(f"the start of {self.name} was abandoned")

    def check(self, when: str = "") -> None:
        """Raise `ProcessError`, with exit code and the log's end, if the child died and nobody asked it to."""
        code = self.returncode
        if code is not None and not self._end_expected:
            how = f"exit code {code}" if code >= 0 else f"signal {_signal_name(-code)}"
            raise self._error(f"{self.name} ended unexpectedly {when + ' ' if when else ''}with {how}")

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the child and return its exit code. Raises `TimeoutError` after `timeout` seconds."""
        if self._launcher is None:
            raise ProcessError(f"{self.name} has not been started")
        try:
            self._launcher.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} still runs after {timeout} s") from None
        code = self._poll()
        assert code is not None
        return code

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the command itself. After SIGKILL, returns only when it is gone and can be started again."""
        self._end_expected = self._end_expected or number in _ENDING_SIGNALS
        if not self.running:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        if number == signal.SIGKILL:
            self.wait(10)

    def request_stop(self) -> None:
        """Ask the launcher to end the child: SIGTERM, then SIGKILL after the grace. Returns at once."""
        self._end_expected = True
        if self._launcher is not None and self._launcher.stdin is not None and not self._launcher.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._launcher.stdin.fileno(), b"T")
            with contextlib.suppress(BrokenPipeError):
                self._launcher.stdin.close()

    def stop(self) -> None:
        """End the child and its process group: SIGTERM, SIGKILL after the grace. Does nothing if it does not run."""
        if self._launcher is None:
            return
        self.request_stop()
        try:
            self._launcher.wait(self.grace + 5)
        except subprocess.TimeoutExpired:
            self.stop_now()
        self._poll()

    def stop_now(self) -> None:
        """SIGKILL to the child's whole process group, for those who cannot wait."""
        self.request_stop()
        if self._launcher is not None and self._launcher.poll() is None:
            if self._pid is not None:
                _signal_group(self._pid, signal.SIGKILL)
            try:
                self._launcher.wait(2)
            except subprocess.TimeoutExpired:
                self._launcher.kill()
                self._launcher.wait()

    def restart(self, number: int = signal.SIGTERM) -> None:
        """End the child, with SIGKILL by `kill`, else by `stop`, and start it again."""
        if number == signal.SIGKILL:
            self.kill(number)
        else:
            self.stop()
        self.start()

    def log_tail(self, lines: int = 20) -> str:
        """Returns the last lines that the current start wrote to the log, without terminal colours."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(self._log_start, os.fstat(log.fileno()).st_size - 16_384))
                text = log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(_ANSI_ESCAPE.sub("", text).splitlines()[-lines:])

    def _error(self, message: str) -> ProcessError:
        tail = self.log_tail()
        shown = "\n  | ".join(["its last lines:", *tail.splitlines()]) if tail else "it is empty"
        full = "The disk is full. " if _disk_is_full(self.log.parent) else ""
        return ProcessError(f"{message}. {full}Log {self.log}: {shown}", log_tail=tail)

    def _poll(self) -> int | None:
        """The command's exit code once its launcher is gone; also clears up after a launcher that was itself killed."""
        with self._lock:
            launcher = self._launcher
            assert launcher is not None
            if self._returncode is None and launcher.poll() is not None:
                assert launcher.stdin is not None and launcher.stdout is not None
                report = launcher.stdout.read().split()
                launcher.stdout.close()
                with contextlib.suppress(BrokenPipeError):
                    launcher.stdin.close()
                if report[:1] == [b"exited"]:
                    self._returncode = int(report[1])
                else:
                    self._returncode = launcher.returncode
                    if self._pid is not None:
                        _signal_group(self._pid, signal.SIGKILL)
            return self._returncode


def stop_all(processes: Iterable[Process]) -> None:
    """Stop several children together and wait for all. If that is interrupted (a second Ctrl-C), kill them at once."""
    processes = list(processes)
    try:
        for process in processes:
            process.request_stop()
        for process in processes:
            process.stop()
    except BaseException:
        for process in processes:
            process.stop_now()
        raise


def http_answers(port: int, path: str, *, host: str = "127.0.0.1", headers: Mapping[str, str] | None = None) -> None:
    """A health check: a GET is answered 200, asked directly whatever proxy is configured. Raises otherwise."""
    import http.client  # not at the top: the launcher does without it

    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        response = connection.getresponse()
        response.read()
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise ConnectionError(f"GET http://{host}:{port}{path} answered {response.status}")


def port_answers(port: int, *, host: str = "127.0.0.1") -> None:
    """A health check: something listens on the port. Raises `OSError` otherwise."""
    import socket

    socket.create_connection((host, port), timeout=2).close()


def _disk_is_full(folder: Path) -> bool:
    """Servers on a full disk end in many ways, and cannot always write why."""
    try:
        free = os.statvfs(folder)
    except OSError:
        return False
    return free.f_bavail * free.f_frsize < FULL_BELOW


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says EPERM for a group of zombies
        os.killpg(group, number)


def _die_with_launcher() -> None:
    """Linux: let the kernel kill the command if even the launcher gets a `kill -9`.

    Runs between fork and exec, which is safe only here: the launcher has one thread, and it lives as long as that.
    """
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _launch(grace: float, orphan_grace: float, command: list[str]) -> int:
    """The launcher: stdin is the pipe from us, stdout a pipe to us (`started PID`, `exited CODE`), stderr the log."""
    parent = os.getppid()
    stdin, stdout, stderr = 0, 1, 2
    wakened, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # A handler, not SIG_IGN: the command would inherit that.
        signal.signal(number, lambda *_: None)

    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=stderr,
        stderr=stderr,
        start_new_session=True,
        preexec_fn=_die_with_launcher,  # noqa: PLW1509 - see there
    )
    with contextlib.suppress(BrokenPipeError):
        os.write(stdout, b"started %d\n" % child.pid)

    watched = [stdin, wakened]
    deadline = math.inf
    while child.poll() is None:
        left = deadline - time.monotonic()
        if left <= 0:
            _signal_group(child.pid, signal.SIGKILL)
            child.wait()
            break
        # A look at the parent every second: a fork of it may hold the pipe open after its death.
        ready, _, _ = select.select(watched, [], [], min(left, 1.0))
        allowed = math.inf
        if wakened in ready and any(number != signal.SIGCHLD for number in os.read(wakened, 512)):
            allowed = grace
        if stdin in ready:
            watched.remove(stdin)
            allowed = grace if os.read(stdin, 1) else min(grace, orphan_grace)
        if os.getppid() != parent:
            allowed, parent = min(grace, orphan_grace), os.getppid()
        if allowed < math.inf:
            if deadline == math.inf:
                _signal_group(child.pid, signal.SIGTERM)
                _signal_group(child.pid, signal.SIGCONT)  # a stopped process would never see the SIGTERM
            deadline = min(deadline, time.monotonic() + allowed)

    _signal_group(child.pid, signal.SIGKILL)  # whatever the command left behind
    with contextlib.suppress(BrokenPipeError):
        os.write(stdout, b"exited %d\n" % child.returncode)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


if __name__ == "__main__":
    try:
        sys.exit(_launch(float(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
    except OSError as problem:
        sys.stderr.write(f"{problem}\n")
        sys.exit(127)
