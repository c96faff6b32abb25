"""Rows as other programs write them: each read as it is meant, or refused once with the true reason."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from batch.corpus.planning import PlannedDocument
from tests.memory_storage import MemoryStorage
from tests.unit.workers.sources.row_corpus import job, plan
from workers.sources import objects
from workers.sources.json_values import end_of_value, values
from workers.sources.row import folder_fields, id_text

gzipped = partial(gzip.compress, mtime=0)
"""The same bytes in each process: they are part of a test's name."""


async def planned(data: bytes, name: str = "a.jsonl", **source: Any) -> list[PlannedDocument]:
    memory = MemoryStorage()
    memory.objects[f"in/{name}"] = data
    prompt = source.pop("prompt", "{{ text }}")
    return await plan(memory, job(prompt=prompt, **source))


def told(found: list[PlannedDocument]) -> list[str]:
    """Text, or problem."""
    return [each.content if each.content is not None else each.problem or "" for each in found]


def table(columns: dict[str, Any], **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue()


AB = [{"text": "alpha"}, {"text": "beta"}]
A, B = (json.dumps(row).encode() for row in AB)
LINES = A + b"\n" + B + b"\n"
TEXT = LINES.decode()
OBJECT, TABLE = (f"broken_object: s3://corpus/in/a.{kind}:" for kind in ("jsonl", "parquet"))


@pytest.mark.parametrize(
    "data",
    [
        A + B,
        A + b" " + B + b"\n",
        A + b"," + B,
        A + b",\n" + B + b",\n",
        A + b"\r" + B + b"\r",
        A + b"\n\r\n" + B,
        b"\x1e" + A + b"\n\x1e" + B + b"\n",
        b"\x1e" + A + b"\x1e" + B,
        b"\xef\xbb\xbf" + A + b"\n\xef\xbb\xbf" + B + b"\n",
        json.dumps(AB).encode(),
        json.dumps(AB, indent=2).encode(),
        b"\xef\xbb\xbf\r\n [" + A + b"\n," + B + b"] ",
        b"[" + A + b"]\n[" + B + b"]\n",
        b"[\n" + A + b",\n" + B + b",\n]\n",
        b"\n".join(json.dumps(row, indent=4).encode() for row in AB),
        b"".join(json.dumps(row, indent=4).encode() for row in AB),
        b"{\n" + A[1:] + b"\n{\n" + B[1:],
        codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-16-le"),
        TEXT.encode("utf-16-be"),
        codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"),
        gzipped(codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le")),
        gzipped(A + b"\n") + gzipped(B),
        bz2.compress(A + b"\n") + bz2.compress(B),
        lzma.compress(A + b"\n") + b"\0" * 8 + lzma.compress(B),
        zstd.compress(A + b"\n") + zstd.compress(B),
        gzipped(zstd.compress(LINES)),
        gzipped(json.dumps(AB, indent=1).encode()),
    ],
)
@pytest.mark.parametrize("chunk", [1, 7, 2**20])
async def test_two_rows_however_they_are_written(data: bytes, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "CHUNK", chunk)
    for name in ("a.jsonl", "b.ndjson.gz"):
        assert told(await planned(data, name)) == ["alpha", "beta"]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b'{"text": "a", "n": NaN, "m": -Infinity, "k": 1e999, "l": ' + b"9" * 5000 + b"}\n", ["a"]),
        (b'{"text": "tab\there"}\n', ["tab\there"]),
        (b'{"text": "half \\ud83d", "n": "\\udc00"}\n{"text": "whole \\ud83d\\ude00"}\n', ["half \ufffd", "whole 😀"]),
        (b'{"text": "a", "name": "K\xf6ln"}\n', ["a"]),
        (b'{"text": "K\xf6ln"}\n', ["bad_row: line 1 is no JSON: it is not UTF-8: byte 0xf6 at 11"]),
        (A + b"\n" + b'{"text": "b",}\n', ["alpha", "bad_row: line 2 is no JSON: trailing comma is not allowed at "]),
        (b"{'text': 'a'}\n{'text': 'b'}\n", ["bad_row: line 1 is no JSON: ", "bad_row: line 2 is no JSON: "]),
        (b"# made by hand\n" + A, ["bad_row: line 1 is no JSON: ", "alpha"]),
        (A + b" trailing\n" + B, ["bad_row: line 1 is no JSON: ", "beta"]),
        (b'{"text": "cut\n' + A + b"\n" + B, ["bad_row: line 1 is no JSON: ", "alpha", "beta"]),
        (
            A + b'\n{\n "text":\n  "b"\n}\n{\n"text": "c",\n"l": [\n{"a":1},{"b":2}\n]}\n' + B,
            ["alpha", "b", "c", "beta"],
        ),
        (A + b'\n{\n "text": "b",\n}\n' + B, ["alpha", "bad_row: line 2 is no JSON: trailing comma", "beta"]),
        (A + b"\n{broken\n{also\n" + B, ["alpha", "bad_row: line 2", "bad_row: line 3", "beta"]),
        (A + b'\n{"text": "cut\n' + B + b"\n{\n", ["alpha", "bad_row: line 2", "beta", "bad_row: line 4"]),
        (
            b'{\n "text": "a",\n}\n{\n "text": "b"\n}\n',
            ["bad_row: object 1 is no JSON: trailing comma is not allowed", "b"],
        ),
        (b'{\n "text": "a"\n}\n{\n "text": "b"\n', ["a", f"{OBJECT} the JSON value that begins at"]),
        (b"[\n" + A + b",\n" + B, ["alpha", "beta", f"{OBJECT} its JSON array has no end"]),
        (b"[1, 2, 3]\n", [f"{OBJECT} an element of its JSON array is no object at byte 1"]),
        (b"[[1], " + A + b"]", ["bad_row: object 1 is no JSON object", "alpha"]),
        (
            b"<html>\n<body>\n502 Bad Gateway\n</body>\n</html>\n",
            ["broken_object: s3://corpus/in/a.jsonl: it is no JSON: it begins with '<html>"],
        ),
        (b"id,text\n1,alpha\n2,beta\n", ["broken_object: s3://corpus/in/a.jsonl: it is no JSON: it begins with 'id,t"]),
        (
            json.dumps({"items": AB, "next": None}, indent=1).encode(),
            ["bad_row: object 1: it has no field 'text'; its fields are items, next"],
        ),
        (b"PK\x03\x04zip", ["broken_object: s3://corpus/in/a.jsonl: it is a ZIP archive, which is not read"]),
        (b"\x04\x22\x4d\x18lz4", ["broken_object: s3://corpus/in/a.jsonl: it is LZ4 data, which is not read"]),
        (b"", []),
        (b"\n \r\n", []),
    ],
)
async def test_what_is_wrong_is_said_once(data: bytes, found: list[str]) -> None:
    got = told(await planned(data))
    assert len(got) == len(found), got
    assert all(one.startswith(begin) for one, begin in zip(got, found, strict=True)), got


