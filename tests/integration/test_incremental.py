"""Nights of one job on the real servers: what changed is asked about, all else is carried forward, nothing is lost."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from datetime import date
from typing import Any

import polars as pl
import pytest

from batch import Job, connect
from batch.client.run import Connection, Run
from batch.client.status import RunResult
from batch.files.results import current
from batch.files.state import read_pointer
from batch.local.stack import LocalStack
from tests.provider import behave, forget, paid

DOCUMENTS = 300
OF_A_RUN = ["shard", "partition", "generation", "run_id", "processed_at", "latency_seconds", "etag"]
"""Columns in which a row that was carried forward may differ from one that was asked for today."""


class Nights:
    """A job with dated outputs, its corpus, and the provider's account."""

    def __init__(self, stack: LocalStack, connection: Connection, name: str) -> None:
        self.stack, self.connection, self.name = stack, connection, name
        self.s3 = stack.s3_client()
        self.texts: dict[str, str] = {}

    def write(self, name: str, text: str) -> None:
        self.texts[name] = text
        self.s3.put_object(Bucket="corpus", Key=f"{self.name}/{name}", Body=text.encode())

    def remove(self, name: str) -> None:
        del self.texts[name]
        self.s3.delete_object(Bucket="corpus", Key=f"{self.name}/{name}")

    def job(self, **changes: Any) -> Job:
        return Job.parse(
            {
                "name": self.name,
                "source": {"uri": f"s3://corpus/{self.name}/"},
                "prompt": {"user": changes.get("prompt", "Label this.\n{{ text }}")},
                "model": {"name": "simulated-small", "temperature": 0, "prices": {"input": 1.0, "output": 2.0}},
                "output": {
                    "uri": f"s3://results/{self.name}/{{{{ date }}}}/",
                    "keep_text": changes.get("keep_text", False),
                },
                "partitions": {"documents": changes.get("documents", 40)},
                "incremental": changes.get("incremental", True),
            }
        )

    async def night(
        self, day: int, run_id: str, *, full: bool = False, ends: str = "completed", **changes: Any
    ) -> tuple[Run, RunResult, int]:
        """The run, its end, and how many answers were paid for."""
        forget(self.stack)
        started = await self.connection.start(
            self.job(**changes), run_id=f"{self.name}-{run_id}", day=date(2026, 11, day), check_model=False, full=full
        )
        ended = await started.wait()
        assert ended.state == ends, ended
        return started, ended, paid(self.stack)

    async def equals_a_full_run(self, run: Run, day: int, run_id: str, **changes: Any) -> None:
        """A run that is not incremental gives the same table."""
        full, _, paid = await self.night(day, run_id, incremental=False, **changes)
        assert paid == len(self.texts)
        assert table(run).equals(table(full))


def table(run: Run) -> pl.DataFrame:
    frame = run.results().collect().sort("document_id")
    return frame.drop(OF_A_RUN, "content_hash", strict=False)


@pytest.fixture
async def nights(stack: LocalStack, request: pytest.FixtureRequest) -> AsyncIterator[Nights]:
    with stack.applied_environment():
        name = str(request.node.name).removeprefix("test_").replace("_", "-")[:40]
        held = Nights(stack, await connect(), name)
        yield held


