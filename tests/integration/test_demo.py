"""`docbatch demo` from start to clean end, and `docbatch up`, as programs of their own: what they leave behind, too."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from batch.local import demo, llama
from batch.local.isolation import isolated_environment
from tests.unit.batch.local.foreign import FOREIGN

DOCBATCH = str(Path(sys.executable).with_name("docbatch"))


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A user's, full of settings for other things. Asserts that no process of it and no temporary file is left."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    yield {**isolated_environment(), **FOREIGN, "TMPDIR": str(temporary), "COLUMNS": "80"}
    assert not left(str(temporary))
    assert not list(temporary.iterdir())


def left(mark: str) -> list[str]:
    """Processes that were started with that TMPDIR."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TMPDIR") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(shlex.join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def wait_for(process: subprocess.Popen[str], log: Path, text: str) -> None:
    deadline = time.monotonic() + 60
    while text not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def test_demo(environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [DOCBATCH, "demo", "--documents", "30"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    out = done.stdout
    assert "documents = ok + error: 30 = 30 + 0" in out.splitlines()
    assert "6 of 30 rows. The answers are simulated: no model was asked" in out
    for heading in ("title", "summary", "category", "keywords", "list[string]"):
        assert heading in out
    assert re.search(r"^running +\d+/30 documents", out, re.MULTILINE)
    assert "verified: each document has exactly one row" in out
    assert "`docbatch up` starts them to stay" in out
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("number", "code", "when"), [(signal.SIGINT, 130, "running"), (signal.SIGTERM, 143, "temporal ")]
)
def test_demo_interrupted(number: int, code: int, when: str, environment: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "demo.log"
    with log.open("w") as out:
        demo = subprocess.Popen([DOCBATCH, "demo"], cwd=tmp_path, env=environment, stdout=out, stderr=out, text=True)
        wait_for(demo, log, when)
        demo.send_signal(number)
        assert demo.wait(30) == code, log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("command", [["up", "--data", "data"], ["demo"]])
def test_interrupted_in_the_first_moments(command: list[str], environment: dict[str, str], tmp_path: Path) -> None:
    """While modules load, while the folder is made, while servers start: one line, and nothing stays."""
    for delay in (0.15, 0.3, 0.5, 0.8, 1.3, 2.0):
        begun = subprocess.Popen(
            [DOCBATCH, *command],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        time.sleep(delay)
        begun.send_signal(signal.SIGINT)
        out, _ = begun.communicate(timeout=60)
        assert begun.returncode in (0, 130) and "Traceback" not in out, out
        assert out.count("stopped") == 1, out
    deadline = time.monotonic() + 10
    while left(environment["TMPDIR"]) and time.monotonic() < deadline:
        time.sleep(0.1)


def test_a_data_folder_that_cannot_be(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "stack.json").write_text('{"credentials": {"AWS')
    for arguments, message in (
        (["--data", "file"], "the data folder file cannot be used: File exists"),
        (["--data", "file/x"], "the data folder file/x cannot be used: Not a directory"),
        (["--data", "/proc/x"], "the data folder /proc/x cannot be used: No such file or directory"),
        (["--data", "damaged"], "stack.json is damaged"),
        (["--data", "data", "--env-file", "."], "--env-file: . is a folder"),
    ):
        done = subprocess.run(
            [DOCBATCH, "up", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
        assert message in done.stderr


def test_up(environment: dict[str, str], tmp_path: Path) -> None:
    """Its env file is all that a shell needs, and says by being there that everything is healthy."""
    log, env_file = tmp_path / "up.log", tmp_path / "my env"
    (tmp_path / "job.yaml").write_text("""
name: up
source: {uri: s3://corpus/up/}
prompt: {user: "{{ text }}"}
model: {name: simulated-small}
output: {uri: s3://results/up/}
""")
    command = [DOCBATCH, "up", "--data", "data", "--env-file", str(env_file), "--no-ui"]
    with log.open("w") as out:
        up = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=out, stderr=out, text=True)
        try:
            wait_for(up, log, "Ctrl-C ends it")
            script = f"""
                set -a; . {shlex.quote(str(env_file))}; set +a
                {sys.executable} -c 'import itertools, os, sys
from batch.local.corpus import demo_documents, upload
upload(os.environ, "corpus", "up", itertools.islice(demo_documents(), 5)); sys.stdout.flush(); os._exit(0)'
                {DOCBATCH} run job.yaml --run-id up-1
            """
            # A shell's certificates stay: workers that it starts may need them for a real model.
            shell = {name: value for name, value in environment.items() if not name.startswith("SSL_CERT_")}
            run = subprocess.run(
                ["bash", "-ec", script], cwd=tmp_path, env=shell, capture_output=True, text=True, check=False
            )
            assert run.returncode == 0, run.stderr
            assert "documents = ok + error: 5 = 5 + 0" in run.stdout.splitlines()
        finally:
            up.send_signal(signal.SIGINT)
            code = up.wait(60)
    assert code == 0, log.read_text()
    assert not env_file.exists() and (tmp_path / "data" / "temporal.db").exists()


def test_the_model_that_is_real_does_not_look_simulated() -> None:
    """`demo --llm` itself needs 250 MB of model: `make demo-llm` runs it."""
    from batch.job.job import Job

    chosen = demo.llm_demo(Path("folder"))
    job = Job.parse(chosen.job)
    assert job.model.name == llama.MODEL and not job.model.name.startswith("simulated-")
    assert "simulated" not in chosen.said and chosen.documents == 20
    assert chosen.options["provider_command"][-4:] == ["--port", "{port}", "--folder", "folder"]
    # A document's part and the answer fit into what one slot of the server holds.
    assert demo.LLM_CHARACTERS // 2 + (job.model.max_output_tokens or 0) < llama.SLOT_TOKENS
    assert "simulated" in demo.simulated_demo().said


def test_without_the_extra_the_model_says_what_to_install(environment: dict[str, str]) -> None:
    script = "import sys; sys.modules['xllamacpp'] = None; from batch.local import llama; llama.main(['--port', '1'])"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert "install docbatch[llm]" in done.stderr and "Traceback" not in done.stderr
