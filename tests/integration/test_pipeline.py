"""The main path on real servers: Temporal, S3, worker process, provider over HTTP."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import replace

import polars as pl
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pytest
from botocore.exceptions import ClientError
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from batch import Job, connect
from batch.client.run import Run, RunBusy
from batch.files.reconcile import Reconciler
from batch.files.run_file import RunFile
from batch.job.logical_date import Nominal
from batch.local.stack import LocalStack
from batch.storage.layout import RunLayout
from batch.storage.store import Storage
from batch.workflows import contracts as c
from batch.workflows.run_state import RunInput
from batch.workflows.states import State
from tests.integration.runs import job, put, texts
from tests.provider import ask, behave, forget
from workers.observe.metrics import Metrics
from workers.plan.planner import Planner


async def test_every_document_becomes_one_typed_row_paid_once(env: LocalStack) -> None:
    await put(env, "once", texts(130, 1))
    forget(env)
    run = await (await connect()).start(job("once"), check_model=False)
    result = await run.wait()
    assert (result.state, result.documents, result.ok, result.errors) == (State.COMPLETED, 130, 130, 0)
    assert result.partitions == {"planned": 6, "committed": 6, "failed": 0}

    rows = run.results().collect()
    assert rows["document_id"].n_unique() == 130 == rows.height
    assert rows.schema["result"] == pl.Struct({"label": pl.String, "urgent": pl.Boolean, "score": pl.Int64})
    assert set(rows["result"].struct.field("label")) <= {"red", "green", "blue"}
    assert rows["completion_tokens"].sum() == result.completion_tokens > 0

    stats = ask(env, "/stats")
    assert (stats["answered"], stats["distinct"], stats["paid_more_than_once"]) == (130, 130, 0)

    endpoints = env.environment()
    s3 = pafs.S3FileSystem(
        access_key=endpoints["AWS_ACCESS_KEY_ID"],
        secret_key=endpoints["AWS_SECRET_ACCESS_KEY"],
        endpoint_override=endpoints["AWS_ENDPOINT_URL_S3"],
    )
    dataset = ds.dataset(result.results_uri.removeprefix("s3://"), filesystem=s3, format="parquet")
    assert dataset.count_rows() == 130
    assert all(fragment.physical_schema.equals(dataset.schema) for fragment in dataset.get_fragments())

    storage = Storage()
    assert await storage.list_all("results", run.layout.ledgers) == [], "ledgers are gone once all is committed"
    account = await Reconciler(storage, run.layout).run()
    assert (account.problems, account.totals.documents) == ([], 130)


async def test_partitions_that_begin_together_go_one_after_the_other(env: LocalStack) -> None:
    """Each has some answers at once; then the first one's documents come first."""
    await put(env, "in-turn", texts(1000, 9))
    behave(env, latency=0.1)
    try:
        work = json.loads(job("in-turn").to_json()) | {"partitions": {"documents": 200}}
        run = await (await connect()).start(Job.parse(work), check_model=False)
        result = await run.wait()
    finally:
        behave(env, latency=0)
    assert (result.state, result.ok) == (State.COMPLETED, 1000)
    answered = run.results().sort("processed_at").with_row_index("place").collect()
    places = answered.group_by("partition").agg(pl.col("place").mean()).sort("partition")["place"].to_list()
    others = [place for place in places if place != min(places)]  # all but that which the worker got first, alone
    assert others == sorted(others), f"the first one's documents before the next one's, mostly: {places}"
    assert answered.head(500)["partition"].n_unique() == 5, "and every one has begun"


async def test_bad_documents_become_error_rows_and_a_rerun_mends_what_can_be(env: LocalStack) -> None:
    name = "bad"
    good = texts(20, 2)
    bad = {
        "x/latin.txt": "größe".encode("latin-1"),
        "x/empty.txt": b"",
        "x/blank.md": b" \n\t ",
        "x/binary.txt": b"abc\x00def",
        "x/large.txt": b"x" * 3000,
        "x/page.html": b"<html><title>T</title><body><script>evil()</script><p>Hello <b>there</b></p></body></html>",
    }
    await put(env, name, {**good, **bad})
    data = json.loads(job(name).to_json())
    data["source"]["max_document_bytes"] = 2000
    run = await (await connect()).start(Job.parse(data))
    result = await run.wait()
    assert (result.state, result.documents, result.ok, result.errors) == (State.COMPLETED_WITH_FAILURES, 26, 21, 5)
    rows = {row["document_id"].removeprefix(f"{name}/"): row for row in run.results().collect().to_dicts()}
    types = {key: rows[key]["error_type"] for key in bad}
    assert types == {
        "x/latin.txt": "not_utf8",
        "x/empty.txt": "empty",
        "x/blank.md": "empty",
        "x/binary.txt": "not_text",
        "x/large.txt": "too_large",
        "x/page.html": None,
    }
    assert not any(rows[key]["retryable"] for key in bad if types[key])
    again = await (await run.rerun()).wait()
    assert (again.state, again.documents, again.errors, again.generation) == (State.COMPLETED_WITH_FAILURES, 26, 5, 2)

    # All errors, after two of the documents were mended.
    await put(env, name, {"x/latin.txt": "größe".encode(), "x/empty.txt": b"not empty any more"})
    forget(env)
    again = await (await run.rerun(all_errors=True)).wait()
    assert (again.documents, again.ok, again.errors, again.generation) == (26, 23, 3, 3)
    assert ask(env, "/stats")["answered"] == 2
    assert run.results().collect()["document_id"].n_unique() == 26


