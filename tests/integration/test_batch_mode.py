"""Batch mode on real servers: the rows of online mode, half the price, and only what is left is sent again."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batch import Job, connect
from batch.client.run import Run
from batch.local.corpus import upload_async
from batch.local.ports import choose_ports
from batch.local.processes import Process, http_answers
from batch.local.stack import LocalStack
from batch.storage.store import Storage
from batch.workflows.states import State
from benchmarks.synthetic import synthetic_documents
from tests.integration.runs import reason_of_pause
from tests.provider import ask, behave, forget

SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string", "enum": ["red", "green", "blue"]}, "urgent": {"type": "boolean"}},
    "required": ["label", "urgent"],
    "additionalProperties": False,
}
CALM: dict[str, Any] = {
    "batch_seconds": 0.4,
    "batch_expire_share": 0.0,
    "batch_enqueued_tokens": 0.0,
    "batch_fail_code": None,
    "batch_fail_lines": 0,
    "poison_marker": None,
    "fail_all": None,
    **dict.fromkeys(("rate_500", "rate_timeout", "rate_refusal", "rate_truncated", "rate_content_filter"), 0.0),
    **dict.fromkeys(("rate_invalid", "rate_malformed"), 0.0),
}


QUEUE = "batch-mode"


@pytest.fixture(scope="module")
def worker(stack: LocalStack) -> Iterator[None]:
    """One whose pauses are short (see `tests.chaos.worker`)."""
    port = choose_ports([QUEUE])[QUEUE]
    command = [sys.executable, "-m", "tests.chaos.worker", "none", "--", "--task-queue", QUEUE]
    process = Process(
        QUEUE,
        [*command, "--metrics-port", str(port), "--heartbeat-throttle-seconds", "1"],
        log=stack.logs / f"{QUEUE}.log",
        environment=stack.child_environment(),
        healthy=partial(http_answers, port, "/healthz"),
        cwd=Path(__file__).parents[2],
    )
    process.start()
    yield
    process.stop()


@pytest.fixture
def env(worker: None, env: LocalStack) -> Iterator[LocalStack]:
    behave(env, **CALM)
    forget(env)
    yield env
    behave(env, **CALM)


def stats(stack: LocalStack) -> Any:
    return ask(stack, "/stats")


def job(name: str, mode: str = "batch", **model: Any) -> Job:
    return Job.parse(
        {
            "name": name,
            "source": {"uri": f"s3://corpus/{name}/"},
            "prompt": {"user": "Label this.\n{{ text }}"},
            "model": {
                "name": "simulated-small",
                "mode": mode,
                "prices": {"input": 1.0, "output": 2.0, "cached_input": 0.5},
                **model,
            },
            "output": {"uri": f"s3://results/{name}-{mode}/", "schema": SCHEMA},
            "limits": {"max_error_rate": 1.0},
        }
    )


async def upload(stack: LocalStack, name: str, count: int, **more: str) -> None:
    documents = [*synthetic_documents(count, 300, 7), *((key, text.encode()) for key, text in more.items())]
    await upload_async(stack.environment(), "corpus", name, documents)


async def start(wanted: Job) -> Run:
    return await (await connect(task_queue=QUEUE)).start(wanted, check_model=False)


async def until(what: Callable[[], bool], within: float = 20.0) -> None:
    deadline = time.monotonic() + within
    while not what():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_the_rows_are_those_of_online_mode_at_half_the_price(env: LocalStack) -> None:
    await upload(env, "batch-rows", 120)
    runs = [await start(job("batch-rows", mode)) for mode in ("online", "batch")]
    frames: list[pl.DataFrame] = []
    for run in runs:
        assert (await run.wait()).state == State.COMPLETED
        frames.append(run.results().collect().sort("document_id"))
    online, batch = frames
    assert online.schema == batch.schema
    own = ["cost_usd", "latency_seconds", "run_id", "processed_at"]
    assert online.drop(own).equals(batch.drop(own))
    assert batch["cost_usd"].sum() == pytest.approx(online["cost_usd"].sum() / 2)
    found = stats(env)
    assert (found["batches"], found["batch_lines"], found["files"]) == (1, 120, 0)
    assert found["accepted"] == 240
    assert await Storage().list_all("results", runs[1].layout.ledgers) == []


async def test_of_an_expired_batch_only_the_rest_is_sent_again(env: LocalStack) -> None:
    await upload(env, "batch-expired", 250)
    behave(env, batch_expire_share=0.4, batch_seconds=1.0)
    run = await start(job("batch-expired"))
    await until(lambda: stats(env)["batches"] == 1)
    behave(env, batch_expire_share=0.0)
    assert (await run.wait()).ok == 250
    found = stats(env)
    assert (found["batches"], found["batch_lines"]) == (2, 250 + 150)
    assert (found["accepted"], found["paid_more_than_once"], found["files"]) == (250, 0, 0)
    assert found["batch_ends"] == {"expired": 1, "completed": 1}


async def test_each_line_that_fails_becomes_the_right_row(env: LocalStack) -> None:
    poisoned = {f"poison-{number}.txt": f"number {number} is POISON" for number in range(3)}
    await upload(env, "batch-lines", 300, **poisoned, **{"empty.txt": ""})
    rates = dict.fromkeys(("rate_refusal", "rate_truncated", "rate_content_filter", "rate_invalid"), 0.05)
    behave(env, poison_marker="POISON", rate_500=0.05, rate_timeout=0.03, rate_malformed=0.03, **rates)
    run = await start(job("batch-lines"))
    result = await run.wait()
    assert (result.state, result.documents) == (State.COMPLETED_WITH_FAILURES, 304)
    rows = run.results().collect()
    odd = Counter(stats(env)["odd_answers"])
    kinds = Counter(rows["error_type"].drop_nulls().to_list())
    for kind in ("refusal", "truncated", "content_filter"):
        # Where it came of a re-ask, the row stays that of the invalid answer, and says so.
        after_reask = rows["error_message"].fill_null("").str.contains(f"asked again: {kind}").sum()
        assert kinds[kind] + after_reask == odd[kind] > 0, (kinds, odd)
    assert (kinds["bad_request"], kinds["empty"]) == (3, 1)
    assert set(kinds) <= {"refusal", "truncated", "content_filter", "bad_request", "empty", "invalid_answer"}
    # An invalid answer is asked for again in the next round, and paid; nearly all of those are answered.
    asked_again = rows.filter((pl.col("status") == "ok") & (pl.col("attempts") > 1))
    assert asked_again.height > 20
    assert rows.filter(pl.col("status") == "ok")["result"].null_count() == 0
    assert rows["attempts"].max() <= 6


async def test_past_the_deadline_the_rest_goes_online(env: LocalStack) -> None:
    await upload(env, "batch-deadline", 100)
    behave(env, batch_seconds=6.0)
    run = await start(job("batch-deadline", batch_deadline="2s"))
    assert (await run.wait()).ok == 100
    found = stats(env)
    assert (found["batches"], found["batch_ends"]) == (1, {"cancelled": 1})
    assert (found["accepted"], found["paid_more_than_once"]) == (100, 0)
    rows = run.results().collect()
    price = rows["cost_usd"] / (rows["prompt_tokens"] + 2 * rows["completion_tokens"]) * 1e6
    assert sorted(set(price.round(3))) == [0.5, 1.0]


async def test_a_cancelled_run_cancels_its_batch_and_a_rerun_pays_nothing_twice(env: LocalStack) -> None:
    await upload(env, "batch-cancel", 100)
    behave(env, batch_seconds=4.0)
    run = await start(job("batch-cancel"))
    await until(lambda: 20 < stats(env)["accepted"] < 80)
    await run.cancel()
    await run.wait()
    await until(lambda: stats(env)["batch_ends"] == {"cancelled": 1})
    paid = stats(env)["accepted"]
    assert paid < 100
    behave(env, batch_seconds=0.5)
    again = await run.rerun()
    assert (await again.wait()).ok == 100
    found = stats(env)
    assert (found["batches"], found["batch_lines"]) == (2, 100 + 100 - paid)
    assert (found["accepted"], found["paid_more_than_once"], found["files"]) == (100, 0, 0)


async def test_a_quota_that_ends_midway_pauses_the_run_once(env: LocalStack) -> None:
    await upload(env, "batch-quota", 80)
    behave(env, batch_seconds=1.5)
    run = await start(job("batch-quota"))
    await until(lambda: stats(env)["accepted"] > 5)
    behave(env, fail_all="insufficient_quota")
    assert await reason_of_pause(run) == "insufficient_quota"
    await until(lambda: stats(env)["batch_ends"] == {"completed": 1})
    paid = stats(env)["accepted"]
    assert paid < 80
    behave(env, fail_all=None)
    await run.resume()
    result = await run.wait()
    assert (result.state, result.ok) == (State.COMPLETED, 80)
    found = stats(env)
    assert (found["batches"], found["batch_lines"]) == (2, 80 + 80 - paid)
    # One more was paid: the short question whether what the lines said of the quota still holds.
    assert (found["accepted"], found["paid_more_than_once"], found["files"]) == (81, 0, 0)


async def test_refused_batches_pause_the_run_and_lines_at_fault_are_rows(env: LocalStack) -> None:
    await upload(env, "batch-refused", 50)
    behave(env, batch_fail_code="quota_of_the_moon", batch_seconds=0.5)
    run = await start(job("batch-refused"))
    assert await reason_of_pause(run) == "batch_refused"
    behave(env, batch_fail_code="invalid_request", batch_fail_lines=2)
    before = stats(env)["batch_ends"]["failed"]
    await run.resume()
    await until(lambda: stats(env)["batch_ends"]["failed"] > before)
    behave(env, batch_fail_code=None, batch_fail_lines=0)
    result = await run.wait()
    assert (result.documents, result.errors) == (50, 2) and result.errors_by_type == {"bad_request": 2}, result
    assert (stats(env)["accepted"], stats(env)["files"]) == (48, 0)


async def test_what_does_not_fit_into_the_enqueued_tokens_is_cut_and_waits(env: LocalStack) -> None:
    await upload(env, "batch-room", 60)
    behave(env, batch_enqueued_tokens=4000, batch_seconds=0.5)
    run = await start(job("batch-room"))
    result = await run.wait()
    found = stats(env)
    assert found["prompt_tokens"] > 4000, "all of it would have fitted"
    assert (result.state, result.ok) == (State.COMPLETED, 60)
    assert 1 <= found["batch_ends"]["failed"] <= 3
    assert found["batches"] <= 10
    assert (found["accepted"], found["paid_more_than_once"], found["files"]) == (60, 0, 0)
