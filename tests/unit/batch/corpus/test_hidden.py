"""What is no document by the rules of others: left out of every shard once, told by its rule, and taken if wished."""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch.client.checks import CheckFailed, SourceEmpty, check_source
from batch.corpus.hidden import HIDDEN_ROWS, Selection, hidden_by
from batch.corpus.planning import PlanFooter
from batch.job.formats import kind_of
from batch.job.prefixes import Prefixes
from batch.job.source import Source
from batch.previews.sample import named_documents, sample_of_source, spread_over_source
from batch.storage.store import ObjectArchived, ObjectEntry, ObjectMissing, StorageRefused
from tests.memory_storage import MemoryStorage
from tests.unit.batch.corpus.listings import listed, memory_of
from tests.unit.workers.sources.row_corpus import LAYOUT, job, parquet, plan
from workers.plan.planner import REFUSALS

gzipped = partial(gzip.compress, mtime=0)
"""The same bytes in each process: they are part of a test's name."""


def source(**more: Any) -> Source:
    return Source(uri="s3://corpus/in/", **more)


def footers(memory: MemoryStorage) -> list[PlanFooter]:
    """Of the plan that stands."""
    found: list[PlanFooter] = []
    while (key := LAYOUT.plan(len(found))) in memory.objects:
        metadata = pq.read_metadata(io.BytesIO(memory.objects[key])).metadata
        found.append(PlanFooter.from_metadata(metadata))
    return found


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("t/_SUCCESS", "job markers"),
        ("_SUCCESS", "job markers"),
        ("t/_committed_7391873", "job markers"),
        ("t/_started_7391873", "job markers"),
        ("t/_metadata", "job markers"),
        ("t/_common_metadata", "job markers"),
        ("t/.part-00000.snappy.parquet.crc", "checksums"),
        ("t/_SUCCESS.crc", "checksums"),
        ("t/_temporary/0/part-0.parquet", "temporary files"),
        ("t/.spark-staging-1f/x=1/part-0.parquet", "temporary files"),
        ("t/.hive-staging_hive_2026/part", "temporary files"),
        ("t/part-0.txt._COPYING_", "temporary files"),
        ("t/_delta_log/00000000000000000000.json", "table logs"),
        ("t/_delta_log/_last_checkpoint", "table logs"),
        ("t/_delta_log/00000000000000000010.checkpoint.parquet", "table logs"),
        ("t/_change_data/cdc-0.parquet", "table logs"),
        ("t/.hoodie/20260101.commit", "table logs"),
        ("t/metadata/00001-6f1c.metadata.json", "table logs"),
        ("t/metadata/v2.metadata.json", "table logs"),
        ("t/metadata/v1.gz.metadata.json", "table logs"),
        ("t/metadata/snap-123-1-6f1c.avro", "table logs"),
        ("t/metadata/6f1c-m0.avro", "table logs"),
        ("t/metadata/version-hint.text", "table logs"),
        ("t/deletion_vector_0f6d2c14-6f1c-4a53-9a0e-3b8f6c9d1e2f.bin", "table logs"),
        ("t/day=1/.hoodie_partition_metadata", "table logs"),
        ("t/.f1-0_20260101.log.1_0-1-0", "table logs"),
        ("$RECYCLE.BIN/a.txt", "system files"),
        ("t_$folder$", "folder markers"),
        ("t/.DS_Store", "system files"),
        ("t/._photo.jpg", "system files"),
        ("t/Thumbs.db", "system files"),
        ("t/desktop.ini", "system files"),
        ("__MACOSX/a.txt", "system files"),
        ("t/_old/part-0.parquet", HIDDEN_ROWS),
        ("t/.part-0.jsonl", HIDDEN_ROWS),
        ("t/_col=1/part-0.parquet", None),
        ("t/part_0.parquet", None),
        ("_posts/2026-01-01-hello.md", None),
        ("docs/_index.md", None),
        (".github/README.md", None),
        ("metadata/letter.json", None),
        ("metadata/a.txt", None),
        ("my_SUCCESS", None),
        ("_SUCCESS/a.txt", None),
        ("_committed.txt", None),
        ("t/a.crc", None),
        ("plain", None),
    ],
)
def test_names_that_others_call_no_document(name: str, rule: str | None) -> None:
    assert hidden_by(source())(name) == rule
    selects = Selection(source())
    assert (selects(f"in/{name}"), selects.left_out_by(f"in/{name}")) == (rule is None, rule)
    for taking in (source(hidden=True), source(format="object")):
        assert hidden_by(taking)(name) is None and Selection(taking)(f"in/{name}")


