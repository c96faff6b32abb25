"""Duplicates on the real servers: asked once, a row each, also across partitions and shards."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import polars as pl

from batch import Job, connect
from batch.local.stack import LocalStack
from batch.workflows import contracts as c
from batch.workflows.states import State
from tests.integration.runs import job, put, reason_of_pause, texts
from tests.provider import ask, behave, forget


def corpus(count: int, distinct: int, seed: int) -> dict[str, bytes]:
    """`count` documents of `distinct` contents, in any order."""
    contents = list(texts(distinct, seed).values())
    chosen = [*contents, *random.Random(seed).choices(contents, k=count - distinct)]
    random.Random(seed).shuffle(chosen)
    return {f"{number:05d}.txt": content for number, content in enumerate(chosen)}


def changed(the_job: Job, **source: Any) -> Job:
    data = json.loads(the_job.to_json())
    data["source"].update(source)
    return Job.parse(data)


async def test_a_thousand_documents_with_a_third_of_duplicates_cost_seven_hundred_questions(
    env: LocalStack,
) -> None:
    name = "duplicates"
    documents = corpus(1000, 700, 31)
    await put(env, name, documents)
    forget(env)
    connection = await connect()
    run = await connection.start(job(name), tuning=replace(c.Tuning(), shard_partitions=15), check_model=False)
    result = await run.wait()
    assert (result.state, result.documents, result.ok) == (State.COMPLETED, 1000, 1000)
    assert result.shards["finished"] == 3
    stats = ask(env, "/stats")
    assert (stats["answered"], stats["paid"]) == (700, 700)

    rows = run.results().collect()
    assert sorted(rows["document_id"]) == sorted(f"{name}/{key}" for key in documents)
    asked, sharing = rows.filter(pl.col("same_as").is_null()), rows.filter(pl.col("same_as").is_not_null())
    assert (asked.height, sharing.height) == (700, 300)
    assert sharing.select(pl.sum("attempts", "prompt_tokens", "completion_tokens", "cost_usd")).row(0) == (0, 0, 0, 0)
    assert result.completion_tokens == asked["completion_tokens"].sum() > 0
    pairs = sharing.join(asked, left_on="same_as", right_on="document_id", suffix="_first")
    assert pairs.height == 300
    assert (pairs["result"] == pairs["result_first"]).all() and (pairs["etag"] == pairs["etag_first"]).all()
    texts_of = {f"{name}/{key}": content for key, content in documents.items()}
    assert all(texts_of[row["document_id"]] == texts_of[row["same_as"]] for row in pairs.to_dicts())
    assert (sharing["partition"] != pairs["partition_first"]).any(), "also across partitions"
    manifest = await run.manifest()
    assert manifest is not None and (await run.verify(manifest)).problems == []


async def test_a_duplicate_of_what_failed_is_asked_about_itself(env: LocalStack) -> None:
    """Errors that may pass are not shared, and a rerun asks about each document that has one."""
    name = "failed-duplicates"
    await put(env, name, corpus(40, 10, 32))
    behave(env, poison_marker="Label this.")
    run = await (await connect()).start(job(name, max_error_rate=1.0), check_model=False)
    failed = await run.wait()
    behave(env, poison_marker=None)
    assert (failed.errors, failed.retryable_errors) == (40, 40)
    forget(env)
    again = await (await run.rerun()).wait()
    assert (again.state, again.ok) == (State.COMPLETED, 40)
    assert ask(env, "/stats")["answered"] == 40
    assert run.results().collect()["same_as"].null_count() == 40


async def test_in_a_rerun_nobody_shares_the_answer_of_a_version_that_came_later(env: LocalStack) -> None:
    """Four of one content; before the rerun, the one that is asked for all and the one that would be next change."""
    name = "changed-duplicates"
    await put(env, name, dict.fromkeys(("a.txt", "b.txt", "c.txt", "d.txt"), b"The same ticket."))
    behave(env, fail_all="insufficient_quota")
    run = await (await connect()).start(job(name), check_model=False)
    assert await reason_of_pause(run) == "insufficient_quota"
    await run.cancel()
    assert (await run.wait()).state == State.CANCELLED
    behave(env, fail_all=None)
    await put(env, name, {"a.txt": b"Another ticket.", "b.txt": b"And another."})
    forget(env)
    assert (await (await run.rerun()).wait()).ok == 4
    rows = {row["document_id"].removeprefix(f"{name}/"): row for row in run.results().collect().to_dicts()}
    assert [row["same_as"] for row in rows.values()] == [None, None, None, f"{name}/c.txt"]
    assert len({row["etag"] for row in rows.values()}) == 3 and rows["c.txt"]["etag"] == rows["d.txt"]["etag"]
    assert ask(env, "/stats")["distinct"] == 3


async def test_all_are_asked_where_the_job_says_so(env: LocalStack) -> None:
    name = "asked-duplicates"
    await put(env, name, corpus(60, 20, 33))
    forget(env)
    run = await (await connect()).start(changed(job(name), duplicates="ask"), check_model=False)
    assert (await run.wait()).ok == 60
    assert ask(env, "/stats")["answered"] == 60


async def test_documents_of_the_same_text_are_asked_about_once_where_the_job_says_so(env: LocalStack) -> None:
    """Texts in files of two kinds, some of them several times: shared by text, by bytes, and by both."""
    name, words = "same-texts", [f"Label this. Ticket {number}" for number in range(60)]
    chosen = [*words, *random.Random(34).choices(words, k=60)]
    random.Random(34).shuffle(chosen)
    forms = ("{}", "<html><body><p>{}</p></body></html>")
    documents = {
        f"{number:05d}.{('txt', 'html')[number % 2]}": forms[number % 2].format(text).encode()
        for number, text in enumerate(chosen)
    }
    await put(env, name, documents)
    forget(env)
    connection = await connect()
    data = json.loads(changed(job(name), duplicates="text").to_json())
    data["partitions"]["documents"] = 10
    run = await connection.start(Job.parse(data), tuning=replace(c.Tuning(), shard_partitions=3), check_model=False)
    result = await run.wait()
    assert (result.state, result.documents, result.ok) == (State.COMPLETED, 120, 120)
    assert ask(env, "/stats")["answered"] == 60
    rows = run.results().collect()
    assert rows["same_as"].null_count() == 60
    text_of = {f"{name}/{key}": text for key, text in zip(documents, chosen, strict=True)}
    answers: dict[str, set[str]] = {}
    for row in rows.to_dicts():
        answers.setdefault(text_of[row["document_id"]], set()).add(row["output_text"])
        assert row["same_as"] is None or text_of[row["same_as"]] == text_of[row["document_id"]]
    assert len(answers) == 60 and all(len(each) == 1 for each in answers.values())
    assert rows.filter(pl.col("same_as").is_not_null())["attempts"].sum() == 0
    manifest = await run.manifest()
    assert manifest is not None and (await run.verify(manifest)).problems == []
    assert await connection.storage.list_all("results", run.layout.texts) == [], "the claims went with the ledgers"