async def test_provider_errors_of_documents_are_rows_and_transient_ones_are_repeated(env: LocalStack) -> None:
    name = "faults"
    documents = texts(60, 3)
    documents["poison.txt"] = b"this one holds POISON-7"
    await put(env, name, documents)
    behave(env, rate_500=0.1, rate_429=0.1, rate_reset=0.05, poison_marker="POISON-7")
    try:
        run = await (await connect()).start(job(name), check_model=False)
        result = await run.wait()
    finally:
        behave(env, rate_500=0, rate_429=0, rate_reset=0, poison_marker="")
    assert (result.documents, result.ok, result.errors) == (61, 60, 1)
    assert result.errors_by_type == {"bad_request": 1}
    rows = run.results().collect()
    assert rows["attempts"].max() > 1


async def test_a_run_id_that_exists_is_refused_by_the_claim_too(env: LocalStack) -> None:
    await put(env, "claim", texts(5, 4))
    connection = await connect()
    run = await connection.start(job("claim"))
    await run.wait()
    await connection.temporal.start_workflow(
        c.RUN_WORKFLOW,
        RunInput(tuning=c.Tuning(), partitions_queue=connection.task_queue, job_json=job("claim").to_json()),
        id=run.run_id,
        task_queue=c.control_queue(connection.task_queue),
    )
    taken = await Run(connection, run.run_id, run.output_uri).wait()
    assert taken.state == State.COMPLETED, "the manifest of the first stands"
    description = await run.handle.describe()
    assert description.status is not None and description.status.name == "FAILED"


async def test_documents_that_change_or_go_after_the_listing(env: LocalStack) -> None:
    name = "moving"
    await put(env, name, texts(60, 5))
    connection = await connect()
    # A quota that is used up pauses the run after its listing and before any answer.
    behave(env, fail_all="insufficient_quota")
    try:
        run = await connection.start(job(name), check_model=False)
        keys = sorted(entry.key for entry in await connection.storage.list_all("corpus", f"{name}/"))
        async for status in run.watch(every=0.1):
            if status.state == State.PAUSED:
                break
        assert status.reason == "insufficient_quota"
        await connection.storage.put("corpus", keys[-1], b"another text by now")
        await connection.storage.delete("corpus", [keys[-2]])
    finally:
        behave(env, fail_all=None)
    await run.resume()
    result = await run.wait()
    assert result.errors_by_type == {"source_changed": 1, "source_gone": 1}
    assert result.retryable_errors == 2
    again = await (await run.rerun()).wait()
    assert (again.ok, again.errors) == (59, 1)
    changed = run.results().filter(pl.col("document_id") == keys[-1]).collect().to_dicts()[0]
    assert (changed["status"], changed["generation"]) == ("ok", 2)
    entry = await connection.storage.head("corpus", keys[-1])
    assert entry is not None and changed["etag"] == entry.etag


async def test_cancel_keeps_what_is_done_and_a_rerun_goes_on(env: LocalStack) -> None:
    name = "cancel"
    await put(env, name, texts(200, 6))
    forget(env)
    behave(env, latency=0.3)
    run = await (await connect()).start(job(name, concurrency=8), check_model=False)
    async for status in run.watch(every=0.2):
        if status.documents >= 25:
            break
    with pytest.raises(RunBusy):
        await run.rerun()
    await run.cancel()
    result = await run.wait()
    behave(env, latency=0)
    assert result.state == State.CANCELLED
    assert 25 <= result.documents < 200
    answered = ask(env, "/stats")["answered"]
    again = await (await run.rerun()).wait()
    assert (again.state, again.documents, again.ok) == (State.COMPLETED, 200, 200)
    stats = ask(env, "/stats")
    assert answered < 200
    assert (stats["answered"], stats["distinct"], stats["paid_more_than_once"]) == (200, 200, 0)


async def test_histories_stay_bounded_with_continue_as_new_after_every_shard(env: LocalStack) -> None:
    name = "bounded"
    await put(env, name, texts(200, 7))
    data = json.loads(job(name).to_json())
    data["partitions"]["documents"] = 5
    connection = await connect()
    tuning = replace(c.Tuning(), shard_partitions=10, continue_every_shards=1)
    run = await connection.start(Job.parse(data), tuning=tuning, check_model=False)
    result = await run.wait()
    assert (result.state, result.documents) == (State.COMPLETED, 200)
    assert result.shards["finished"] == 4
    executions = await _executions(connection.temporal, run.run_id)
    assert executions >= 4