async def test_three_nights(nights: Nights) -> None:
    for number in range(DOCUMENTS - 2):
        nights.write(f"d{number:04d}.txt", f"ticket {number}")
    nights.write("d0150/in-a-folder.txt", "which some servers list before d0150.txt")
    nights.write("d0299.txt", "ticket 299")
    first, ended, paid = await nights.night(1, "one")
    assert (paid, ended.reasons, ended.deleted, ended.carried) == (DOCUMENTS, {"new": DOCUMENTS}, 0, 0)

    for number in (7, 150):
        nights.write(f"d{number:04d}.txt", f"ticket {number}, edited")
    for number in (0, 299):  # the last one too
        nights.remove(f"d{number:04d}.txt")
    for name in ("a.txt", "d0150b.txt", "z.txt"):
        nights.write(name, name)
    second, ended, paid = await nights.night(2, "two")
    assert ended.reasons == {"new": 3, "changed": 2, "unchanged": 296}
    assert (paid, ended.deleted, ended.carried, ended.documents) == (5, 2, 296, 301)
    assert 0 < ended.cost_usd < 0.1 * (await first.status()).cost_usd
    await nights.equals_a_full_run(second, 2, "two-full")
    rows = second.results().collect()
    assert rows.filter(pl.col("run_id") == f"{nights.name}-two").height == 5

    third, ended, paid = await nights.night(3, "three", prompt="Summarize this.\n{{ text }}")
    assert (paid, ended.reasons, ended.carried) == (301, {"job_changed": 301}, 0)
    await nights.equals_a_full_run(third, 3, "three-full", prompt="Summarize this.\n{{ text }}")

    _, ended, paid = await nights.night(4, "four", prompt="Summarize this.\n{{ text }}", full=True)
    assert (paid, ended.reasons) == (301, {"full": 301})
    manifest = await second.manifest()
    assert manifest is not None and not (await second.verify(manifest)).problems


