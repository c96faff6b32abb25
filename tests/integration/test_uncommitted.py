"""What is answered and not committed: in status, results and a pause; committed by a cancel, and never paid again."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from batch import Job, RunResult, connect
from batch.cli.main import command_line
from batch.client.run import Run
from batch.local.corpus import upload_async
from batch.local.stack import LocalStack
from batch.network.connection import DATA_CONVERTER
from batch.workflows.states import Reason, State
from benchmarks.synthetic import synthetic_documents
from tests.provider import ask, behave, forget

SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string", "enum": ["red", "green"]}, "score": {"type": "integer"}},
    "required": ["label", "score"],
    "additionalProperties": False,
}


async def started(
    env: LocalStack, name: str, *, documents: int, partition: int, task_queue: str = "docbatch", **limits: Any
) -> Run:
    await upload_async(env.environment(), "corpus", name, synthetic_documents(documents, 11))
    forget(env)
    job = {
        "name": name,
        "source": {"uri": f"s3://corpus/{name}/"},
        "prompt": {"user": "Label this. {{ text }}"},
        "model": {"name": "simulated-small"},
        "output": {"uri": f"s3://results/{name}/", "schema": SCHEMA},
        "partitions": {"documents": partition},
        "limits": {"concurrency": 16, "max_error_rate": 1.0, **limits},
    }
    return await (await connect(task_queue=task_queue)).start(Job.parse(job), run_id=f"{name}-1", check_model=False)


async def until(run: Run, condition: Callable[[RunResult], bool]) -> RunResult:
    async for status in run.watch(every=0.2):
        if condition(status):
            return status
    raise AssertionError(status)


async def at_rest(run: Run) -> RunResult:
    """Paused, with no call in flight: each partition at work has yielded."""
    last = await until(run, lambda status: status.state == State.PAUSED and not status.in_flight)
    while True:
        await asyncio.sleep(1.0)
        now = await run.status()
        if now.documents == last.documents:
            return now
        last = now


async def test_a_paused_run_shows_what_it_has_and_a_cancel_commits_it(
    env: LocalStack, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 600 documents in two partitions, neither of which is committed when the run is cancelled; twice."""
    behave(env, latency=0.3, rate_refusal=0.1)
    run = await started(env, "uncommitted", documents=600, partition=300)
    await until(run, lambda status: status.documents >= 100)
    await run.pause("a look")
    paused = await at_rest(run)
    answered = ask(env, "/stats")["answered"]
    assert 100 <= answered == paused.documents == paused.in_progress < 600
    assert paused.documents == paused.ok + paused.errors
    assert paused.errors_by_type == paused.errors_in_progress == {"refusal": paused.errors} and paused.errors > 0
    assert {example.error_type for example in paused.error_examples} == {"refusal"}
    assert paused.completion_tokens > 0 and paused.prompt_tokens > 0
    assert (paused.partitions["committed"], paused.message) == (0, "a look")

    rows = await asyncio.to_thread(rows_of, capsys, "uncommitted-1")
    assert len(rows) == answered and {row["status"] for row in rows} == {"ok", "error"}
    assert all(row["result"]["label"] in ("red", "green") for row in rows if row["status"] == "ok")
    assert sum(row["completion_tokens"] for row in rows) == paused.completion_tokens
    shown = await asyncio.to_thread(out_of, capsys, "status", "uncommitted-1")
    assert f"documents = ok + error: {answered} = {paused.ok} + {paused.errors}" in shown
    assert "for example  refusal uncommitted/" in shown

    report = json.loads(await asyncio.to_thread(out_of, capsys, "report", "uncommitted-1", "--json"))
    assert (report["documents"], report["completion_tokens"]) == (answered, paused.completion_tokens)

    await run.cancel()
    cancelled = await run.wait()
    assert (cancelled.state, cancelled.documents, cancelled.planned) == (State.CANCELLED, answered, 600)
    for number in ("ok", "errors", "prompt_tokens", "completion_tokens", "cost_usd", "errors_by_type"):
        assert getattr(cancelled, number) == getattr(paused, number), number
    assert run.results().collect().height == answered
    await verified(run)

    behave(env, latency=0.2, rate_refusal=0)
    await run.rerun()
    await until(run, lambda status: status.in_progress >= answered + 50)
    await run.cancel()
    again = await run.wait()
    stats = ask(env, "/stats")
    assert again.state == State.CANCELLED and answered + 50 <= again.documents < 600
    assert again.ok + again.errors == again.documents == run.results().collect()["document_id"].n_unique()
    assert stats["answered"] == again.documents, "each answer of two generations has its row, and was paid once"
    await verified(run)

    behave(env, latency=0)
    whole = await (await run.rerun(all_errors=True)).wait()
    assert (whole.state, whole.ok) == (State.COMPLETED, 600)
    await verified(run)


async def verified(run: Run) -> None:
    manifest = await run.manifest()
    assert manifest is not None
    assert (await run.verify(manifest)).problems == []


def out_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    command_line(arguments)
    return capsys.readouterr().out


def rows_of(capsys: pytest.CaptureFixture[str], run_id: str, *more: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out_of(capsys, "results", run_id, "--json", *more).splitlines()]


