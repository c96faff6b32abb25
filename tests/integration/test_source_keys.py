"""Two prefixes, and a manifest, on real servers that list by folders: each key one row, and the next night knows it."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import date
from typing import Any

import pytest

from batch import Job, connect
from batch.client import checks
from batch.client.run import Connection, Run
from batch.client.status import RunResult
from batch.files.run_file import load_run
from batch.local.stack import LocalStack
from batch.workflows import contracts as c
from batch.workflows.contracts import Tuning
from batch.workflows.states import Reason, State
from tests.provider import forget, paid
from tests.unit.workers.sources.row_corpus import jsonl, parquet

SMALL = Tuning(shard_partitions=2)
"""Many shards: each begins at a cursor."""


def job(name: str, **source: Any) -> Job:
    return Job.parse(
        {
            "name": name,
            "source": source,
            "prompt": {"user": "Label this.\n{{ text }}"},
            "model": {"name": "simulated-small"},
            "output": {"uri": f"s3://results/{name}/{{{{ date }}}}/"},
            "partitions": {"documents": 3},
            "limits": {"max_error_rate": 1.0},
            "incremental": True,
        }
    )


async def put(connection: Connection, objects: dict[str, bytes]) -> None:
    await asyncio.gather(*(connection.storage.put("corpus", key, data) for key, data in objects.items()))


async def night(connection: Connection, of: Job, day: int) -> tuple[Run, RunResult]:
    run = await connection.start(of, day=date(2026, 11, day), check_model=False, tuning=SMALL)
    return run, await run.wait()


def ids(run: Run) -> list[str]:
    found: list[str] = sorted(run.results().collect()["document_id"])
    return found


async def test_two_prefixes_of_a_server_that_lists_by_folders(env: LocalStack) -> None:
    name, connection = "two-prefixes", await connect()
    names = [f"{name}/one/{key}" for key in ("a/x.txt", "a/y.txt", "a.txt", "a-b.txt", "b/c/d.txt", "b.txt")]
    names += [f"{name}/one-more/{key}" for key in ("a/x.txt", "a.txt", "z.txt")]
    objects = {key: f"text of {key}".encode() for key in names}
    objects[f"{name}/one/rows.jsonl"] = jsonl([{"text": f"row {n}", "id": n} for n in range(5)])
    await put(connection, {**objects, f"{name}/other/a.txt": b"under no prefix", f"{name}/one/b.md": b"left out"})
    assert await connection.storage.lists_by_folders("corpus")
    uris = [f"s3://corpus/{name}/one-more/", f"s3://corpus/{name}/one/"]
    of = job(name, uri=uris, exclude=["*.md"], id_field="id")
    run, result = await night(connection, of, 1)
    assert (result.state, result.reasons) == (State.COMPLETED, {"new": 14})
    assert ids(run) == sorted([*names, *(f"{name}/one/rows.jsonl#{n}" for n in range(5))])

    await connection.storage.delete("corpus", [f"{name}/one/a.txt"])
    changed = {f"{name}/one/a/y.txt": b"another text", f"{name}/one-more/a-new.txt": b"new"}
    await put(connection, changed)
    forget(env)
    run, result = await night(connection, of, 2)
    assert (result.state, result.deleted) == (State.COMPLETED, 1)
    assert result.reasons == {"unchanged": 12, "changed": 1, "new": 1}
    assert paid(env) == 2
    assert len(ids(run)) == len(set(ids(run))) == 14


async def test_a_manifest_names_the_keys(env: LocalStack) -> None:
    name, connection = "by-manifest", await connect()
    names = [f"{name}/{key}" for key in ("a-b.txt", "a.txt", "a/x.txt", "b.txt", "c/d.txt")]  # by bytes
    rows, missing = f"{name}/rows.jsonl", f"{name}/b-gone.txt"
    await put(connection, {key: f"text of {key}".encode() for key in [*names, f"{name}/unnamed.txt"]})
    await put(connection, {rows: jsonl([{"text": f"row {n}"} for n in range(5)])})
    entry = await connection.storage.head("corpus", names[0])
    assert entry is not None
    listed = [
        {"key": key, "size": entry.size if key == names[0] else None, "etag": entry.etag if key == names[0] else None}
        for key in sorted([*names, rows, missing])
    ]
    listed_at = f"lists/{name}.parquet"
    await put(connection, {listed_at: parquet(listed, group=3)})
    of = job(name, uri="s3://corpus/", manifest=f"s3://corpus/{listed_at}")
    run, result = await night(connection, of, 1)
    assert (result.state, result.documents, result.errors_by_type) == (
        State.COMPLETED_WITH_FAILURES,
        11,
        {"source_gone": 1},
    )
    pinned = await connection.storage.head("corpus", listed_at)
    stored = await load_run(connection.storage, c.RunRef(run.run_id, f"s3://results/{name}/2026-11-01/"))
    assert pinned is not None and stored.manifest_etag == pinned.etag
    found = ids(run)
    assert len(set(found)) == 11 and {*names, missing} == {key for key in found if "#" not in key}

    await put(connection, {missing: b"here at last"})
    again = await (await run.rerun()).wait()
    assert (again.ok, again.errors) == (11, 0)
    healed = {row["document_id"]: row for row in run.results().collect().to_dicts()}[missing]
    at_last = await connection.storage.head("corpus", missing)
    assert at_last is not None and (healed["etag"], healed["generation"]) == (at_last.etag, 2)

    await put(
        connection, {names[2]: b"another text", listed_at: parquet([{"key": each["key"]} for each in listed[1:]])}
    )
    forget(env)
    run, result = await night(connection, of, 2)
    assert (result.state, result.deleted) == (State.COMPLETED, 1)
    assert Counter(result.reasons) == {"unchanged": 9, "changed": 1}
    assert paid(env) == 1
    with pytest.raises(checks.CheckFailed, match=f"when the state at s3://results/{name}/state/{name}/ was"):
        await night(connection, job(name, uri=f"s3://corpus/{name}/"), 3)


async def test_a_run_pauses_where_its_manifest_is_broken(env: LocalStack, monkeypatch: pytest.MonkeyPatch) -> None:
    name, connection = "broken-manifest", await connect()
    names = [f"{name}/{n}.txt" for n in range(6)]
    await put(connection, dict.fromkeys(names, b"text"))
    await put(connection, {f"lists/{name}.parquet": parquet([{"key": key} for key in [*names, names[2]]], group=1)})
    of = job(name, uri=f"s3://corpus/{name}/", manifest=f"s3://corpus/lists/{name}.parquet")
    message = f"lists/{name}.parquet: row 7: the key '{names[2]}' comes after '{names[5]}'; write the file sorted"
    with pytest.raises(checks.CheckFailed) as refused:
        await night(connection, of, 1)
    assert message in str(refused.value)
    monkeypatch.setattr(checks, "LOOK_AT_ROWS", 1)
    run = await connection.start(of, day=date(2026, 11, 1), check_model=False)
    async for status in run.watch(every=0.2):
        if status.state == State.PAUSED:
            break
    assert (status.reason, message in status.message) == (Reason.PLANNING_FAILED, True)
    await run.cancel()
    assert (await run.wait()).state == State.CANCELLED