def test_a_name_before_the_prefix_hides_nothing() -> None:
    assert Selection(Source(uri="s3://corpus/_archive/"))("_archive/a.parquet")
    assert Selection(source(include=["*.txt"])).left_out_by("in/_SUCCESS") is None, "the globs left it out"


NAMES = st.sampled_from(["_SUCCESS", ".DS_Store", "a.txt", "b.txt", "c.jsonl"])


@given(st.lists(NAMES, max_size=12), st.integers(1, 4))
@settings(deadline=None, max_examples=25)
async def test_each_is_told_once_wherever_shards_end(names: list[str], documents: int) -> None:
    memory = MemoryStorage()
    for number, name in enumerate(names):
        memory.objects[f"in/{number:02d}/{name}"] = b'{"text": "a"}\n{"text": "b"}\n' if name == "c.jsonl" else b"text"
    expected = {"job markers": names.count("_SUCCESS"), "system files": names.count(".DS_Store")}
    for partitions in (1, 1000):
        found = await plan(memory, job(documents=documents), partitions=partitions, anew=True)
        assert len(found) == len(names) - sum(expected.values()) + names.count("c.jsonl")
        told = Counter[str]()
        for footer in footers(memory):
            told.update(footer.left_out)
        assert told == Counter({rule: count for rule, count in expected.items() if count})


async def test_what_is_left_out_is_told_before_a_run() -> None:
    memory = memory_of(["in/t/_SUCCESS", "in/t/_delta_log/0.json"])
    storage = memory
    with pytest.raises(SourceEmpty, match=r"left out are 1 job markers, 1 table logs\. source\.hidden: true"):
        await check_source(storage, job())
    await check_source(storage, job(hidden=True))
    with pytest.raises(CheckFailed, match=r"'in/t/_SUCCESS' is left out as one of job markers; source\.hidden"):
        await named_documents(storage, job(), ["in/t/_SUCCESS"])
    memory.objects["in/a.txt"] = b"text"
    corpus = await sample_of_source(storage, job(), 10)
    assert (corpus.documents, corpus.left_out) == (1, {"job markers": 1, "table logs": 1})


@pytest.mark.parametrize(
    ("pattern", "keys", "others"),
    [
        ("**/*.txt", ["a.txt", "B.TXT", "x/c.Txt"], ["a.txt.bak", "txt"]),
        ("*.{pdf,docx}", ["a.PDF", "b.DocX"], ["a.doc"]),
        ("**/*.tar.gz", ["A.TAR.GZ"], ["a.tar"]),
        ("reports/*.csv", ["reports/A.CSV"], ["Reports/a.csv"]),
        ("{a.txt,b/*.md}", ["a.TXT", "b/c.MD"], ["A.txt"]),
        ("*.[tT]xt", ["a.txt"], ["a.md"]),
    ],
)
def test_endings_match_in_any_case(pattern: str, keys: list[str], others: list[str]) -> None:
    include, exclude = Selection(source(include=[pattern])), Selection(source(exclude=[pattern]))
    assert all(include(f"in/{key}") and not exclude(f"in/{key}") for key in keys)
    assert not any(include(f"in/{key}") or not exclude(f"in/{key}") for key in others)


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (b'{"text": "alpha"}\n{"text": "beta"}\n', ["alpha", "beta"]),
        (b'{"text": "alpha"}{"text": "beta"}', ["alpha", "beta"]),
        (b'{"text": "' + b"x" * 50_000 + b'"}\n{"text": "beta"}\n', ["x" * 50_000, "beta"]),
        (b'{"text": "alpha", "more": [1, 2]}', None),
        (b'{"text": "alpha"}\n', None),
        (b'[{"text": "alpha"}, {"text": "beta"}]', None),
        (json.dumps({"text": "a", "more": list(range(9000))}, indent=1).encode(), None),
        (b'{"text": "alpha"} {', ["alpha", "bro"]),
        (b"{broken", None),
        (b"no JSON", None),
        (b"", None),
    ],
)
@pytest.mark.parametrize("name", ["part-0.json", "PART-0.JSON", "part-0.json.gz"])
async def test_json_lines_are_found_by_content(data: bytes, texts: list[str] | None, name: str) -> None:
    memory = MemoryStorage()
    memory.objects |= {f"in/{name}": gzipped(data) if name.endswith(".gz") else data, "in/z.txt": b"after"}
    found = (await plan(memory, job(), anew=True))[:-1]
    if texts is None:
        assert [(each.document_id, each.is_planned) for each in found] == [(f"in/{name}", False)]
    else:
        assert [each.content or (each.problem or "")[:3] for each in found] == texts
    whole = await plan(memory, job(format="object"))
    assert [each.document_id for each in whole] == [f"in/{name}", "in/z.txt"]
    assert kind_of(source(), name) == "object"


