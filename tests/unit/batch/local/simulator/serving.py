"""The simulated provider in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """A provider in a process of its own: its port and the process."""
    port_file = folder / "port"
    command = [
        sys.executable,
        "-m",
        "batch.local.simulator.provider",
        "--port",
        "0",
        "--port-file",
        str(port_file),
        *flags,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 30
        while not port_file.exists():
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < until, "the provider did not start"
            time.sleep(0.02)
        yield int(port_file.read_text()), process
    finally:
        process.kill()
        process.communicate()
