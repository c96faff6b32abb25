"""The commands on real runs: started, watched, paused, cancelled, rerun, read, verified."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batch import connect
from batch.cli.main import command_line
from batch.local.corpus import upload
from batch.local.stack import LocalStack
from benchmarks.synthetic import synthetic_documents
from tests.provider import forget, paid

JOB = """
name: cli
source: {uri: s3://corpus/cli/}
prompt: {user: "Label this. {{ text }}"}
model: {name: simulated-small}
output:
  uri: s3://results/cli/
  schema:
    type: object
    properties: {label: {type: string, enum: [bug, praise]}, urgent: {type: boolean}}
    required: [label, urgent]
limits: {concurrency: 4, max_error_rate: 1.0}
partitions: {documents: 10}
"""
DOCUMENTS = 60

Docbatch = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def corpus(stack: LocalStack) -> None:
    upload(stack.environment(), "corpus", "cli", synthetic_documents(DOCUMENTS, 200))


@pytest.fixture
def docbatch(stack: LocalStack, corpus: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Docbatch]:
    """Runs a command in this process: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = command_line(arguments)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    (tmp_path / "job.yaml").write_text(JOB)
    with stack.applied_environment(), contextlib.chdir(tmp_path):
        yield run


def state(docbatch: Docbatch, run_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docbatch("status", run_id, "--json")[1])
    return found


def wait_for(docbatch: Docbatch, run_id: str, **wanted: Any) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while True:
        now = state(docbatch, run_id)
        if all(now[name] == value for name, value in wanted.items()):
            return now
        assert time.monotonic() < deadline, now
        time.sleep(0.2)


def refused(docbatch: Docbatch, *arguments: str) -> str:
    """What a command says that does nothing."""
    code, out, err = docbatch(*arguments)
    assert (code, out) == (2, "")
    return err


def test_a_run_from_start_to_export(docbatch: Docbatch, tmp_path: Path) -> None:
    code, out, err = docbatch("run", "job.yaml", "--run-id", "cli-1", "--json")
    assert code == 0
    result = json.loads(out)
    assert (result["documents"], result["ok"], result["errors"]) == (DOCUMENTS, DOCUMENTS, 0)
    assert result["results_uri"] == "s3://results/cli/runs/cli-1/results/"
    assert result["prompt_tokens"] > 0 and result["seconds"] > 0
    assert err.startswith("run cli-1\n")

    code, out, _ = docbatch("status", "cli-1")
    assert code == 0
    assert "documents = ok + error: 60 = 60 + 0" in out.splitlines()
    assert "cost         $0.00 (simulated)" in out.splitlines()
    assert state(docbatch, "cli-1") == result | {"seconds": state(docbatch, "cli-1")["seconds"]}

    listed = json.loads(docbatch("list", "--json")[1])
    assert {"run_id": "cli-1", "job_name": "cli", "state": "completed"}.items() <= listed[0].items()
    assert "cli-1" in docbatch("list")[1]

    out = docbatch("results", "cli-1", "--head", "3")[1]
    assert "urgent" in out and "boolean" in out and "3 of 60 rows" in out
    rows = [json.loads(line) for line in docbatch("results", "cli-1", "--json", "--head", "0")[1].splitlines()]
    assert len({row["document_id"] for row in rows}) == DOCUMENTS
    assert {row["result"]["label"] for row in rows} <= {"bug", "praise"}
    assert docbatch("results", "cli-1", "--errors", "--json")[1] == ""

    assert docbatch("results", "cli-1", "--export", "rows.parquet")[0] == 0
    assert pl.read_parquet("rows.parquet").height == DOCUMENTS
    assert docbatch("results", "cli-1", "--export", "rows.csv")[0] == 0
    assert json.loads(pl.read_csv("rows.csv")["result"][0]).keys() == {"label", "urgent"}

    # Temporal may forget a run; its folder does not.
    assert docbatch("results", "cli-1", "--head", "1", "--output", "s3://results/cli/")[0] == 0
    code, out, _ = docbatch("rerun", "cli-1")
    assert (code, "nothing to do again in run cli-1" in out) == (0, True)


def test_verify_names_what_is_wrong(docbatch: Docbatch, stack: LocalStack) -> None:
    assert docbatch("run", "job.yaml", "--run-id", "cli-2")[0] == 0
    code, out, _ = docbatch("verify", "cli-2")
    assert code == 0
    assert "verified: result files as in the manifest (6), each document has one row" in out
    checked = json.loads(docbatch("verify", "cli-2", "--json")[1])
    assert (checked["reconciled"], checked["planned_documents"], checked["problems"]) == (True, DOCUMENTS, [])

    client, results = stack.s3_client(), "cli/runs/cli-2/results/shard-00000"
    client.delete_object(Bucket="results", Key=f"{results}/partition-00000001.parquet")
    client.copy_object(
        Bucket="results",
        Key=f"{results}/partition-00000002.parquet",
        CopySource={"Bucket": "results", "Key": f"{results}/partition-00000003.parquet"},
    )
    code, out, _ = docbatch("verify", "cli-2")
    assert code == 1
    assert "problem: partition 1: its result file" in out
    assert "problem: partition 2: the result file is not the one of the manifest" in out
    assert "NOT verified" in out
    assert json.loads(docbatch("verify", "cli-2", "--json")[1])["reconciled"] is False


def test_pause_resume_cancel_and_go_on(docbatch: Docbatch, provider: Callable[..., None]) -> None:
    provider(latency=0.3)
    code, out, err = docbatch("run", "job.yaml", "--run-id", "cli-3", "--detach")
    assert (code, out) == (0, "cli-3\n")
    assert "docbatch status cli-3 --watch" in err
    wait_for(docbatch, "cli-3", state="running")
    assert docbatch("rerun", "cli-3")[0] == 2
    assert docbatch("verify", "cli-3")[0] == 2

    assert docbatch("pause", "cli-3", "--reason", "maintenance")[0] == 0
    paused = wait_for(docbatch, "cli-3", state="paused")
    assert (paused["reason"], paused["message"]) == ("by_user", "maintenance")
    assert "because      by_user: maintenance" in docbatch("status", "cli-3")[1]
    assert "goes on" in docbatch("resume", "cli-3")[1]
    wait_for(docbatch, "cli-3", state="running")

    code, out, _ = docbatch("cancel", "cli-3")
    assert code == 0
    assert "state        cancelled" in out and "docbatch rerun cli-3" in out
    assert docbatch("status", "cli-3")[0] == 1

    provider(latency=0)
    before = state(docbatch, "cli-3")
    planned = json.loads(docbatch("rerun", "cli-3", "--dry-run", "--json")[1])
    assert planned["without_row"] == before["planned"] - before["documents"] > 0
    code, out, _ = docbatch("rerun", "cli-3")
    assert code == 0
    assert "documents = ok + error: 60 = 60 + 0" in out.splitlines()


def test_failures_are_counted_shown_and_asked_again(docbatch: Docbatch, provider: Callable[..., None]) -> None:
    provider(rate_truncated=0.3)
    code, out, _ = docbatch("run", "job.yaml", "--run-id", "cli-4")
    assert code == 1
    assert "state        completed_with_failures" in out and "docbatch results cli-4 --errors" in out
    before = state(docbatch, "cli-4")
    assert before["errors"] > 0 and sum(before["errors_by_type"].values()) == before["errors"]
    errors = [
        json.loads(row) for row in docbatch("results", "cli-4", "--errors", "--json", "--head", "0")[1].splitlines()
    ]
    assert len(errors) == before["errors"]
    assert "error_type" in docbatch("results", "cli-4", "--errors")[1]

    provider(rate_truncated=0)
    planned = json.loads(docbatch("rerun", "cli-4", "--dry-run", "--all-errors", "--json")[1])
    assert planned["documents"] == before["errors"]
    code, out, _ = docbatch("rerun", "cli-4", "--all-errors")
    assert code == 0
    assert "generation   2" in out
    assert "documents = ok + error: 60 = 60 + 0" in out.splitlines()


def test_ctrl_c_leaves_the_run_alone(docbatch: Docbatch, provider: Callable[..., None]) -> None:
    provider(latency=0.2)
    program = Path(sys.executable).with_name("docbatch")
    watching = subprocess.Popen(
        [program, "run", "job.yaml", "--run-id", "cli-5"],
        env=os.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    assert watching.stdout.readline() == "run cli-5\n"
    watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=30)
    assert watching.returncode == 0
    assert "detached; the run goes on. Watch it again: docbatch status cli-5 --watch" in err
    code, out, _ = docbatch("status", "cli-5", "--watch")
    assert code == 0
    assert "documents = ok + error: 60 = 60 + 0" in out.splitlines()


def test_run_says_when_no_worker_polls(docbatch: Docbatch) -> None:
    code, out, err = docbatch("run", "job.yaml", "--run-id", "cli-6", "--task-queue", "nobody", "--detach")
    assert (code, out) == (0, "cli-6\n")
    assert "docbatch: no worker polls the task queue 'nobody'; the run waits for one" in err

    async def terminate() -> None:
        await (await connect()).temporal.get_workflow_handle("cli-6").terminate()

    asyncio.run(terminate())


def test_an_incremental_job_asks_all_with_full_and_shows_its_current_rows(docbatch: Docbatch, env: LocalStack) -> None:
    Path("nightly.yaml").write_text(JOB.replace("name: cli\n", "name: cli-nightly\nincremental: true\n"))
    assert "has no state yet" in refused(docbatch, "results", "nightly.yaml", "--current")
    assert "is not incremental" in refused(docbatch, "results", "job.yaml", "--current")
    assert "job 'cli' is not incremental" in refused(docbatch, "run", "job.yaml", "--full")
    for night, flags, asked in [("one", [], DOCUMENTS), ("two", [], 0), ("three", ["--full"], DOCUMENTS)]:
        forget(env)
        run = ["run", "nightly.yaml", "--run-id", f"nightly-{night}", "--no-model-check", "--json"]
        code, out, _ = docbatch(*run, *flags)
        assert (code, json.loads(out)["documents"], paid(env)) == (0, DOCUMENTS, asked)
    assert state(docbatch, "nightly-two")["reasons"] == {"unchanged": DOCUMENTS}
    assert docbatch("results", "nightly.yaml", "--current", "--export", "current.parquet")[0] == 0
    rows = pl.read_parquet("current.parquet")
    assert (rows.height, rows["run_id"].unique().to_list()) == (DOCUMENTS, ["nightly-three"])