async def test_no_bytes_are_no_rows() -> None:
    for name in ("a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz"):
        found = await planned(b"", name)
        assert [each.is_planned for each in found] == ([] if "jsonl" in name else [False])
        assert await planned(gzipped(b""), name, format="jsonl") == []


@pytest.mark.parametrize(("pack", "name"), [(bz2.compress, "bzip2"), (lzma.compress, "xz"), (gzip.compress, "gzip")])
async def test_what_is_cut_off_says_so(pack: Any, name: str) -> None:
    rows = b"".join(b'{"text": "%d"}\n' % n for n in range(3))
    *before, last = told(await planned(pack(rows) + pack(rows)[:-9]))
    assert before[:3] == ["0", "1", "2"] and last.startswith(f"{OBJECT} its {name} stream ends too early")


async def test_numbers_of_fields_are_exact() -> None:
    data = b'{"text": "a", "n": 123456789012345678901234567890, "f": [1.5, -99999999999999999999]'
    data += b', "x": Infinity, "y": NaN}'
    (found,) = await planned(data, keep=["n", "f", "x", "y"])
    assert json.loads(found.row or "") == {
        "n": "123456789012345678901234567890",
        "f": [1.5, "-99999999999999999999"],
        "x": "Infinity",
        "y": None,
    }
    rows = await planned(b'{"id": 123456789012345678901234567890, "text": "a"}', id_field="id")
    assert rows[0].document_id == "in/a.jsonl#123456789012345678901234567890"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        (7, "7"),
        (7.0, "7"),
        (-0.0, "0"),
        (1.5, "1.5"),
        (2.0**53, "9007199254740992"),
        (1e300, "1e+300"),
        (Decimal("12345678901234567890123456789012345678"), "12345678901234567890123456789012345678"),
        (Decimal("7.00"), "7"),
        (Decimal("-0.0"), "0"),
        (Decimal("1E+3"), "1000"),
        (Decimal("100"), "100"),
        (Decimal("12.50"), "12.5"),
        (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (b"key-1", "key-1"),
        (b"\x00\xff", "00ff"),
        (b"a\n", "610a"),
        (date(2026, 1, 2), "2026-01-02"),
        (datetime(2026, 1, 2, 3, tzinfo=UTC), "2026-01-02T03:00:00+00:00"),
        (True, None),
        (None, None),
        (float("nan"), None),
        (float("inf"), None),
        ([1], None),
        ({"a": 1}, None),
    ],
)
def test_ids_of_any_scalar_type(value: object, text: str | None) -> None:
    assert id_text(value) == text


