"""The one object of a preview: an answer takes the place of its request, and of nothing else."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from batch.corpus.planning import PlannedDocument
from batch.job.job import Job
from batch.job.logical_date import Nominal
from batch.previews.exchange import PreviewedDocument, PreviewGone, PreviewRequest, PreviewResult, cut, write_answer
from batch.previews.sample import Picked
from batch.storage.layout import PreviewLayout
from batch.storage.records import read_record
from tests.jobs import job
from tests.memory_storage import MemoryStorage

LAYOUT = PreviewLayout.of("s3://results/tickets/")
RESULT = PreviewResult("tickets", "m", [PreviewedDocument("a", "s3://b/a", 3, [], "ok", {"on": "2026-01-31"})])


@pytest.mark.parametrize("lose", [[], ["answer"], ["request", "request"]])
async def test_a_paid_answer_survives_a_silent_put(lose: list[str]) -> None:
    storage = MemoryStorage()
    etag = await storage.put("results", LAYOUT.file("token"), b"request")
    storage.lose = lose
    await write_answer(storage, LAYOUT, "token", RESULT, etag=etag)
    assert read_record(PreviewResult, json.loads(storage.objects[LAYOUT.file("token")])) == RESULT


async def test_nothing_is_left_for_a_client_that_went() -> None:
    storage = MemoryStorage()
    with pytest.raises(PreviewGone, match="was taken back"):
        await write_answer(storage, LAYOUT, "token", RESULT, etag="1")
    assert storage.objects == {}


def test_a_request_is_read_back() -> None:
    document = PlannedDocument("tickets/é.txt", "s3://corpus/tickets/é.txt", '"1"', 7)
    schema: dict[str, Any] = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "boolean"}}}
    request = PreviewRequest(
        Job.parse(job(output__schema=schema)), Nominal(datetime(2026, 1, 31, tzinfo=UTC)), [Picked(document, 3)], asks=1
    )
    again = PreviewRequest.from_bytes(request.to_bytes())
    assert again == request
    assert again.job.fingerprint == request.job.fingerprint, "the order of a schema's properties counts"


def test_cutting_leaves_the_ends() -> None:
    assert cut("x" * 100, 100) == "x" * 100
    assert cut("begin" + "x" * 1000 + "end!!", 10) == "begin\n[... 1,000 characters left out ...]\nend!!"