@pytest.mark.parametrize(
    ("failure", "problem"),
    [
        (StorageRefused("access refused"), "object_refused: access refused"),
        (ObjectArchived("restore it"), "archived: restore it"),
        (ObjectMissing("gone"), "object_gone: s3://corpus/in/a.json went before the plan was made of it"),
    ],
    ids=str,
)
async def test_what_may_be_rows_and_cannot_be_looked_into_is_taken_for_no_document(
    failure: Exception, problem: str
) -> None:
    """A refusal may be of a moment: as one document, a thousand rows would have one answer."""
    memory = MemoryStorage()
    memory.objects |= {"in/a.json": b'{"text": "alpha"}\n{"text": "beta"}\n', "in/b.txt": b"readable"}
    read = memory.read_range

    def fail(bucket: str, key: str, *arguments: Any, **named: Any) -> bytes:
        if key == "in/a.json":
            raise failure
        return read(bucket, key, *arguments, **named)

    memory.read_range = fail  # type: ignore[method-assign]
    if isinstance(failure, StorageRefused):
        with pytest.raises(StorageRefused):
            await plan(memory, job())
    found = await plan(memory, job(), attempt=REFUSALS)
    assert [(each.document_id, each.problem) for each in found] == [("in/a.json", problem), ("in/b.txt", None)]


@pytest.mark.parametrize("listed_too", [False, True])
async def test_a_uri_of_an_object_that_is_refused_is_what_the_listing_says(listed_too: bool) -> None:
    """S3 refuses what is not there, too, and a refusal may be of a moment: then nothing may be lost of a run."""
    memory = MemoryStorage()
    memory.objects = {"in/a.txt": b"text"} if listed_too else {"in/a.txt/b.txt": b"text"}

    async def refuse(bucket: str, key: str) -> ObjectEntry | None:
        if key == "in/a.txt":
            raise StorageRefused("access refused")
        return memory.entry(key) if key in memory.objects else None

    async def entry_of(bucket: str, key: str) -> ObjectEntry | None:
        return memory.entry(key) if key in memory.objects else None

    memory.head = refuse  # type: ignore[method-assign]
    memory.listed = entry_of  # type: ignore[attr-defined]
    of = job(uri="s3://corpus/in/a.txt")
    assert await listed(memory, of.source) == list(memory.objects)


OBJECTS = ["in/a.jsonl", "in/a.jsonl.bak", "in/a.jsonl/x.txt", "in/a.jsonl2", "in/b.txt"]