async def _executions(client: Client, run_id: str) -> int:
    return len([e async for e in client.list_workflows(f"WorkflowId = '{run_id}'")])


async def test_listing_goes_on_after_a_cursor_in_the_order_of_the_listing(env: LocalStack) -> None:
    """What shards after the first rely on: `after` splits a listing without loss, also where names nest."""
    names = ["a.txt", "a/b.txt", "a/b/c.txt", "a0.txt", "a-b.txt", "b/ü.txt", "b/z z.txt", "c+d.txt", "e%20f.txt"]
    storage = Storage()
    for name in names:
        await storage.put("corpus", f"order/{name}", b"x")
    whole = [entry.key async for page in storage.source_pages("corpus", "order/") for entry in page]
    assert sorted(whole) == sorted(f"order/{name}" for name in names)
    for position, cursor in enumerate(whole):
        rest = [entry.key async for page in storage.source_pages("corpus", "order/", after=cursor) for entry in page]
        assert rest == whole[position + 1 :], cursor
    for key in whole:
        assert await storage.get("corpus", key) == b"x"


async def test_answers_of_a_cancelled_rerun_are_not_paid_again(env: LocalStack) -> None:
    name = "cancelled-rerun"
    await put(env, name, texts(100, 8))
    behave(env, poison_marker="Label this.")
    run = await (await connect()).start(job(name, concurrency=4), check_model=False)
    failed = await run.wait()
    assert (failed.state, failed.errors) == (State.COMPLETED_WITH_FAILURES, 100)
    behave(env, poison_marker=None, latency=0.3)
    forget(env)
    await run.rerun()
    while ask(env, "/stats")["answered"] < 15:  # noqa: ASYNC110 - the provider tells nobody
        await asyncio.sleep(0.1)
    await run.cancel()
    assert (await run.wait()).state == State.CANCELLED
    behave(env, latency=0)
    assert 15 <= ask(env, "/stats")["answered"] < 100
    again = await (await run.rerun()).wait()
    assert (again.state, again.ok) == (State.COMPLETED, 100)
    stats = ask(env, "/stats")
    assert (stats["answered"], stats["paid_more_than_once"]) == (100, 0)


async def test_a_tail_that_goes_while_it_is_planned_leaves_a_whole_plan(env: LocalStack) -> None:
    name = "tail"
    await put(env, name, texts(26, 9))
    storage, planner = Storage(), Planner(Storage(), Metrics())
    the_job = job(name)
    layout = RunLayout.of(the_job.output.uri, "tail-1")
    file = RunFile.of("tail-1", the_job, "execution", "2026-01-01T00:00:00+00:00", Nominal.now())
    await storage.create(layout.output.bucket, layout.run_json, file.to_bytes())
    run = c.RunRef("tail-1", the_job.output.uri)
    environment = ActivityEnvironment()
    first = await environment.run(planner.plan_shard, c.PlanInput(run, 0, 0, "", partitions=1))
    assert (first.documents, first.last) == (25, False)
    keys = sorted(entry.key for entry in await storage.list_all("corpus", f"{name}/"))
    await storage.delete("corpus", keys[25:])
    rest = await environment.run(planner.plan_shard, c.PlanInput(run, 1, first.partitions, first.cursor, partitions=1))
    assert (rest.partitions, rest.last) == (0, True)
    account = await Reconciler(storage, layout, may_lack=True).run()
    assert account.problems == []
    assert account.planned_documents == 25


async def test_folder_markers_are_no_documents_and_odd_keys_are_rows(stack: LocalStack, env: LocalStack) -> None:
    """One document a shard: each goes on after the key where the last one ended, whatever order the server lists in."""
    name, client = "odd", stack.s3_client()
    for key in ("", "a.txt", "a/b.txt", "a-b.txt", "sub/", "sub-1.txt", "sub/c.txt", "x//y.txt", "new\nline.txt"):
        with suppress(ClientError):  # SeaweedFS takes `//` for `/`, moto knows no line feeds
            client.put_object(Bucket="corpus", Key=f"{name}/{key}", Body=f"text of {key}".encode())
    listed = [entry["Key"] for entry in client.list_objects_v2(Bucket="corpus", Prefix=f"{name}/")["Contents"]]
    documents = sorted(key for key in listed if not key.endswith("/"))
    odd = {key for key in documents if "//" in key or "\n" in key}
    assert f"{name}/sub/" in listed and len(documents) >= 7 and odd
    data = json.loads(job(name).to_json())
    data["partitions"]["documents"] = 1
    tuning = replace(c.Tuning(), shard_partitions=1)
    run = await (await connect()).start(Job.parse(data), tuning=tuning, check_model=False)
    result = await run.wait()
    assert (result.state, result.documents) == (State.COMPLETED_WITH_FAILURES, len(documents))
    assert (result.errors_by_type, result.retryable_errors) == ({"unsupported_key": len(odd)}, 0)
    rows = run.results().collect()
    assert sorted(rows["document_id"]) == documents
    assert set(rows.filter(pl.col("status") == "error")["document_id"]) == odd
