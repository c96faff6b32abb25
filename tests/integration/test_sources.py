"""A prefix of text objects, JSONL and Parquet on real servers: every document one row, under the same id each night."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from backports import zstd

from batch import CheckFailed, Job, connect, estimate, preview
from batch.local.stack import LocalStack
from batch.workflows.contracts import Tuning
from batch.workflows.states import State
from tests.unit.workers.sources.row_corpus import jsonl, parquet

ROWS, OBJECTS = 2000, 12


@pytest.fixture
def env(stack: LocalStack) -> Iterator[None]:
    with stack.applied_environment():
        yield


def job(name: str, user: str) -> Job:
    return Job.parse(
        {
            "name": name,
            "source": {"uri": f"s3://corpus/{name}/", "keep": ["n", "lang"]},
            "prompt": {"user": user},
            "model": {"name": "simulated-small"},
            "output": {"uri": f"s3://results/{name}/"},
            "partitions": {"documents": 100},
            "limits": {"max_error_rate": 1.0},
        }
    )


async def test_every_row_of_a_mixed_prefix_is_answered_once(env: None) -> None:
    connection = await connect()
    storage, name = connection.storage, "mixed-rows"
    lines = jsonl([{"text": f"line {n} of the log", "n": n, "lang": "en"} for n in range(ROWS)])
    bad = b'{"text": 7, "n": 1}\nno json\n'

    objects = {
        "log.jsonl.zst": zstd.compress(lines + bad),
        "table.parquet": parquet([{"text": f"cell {n}", "n": n, "unused": "u" * 50} for n in range(ROWS)], group=250),
        "cut.jsonl.gz": jsonl([{"text": f"cut {n}", "lang": "en"} for n in range(9)], ".gz")[:-8],
    } | {f"text-{n:02d}.txt": f"object {n}".encode() for n in range(OBJECTS)}
    await asyncio.gather(*(storage.put("corpus", f"{name}/{key}", data) for key, data in objects.items()))

    with_field = job(name, "{{ row.lang | default('?') }}: {{ text }}")
    run = await connection.start(with_field, check_model=False, tuning=Tuning(shard_partitions=7))
    result = await run.wait()
    assert (result.state, result.ok, result.errors) == (State.COMPLETED_WITH_FAILURES, 2 * ROWS + OBJECTS + 9, 3)
    rows = run.results().collect()
    assert rows.height == rows["document_id"].n_unique() == 2 * ROWS + OBJECTS + 12
    kept = {row["document_id"]: json.loads(row["row"]) for row in rows.to_dicts() if row["row"] is not None}
    assert sorted(value["n"] for key, value in kept.items() if "/table.parquet#" in key) == list(range(ROWS))
    assert {value.get("lang") for key, value in kept.items() if "/log.jsonl.zst#" in key} == {"en"}
    errors = rows.filter(rows["status"] == "error").sort("error_type")
    assert errors["error_type"].to_list() == ["bad_row", "bad_row", "broken_object"]
    assert errors["retryable"].to_list() == [False] * 3
    assert errors["document_id"].to_list()[2] == f"{name}/cut.jsonl.gz"

    await storage.put("corpus", f"{name}/log.jsonl.zst", zstd.compress(b'{"text": "put in"}\n' + lines))
    await storage.delete("corpus", [f"{name}/table.parquet"])
    again = await connection.start(
        job(name, "{{ row.lang }} {{ text }}"), check_model=False, tuning=Tuning(shard_partitions=1000)
    )
    result = await again.wait()
    assert result.errors_by_type == {"broken_object": 1, "template": OBJECTS + 1}
    later = again.results().collect()
    before = {key for key in rows["document_id"] if "/table.parquet#" not in key} - set(errors["document_id"][:2])
    new = set(later["document_id"]) - before
    assert len(new) == 1 and before < set(later["document_id"])
    told = {message.partition(";")[0] for message in later.filter(later["error_type"] == "template")["error_message"]}
    assert told == {
        "the prompt does not render for this document: this row has no field 'lang'",
        "the prompt does not render for this document: the document is an object, no row, without field 'lang'",
    }


async def test_a_preview_shows_first_rows_and_an_estimate_says_that_it_cannot_count_them(env: None) -> None:
    connection = await connect()
    storage, name = connection.storage, "look-rows"
    await storage.put(
        "corpus", f"{name}/a.jsonl.gz", jsonl([{"text": f"t{n}", "lang": "en"} for n in range(50)], ".gz")
    )
    await storage.put("corpus", f"{name}/b.txt", b"an object")
    user = "{{ row.lang | default('?') }}: {{ text }}"
    found = await preview(job(name, user), n=4, connection=connection)
    assert [one.messages[0]["content"] for one in found.documents] == ["en: t0", "en: t1", "en: t2", "?: an object"]
    assert (found.ok, found.errors) == (4, 0)
    with pytest.raises(
        CheckFailed, match=f"s3://corpus/{name}/a.jsonl.gz holds rows, which an estimate does not count"
    ):
        await estimate(job(name, user), connection=connection)


async def test_folders_as_spark_and_firehose_leave_them(env: None) -> None:
    connection = await connect()
    storage, name = connection.storage, "spark-rows"
    day = f"{name}/day=2026-01-02"
    objects = {
        f"{day}/part-0.parquet": parquet([{"text": "of parquet", "n": 1}]),
        f"{day}/part-1.json.gz": jsonl([{"text": "of json", "n": 2}, {"text": "of json too", "n": 3.0}], ".gz"),
        f"{day}/stream-1.JSONL": b'{"text":"one after","n":4}{"text":"another","n":5}',
        f"{day}/one.json": b'{"text": "a document"}',
        f"{day}/one.json.bak": b"never of the second run",
        f"{day}/_SUCCESS": b"",
        f"{day}/.part-0.parquet.crc": b"crc",
        f"{name}/_temporary/0/part-9.parquet": parquet([{"text": "half written", "n": 9}]),
    }
    await asyncio.gather(*(storage.put("corpus", key, data) for key, data in objects.items()))
    whole = job(name, "{{ row.day | default('no row') }}: {{ text }}")
    by_id = Job.parse({**json.loads(whole.to_json()), "source": {"uri": f"s3://corpus/{name}", "id_field": "n"}})
    seen = await preview(by_id, n=8, connection=connection)
    asked = {one.messages[0]["content"] for one in seen.documents}
    assert {"2026-01-02: of json", "2026-01-02: one after", 'no row: {"text": "a document"}'} < asked
    run = await connection.start(by_id, check_model=False)
    result = await run.wait()
    assert (result.state, result.ok) == (State.COMPLETED, 7)
    assert result.left_out == {"job markers": 1, "checksums": 1, "temporary files": 1}
    ids = {key.removeprefix(day) for key in run.results().collect()["document_id"]}
    assert ids == {
        *("/part-0.parquet#1", "/part-1.json.gz#2", "/part-1.json.gz#3", "/stream-1.JSONL#4", "/stream-1.JSONL#5"),
        *("/one.json", "/one.json.bak"),
    }
    one = Job.parse({**json.loads(whole.to_json()), "source": {"uri": f"s3://corpus/{day}/one.json"}})
    found = await estimate(one, connection=connection)
    assert found.documents == 1
    run = await connection.start(one, check_model=False, run_id="spark-one")
    assert (await run.wait()).ok == 1
    assert run.results().collect()["document_id"].to_list() == [f"{day}/one.json"]