@pytest.mark.parametrize("by_folders", [False, True])
async def test_a_uri_may_be_an_object(by_folders: bool) -> None:
    memory = MemoryStorage(by_folders=by_folders)
    memory.objects = {key: b'{"text": "of %s"}\n' % key.encode() for key in OBJECTS}
    one = job(uri="s3://corpus/in/a.jsonl")
    assert [each.uri for each in await plan(memory, one)] == ["s3://corpus/in/a.jsonl", "s3://corpus/in/a.jsonl/x.txt"]
    assert [each.uri for each in await plan(memory, job(uri="s3://corpus/in/a.jsonl/"))] == [
        "s3://corpus/in/a.jsonl/x.txt"
    ]
    del memory.objects["in/a.jsonl/x.txt"]
    assert [each.content for each in await plan(memory, one)] == ["of in/a.jsonl"]
    storage = memory
    await check_source(storage, one)
    assert [each.document_id for each in (await spread_over_source(storage, one, 5)).documents] == ["in/a.jsonl"]
    assert [each.document_id for each in await named_documents(storage, one, ["in/a.jsonl"])] == ["in/a.jsonl"]
    assert await plan(memory, job(uri="s3://corpus/in/a.jsonl", include=["*.txt"])) == []
    many = job(uri=["s3://corpus/in/b.txt", "s3://corpus/in/a.jsonl.bak", "s3://corpus/in/a.jsonl"], documents=1)
    await check_source(storage, many)
    found = await plan(memory, many, partitions=1, anew=True)
    assert [each.uri.rpartition("/")[2] for each in found] == ["a.jsonl", "a.jsonl.bak", "b.txt"]
    for at, key in enumerate(keys := ["in/a.jsonl", "in/a.jsonl.bak", "in/b.txt"]):
        assert await listed(memory, many.source, after=key) == keys[at + 1 :]
    memory.objects = {"in/t": b"", "in/t/a.txt": b"text"}
    assert [each.document_id for each in await plan(memory, job(uri="s3://corpus/in/t"))] == ["in/t/a.txt"], "a marker"
    with pytest.raises(SourceEmpty, match="there is no object under"):
        await check_source(storage, job(uri=["s3://corpus/in/t", "s3://corpus/in/none.txt"]))
    assert Prefixes.parse(["s3://corpus"]).objects == frozenset()


async def test_a_manifest_may_be_an_inventory() -> None:
    memory = memory_of([f"in/{n}.txt" for n in range(4)])
    memory.objects["in/4.parquet"] = parquet([{"text": "row"}])
    keys = ["in/0.txt", "in/1.txt", "in/1.txt", "in/2.txt", "in/3.txt", "in/_SUCCESS", "in/a/"]
    columns = {
        "bucket": ["corpus"] * 7,
        "key": keys,
        "size": [3] * 7,
        "e_tag": [f"{n:032x}" for n in range(7)],
        "is_latest": [True, True, False, True, False, True, None],
        "is_delete_marker": [False, False, False, None, True, False, False],
        "last_modified_date": [None] * 7,
    }
    for group in (1, 2, 100):
        sink = io.BytesIO()
        pq.write_table(pa.table(columns), sink, row_group_size=group)
        memory.objects["lists/keys.parquet"] = sink.getvalue()
        of = job(manifest="s3://corpus/lists/keys.parquet", documents=1)
        memory.asked.clear()
        found = await plan(memory, of, partitions=2, anew=True)
        assert [(each.document_id, each.etag) for each in found] == [
            (f"in/{n}.txt", f'"{at:032x}"') for n, at in ((0, 0), (1, 1), (2, 3))
        ]
        assert not any(key.startswith("in/") for key in memory.asked), "the inventory says it"
    for data, said in (
        (b'{"files": []}', "it is JSON, as the manifest.json of an S3 inventory"),
        (gzipped(b'"corpus","in/a"'), "it is gzip data, as an S3 inventory in CSV"),
        (b"ORC\x11", "it is an ORC file"),
    ):
        memory.objects["lists/keys.parquet"] = data
        with pytest.raises(CheckFailed, match=said):
            await check_source(memory, of)
    sink = io.BytesIO()
    pq.write_table(pa.table({"key": ["in/2.txt", "in/3.txt", "in/1.txt"], "is_latest": [True, False, True]}), sink)
    memory.objects["lists/keys.parquet"] = sink.getvalue()
    with pytest.raises(CheckFailed, match=r"row 3: the key 'in/1\.txt' comes after 'in/2\.txt'"):
        await check_source(memory, of)