async def test_a_run_that_its_error_rate_pauses_says_what_failed(
    env: LocalStack, capsys: pytest.CaptureFixture[str]
) -> None:
    behave(env, rate_truncated=0.4, rate_refusal=0.4)
    try:
        run = await started(env, "failing", documents=300, partition=300, max_error_rate=0.3)
        paused = await at_rest(run)
    finally:
        behave(env, rate_truncated=0, rate_refusal=0)
    assert paused.reason == Reason.ERROR_RATE
    assert "truncated " in paused.message and "refusal " in paused.message
    assert paused.errors == paused.in_progress - paused.ok > 60
    assert {example.error_type for example in paused.error_examples} == {"truncated", "refusal"}
    assert all(example.document_id.startswith("failing/") and example.message for example in paused.error_examples)
    errors = await asyncio.to_thread(rows_of, capsys, "failing-1", "--errors")
    assert len(errors) == paused.errors
    shown = await asyncio.to_thread(out_of, capsys, "results", "failing-1", "--errors")
    assert "truncated" in shown and "refusal" in shown
    await run.cancel()
    assert (await run.wait()).errors == paused.errors


async def test_a_stray_file_in_the_results_is_told(env: LocalStack) -> None:
    run = await started(env, "strays", documents=20, partition=10)
    assert (await run.wait()).state == State.COMPLETED
    await verified(run)
    storage, layout, manifest = run.connection.storage, run.layout, await run.manifest()
    assert manifest is not None
    one = await storage.get("results", layout.result(0, 0))
    strays = [
        f"{layout.results}copy.parquet",
        f"{layout.results}shard-00000/partition-00000000 (1).parquet",
        f"{layout.results}shard-00001/partition-00000000.parquet",
        f"{layout.results}backup/shard-00000/partition-00000001.parquet",
        f"{layout.results}shard-00000/partition-00000007.parquet",
        f"{layout.results}notes.csv",
        f"{layout.results}shard-00000/partition-00000001.parquet.gz",
        f"{layout.results}_copy.parquet",  # DuckDB's and polars' globs read it
    ]
    for key in strays:
        await storage.put("results", key, one)
    found = await run.verify(manifest)
    assert sorted(problem.split(" is no file")[0] for problem in found.problems) == sorted(strays)
    await storage.delete("results", strays)
    for name in ("_SUCCESS", ".part.parquet.crc", "shard-00000/_committed_1"):
        await storage.put("results", f"{layout.results}{name}", b"")
    await verified(run)


async def test_a_rerun_of_one_partition_leaves_an_account_of_the_partial_ones(env: LocalStack) -> None:
    """Their documents without an answer are failed ones then, as those of partitions without any file are."""
    behave(env, latency=0.3)
    run = await started(env, "partly", documents=300, partition=100, concurrency=8)
    await until(run, lambda status: status.documents >= 24)
    await run.cancel()
    cancelled = await run.wait()
    assert cancelled.state == State.CANCELLED and 24 <= cancelled.documents < 300
    behave(env, latency=0)
    manifest = await run.manifest()
    assert manifest is not None
    partial = next(file.partition for file in manifest.files if file.rows < 100)
    partly = await (await run.rerun(partitions=[(partial + 1) % 3])).wait()
    assert (partly.state, partly.documents) == (State.COMPLETED_WITH_FAILURES, 300), partly.problems
    assert partly.errors_by_type == {"partition_failed": partly.errors}
    assert partly.ok >= max(cancelled.ok, 100)
    await verified(run)
    whole = await (await run.rerun()).wait()
    assert (whole.state, whole.ok) == (State.COMPLETED, 300)
    assert ask(env, "/stats")["answered"] == 300, "paid once"
    await verified(run)


async def test_without_a_worker_a_status_says_so(env: LocalStack, capsys: pytest.CaptureFixture[str]) -> None:
    """First nobody is there at all, then only a worker of the control of runs."""
    run = await started(env, "unpolled", documents=20, partition=10, task_queue="nobodys")
    status = await run.status()
    assert status.state == State.WAITING
    assert status.message.startswith("no worker polls the task queue 'nobodys-control'; ")
    told = json.loads(await asyncio.to_thread(out_of, capsys, "status", run.run_id, "--json"))
    assert (told["state"], told["message"]) == (status.state, status.message)
    shown = await asyncio.to_thread(out_of, capsys, "status", run.run_id)
    assert "state        waiting" in shown and "planning" not in shown and "planned      ?" in shown

    command = [sys.executable, "-m", "workers", "--poll", "control", "--task-queue", "nobodys", "--metrics-port", "0"]
    environment = {**os.environ, **env.environment()}
    worker = await asyncio.create_subprocess_exec(*command, env=environment, stderr=subprocess.DEVNULL)
    try:
        status = await until(run, lambda status: status.state == State.RUNNING and bool(status.message))
        assert status.message.startswith("no worker polls the task queue 'nobodys'; ")
        assert (status.planned, status.plan_done, status.in_flight) == (20, True, 0)
        await run.cancel()
        assert (await run.wait()).state == State.CANCELLED
    finally:
        worker.terminate()
        await worker.wait()


async def test_clients_and_workers_bound_their_failures(env: LocalStack) -> None:
    assert (await connect()).temporal.data_converter is DATA_CONVERTER
