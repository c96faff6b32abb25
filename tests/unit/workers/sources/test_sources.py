"""Rows of JSONL and Parquet as documents: each one once, under an id of its own, whatever is wrong with the others."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st
from temporalio.exceptions import ApplicationError

from batch.corpus import planning
from batch.corpus.cursor import Place, cursor_within, is_version, parse_cursor
from batch.corpus.planning import PlannedDocument
from batch.job.formats import kind_of
from batch.job.source import Source
from batch.storage.store import ObjectEntry, StorageRefused, StorageUnreachable
from batch.workflows.states import Reason
from tests.memory_storage import MemoryStorage
from tests.unit.workers.sources.row_corpus import job, jsonl, parquet, plan, shards
from workers.plan.planner import REFUSALS
from workers.sources import jsonl as jsonl_rows
from workers.sources import objects
from workers.sources import parquet as parquet_rows
from workers.sources.documents import Occurrences
from workers.sources.jsonl import Line, lines
from workers.sources.row import digest

PACKED = ["", ".gz", ".zst"]


def texts(documents: list[PlannedDocument]) -> list[str | None]:
    return [document.content for document in documents]


def problems(documents: list[PlannedDocument]) -> dict[str, str]:
    return {document.document_id: document.problem for document in documents if document.problem is not None}


def ids(documents: list[PlannedDocument]) -> dict[str, str]:
    """Id by text."""
    return {document.content: document.document_id for document in documents if document.content is not None}


@pytest.mark.parametrize(
    ("key", "source_format", "kind"),
    [
        ("a.txt", "auto", "object"),
        ("a.jsonl", "auto", "jsonl"),
        ("a.JSONL.gz", "auto", "jsonl"),
        ("a.ndjson.zst", "auto", "jsonl"),
        ("a.json", "auto", "object"),
        ("a.txt.gz", "auto", "object"),
        ("a.parquet", "auto", "parquet"),
        ("a.jsonl", "object", "object"),
        ("a", "jsonl", "jsonl"),
        ("part-0", "parquet", "parquet"),
    ],
)
def test_names_say_what_an_object_holds(key: str, source_format: Any, kind: str) -> None:
    assert kind_of(Source(uri="s3://b/", format=source_format), key) == kind


@pytest.mark.parametrize("packed", PACKED)
async def test_each_line_is_a_document(packed: str) -> None:
    memory = MemoryStorage()
    memory.objects[f"in/a.jsonl{packed}"] = jsonl([{"text": f"row {n}", "title": f"t{n}"} for n in range(25)], packed)
    memory.objects["in/b.txt"] = b"an object"
    memory.objects["in/c d.parquet"] = parquet([{"text": f"p{n}", "title": None} for n in range(25)], group=7)
    found = await plan(memory, job())
    assert texts(found) == [f"row {n}" for n in range(25)] + [None] + [f"p{n}" for n in range(25)]
    first, whole = found[0], found[25]
    assert first.document_id == f"in/a.jsonl{packed}#{digest(b'row 0')}" and len(first.etag) == 32
    assert (first.uri, first.size, first.row) == (f"s3://corpus/in/a.jsonl{packed}", 5, None)
    assert (whole.document_id, whole.uri, whole.is_planned) == ("in/b.txt", "s3://corpus/in/b.txt", False)


@pytest.mark.parametrize("packed", PACKED)
async def test_an_inserted_row_moves_no_other_id(packed: str) -> None:
    memory, rows = MemoryStorage(), [{"text": f"row {n}"} for n in range(20)]
    memory.objects[f"in/a.jsonl{packed}"] = jsonl(rows, packed)
    before = ids(await plan(memory, job()))
    memory.objects[f"in/a.jsonl{packed}"] = jsonl([*rows[:5], {"text": "new"}, *rows[5:]], packed)
    after = ids(await plan(memory, job()))
    assert after.pop("new") not in before.values()
    assert after == before


async def test_rows_of_one_id_are_counted() -> None:
    memory = MemoryStorage()
    memory.objects["in/a.jsonl"] = jsonl([{"text": "same"}] * 3 + [{"text": "other"}])
    memory.objects["in/b.jsonl"] = jsonl([{"text": "same"}])
    same = digest(b"same")
    assert [document.document_id for document in await plan(memory, job())] == [
        *(f"in/a.jsonl#{name}" for name in (same, f"{same}#2", f"{same}#3", digest(b"other"))),
        f"in/b.jsonl#{same}",
    ]


async def test_ids_of_a_field() -> None:
    memory = MemoryStorage()
    given_ids: list[Any] = ["a", 7, "a", "a#2", "50%\n", None, True, 1.5, "", "x" * 257]
    memory.objects["in/a.jsonl"] = jsonl([{"text": f"t{n}", "id": value} for n, value in enumerate(given_ids)])
    memory.objects["in/b.parquet"] = parquet([{"text": "t", "id": 2**62}])
    found = await plan(memory, job(id_field="id"))
    names = [document.document_id.partition("#")[2] for document in found]
    assert names[:5] == ["a", "7", "a#2", "a%232", "50%25%0A"]
    assert names[-1] == str(2**62)
    wanted = "not a text, a number or a time, of 1 to 256 characters"
    assert list(problems(found).values()) == [
        f"bad_row: line {line}: source.id_field: its field 'id' is {kind}, {wanted}"
        for line, kind in (
            (6, "null"),
            (7, "true or false"),
            (9, "an empty text"),
            (10, "a text of 257 characters"),
        )
    ]


async def test_fields_travel_if_the_prompt_or_keep_names_them() -> None:
    memory = MemoryStorage()
    row = {"text": "t", "title": "T", "at": datetime(2026, 1, 2, tzinfo=UTC), "price": Decimal("1.50"), "more": 1}
    memory.objects["in/a.jsonl"] = jsonl([{"text": "t", "title": "T", "more": {"deep": [1]}}, {"text": "u"}])
    memory.objects["in/b.parquet"] = parquet([row])
    shown = "{{ row.title }} {{ row['at'] }} {{ text }}"
    found = await plan(memory, job(prompt=shown, keep=["price"]))
    assert [json.loads(document.row or "") for document in found] == [
        {"title": "T"},
        {},
        {"at": "2026-01-02T00:00:00+00:00", "price": "1.50", "title": "T"},
    ]
    kept = await plan(memory, job(prompt=shown, keep=["price", "more"]))
    assert [document.etag for document in kept] == [document.etag for document in found]
    memory.objects["in/b.parquet"] = parquet([{**row, "title": "other"}])
    changed = await plan(memory, job(prompt=shown))
    assert [a.etag == b.etag for a, b in zip(found, changed, strict=True)] == [True, True, False]
    assert [document.document_id for document in changed] == [document.document_id for document in found]


async def test_rows_that_ask_the_same_are_duplicates_whatever_they_keep() -> None:
    memory = MemoryStorage()
    memory.objects["in/a.jsonl"] = jsonl([{"text": "same", "n": 9}, {"text": "same", "n": 10}])
    assert [document.same_as for document in await plan(memory, job(keep=["n"]))] == [None, "0/0"]
    shown = await plan(memory, job(prompt="{{ row.n }} {{ text }}"))
    assert [document.same_as for document in shown] == [None, None]


async def test_bad_lines_are_rows_of_their_own() -> None:
    memory = MemoryStorage()
    bad = [
        (b"{broken", "bad_row: line 2 is no JSON: "),
        (b'{"text": "\xff"}', "bad_row: line 3 is no JSON: "),
        (b"[1]", "bad_row: line 4 is no JSON object"),
        (b'{"title": 1}', "bad_row: line 5: it has no field 'text'"),
        (b'{"text": null}', "bad_row: line 6: its field 'text' is null, not a text"),
        (b'{"text": 7}', "bad_row: line 7: its field 'text' is a number, not a text"),
        (b'{"text": NULL}', "bad_row: line 8 is no JSON: "),
        (b"{broken", "bad_row: line 9 is no JSON: "),
    ]
    good = b'\xef\xbb\xbf{"text": "first"}\r\n'
    last = b'\n \n{"text": "last"}'
    memory.objects["in/a.jsonl"] = good + b"\n".join(line for line, _ in bad) + last
    found = await plan(memory, job())
    assert texts(found) == ["first", *[None] * 8, "last"]
    for document, (line, message) in zip(found[1:9], bad, strict=True):
        assert document.problem is not None and document.problem.startswith(message)
        assert document.document_id.startswith(f"in/a.jsonl#{digest(line)}")
    assert found[8].document_id == f"{found[1].document_id}#2"


async def test_bad_rows_of_parquet() -> None:
    memory = MemoryStorage()
    times = pa.array([1, 2, 3], pa.timestamp("ns"))
    broken = pa.Array.from_buffers(pa.string(), 3, pa.array([b"ok", b"\xff", b"x"], pa.binary()).buffers())
    table = pa.table({"text": broken, "at": times})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    memory.objects["in/a.parquet"] = sink.getvalue()
    memory.objects["in/b.parquet"] = parquet([{"text": "good"}, {"text": None}])
    found = await plan(memory, job(keep=["at"]))
    assert texts(found) == ["ok", None, "x", "good", None]
    assert found[0].row == '{"at":"1970-01-01T00:00:00"}'
    assert [problem[:40] for problem in problems(found).values()] == [
        "bad_row: row 2: it cannot be read: 'utf-",
        "bad_row: row 2: its field 'text' is null",
    ]


async def test_a_time_of_no_known_zone_is_a_bad_row() -> None:
    sink = io.BytesIO()
    times = pa.array([1, None], pa.timestamp("us", "Mars/Phobos"))
    pq.write_table(pa.table({"text": ["a", "b"], "at": times}), sink)
    memory = MemoryStorage()
    memory.objects |= {"in/a.parquet": sink.getvalue(), "in/b.txt": b"after"}
    found = await plan(memory, job(keep=["at"]))
    assert [document.content for document in found[:2]] == [None, "b"] and found[2].document_id == "in/b.txt"
    assert (found[0].problem or "").startswith("bad_row: row 1: it cannot be read: ")


@pytest.mark.parametrize("row", [{"text": "x" * 20_000}, {"text": "t", "a.b": ["y" * 2000] * 10}])
async def test_a_dictionary_unfolds_within_a_bound(row: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_rows, "UNFOLDED", 10**6, raising=False)
    sizes, values = [], parquet_rows._values

    def spy(batch: pa.RecordBatch, id_field: str | None) -> Any:
        sizes.append(batch.nbytes)
        return values(batch, id_field)

    monkeypatch.setattr(parquet_rows, "_values", spy)
    memory = MemoryStorage()
    memory.objects["in/a.parquet"] = parquet([row] * 300, group=300)
    found = await plan(memory, job(documents=1000, keep=["a.b"]))
    assert texts(found) == [row["text"]] * 300
    assert max(sizes) < 10**6, sizes


@pytest.mark.parametrize(("packed", "filler"), [(".zst", b"\n"), (".gz", b" "), (".zst", b"x")])
async def test_what_unfolds_to_no_row_is_given_up(packed: str, filler: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl_rows, "MOST_WITHOUT_ROW", 100_000, raising=False)
    rows = jsonl([{"text": f"{n} " + "x" * 200} for n in range(480)])
    data = rows + filler * 180_000 + b"\n" + rows
    memory, name = MemoryStorage(), f"in/a.jsonl{packed}"
    memory.objects[name] = gzip.compress(data) if packed == ".gz" else zstd.compress(data)
    found = await plan(memory, job(documents=200, max_document_bytes=10_000), partitions=1, anew=True)
    assert len(found) == 481
    assert (found[-1].document_id, (found[-1].problem or "")[:15]) == (name, "broken_object: ")


@pytest.mark.parametrize("packed", [".gz", ".zst"])
async def test_what_lies_before_a_break_stays(packed: str) -> None:
    rows = [{"text": f"row {n} {digest(str(n).encode())}"} for n in range(9000)]
    whole, name = jsonl(rows, packed), f"in/a.jsonl{packed}"
    memory = MemoryStorage()
    memory.objects[name] = whole
    every = texts(await plan(memory, job(documents=3000)))
    memory.objects[name] = whole[: len(whole) // 2]
    found = await plan(memory, job(documents=3000), partitions=1, anew=True)
    assert 1500 < len(found) < 7500
    assert texts(found)[:-1] == every[: len(found) - 1]
    problem = problems(found)[name]
    assert problem.startswith(f"broken_object: s3://corpus/{name}: its ") and problem.endswith("the object is cut off")
    middle = len(whole) * 3 // 4
    memory.objects[name] = whole[:middle] + bytes(range(256)) * 40 + whole[middle + 10_240 :]
    found = await plan(memory, job(documents=3000))
    assert found[-1].document_id == name and "is damaged" in problems(found)[name]
    assert texts(found)[:3000] == every[:3000]


@pytest.mark.parametrize(
    ("key", "data", "message"),
    [
        ("a.parquet", b"", "it is empty, no Parquet file"),
        ("a.parquet", b"PAR1 no Parquet at all PAR1", "it is no Parquet file that can be read: "),
        ("a.parquet", parquet([{"txt": "x", "n": 1}]), "it has no column 'text' (source.text_field); its columns are"),
        ("a.parquet", parquet([{"text": 7}]), "its column 'text' (source.text_field) holds int64, not text"),
        ("a.parquet", parquet([{"text": "x" * 99}] * 9)[:-20], "it is a Parquet file that is cut off: it does not "),
        ("a.parquet", b"PA", "it is no Parquet file that can be read: "),
        ("a.jsonl.gz", b"\x00\x01 noise", "by its name it is compressed, and it holds no compression "),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfdnoise and noise", "its Zstandard stream is damaged: "),
    ],
)
async def test_an_object_that_cannot_be_read_is_one_row(key: str, data: bytes, message: str) -> None:
    memory = MemoryStorage()
    memory.objects |= {f"in/{key}": data, "in/b.jsonl": jsonl([{"text": "after"}])}
    broken, after = await plan(memory, job())
    assert (broken.document_id, after.content) == (f"in/{key}", "after")
    assert (broken.problem or "").startswith(f"broken_object: s3://corpus/in/{key}: {message}")


async def test_damaged_pages_break_a_parquet_file_where_they_lie() -> None:
    memory, rows = MemoryStorage(), [{"text": f"{n} {digest(str(n).encode())}"} for n in range(400)]
    data = bytearray(parquet(rows, group=100))
    place = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(2).column(0).dictionary_page_offset or 0
    data[place : place + 200] = b"\xff" * 200
    memory.objects["in/a.parquet"] = bytes(data)
    found = await plan(memory, job())
    assert texts(found) == [*(row["text"] for row in rows[:200]), None]
    assert list(problems(found)) == ["in/a.parquet"]


@pytest.mark.parametrize("packed", PACKED)
async def test_a_huge_line_is_passed_over(packed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "CHUNK", 300)
    memory = MemoryStorage()
    rows = [{"text": "a"}, {"text": "x" * 5000}, {"text": "b"}, {"text": "y" * 985}, {"text": "z" * 991}]
    memory.objects[f"in/a.jsonl{packed}"] = jsonl(rows, packed)
    found = await plan(memory, job(max_document_bytes=1000))
    assert [len(text) if text else None for text in texts(found)] == [1, None, 1, 985, None]
    line = json.dumps(rows[1]).encode()
    assert found[1].problem == "too_large: line 2 has 5,012 bytes; the limit is 1,000"
    assert found[1].document_id.endswith(digest(line, 16)[:16])


async def test_a_large_row_of_parquet_is_an_error() -> None:
    memory = MemoryStorage()
    memory.objects["in/a.parquet"] = parquet([{"text": "ä" * 60, "title": "t" * 50}, {"text": "short", "title": ""}])
    found = await plan(memory, job(max_document_bytes=160, keep=["title"]))
    assert [document.problem for document in found] == [
        "too_large: row 1: text and other fields have 182 bytes; the limit is 160",
        None,
    ]


@given(st.lists(st.binary(max_size=12), max_size=12), st.integers(1, 9))
def test_lines_of_any_pieces(contents: list[bytes], size: int) -> None:
    data = b"\n".join(contents)
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    expected = data.split(b"\n")
    if not expected[-1]:
        expected.pop()
    found = list(lines(iter(pieces), 5, 100))
    assert [(line.data, line.size) for line in found] == [
        (one, 0) if len(one) <= 5 else (None, len(one)) for one in expected
    ]
    assert [line.digest for line in found] == ["" if len(one) <= 5 else digest(one, 16) for one in expected]
    ends = [100 + len(b"\n".join(expected[: n + 1])) + 1 for n in range(len(expected))]
    if expected and not data.endswith(b"\n"):
        ends[-1] -= 1
    assert [line.end for line in found] == ends
    assert list(lines(iter([b"a\nb"]), 5)) == [Line(b"a", 2), Line(b"b", 3)]


ROWS = st.lists(
    st.one_of(
        st.builds(lambda text: json.dumps({"text": text}).encode(), st.sampled_from(["a", "b", "c", "d", " "])),
        st.sampled_from([b"", b"{", b'{"text": 1}', b'{"text": "' + b"x" * 60 + b'"}']),
    ),
    max_size=25,
)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(ROWS, st.sampled_from(PACKED)), max_size=3), st.integers(1, 4), st.integers(1, 4))
async def test_shards_of_any_size_hold_the_same_documents(
    found: list[tuple[list[bytes], str]], documents: int, partitions: int
) -> None:
    memory = MemoryStorage()
    for number, (rows, packed) in enumerate(found):
        data = b"\n".join(rows)
        pack = {"": bytes, ".gz": gzip.compress, ".zst": zstd.compress}[packed]
        memory.objects[f"in/{number}.jsonl{packed}"] = pack(data)
    memory.objects["in/0.txt"] = b"an object"
    memory.objects["in/1.parquet"] = parquet([{"text": text} for text in "aabbcabca"], group=4)
    memory.objects["in/2.parquet"] = memory.objects["in/1.parquet"][:-30]
    whole = await plan(memory, job(max_document_bytes=50, duplicates="ask"))
    split = job(documents=documents, max_document_bytes=50, duplicates="ask")
    assert await plan(memory, split, partitions=partitions) == whole
    assert await plan(memory, split, partitions=partitions, anew=True) == whole


async def test_a_shard_is_bounded_by_its_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "SHARD_CONTENT", 1000)
    memory = MemoryStorage()
    memory.objects["in/a.jsonl"] = jsonl([{"text": f"{n} " + "x" * 298} for n in range(10)] + [{"text": "y" * 2000}])
    found = [len(shard) async for shard in shards(memory, job(), partitions=100)]
    assert found == [3, 3, 3, 1, 1]


async def test_a_plain_object_is_entered_where_the_last_shard_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "CHUNK", 1000)
    memory = MemoryStorage()
    memory.objects["in/a.jsonl"] = jsonl([{"text": f"row {n}"} for n in range(1000)])
    await plan(memory, job(documents=100), partitions=1, anew=True)
    assert len(memory.reads) < 2.2 * len(memory.objects["in/a.jsonl"]) / 1000
    memory.reads.clear()
    await plan(memory, job(documents=100), partitions=1)
    assert len(memory.reads) == -(-len(memory.objects["in/a.jsonl"]) // 1000)


@pytest.mark.parametrize("change", ["changed", "gone"])
@pytest.mark.parametrize("anew", [True, False])
async def test_an_object_that_moves_between_shards(change: str, anew: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "CHUNK", 50)
    memory = MemoryStorage()
    memory.objects |= {"in/a.jsonl": jsonl([{"text": f"row {n}"} for n in range(40)]), "in/b.txt": b"after"}
    found: list[PlannedDocument] = []
    async for shard in shards(memory, job(), partitions=1, anew=anew):
        found += shard
        if change == "changed":
            memory.objects["in/a.jsonl"] = jsonl([{"text": f"new {n}"} for n in range(40)])
        else:
            memory.objects.pop("in/a.jsonl", None)
    assert texts(found)[:10] == [f"row {n}" for n in range(10)]
    assert [document.document_id for document in found[-2:]] == ["in/a.jsonl", "in/b.txt"]
    assert (found[-2].problem or "").startswith(f"object_{change}: ")
    assert not any((text or "").startswith("new") for text in texts(found))


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
async def test_a_storage_that_fails_makes_no_row(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "CHUNK", 100)
    memory = MemoryStorage()
    rows = [{"text": f"row {n}"} for n in range(400)]
    memory.objects[f"in/{name}"] = jsonl(rows) if name == "a.jsonl" else parquet(rows)
    read, count = memory.read_range, 0

    def fail(*arguments: Any, **named: Any) -> bytes:
        nonlocal count
        count += 1
        if count > 3:
            raise StorageUnreachable("away")
        return read(*arguments, **named)

    memory.read_range = fail  # type: ignore[method-assign]
    with pytest.raises(StorageUnreachable):
        await plan(memory, job())


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
async def test_an_object_that_alone_may_not_be_read_is_one_row_once_that_is_believed(name: str) -> None:
    memory = MemoryStorage()
    memory.objects[f"in/{name}"] = jsonl([{"text": "row"}]) if name == "a.jsonl" else parquet([{"text": "row"}])
    memory.objects["in/b.txt"] = b"an object"
    read, readable = memory.read_range, {"in/b.txt"}

    def refuse(bucket: str, key: str, *arguments: Any, **named: Any) -> bytes:
        if key not in readable:
            raise StorageRefused("access refused")
        return read(bucket, key, *arguments, **named)

    memory.read_range = refuse  # type: ignore[method-assign]
    with pytest.raises(StorageRefused):
        await plan(memory, job())
    found = await plan(memory, job(), attempt=REFUSALS)
    assert problems(found) == {f"in/{name}": "object_refused: access refused; its rows from there on are left out"}
    assert [document.document_id for document in found] == [f"in/{name}", "in/b.txt"]
    readable.clear()
    with pytest.raises(ApplicationError, match="access refused"):
        await plan(memory, job(), attempt=REFUSALS)


async def test_a_source_that_may_not_be_listed_fails_for_good_once_that_is_believed() -> None:
    memory = MemoryStorage()

    async def refuse(*_: Any, **__: Any) -> AsyncIterator[list[ObjectEntry]]:
        raise StorageRefused("access refused")
        yield []

    memory.source_pages = refuse  # type: ignore[assignment]
    with pytest.raises(StorageRefused):
        await plan(memory, job(), attempt=REFUSALS - 1)
    with pytest.raises(ApplicationError) as failed:
        await plan(memory, job(), attempt=REFUSALS)
    assert (failed.value.type, failed.value.non_retryable) == (Reason.STORAGE_REFUSED, True)


@pytest.mark.parametrize("key", ["a.jsonl", "a\x00b", "a\n", "x\x001,2,beef"])
def test_a_cursor_is_a_key_or_a_place(key: str) -> None:
    assert parse_cursor(key) == (key, None, "")
    within = cursor_within(key, '"etag"', Place(12, 345))
    found, place, version = parse_cursor(within)
    assert (found, place) == (key, Place(12, 345))
    assert is_version(version, "etag") and not is_version(version, '"other"')


def test_occurrences_are_counted() -> None:
    seen = Occurrences()
    assert [seen.add(name) for name in ("a", "b", "a", "a", "b")] == [1, 1, 2, 3, 2]
    seen.close()


async def test_a_key_that_looks_like_a_row_shares_no_partition_with_it() -> None:
    memory = MemoryStorage()
    memory.objects |= {"in/a.jsonl": jsonl([{"text": "t", "id": "7"}]), "in/a.jsonl#7": b"an object"}
    found = [shard async for shard in shards(memory, job(id_field="id"), partitions=1)]
    assert [[document.document_id for document in shard] for shard in found] == [["in/a.jsonl#7"]] * 2
