"""A terminal of fixed size for tests: runs a command in it, and keeps every screen that a person would have seen."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

CONTROL = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|[\r\n]")


@dataclass
class Screen:
    """What stands on the terminal. Knows the few controls that progress displays use, and fails at any other."""

    columns: int
    rows: int
    lines: list[str] = field(default_factory=lambda: [""])
    row: int = 0
    column: int = 0

    def feed(self, text: str) -> None:
        at = 0
        for found in CONTROL.finditer(text):
            self._write(text[at : found.start()])
            at = found.end()
            self._control(found)
        self._write(text[at:])

    @property
    def text(self) -> str:
        """The lines that fit on the screen, the last ones, without trailing blanks."""
        return "\n".join(line.rstrip() for line in self.lines[-self.rows :])

    def _write(self, text: str) -> None:
        while self.column + len(text) > self.columns:
            fits = self.columns - self.column
            self._put(text[:fits])
            self._newline()
            text = text[fits:]
        self._put(text)

    def _put(self, text: str) -> None:
        line = self.lines[self.row].ljust(self.column)
        self.lines[self.row] = line[: self.column] + text + line[self.column + len(text) :]
        self.column += len(text)

    def _control(self, found: re.Match[str]) -> None:
        if found[0] == "\r":
            self.column = 0
        elif found[0] == "\n":
            self._newline()
        elif found[2] == "A":
            self.row -= int(found[1] or 1)
            # A display that is taller than the screen cannot be drawn over itself.
            assert self.row >= max(0, len(self.lines) - self.rows), "above the top of the screen"
        elif found[2] == "K":
            assert found[1] == "2"
            self.lines[self.row] = ""
        else:
            assert found[2] in "mhl", f"unknown control {found[0]!r}"

    def _newline(self) -> None:
        self.row, self.column = self.row + 1, 0
        if self.row == len(self.lines):
            self.lines.append("")


def watch(command: Sequence[str], environment: Mapping[str, str], screens: list[str], *, seconds: float = 120) -> int:
    """Runs the command in a terminal of 80x24, and returns its exit code; `screens` gets each new screen at once."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    size = {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env={**size, "TERM": "xterm-256color"}, close_fds=True
    )
    os.close(slave)
    screen, decoder = Screen(80, 24), codecs.getincrementaldecoder("utf-8")()
    deadline, waiting = time.monotonic() + seconds, ""
    try:
        while time.monotonic() < deadline:
            if not select.select([master], [], [], 0.05)[0]:
                if screen.text and (not screens or screen.text != screens[-1]):
                    screens.append(screen.text)  # nothing came for a while: this is what is looked at
                continue
            try:
                data = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            if not data:
                break
            waiting += decoder.decode(data)
            whole = len(waiting) if "\x1b" not in waiting[-12:] else waiting.rindex("\x1b")
            screen.feed(waiting[:whole])
            waiting = waiting[whole:]
        screen.feed(waiting)
        screens.append(screen.text)
        return process.wait(max(1.0, deadline - time.monotonic()))
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(master)
