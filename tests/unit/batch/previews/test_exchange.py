"""The one object of a preview: an answer takes the place of its request, and of nothing else."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from batch.corpus.planning import PlannedDocument
from batch.job.job import Job
from batch.job.logical_date import Nominal
from batch.previews import exchange as preview_file
from batch.previews.exchange import PreviewedDocument, PreviewGone, PreviewRequest, PreviewResult, cut, write_answer
from batch.previews.sample import Picked
from batch.storage.errors import PreconditionFailed, StorageUnreachable
from batch.storage.layout import PreviewLayout
from batch.storage.listing import ObjectEntry
from batch.storage.records import read_record
from batch.storage.store import Storage
from tests.jobs import job

LAYOUT = PreviewLayout.of("s3://results/tickets/")
RESULT = PreviewResult("tickets", "m", [PreviewedDocument("a", "s3://b/a", 3, [], "ok", {"on": "2026-01-31"})])


class OneObject:
    """Object storage with one object, whose PUTs may lose their answers."""

    def __init__(self, *, silent: int = 0, arrives: bool = True, gone: bool = False) -> None:
        self.data: bytes | None = None if gone else b"request"
        self.etag = "1"
        self.silent, self.arrives = silent, arrives

    async def replace(self, bucket: str, key: str, data: bytes, *, etag: str) -> None:
        if self.data is None or etag != self.etag:
            raise PreconditionFailed(key)
        if not self.silent or self.arrives:
            self.data, self.etag = data, "2"
        if self.silent:
            self.silent -= 1
            raise StorageUnreachable(key)

    async def get_entry(self, bucket: str, key: str) -> tuple[bytes, ObjectEntry] | None:
        return (self.data, ObjectEntry(key, 1, self.etag)) if self.data is not None else None


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def sleep(seconds: float) -> None: ...

    monkeypatch.setattr(preview_file.asyncio, "sleep", sleep)


async def write(storage: OneObject) -> None:
    await write_answer(cast(Storage, storage), LAYOUT, "token", RESULT, etag="1")


@pytest.mark.parametrize(("silent", "arrives"), [(0, True), (1, True), (2, False)])
async def test_a_paid_answer_survives_a_silent_put(silent: int, arrives: bool) -> None:
    storage = OneObject(silent=silent, arrives=arrives)
    await write(storage)
    assert storage.data is not None
    assert read_record(PreviewResult, json.loads(storage.data)) == RESULT


async def test_nothing_is_left_for_a_client_that_went() -> None:
    storage = OneObject(gone=True)
    with pytest.raises(PreviewGone, match="was taken back"):
        await write(storage)
    assert storage.data is None


async def test_storage_that_stays_away_is_said() -> None:
    with pytest.raises(StorageUnreachable):
        await write(OneObject(silent=99, arrives=False))


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