async def test_an_etag_that_lies_costs_nothing(nights: Nights) -> None:
    """The same bytes, uploaded in two parts: another etag, the same content."""
    big = "x" * (5 * 2**20)
    for name in ("a.txt", "c.txt"):
        nights.write(name, name)
    nights.write("b.txt", big)
    await nights.night(1, "one")
    upload = nights.s3.create_multipart_upload(Bucket="corpus", Key=f"{nights.name}/b.txt")
    where = {"Bucket": "corpus", "Key": f"{nights.name}/b.txt", "UploadId": upload["UploadId"]}
    part = nights.s3.upload_part(**where, PartNumber=1, Body=big.encode())
    nights.s3.complete_multipart_upload(**where, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
    second, ended, paid = await nights.night(2, "two")
    assert (paid, ended.reasons, ended.carried) == (0, {"changed": 1, "unchanged": 2}, 3)
    third, ended, paid = await nights.night(3, "three")
    assert (paid, ended.reasons) == (0, {"unchanged": 2, "unproven": 1}), "that of an upload in parts proves nothing"
    assert table(third).equals(table(second))


async def test_nights_that_overlap_are_both_right(nights: Nights) -> None:
    """Both are compared with the same state; the one that ends last finds it moved, and merges."""
    for number in range(40):
        nights.write(f"d{number:02d}.txt", f"ticket {number}")
    await nights.night(1, "one")
    nights.write("d05.txt", "edited for the second night")
    behave(nights.stack, latency=1.5)
    early = await nights.connection.start(nights.job(), run_id=f"{nights.name}-two", day=date(2026, 11, 2))
    while not (await early.status()).planned:  # noqa: ASYNC110 - a worker knows
        await asyncio.sleep(0.1)
    behave(nights.stack, latency=0)
    nights.write("d07.txt", "edited for the third night")
    nights.remove("d20.txt")
    await nights.night(3, "three")
    assert (await early.wait()).state == "completed"
    layout = nights.job().state_layout
    found = await read_pointer(nights.connection.storage, layout)
    assert found is not None and found[0].documents == 39
    frame = current(layout, found[0]).collect()
    assert sorted(frame["document_id"]) == [f"{nights.name}/{name}" for name in sorted(nights.texts)]
    _, ended, paid = await nights.night(4, "four")
    assert (paid, ended.reasons) == (0, {"unchanged": 39})


async def test_rows_are_compared_by_their_content(nights: Nights) -> None:
    """An inserted row, a changed one and one that went: the object has another etag, and all other rows stand."""

    def table_of(*tickets: str) -> None:
        nights.write("tickets.jsonl", "\n".join(json.dumps({"text": ticket}) for ticket in tickets))

    texts = [f"ticket {number}" for number in range(100)]
    table_of(*texts)
    _, ended, paid = await nights.night(1, "one")
    assert (paid, ended.reasons) == (100, {"new": 100})
    table_of("inserted", *texts[:50], "changed", *texts[51:99])
    second, ended, paid = await nights.night(2, "two")
    assert (paid, ended.reasons, ended.deleted) == (2, {"new": 2, "unchanged": 98}, 2)
    full, _, paid = await nights.night(2, "two-full", incremental=False)
    assert paid == 100 and table(second).equals(table(full))


async def test_rows_of_an_object_that_is_broken_for_a_night(nights: Nights) -> None:
    """They are not called deleted, and cost nothing when they are back."""
    rows = [json.dumps({"text": f"ticket {number}"}) for number in range(60)]

    def put(data: bytes) -> None:
        nights.s3.put_object(Bucket="corpus", Key=f"{nights.name}/tickets.jsonl.gz", Body=data)

    put(gzip.compress("\n".join(rows).encode()))
    nights.write("z.txt", "another")
    await nights.night(1, "one")
    put(b"no gzip at all")
    nights.remove("z.txt")
    _, ended, paid = await nights.night(2, "two", ends="completed_with_failures")
    assert (paid, ended.reasons, ended.deleted) == (0, {"new": 1}, 1)
    put(gzip.compress("\n".join(rows[1:]).encode()))
    _, ended, paid = await nights.night(3, "three")
    assert (paid, ended.reasons, ended.deleted) == (0, {"unchanged": 59}, 2), (
        "the row that went, and the object's error"
    )


async def test_texts_that_are_kept_are_shared_and_carried(nights: Nights) -> None:
    """Partitions of one document: answers come from others' ledgers and result files, and from the night before."""
    for number, content in enumerate(["first", "second", "first", "third", "second", "first"]):
        nights.write(f"{number}.txt", content)
    ways: dict[str, Any] = {"keep_text": True, "documents": 1}
    first, ended, paid = await nights.night(1, "one", **ways)
    rows = first.results().collect().sort("document_id")
    assert (paid, rows["text"].to_list()) == (3, [nights.texts[f"{number}.txt"] for number in range(6)])
    nights.write("3.txt", "first")
    second, ended, paid = await nights.night(2, "two", **ways)
    assert (paid, ended.reasons) == (0, {"unchanged": 5, "changed": 1})
    rows = second.results().collect().sort("document_id")
    assert rows["text"].to_list() == [nights.texts[f"{number}.txt"] for number in range(6)]
    assert rows["same_as"].null_count() == 2 and rows["status"].unique().to_list() == ["ok"]


async def test_a_cancelled_night_leaves_what_it_answered(nights: Nights) -> None:
    """And nothing of what it did not answer: the next night asks that, and pays for nothing twice."""
    for number in range(200):
        nights.write(f"{number:03}.txt", f"Ticket {number}")
    job = json.loads(nights.job(documents=100).to_json())
    job["limits"]["concurrency"] = 8
    behave(nights.stack, latency=0.3)
    forget(nights.stack)
    run = await nights.connection.start(
        Job.parse(job), run_id=f"{nights.name}-one", day=date(2026, 11, 1), check_model=False
    )
    async for status in run.watch(every=0.2):
        if status.documents >= 30:
            break
    await run.cancel()
    ended = await run.wait()
    behave(nights.stack, latency=0)
    assert ended.state == "cancelled" and 30 <= ended.documents == paid(nights.stack) < 100, ended
    second, result, asked = await nights.night(2, "two", documents=100)
    assert (asked, result.ok, result.carried) == (200 - ended.documents, 200, ended.documents)
    assert result.reasons == {"unchanged": ended.documents, "new": asked}
    assert second.results().collect()["document_id"].n_unique() == 200
