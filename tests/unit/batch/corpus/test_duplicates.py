"""Documents of the same bytes: found in a partition, a shard and a run, in bounded memory; which jobs look for them."""

from __future__ import annotations

import hashlib
import io
import random
from typing import Any

import pyarrow.parquet as pq
import pytest

from batch.corpus.duplicates import COLUMNS, Duplicates, parse_reference
from batch.corpus.planning import PlannedDocument, ShardCutter
from batch.job.job import Job
from batch.job.part import JobError
from tests.jobs import job


def document(name: str, content: str, *, size: int | None = None, etag: str | None = None) -> PlannedDocument:
    md5 = hashlib.md5(content.encode()).hexdigest()
    return PlannedDocument(name, f"s3://b/{name}", f'"{md5}"' if etag is None else etag, size or len(content))


def plan(duplicates: Duplicates, shard: int, contents: list[str], *, first: int = 0) -> tuple[list[str | None], Any]:
    """Partitions of two documents each: the marks, and the plan's table."""
    cutter = ShardCutter(
        shard=shard,
        first_partition=first,
        start_cursor="",
        documents=2,
        size=10**9,
        partitions=10**6,
        duplicates=duplicates,
    )
    for number, content in enumerate(contents):
        assert cutter.add(document(f"d{number}", content), f"d{number}")
    data, _ = cutter.finish(last=True)
    table = pq.read_table(io.BytesIO(data))
    return table.column("same_as").to_pylist(), table


def test_the_first_keeps_its_place_and_later_ones_name_its_partition() -> None:
    marks, _ = plan(Duplicates(), 3, ["a", "a", "b", "a", "b", "c"], first=7)
    assert marks == [None, "3/7", None, "3/7", "3/8", None]


@pytest.mark.parametrize("reading", [False, True])
def test_earlier_shards_are_known_by_keeping_them_or_by_their_plans(reading: bool) -> None:
    known = Duplicates()
    _, first = plan(known, 0, ["a", "b", "a", "c"])
    known.keep()
    _, second = plan(known, 1, ["d", "a", "e", "d"], first=2)
    known.keep()
    if reading:
        known = Duplicates()
        for table in (first, second):
            known.read(table.select(COLUMNS))
    assert known.shards == 2
    marks, _ = plan(known, 2, ["b", "e", "d", "f", "a", "f"], first=4)
    assert marks == ["0/0", "1/3", "1/2", None, "0/0", "2/5"]


def test_an_etag_that_hashes_no_content_says_nothing() -> None:
    known = Duplicates()
    md5 = "0123456789abcdef" * 2
    rows = [
        document("a", "x", etag=md5),
        document("b", "x", etag=md5),
        document("c", "x", etag="f" * 32, size=5),
        document("d", "x", etag=""),
        document("e", "x", etag=""),
        document("f", "x", etag='"1a2b-17"'),
        document("g", "x", etag='"1a2b-17"'),
        document("h", "x", etag=f"{md5}-3"),
    ]
    contents = [(row.etag, row.size) for row in rows]
    assert known.mark(contents[:7], 0, 0) == [None, "0/0", None, None, None, None, None]
    assert known.mark(contents[7:], 0, 1) == [None], "that of a multipart upload is the MD5 of no content"
    quoted = f'"{md5}"'
    assert known.mark([(quoted, 5), (quoted, 6), (quoted, 5)], 0, 2) == [None, None, "0/2"], "one etag of two sizes"


def test_many_shards_agree_with_a_plain_dictionary() -> None:
    rng, known, plain = random.Random(1), Duplicates(), dict[str, str]()
    found = 0
    for shard in range(12):
        contents = [str(rng.randrange(2000)) for _ in range(200)]
        marks, _ = plan(known, shard, contents, first=shard * 100)
        known.keep()
        for number, (content, mark) in enumerate(zip(contents, marks, strict=True)):
            assert mark == plain.get(content)
            found += mark is not None
            plain.setdefault(content, f"{shard}/{shard * 100 + number // 2}")
    assert found > 500


def test_no_more_is_remembered_than_there_is_room_for(caplog: pytest.LogCaptureFixture) -> None:
    known = Duplicates(most=3)
    _, table = plan(known, 0, ["a", "b", "c", "d", "a"])
    known.keep()
    marks, _ = plan(known, 1, ["d", "e", "e", "c"], first=3)
    assert marks == [None, None, None, "0/1"]
    assert "after the first 3" in caplog.text
    other = Duplicates(most=3)
    other.read(table.select(COLUMNS))
    assert plan(other, 1, ["a", "b", "c", "d"], first=3)[0].count(None) == 1


def test_references_are_read_back() -> None:
    assert parse_reference("12/345678") == (12, 345678)


@pytest.mark.parametrize(
    ("changes", "shares"),
    [
        ({}, True),
        ({"source__duplicates": "share"}, True),
        ({"source__duplicates": "ask"}, False),
        ({"prompt__user": "{{ uri }} {{ text }}"}, False),
        ({"prompt__system": "This is {{ document_id }}."}, False),
        ({"prompt__user": "{{ date }} {{ text }}"}, True),
        ({"model__mode": "batch"}, False),
    ],
)
def test_answers_are_shared_where_nothing_tells_documents_apart(changes: dict[str, Any], shares: bool) -> None:
    found = Job.parse(job(**changes))
    assert found.shares_answers is shares
    assert Job.parse(job()).fingerprint == Job.parse(job(source__duplicates="ask")).fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt__user": "{{ uri }} {{ text }}"}, "source.duplicates: share, but the prompt names uri"),
        ({"model__mode": "batch"}, "source.duplicates: share is not supported yet in model.mode: batch"),
    ],
)
def test_sharing_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        Job.parse(job(source__duplicates="share", **changes))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"prompt__user": "{{ row.title }} {{ text }}"}, "source.duplicates: text, but the prompt names row.title"),
        ({"model__mode": "batch"}, "source.duplicates: text is not supported yet in model.mode: batch"),
    ],
)
def test_texts_are_shared_only_where_prompts_show_nothing_else(changes: dict[str, Any], problem: str) -> None:
    assert Job.parse(job(source__duplicates="text")).shares_answers
    assert Job.parse(job()).fingerprint == Job.parse(job(source__duplicates="text")).fingerprint
    with pytest.raises(JobError, match=problem):
        Job.parse(job(source__duplicates="text", **changes))
