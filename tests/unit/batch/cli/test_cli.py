"""The command line by itself: what it loads, hands over, prints to which stream, and with which code it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from temporalio.service import RPCError, RPCStatusCode

import batch.cli.main
import batch.client.run
import batch.local.stack
from batch.cli.main import command_line
from batch.client.run import Run
from batch.client.status import RunResult
from batch.files.manifest import Manifest
from batch.local.processes import ProcessError
from batch.network.connection import TemporalUnreachable
from batch.storage.layout import RunLayout
from batch.storage.store import ObjectMissing
from batch.workflows import contracts as c
from batch.workflows.states import State

JOB = """
name: tickets
source: {uri: s3://corpus/tickets/}
prompt: {user: "Label this. {{ text }}"}
model: {name: simulated-small}
output: {uri: s3://results/tickets/}
"""
COMMANDS = [
    *("up", "demo", "worker", "simulate-provider"),
    *("preview", "estimate"),
    *("run", "status", "list", "results", "report", "verify", "pause", "resume", "cancel", "rerun"),
    "schedule",
]


def ended(state: str = State.COMPLETED, **fields: Any) -> RunResult:
    return replace(
        RunResult(
            run_id="t-1",
            state=state,
            documents=10,
            ok=10,
            errors=0,
            prompt_tokens=100,
            completion_tokens=50,
            cost_usd=0.0,
            results_uri="s3://results/tickets/runs/t-1/results/",
            manifest_uri="s3://results/tickets/runs/t-1/manifest.json",
            seconds=2.5,
            planned=10,
            plan_done=True,
        ),
        **fields,
    )


def manifest(**fields: Any) -> Manifest:
    return replace(
        Manifest(
            run_id="t-1",
            job_name="tickets",
            model="simulated-small",
            fingerprint="f",
            state=State.COMPLETED,
            reason="",
            generation=1,
            execution_run_id="e",
            started_at="",
            finished_at="",
            seconds=1.0,
            totals=c.Totals(documents=10, ok=10),
            planned_documents=10,
        ),
        **fields,
    )


@dataclass
class FakeStorage:
    empty: bool = False

    async def get(self, bucket: str, key: str) -> bytes:
        raise ObjectMissing(key)

    async def pages(self, bucket: str, prefix: str) -> AsyncIterator[list[str]]:
        yield [] if self.empty else ["partition"]


@dataclass
class FakeRun:
    statuses: list[RunResult]
    stored: Manifest | None = None
    frame: pl.LazyFrame = field(default_factory=pl.LazyFrame)
    answered: pl.DataFrame = field(default_factory=pl.DataFrame)
    interrupt: bool = False
    committed: bool = True
    calls: list[Any] = field(default_factory=list)
    run_id: str = "t-1"
    output_uri: str = "s3://results/tickets/"

    @property
    def connection(self) -> FakeConnection:
        return FakeConnection(self, FakeStorage(empty=not self.committed))

    @property
    def layout(self) -> RunLayout:
        return RunLayout.of(self.output_uri, self.run_id)

    async def watch(self, *, every: float, every_shard: float) -> AsyncIterator[RunResult]:
        for status in self.statuses:
            yield status
            if self.interrupt:
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.sleep(5)

    async def status(self, *, examples: bool = False) -> RunResult:
        return self.statuses[-1]

    async def manifest(self) -> Manifest | None:
        return self.stored

    async def check_idle(self) -> None: ...

    async def pause(self, reason: str) -> None:
        self.calls.append(("pause", reason))

    async def resume(self, *, max_cost_usd: float | None = None) -> None:
        self.calls.append("resume" if max_cost_usd is None else ("resume", max_cost_usd))

    async def cancel(self) -> None:
        self.calls.append("cancel")

    async def rerun(self, **how: Any) -> None:
        self.calls.append(how)

    def results(self) -> pl.LazyFrame:
        return self.frame

    async def uncommitted_results(self) -> pl.DataFrame:
        return self.answered

    rerun_scope = Run.rerun_scope  # the real one, on this frame and manifest


@dataclass
class FakeConnection:
    found: FakeRun
    storage: FakeStorage = field(default_factory=FakeStorage)
    task_queue: str = ""

    async def start(self, job: Any, **options: Any) -> FakeRun:
        self.found.calls.append((self.task_queue, options))
        return self.found

    async def run(self, run_id: str, *, output_uri: str | None) -> FakeRun:
        return self.found

    async def list(self, **filters: Any) -> list[dict[str, Any]]:
        return []


Use = Callable[..., FakeRun]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Puts a run in the place of all runs."""

    def put(*statuses: RunResult, **fields: Any) -> FakeRun:
        run = FakeRun(list(statuses), **fields)

        async def connect(*, task_queue: str) -> FakeConnection:
            connection = FakeConnection(run)
            connection.task_queue = task_queue
            return connection

        monkeypatch.setattr(batch.client.run, "connect", connect)
        return run

    return put


@pytest.fixture
def job_file(tmp_path: Path) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return str(path)


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys\nfrom batch.cli.main import command_line\nassert command_line(['--help']) == 0\n"
        "heavy = {'temporalio', 'polars', 'pyarrow', 'pydantic', 'boto3', 'obstore', 'openai', 'rich', 'aiohttp'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    listed = [line.split()[0] for line in done.stdout.split("Commands:")[1].split("\n\n")[0].strip().splitlines()]
    assert listed == COMMANDS
    assert "..." not in done.stdout.split("Commands:")[1]


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("worker", "simulate-provider")])
def test_each_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line([command, "--help"]) == 0
    assert "--help" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(["--version"]) == 0
    assert capsys.readouterr().out.startswith("docbatch 0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["run"], "Missing argument 'JOB.yaml'"),
        (["run", "job.yaml", "--nonsense"], "No such option"),
        (["results", "t-1", "--head", "many"], "Invalid value for '--head'"),
        (["results", "job.yaml"], "job.yaml is a job file and no run"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (TemporalUnreachable("cannot reach Temporal at h:1"), "docbatch: cannot reach Temporal at h:1\n"),
        (
            RPCError("no such namespace", RPCStatusCode.NOT_FOUND, b""),
            "docbatch: Temporal at h:1 (TEMPORAL_ADDRESS) answers NOT_FOUND: no such namespace\n",
        ),
    ],
)
def test_errors_that_a_user_can_mend_have_no_traceback(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def connect(*, task_queue: str) -> None:
        raise error

    monkeypatch.setenv("TEMPORAL_ADDRESS", "h:1")
    monkeypatch.setattr(batch.client.run, "connect", connect)
    assert command_line(["list"]) == 2
    assert capsys.readouterr().err == message


def test_a_mistake_of_ours_has_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    async def connect(*, task_queue: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(batch.client.run, "connect", connect)
    assert command_line(["list"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("given", [[], ["--help"], ["--processes", "2", "--metrics-port", "0"]])
def test_worker_becomes_the_workers_program(given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    programs: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: programs.append(arguments))
    assert command_line(["worker", *given]) == 0
    assert programs == [[sys.executable, "-P", "-m", "workers", *given]]


def test_simulate_provider_hands_over(monkeypatch: pytest.MonkeyPatch) -> None:
    import batch.local.simulator.provider

    handed: list[list[str]] = []

    def serve(arguments: list[str]) -> int:
        handed.append(arguments)
        return 0

    monkeypatch.setattr(batch.local.simulator.provider, "main", serve)
    assert command_line(["simulate-provider", "--port", "0", "--latency", "0.1", "--help"]) == 0
    assert handed == [["--port", "0", "--latency", "0.1", "--help"]]


def test_ctrl_c_before_there_is_a_run(monkeypatch: pytest.MonkeyPatch, job_file: str) -> None:
    async def connect(*, task_queue: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(5)

    monkeypatch.setattr(batch.client.run, "connect", connect)
    assert command_line(["run", job_file]) == 130


def test_ctrl_c_while_an_error_is_told(
    monkeypatch: pytest.MonkeyPatch, job_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is needed to tell it is imported by then, which takes a moment."""

    async def connect(*, task_queue: str) -> None:
        raise TemporalUnreachable("nobody there")

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(batch.client.run, "connect", connect)
    monkeypatch.setattr(batch.cli.main, "_expected_errors", interrupted)
    assert command_line(["run", job_file]) == 130
    assert capsys.readouterr().err == "docbatch: stopped\n"


# -- run and rerun


@pytest.mark.parametrize(
    ("state", "code"),
    [(State.COMPLETED, 0), (State.COMPLETED_WITH_FAILURES, 1), (State.FAILED, 1), (State.CANCELLED, 1)],
)
def test_the_code_tells_how_the_run_ended(state: str, code: int, use: Use, job_file: str) -> None:
    use(ended(State.RUNNING), ended(state))
    assert command_line(["run", job_file]) == code
    assert command_line(["status", "t-1", "--watch"]) == code
    assert command_line(["status", "t-1"]) == code


def test_run_shows_the_account(use: Use, job_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = use(ended(State.RUNNING, documents=3, ok=3), ended())
    assert command_line(["run", job_file, "--run-id", "t-1", "--task-queue", "q", "--no-model-check"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "run t-1"
    assert "documents = ok + error: 10 = 10 + 0" in out
    assert "cost         $0.00 (simulated)" in out
    assert run.calls == [("q", {"run_id": "t-1", "day": None, "check_model": False, "full": False})]


def test_run_tells_what_was_left_out(use: Use, job_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    use(ended(State.RUNNING), ended(left_out={"job markers": 2, "table logs": 1000}))
    assert command_line(["run", job_file]) == 0
    out = capsys.readouterr().out
    assert "job markers 2" in out and "table logs 1,000" in out and "source.hidden: true takes them" in out
    assert "tables       files are read as they lie there, old versions too: docs/sources.md" in out


def test_run_json_is_one_object_on_stdout(use: Use, job_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    use(ended(State.RUNNING), ended())
    assert command_line(["run", job_file, "--json"]) == 0
    out, err = capsys.readouterr()
    given = json.loads(out)
    keys = "run_id state documents ok errors prompt_tokens completion_tokens cost_usd results_uri manifest_uri"
    assert {*keys.split(), "seconds", "shards", "partitions"} <= given.keys()
    assert (given["run_id"], given["state"], given["documents"]) == ("t-1", "completed", 10)
    assert err.startswith("run t-1\n")


def test_run_detached(use: Use, job_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    use(ended(State.PLANNING))
    assert command_line(["run", job_file, "--detach"]) == 0
    out, err = capsys.readouterr()
    assert out == "t-1\n"
    assert "docbatch status t-1 --watch" in err
    assert command_line(["run", job_file, "--detach", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "planning"


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_only_detaches(as_json: bool, use: Use, job_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = use(ended(State.RUNNING), interrupt=True)
    assert command_line(["run", job_file, *(["--json"] if as_json else [])]) == 0
    out, err = capsys.readouterr()
    assert "detached; the run goes on. Watch it again: docbatch status t-1 --watch" in err
    assert "docbatch cancel t-1" in err
    assert "cancel" not in run.calls
    assert not as_json or json.loads(out)["state"] == "running"


def test_rerun_with_nothing_to_do_says_so(use: Use, capsys: pytest.CaptureFixture[str]) -> None:
    run = use(ended(), stored=manifest())
    assert command_line(["rerun", "t-1"]) == 0
    assert "nothing to do again in run t-1" in capsys.readouterr().out
    assert run.calls == []


FRAME = pl.LazyFrame(
    {
        "document_id": ["a", "b", "c", "d"],
        "status": ["ok", "error", "error", "ok"],
        "retryable": [None, True, False, None],
        "partition": [0, 0, 1, 1],
        "cost_usd": [0.5, 0.0, 0.0, 1.5],
        "result": [{"label": "x"}, None, None, {"label": "y"}],
        "error_type": [None, "timeout", "refusal", None],
        "error_message": [None, "too slow", "no", None],
    }
)
WITH_FAILURES = manifest(
    state=State.COMPLETED_WITH_FAILURES,
    totals=c.Totals(documents=4, ok=2, errors=2, retryable_errors=1),
    planned_documents=4,
    files=[Any] * 2,  # only whether there are any is looked at
)


@pytest.mark.parametrize(
    ("options", "documents", "partitions"),
    [([], 1, 1), (["--all-errors"], 2, 2), (["--all-errors", "--partition", "1"], 1, 1)],
)
def test_rerun_dry_run(
    options: list[str], documents: int, partitions: int, use: Use, capsys: pytest.CaptureFixture[str]
) -> None:
    cost = documents * 1.0  # the mean of the answers
    run = use(ended(State.COMPLETED_WITH_FAILURES), stored=WITH_FAILURES, frame=FRAME)
    assert command_line(["rerun", "t-1", "--dry-run", *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "run_id": "t-1",
        "documents": documents,
        "partitions": partitions,
        "without_row": 0,
        "estimated_cost_usd": cost,
    }
    assert command_line(["rerun", "t-1", "--dry-run", *options]) == 0
    out = capsys.readouterr().out
    assert f"would ask {documents} documents in {partitions} partitions" in out and f"about ${cost:.2f}" in out
    assert run.calls == []


def test_rerun_watches_like_run(use: Use, capsys: pytest.CaptureFixture[str]) -> None:
    run = use(ended(State.RUNNING), ended(), stored=WITH_FAILURES, frame=FRAME)
    assert command_line(["rerun", "t-1", "--partition", "0", "--partition", "1"]) == 0
    assert run.calls == [{"all_errors": False, "partitions": [0, 1]}]
    assert "documents = ok + error: 10 = 10 + 0" in capsys.readouterr().out


# -- the other commands


def test_results(use: Use, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    use(ended(), frame=FRAME)
    assert command_line(["results", "t-1", "--head", "1"]) == 0
    out = capsys.readouterr().out
    assert "label" in out and "1 of 4 rows" in out
    assert command_line(["results", "t-1", "--errors", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["document_id"] for row in rows] == ["b", "c"]
    assert command_line(["results", "t-1", "--errors", "--export", str(tmp_path / "errors.jsonl")]) == 0
    assert "2 rows in" in capsys.readouterr().err
    assert command_line(["results", "t-1", "--export", str(tmp_path / "rows.xlsx")]) == 2
    assert ".parquet, .csv or .jsonl" in capsys.readouterr().err
    assert command_line(["results", "t-1", "--export", str(tmp_path / "no" / "rows.csv")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_results_as_json_are_all_rows_unless_told(use: Use, capsys: pytest.CaptureFixture[str]) -> None:
    use(ended(), frame=pl.concat([FRAME] * 5))
    for options, rows in (([], 20), (["--head", "0"], 20), (["--head", "3"], 3)):
        assert command_line(["results", "t-1", "--json", *options]) == 0
        assert len(capsys.readouterr().out.splitlines()) == rows
    assert command_line(["results", "t-1"]) == 0
    assert "10 of 20 rows" in capsys.readouterr().out


@pytest.mark.parametrize("option", [["--head", "3"], ["--head", "0"], ["--json"]])
def test_export_is_of_all_rows(option: list[str], use: Use, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    use(ended(), frame=FRAME)
    assert command_line(["results", "t-1", "--export", str(tmp_path / "rows.parquet"), *option]) == 2
    assert "without --head and --json" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_results_before_any_commit(use: Use, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    use(ended(State.RUNNING), committed=False)
    assert command_line(["results", "t-1"]) == 0
    assert "run t-1 has no rows yet" in capsys.readouterr().err
    assert command_line(["results", "t-1", "--export", str(tmp_path / "rows.parquet")]) == 2
    assert "run 't-1' has no rows yet: no document is answered" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_verify_needs_a_manifest(use: Use, capsys: pytest.CaptureFixture[str]) -> None:
    use(ended(State.RUNNING))
    assert command_line(["verify", "t-1"]) == 2
    assert "run 't-1' has no manifest yet" in capsys.readouterr().err


def test_pause_and_resume(use: Use, capsys: pytest.CaptureFixture[str]) -> None:
    run = use(ended(State.RUNNING))
    assert command_line(["pause", "t-1", "--reason", "lunch"]) == 0
    assert command_line(["resume", "t-1"]) == 0
    assert "is not paused: running" in capsys.readouterr().out
    assert run.calls == [("pause", "lunch")]
    run = use(ended(State.PAUSED))
    assert command_line(["resume", "t-1"]) == 0
    assert run.calls == ["resume"]
    assert command_line(["resume", "t-1", "--max-cost-usd", "12.5"]) == 0
    assert "run t-1 goes on; it may spend $12.5 in all" in capsys.readouterr().out
    assert run.calls[1:] == [("resume", 12.5)]


@pytest.mark.parametrize("command", ["pause", "resume", "cancel"])
def test_nothing_to_stop_in_a_run_that_has_ended(command: str, use: Use, capsys: pytest.CaptureFixture[str]) -> None:
    run = use(ended())
    assert command_line([command, "t-1"]) == 2
    assert "run 't-1' has ended already: completed" in capsys.readouterr().err
    assert run.calls == []


def test_cancel_waits_for_the_end(use: Use, capsys: pytest.CaptureFixture[str]) -> None:
    run = use(ended(State.CANCELLED), ended(State.RUNNING))  # the last is what `status` gives before
    run.watch = lambda **every: _only(ended(State.CANCELLED))  # type: ignore[method-assign]
    assert command_line(["cancel", "t-1"]) == 0
    assert run.calls == ["cancel"]
    assert "state        cancelled" in capsys.readouterr().out
    assert command_line(["cancel", "t-1", "--no-wait"]) == 0


async def _only(status: RunResult) -> AsyncIterator[RunResult]:
    yield status


def test_list_of_no_runs(use: Use, capsys: pytest.CaptureFixture[str]) -> None:
    use(ended())
    assert command_line(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert command_line(["list"]) == 0
    assert "docbatch run JOB.yaml" in capsys.readouterr().out


def test_a_piped_list_shortens_nothing(
    use: Use, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    run: dict[str, Any] = {"run_id": "r-" + "1" * 60, "job_name": "a-job-of-" + "many-" * 10 + "letters"}
    run |= {"state": State.COMPLETED, "started_at": "2026-01-01T00:00:00+00:00", "documents": 12, "cost_usd": 0.5}

    async def runs(connection: FakeConnection, **filters: Any) -> list[dict[str, Any]]:
        return [run]

    use(ended())
    monkeypatch.setattr(FakeConnection, "list", runs)
    assert command_line(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and run["run_id"] in lines[1] and run["job_name"] in lines[1]


# -- up


class FakeStack:
    end: BaseException = KeyboardInterrupt()
    notes = ("moto takes its place",)
    data = logs = Path("folder")
    prometheus_url = "http://127.0.0.1:9090"
    options: Any = None

    def __init__(self, options: Any, *, on_event: Callable[[str], None]) -> None:
        type(self).options = options
        on_event("temporal  127.0.0.1:7233")

    def __enter__(self) -> FakeStack:
        return self

    def __exit__(self, *_: object) -> None: ...

    def write_env_file(self, path: Path) -> None:
        path.write_text("A=b\n")

    def wait(self) -> None:
        raise self.end


@pytest.mark.parametrize(
    ("end", "code"), [(KeyboardInterrupt(), 0), (SystemExit(143), 0), (ProcessError("s3 ended unexpectedly"), 2)]
)
def test_up_ends_cleanly(
    end: BaseException,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(batch.local.stack, "LocalStack", FakeStack)
    monkeypatch.setattr(FakeStack, "end", end)
    env_file = tmp_path / "stack env"
    arguments = ["--workers", "2", "--no-ui", "--provider-args", "--latency 0.05", "--env-file", str(env_file)]
    assert command_line(["up", "--data", str(tmp_path / "data"), *arguments]) == code
    out, err = capsys.readouterr()
    assert f"set -a; . '{env_file}'; set +a" in out and "moto takes its place" in out and "127.0.0.1:7233" in out
    assert "grafana   add the Prometheus data source http://127.0.0.1:9090, import " in out
    assert (err == "docbatch: s3 ended unexpectedly\n") == (code == 2)
    assert not env_file.exists()
    assert (FakeStack.options.workers, FakeStack.options.ui) == (2, False)
    assert FakeStack.options.provider_args == ["--latency", "0.05"]


def test_up_leaves_the_env_file_of_a_stack_that_runs_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Locked:
        def __init__(self, options: Any, *, on_event: Callable[[str], None]) -> None: ...

        def __enter__(self) -> None:
            raise batch.local.options.StackError("the folder is in use by another local stack")

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(batch.local.stack, "LocalStack", Locked)
    (tmp_path / "env").write_text("A=b\n")
    assert command_line(["up", "--data", str(tmp_path)]) == 2
    assert (tmp_path / "env").exists()