@pytest.mark.parametrize(
    ("column", "ids"),
    [
        (pa.array([1.0, 2.0]), ["1", "2"]),
        (pa.array([1.0, 2.0], pa.float32()), ["1", "2"]),
        (pa.array([2**64 - 1, 1], pa.uint64()), ["18446744073709551615", "1"]),
        (pa.array([Decimal(1), Decimal(2)], pa.decimal128(38, 0)), ["1", "2"]),
        (pa.array([Decimal(1), Decimal(2)], pa.decimal256(60, 10)), ["1", "2"]),
        (pa.array([b"\0" * 15 + b"\7", b"a" * 16], pa.binary(16)), [str(UUID(int=7)), str(UUID(bytes=b"a" * 16))]),
        (pa.array([b"k1", b"k2"], pa.binary()), ["k1", "k2"]),
        (pa.array(["k1", "k2"]).dictionary_encode(), ["k1", "k2"]),
        (pa.array(["k1", "k2"], pa.string_view()), ["k1", "k2"]),
        (pa.array([date(2026, 1, 2), date(2026, 1, 3)]), ["2026-01-02", "2026-01-03"]),
        (pa.array([1, 2], pa.timestamp("ms")), ["1970-01-01T00:00:00.001000", "1970-01-01T00:00:00.002000"]),
    ],
)
@pytest.mark.parametrize("store_schema", [True, False])
async def test_ids_of_columns(column: Any, ids: list[str], store_schema: bool) -> None:
    data = table({"text": ["a", "b"], "id": column}, store_schema=store_schema)
    found = await planned(data, "a.parquet", id_field="id")
    assert [each.document_id for each in found] == [f"in/a.parquet#{each}" for each in ids]


@pytest.mark.parametrize(
    ("column", "found"),
    [
        (pa.array([b"hello", "Größe".encode(), b"\xff"], pa.binary()), ["hello", "Größe", "bad_row: row 3: its f"]),
        (pa.array([b"a"], pa.large_binary()), ["a"]),
        (pa.array([b"a", b"a"], pa.binary()).dictionary_encode(), ["a", "a"]),
        (pa.array(["a"], pa.large_string()), ["a"]),
        (pa.array(["a"], pa.string_view()), ["a"]),
        (pa.array(['{"a": 1}'], pa.json_()), ['{"a": 1}']),
        (pa.nulls(1), ["bad_row: row 1: its field 'text' is null, not a text"]),
        (pa.array([["a"]]), [f"{TABLE} its column 'text' (source.text_field) holds list"]),
        (pa.array([{"a": "b"}]), [f"{TABLE} its column 'text' (source.text_field) holds struct"]),
    ],
)
async def test_text_columns_of_any_writer(column: Any, found: list[str]) -> None:
    got = told(await planned(table({"text": column}), "a.parquet"))
    assert len(got) == len(found) and all(one.startswith(begin) for one, begin in zip(got, found, strict=True)), got


def test_folders_name_fields() -> None:
    assert folder_fields("t/dt=2026-01-01/city=K%C3%B6ln%2F1/h=__HIVE_DEFAULT_PARTITION__/x=y.parquet") == {
        "dt": "2026-01-01",
        "city": "Köln/1",
        "h": None,
    }
    assert folder_fields("a/=b/c.jsonl") == {}


