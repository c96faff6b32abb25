"""The README's commands, run as they stand there: the stack by `docbatch up`, the job of the YAML block, the script."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch.local.isolation import isolated_environment

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


SHELL = blocks("sh")
UP = next(block for block in SHELL if "docbatch up" in block)
ENTER = next(block for block in SHELL if "put_object" in block).splitlines()[0]
"""How a second terminal finds `docbatch` and the stack; each block is run in a shell of its own."""
WORKER = blocks("shell")[0]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A clone after `make install`, as far as the commands see it, with the README's stack up and its job file."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "tickets.yaml").write_text(blocks("yaml")[0])
    (folder / ".venv").symlink_to(sys.prefix)
    script = UP.replace("make install && ", "").replace("docbatch up", "exec docbatch up")
    with (folder / "up.log").open("wb") as log:
        up = subprocess.Popen(["bash", "-c", script], cwd=folder, env=shell(), stdout=log, stderr=log)
        env_file = folder / ".docbatch" / "env"
        for _ in range(600):
            if env_file.exists() or up.poll() is not None:
                break
            time.sleep(0.1)
        assert env_file.exists(), (folder / "up.log").read_text()
        yield folder
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0, (folder / "up.log").read_text()


def shell() -> dict[str, str]:
    """A user's environment: no settings of any cloud, and `docbatch` only where the README puts it on the PATH."""
    ours = str(Path(sys.prefix) / "bin")
    path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if part != ours)
    return {**isolated_environment(), "PATH": path, "COLUMNS": "80"}


def run(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    script = f"{ENTER}\n{script}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=shell(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_every_shell_block_in_order(home: Path) -> None:
    for block in SHELL:
        if block.startswith("make "):  # `.ci/run` is `make test`; the demo has a test of its own
            assert re.search(rf"^{block.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        elif block != UP:
            done = run(home, block)
            assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    assert (home / "tickets.parquet").exists()


def test_the_script(home: Path) -> None:
    (home / "script.py").write_text(blocks("python")[0])
    assert len([line for line in blocks("python")[0].splitlines() if line.strip()]) <= 10
    done = run(home, "python script.py")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "completed: 3 documents, 3 ok, 0 errors"
    names, types = (re.sub(r"[│┆]", " ", lines[number]).split() for number in (3, 5))
    assert (names, types) == (["document_id", "label", "urgent"], ["str", "str", "bool"])
    rows = [line for line in lines if re.search(r"│ \S+ +┆ (bug|question|praise) +┆ (true|false) +│", line)]
    assert len(rows) == 3, done.stdout


def test_the_worker_command(home: Path) -> None:
    script = f"{ENTER}\nexec {WORKER}"
    with (home / "worker.log").open("wb") as log:
        worker = subprocess.Popen(["bash", "-c", script], cwd=home, env=shell(), stdout=log, stderr=log)
        try:
            for port in range(9464, 9468):
                for _ in range(600):
                    try:
                        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1) as answer:
                            assert answer.status == 200
                        break
                    except OSError:
                        assert worker.poll() is None, (home / "worker.log").read_text()
                        time.sleep(0.1)
                else:
                    raise AssertionError(f"no worker on port {port}: {(home / 'worker.log').read_text()}")
        finally:
            worker.terminate()
            code = worker.wait(60)
    assert code == 0, (home / "worker.log").read_text()


def test_up_says_where_prometheus_is(home: Path) -> None:
    """Where one is installed: it scrapes the worker; where none is, one line says so."""
    log = (home / "up.log").read_text()
    if shutil.which("prometheus") is None:
        assert "Prometheus is not installed (apt-get install prometheus)" in log
        return
    url = re.findall(r"^grafana   add the Prometheus data source (\S+), import \S+json$", log, re.MULTILINE)[0]
    for _ in range(100):
        with urllib.request.urlopen(f"{url}/api/v1/query?query=sum(up)", timeout=10) as answer:
            result = json.loads(answer.read())["data"]["result"]
        if result and result[0]["value"][1] == "1":
            break
        time.sleep(0.2)
    else:
        raise AssertionError(f"the worker is not scraped: {result}")