@pytest.mark.parametrize("name", ["dt=2026-01-01/lang=de/a.jsonl", "dt=2026-01-01/lang=de/a.parquet"])
async def test_rows_have_the_columns_of_their_folders(name: str) -> None:
    rows = [{"text": "own", "lang": "en"}, {"text": "folder's"}]
    data = "\n".join(map(json.dumps, rows)).encode()
    if name.endswith(".parquet"):
        data = table({"text": ["own"], "lang": ["en"]})
    found = await planned(data, name, prompt="{{ row.dt }} {{ row.lang }} {{ text }}")
    fields = [json.loads(each.row or "") for each in found]
    assert fields[0] == {"dt": "2026-01-01", "lang": "en"}
    assert fields[1:] in ([], [{"dt": "2026-01-01", "lang": "de"}])
    (by_id, *_) = await planned(data, name, id_field="dt")
    assert by_id.document_id == f"in/{name}#2026-01-01"


OBJECTS = st.lists(
    st.dictionaries(
        st.sampled_from(["text", "a", 'q"{']),
        st.one_of(st.text(alphabet='ab{}[]"\\,\n😀', max_size=8), st.lists(st.integers(), max_size=2)),
        max_size=3,
    ),
    max_size=5,
)


@given(OBJECTS, st.sampled_from(["", " ", ",", "\n", "\r", "\x1e"]), st.booleans(), st.integers(1, 9), st.booleans())
def test_objects_are_cut_wherever_pieces_end(
    found: list[dict[str, Any]], between: str, in_array: bool, size: int, pretty: bool
) -> None:
    texts = [json.dumps(each, indent=1 if pretty else None, ensure_ascii=False).encode() for each in found]
    data = (between if not in_array else ",").encode().join(texts)
    data = b"[" + data + b"]" if in_array else data
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert [each.data for each in values(iter(pieces), 10_000)] == texts
    long = list(values(iter(pieces), 20))
    assert [each.data for each in long] == [text if len(text) <= 20 else None for text in texts]
    assert [each.size for each in long] == [0 if len(text) <= 20 else len(text) for text in texts]
    assert all(end_of_value(text, 0) == len(text) for text in texts)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([b"", b"\n", b"\r", b",", b"\n\n"]),
    st.sampled_from(["", "gzip", "utf-16", "array"]),
    st.integers(1, 3),
    st.integers(1, 2),
    st.booleans(),
)
async def test_shards_end_between_any_two_objects(
    between: bytes, written: str, documents: int, partitions: int, pretty: bool
) -> None:
    """Also within a line: none is planned twice, none is left out, whoever goes on."""
    texts = [f"row {n}" for n in range(9)] + ["x" * 300, "row 0"]
    rows = [json.dumps({"text": text}).encode() for text in texts]
    data = between.join(rows[:6]) + b"\n" + between.join(rows[6:])
    if pretty:
        inner = [{"a": 1}, {"b": 2}]
        data += b"\n{broken\n" + rows[0] + b"\n" + json.dumps({"text": "over lines", "of": inner}, indent=1).encode()
        data += b'\n{\n"text": "over lines",\n"of": [\n{"a":1},{"b":2}\n]}\n{\n' + rows[1] + b'\n{"cut": [\n'
    if written == "array":
        data = b"[" + b",".join(rows) + b"]"
    elif written == "gzip":
        data = gzipped(data)
    elif written == "utf-16":
        data = data.decode().encode("utf-16")
    memory = MemoryStorage()
    memory.objects["in/a.jsonl"] = data
    of = job(documents=documents, max_document_bytes=250)
    whole = await plan(memory, of)
    for anew in (False, True):
        found = await plan(memory, of, partitions=partitions, anew=anew)
        assert [each.document_id for each in found] == [each.document_id for each in whole]
    if pretty and written != "array":
        assert [each.content for each in whole][-7:] == [None, "row 0", "over lines", "over lines", None, "row 1", None]
    elif written == "array" or between in (b"\n", b"\n\n"):
        assert [each.content for each in whole] == [text if len(text) < 250 else None for text in texts]
