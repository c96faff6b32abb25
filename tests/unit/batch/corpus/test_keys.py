"""A source of several prefixes, or of a manifest: every key once, in one order, wherever it is cut."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from temporalio.exceptions import ApplicationError

from batch.client.checks import CheckFailed, SourceEmpty, check_source
from batch.corpus import keys as source_keys
from batch.corpus.hidden import Selection
from batch.corpus.key_list import ManifestBroken
from batch.corpus.keys import SourceKeys
from batch.corpus.planning import PlannedDocument
from batch.job.job import Job
from batch.job.prefixes import Prefixes
from batch.job.source import Source
from batch.previews.sample import named_documents, sample_of_source, spread_over_source
from batch.storage.layout import place_of
from batch.storage.store import BucketMissing, StorageRefused
from batch.workflows import contracts as c
from tests.memory_storage import MemoryStorage
from tests.unit.batch.corpus.listings import listed, memory_of
from tests.unit.workers.sources.row_corpus import job, jsonl, parquet, plan, shards
from workers.observe.metrics import Metrics
from workers.plan.planner import REFUSALS
from workers.process.control import RunControl

STEPS = st.sampled_from(["a", "a-", "a.txt", "b", "é", "\U0001f600", "~"])
KEYS = st.lists(STEPS, min_size=1, max_size=3).map("/".join)
FOLDERS = ["a/", "a-/", "a.txt/", "b/a/", "b/a-/", "b/b/", "é/", "~/"]
"""None within another; their orders differ between servers."""


def source_of(prefixes: list[str], **more: Any) -> Source:
    return Source(uri=[f"s3://corpus/{prefix}" for prefix in prefixes], **more)


def test_a_key_lies_under_one_prefix() -> None:
    prefixes = Prefixes.parse([f"s3://corpus/{folder}" for folder in reversed(FOLDERS)])
    for folder in FOLDERS:
        assert prefixes.prefix_of(f"{folder}x/y") == folder
    for other in ("", "a", "a!", "b/x", "b/", "zz", "\U0001f600/"):
        assert prefixes.prefix_of(other) is None
    assert Prefixes.parse(["s3://corpus/"]).prefix_of("a") == ""
    assert str(Prefixes.parse(["s3://b-b/a", "s3://b-b/c", "s3://b-b/b"])) == "s3://b-b/a/ and 2 more"


@given(st.lists(st.sampled_from(FOLDERS), min_size=1, unique=True), st.lists(KEYS, unique=True), st.booleans())
@settings(deadline=None, max_examples=20)
async def test_prefixes_are_listed_as_the_server_would_list_them_all(
    prefixes: list[str], names: list[str], by_folders: bool
) -> None:
    """And from each key on just what follows it."""
    keys = [f"{folder}{name}" for folder in FOLDERS for name in names] + names
    memory, source = memory_of(list(set(keys)), by_folders=by_folders), source_of(prefixes)
    ours = {key for key in keys if any(key.startswith(prefix) for prefix in prefixes)}
    expected = sorted(ours, key=partial(place_of, by_folders=by_folders))
    assert await listed(memory, source) == expected
    for at, key in enumerate(expected):
        assert await listed(memory, source, after=key) == expected[at + 1 :]


def test_globs_go_by_what_follows_the_prefix() -> None:
    source = source_of(["a/x/", "b/"], include=["*.txt", "x/*.md"], exclude=["no*"])
    selects = Selection(source)
    chosen = ["a/x/1.txt", "b/1.txt", "b/x/1.md", "a/x/x/1.md"]
    assert all(map(selects, chosen))
    assert not any(map(selects, ["a/x/y/1.txt", "b/x/1.txt", "b/no.txt", "a/x/1.md", "b/"]))


def named(rows: list[dict[str, Any]], group: int = 100, schema: pa.Schema | None = None) -> bytes:
    return parquet(rows, group=group, schema=schema)


def manifest_job(**more: Any) -> Job:
    return job(manifest="s3://corpus/lists/keys.parquet", **more)


def with_manifest(memory: MemoryStorage, keys: list[str], group: int = 100, **columns: list[Any]) -> None:
    memory.objects["lists/keys.parquet"] = named(
        [{"key": key, **{name: values[at] for name, values in columns.items()}} for at, key in enumerate(keys)], group
    )


@given(st.lists(KEYS, min_size=1, max_size=5, unique=True), st.integers(1, 4), st.integers(1, 5), st.booleans())
@settings(deadline=None, max_examples=10)
async def test_any_shards_plan_each_key_once(
    names: list[str], documents: int, partitions: int, by_folders: bool
) -> None:
    folders = ["a/", "a-/", "b/a/"]
    keys = [f"{folder}{name}" for folder in folders for name in names]
    memory = memory_of(keys, by_folders=by_folders)
    several = job(uri=[f"s3://corpus/{folder}" for folder in folders], documents=documents)
    found = await plan(memory, several, partitions=partitions, anew=True)
    assert [each.document_id for each in found] == sorted(keys, key=partial(place_of, by_folders=by_folders))

    chosen = sorted(keys)[::2]
    with_manifest(memory, chosen, group=3)
    by_manifest = job(uri="s3://corpus/", manifest="s3://corpus/lists/keys.parquet", documents=documents)
    found = await plan(memory, by_manifest, partitions=partitions, anew=True)
    assert [each.document_id for each in found] == chosen


async def test_rows_under_several_prefixes_and_of_a_manifest() -> None:
    memory = memory_of(["in/a/1.txt", "in/b/2.txt"])
    memory.objects["in/a/rows.jsonl"] = jsonl([{"text": f"row {n}"} for n in range(25)])
    memory.objects["in/b/rows.parquet"] = parquet([{"text": f"cell {n}"} for n in range(25)])
    uris = ["s3://corpus/in/b/", "s3://corpus/in/a/"]
    whole = await plan(memory, job(uri=uris))
    assert [each.content for each in whole] == [
        None, *(f"row {n}" for n in range(25)), None, *(f"cell {n}" for n in range(25)),
    ]  # fmt: skip
    assert await plan(memory, job(uri=uris, documents=3), partitions=2, anew=True) == whole
    keys = sorted(key for key in memory.objects if key.startswith("in/"))
    with_manifest(memory, keys, size=[1] * 4, etag=["", *(memory.entry(key).etag for key in keys[1:])])
    memory.asked.clear()
    again = await plan(memory, manifest_job(documents=3), partitions=2, anew=True)
    strip = [(each.document_id, each.etag, each.content) for each in again]
    assert strip == [(each.document_id, each.etag, each.content) for each in whole]
    assert [each.size for each in again if each.content is None] == [len(memory.objects["in/a/1.txt"]), 1]
    assert {"in/a/1.txt", "in/a/rows.jsonl", "in/b/rows.parquet"} < set(memory.asked), "a size that lies cuts no rows"
    assert "in/b/2.txt" not in memory.asked


async def test_what_a_manifest_names_and_is_not_there_is_a_document() -> None:
    memory = memory_of(["in/a.txt", "in/z.txt"])
    memory.objects["in/r.jsonl"] = jsonl([{"text": "r"}])
    keys = ["in/a.txt", "in/gone.jsonl", "in/gone.txt", "in/odd//x.txt", "in/r.jsonl", "in/skip/a.txt", "in/z.txt"]
    unquoted = memory.entry("in/z.txt").etag.strip('"')
    with_manifest(memory, keys, etag=[None, None, None, "e", "another", None, unquoted], size=[None] * 6 + [7])
    found = await plan(memory, manifest_job(exclude=["skip/**"]))
    assert [(each.document_id, each.etag, each.size) for each in found] == [
        ("in/a.txt", memory.entry("in/a.txt").etag, len("text of in/a.txt")),
        ("in/gone.jsonl", "", 0),
        ("in/gone.txt", "", 0),
        ("in/odd//x.txt", '"e"', 0),
        ("in/r.jsonl", '"another"', 0),
        ("in/z.txt", memory.entry("in/z.txt").etag, 7),
    ]
    said = [(each.problem or "").partition(":")[0] for each in found]
    assert said == ["", "object_gone", "", "", "object_changed", ""]
    assert "in/skip/a.txt" not in memory.asked


async def test_what_a_manifest_names_and_may_not_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object is left to who reads it; one of rows is believed to be refused after some attempts."""
    memory = memory_of(["in/a.txt", "in/b.jsonl", "in/c.txt"])
    with_manifest(memory, sorted(memory.objects))
    head = memory.head

    async def refusing(bucket: str, key: str) -> Any:
        if key in ("in/a.txt", "in/b.jsonl"):
            raise StorageRefused("access refused")
        return await head(bucket, key)

    monkeypatch.setattr(memory, "head", refusing)
    with pytest.raises(StorageRefused):
        await plan(memory, manifest_job())
    found = await plan(memory, manifest_job(), attempt=REFUSALS)
    assert [(each.document_id, each.etag, each.problem) for each in found] == [
        ("in/a.txt", "", None),
        ("in/b.jsonl", "", "object_refused: access refused"),
        ("in/c.txt", memory.entry("in/c.txt").etag, None),
    ]

    def listing(error: Exception) -> Any:
        async def pages(*_: Any, **__: Any) -> AsyncIterator[Any]:
            raise error
            yield

        return pages

    monkeypatch.setattr(memory, "source_pages", listing(StorageRefused("may not list")))
    await check_source(memory, manifest_job())
    monkeypatch.setattr(memory, "source_pages", listing(BucketMissing("there is no bucket 'corpus'")))
    with pytest.raises(CheckFailed, match=r"source\.uri: there is no bucket 'corpus'\. Create it, or mend source\.uri"):
        await check_source(memory, manifest_job())


BROKEN: list[tuple[list[Any], str]] = [
    (["in/a", "in/c", "in/b"], "row 3: the key 'in/b' comes after 'in/c'; write the file sorted by the bytes of key"),
    (["in/a", "in/a"], "row 2: the key 'in/a' is there twice; write the file sorted"),
    (["in/a", None], "row 2 has no key"),
    ([""], "row 1 has no key"),
    (["in/a", "on/b"], "row 2: the key 'on/b' does not lie under source.uri s3://corpus/in/"),
    (["in/a\0" + "1,2,0123456789abcdef"], "row 1: the key 'in/a\\x001,2,0123456789abcdef' is none of S3"),
    (["in/" + "é" * 600], "is none of S3: a NUL, or over 1,024 bytes"),
    (["in/\U0001f600", "in/\uffee"], "row 2: the key 'in/\uffee' comes after"),
]


@pytest.mark.parametrize(("keys", "message"), BROKEN)
@pytest.mark.parametrize("group", [1, 100])
async def test_a_manifest_that_is_broken_says_where(keys: list[Any], message: str, group: int) -> None:
    memory = memory_of([key for key in keys if key])
    with_manifest(memory, keys, group)
    with pytest.raises(CheckFailed) as checked:
        await check_source(memory, manifest_job())
    with pytest.raises(ApplicationError) as planned:
        await plan(memory, manifest_job())
    assert planned.value.non_retryable and planned.value.type == "ManifestBroken"
    for error in (checked, planned):
        assert str(error.value).removeprefix("ManifestBroken: ").startswith("source.manifest: s3://corpus/lists/keys.")
        assert message in str(error.value)


@pytest.mark.parametrize("group", [1, 2, 3, 100])
@pytest.mark.parametrize("statistics", [True, False])
async def test_what_breaks_the_order_is_met_wherever_shards_end(group: int, statistics: bool) -> None:
    """Never a key less: also where all that follows comes before the cursor, in row groups of its own."""
    keys = [*(f"in/{n}" for n in range(1, 7)), "in/30", "in/31", "in/8"]
    memory = memory_of(sorted(keys))
    sink = io.BytesIO()
    pq.write_table(pa.table({"key": keys}), sink, row_group_size=group, write_statistics=statistics)
    memory.objects["lists/keys.parquet"] = sink.getvalue()
    for documents in (1, 3, 6):
        found = []
        with pytest.raises(ApplicationError, match="row 7: the key 'in/30' comes after 'in/6'"):
            async for shard in shards(memory, manifest_job(documents=documents), partitions=1, anew=True):
                found += [each.document_id for each in shard]
        assert found == keys[: len(found)] and len(found) <= 6
    for after in ["", *keys[:6]]:
        with pytest.raises(ManifestBroken, match="row 7"):
            await listed(memory, manifest_job().source, after=after)


async def test_a_manifest_is_read_from_where_a_shard_begins() -> None:
    keys = [f"in/{n:06d}" for n in range(20_000)]
    memory = memory_of(["in/000000"])
    etags = [hashlib.md5(key.encode()).hexdigest() for key in keys]
    with_manifest(memory, keys, 1000, size=[1] * len(keys), etag=etags)
    source = manifest_job().source
    assert await listed(memory, source) == keys
    whole = sum(end - start for _, start, end in memory.reads)
    memory.reads.clear()
    assert await listed(memory, source, after=keys[17_500]) == keys[17_501:]
    assert sum(end - start for _, start, end in memory.reads) < whole / 3
    memory.reads.clear()
    pages = SourceKeys(memory, source).documents()
    assert len(await anext(pages)) == 1000
    await pages.aclose()
    assert sum(end - start for _, start, end in memory.reads) < whole / 3, "never more than it has to"
    assert memory.asked == ["lists/keys.parquet"] * 3


@pytest.mark.parametrize("column", [pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()])
async def test_columns_of_other_writers(column: Any) -> None:
    memory = memory_of(["in/a", "in/b"])
    schema = pa.schema([("other", pa.float64()), ("key", column), ("size", pa.uint16()), ("etag", column)])
    table = pa.table([[1.0, 2.0], ["in/a", "in/b"], [5, None], ["e", None]], schema=schema)
    sink = io.BytesIO()
    pq.write_table(table, sink)
    memory.objects["lists/keys.parquet"] = sink.getvalue()
    found = await plan(memory, manifest_job())
    assert [(each.document_id, each.size) for each in found] == [("in/a", 5), ("in/b", len("text of in/b"))]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty, no Parquet file"),
        (b"no parquet at all", "it is no Parquet file that can be read: "),
        (named([{"keys": "in/a"}]), "it has no column 'key'; its columns are keys"),
        (named([{"key": 7}]), "its column 'key' holds int64, not text"),
        (named([{"key": "in/a", "size": "7"}]), "its column 'size' holds string, not integers"),
        (named([{"key": "in/a", "size": -1}]), "row 1: the size of 'in/a' is -1"),
        (named([{"key": "in/a"}])[:-60], "it is no Parquet file that can be read: "),
    ],
)
async def test_what_is_no_manifest(data: bytes, message: str) -> None:
    memory = memory_of(["in/a"])
    memory.objects["lists/keys.parquet"] = data
    with pytest.raises(CheckFailed) as error:
        await check_source(memory, manifest_job())
    assert str(error.value).startswith(f"source.manifest: s3://corpus/lists/keys.parquet: {message}")


async def test_two_versions_of_a_manifest_are_never_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = memory_of([f"in/{n}" for n in range(9)])
    with_manifest(memory, [f"in/{n}" for n in range(5)], 1)
    taken = shards(memory, manifest_job(documents=1), partitions=2)
    assert [each.document_id for each in await anext(taken)] == ["in/0", "in/1"]
    with_manifest(memory, [f"in/{n}" for n in range(9)], 1)
    with pytest.raises(ApplicationError, match=r"keys\.parquet changed while a run was planned by it") as error:
        await anext(taken)
    assert error.value.non_retryable
    # And where it changes while it is read.
    source = manifest_job().source
    pages = SourceKeys(memory, source).named()
    assert [each.key for each in await anext(pages)] == ["in/0"]
    with_manifest(memory, ["in/7"], 1)
    with pytest.raises(ManifestBroken, match="changed while a run"):
        await anext(pages)
    del memory.objects["lists/keys.parquet"]
    claim = c.ClaimInput(run_id="new", job_json=manifest_job().to_json(), execution_run_id="e")
    with pytest.raises(ManifestBroken, match="there is no object s3://corpus/lists/keys"):
        await RunControl(memory, cast(Any, None), cast(Any, None), Metrics()).claim_run(claim)
    with pytest.raises(SourceEmpty, match=r"source\.manifest: there is no object s3://corpus/lists/keys"):
        await check_source(memory, manifest_job())


async def test_a_source_without_a_document_is_told_before_the_run() -> None:
    memory = memory_of(["in/a.txt", "on/b.md"])
    storage = memory
    one_empty = job(uri=["s3://corpus/in/", "s3://corpus/un/"])
    with pytest.raises(SourceEmpty, match=r"source\.uri: there is no object under s3://corpus/un/\. Upload"):
        await check_source(storage, one_empty)
    both = ["s3://corpus/in/", "s3://corpus/on/"]
    await check_source(storage, job(uri=both, include=["*.md"]))
    with pytest.raises(SourceEmpty, match="none of the 2 objects under s3://corpus/in/ and s3://corpus/on/ is a doc"):
        await check_source(storage, job(uri=both, include=["*.pdf"]))
    with_manifest(memory, ["in/a.txt"])
    await check_source(storage, manifest_job())
    with pytest.raises(SourceEmpty, match=r"none of the 1 keys of s3://corpus/lists/keys\.parquet is a docum"):
        await check_source(storage, manifest_job(include=["*.pdf"]))
    memory.objects["lists/keys.parquet"] = named([], schema=pa.schema([("key", pa.string())]))
    with pytest.raises(SourceEmpty, match=r"source\.manifest: s3://corpus/lists/keys\.parquet names no key"):
        await check_source(storage, manifest_job())
    assert await plan(memory, manifest_job()) == []


async def test_previews_pick_from_all_over_a_manifest(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [f"in/{n:04d}.txt" for n in range(1000)]
    memory = memory_of(keys)
    with_manifest(memory, keys, 10)
    storage, of = memory, manifest_job(exclude=["*1.txt"])
    few = await spread_over_source(storage, of, 5)
    assert few.whole and few.listed == 1000 and len(few.documents) == 5
    assert sum(key.startswith("in/") for key in memory.asked) == 5, "only those that were picked"
    assert all(each.etag == memory.entry(each.document_id).etag for each in few.documents)
    monkeypatch.setattr("batch.previews.sample.LISTED", 160)
    few = await spread_over_source(storage, of, 5)
    assert not few.whole and few.listed == 160
    places = [int(each.document_id[3:7]) for each in few.documents]
    assert places == sorted(places) and places[0] < 250 and places[-1] > 750
    assert [each.document_id for each in await named_documents(storage, of, [keys[7]])] == [keys[7]]
    with_manifest(memory, keys[:7], 3)
    for name, message in (
        (keys[7], "source.manifest s3://corpus/lists/keys.parquet does not name it"),
        ("in/0001.txt", "is left out by source.include"),
        ("on/x", "does not lie under source.uri s3://corpus/in/"),
    ):
        with pytest.raises(CheckFailed, match=message):
            await named_documents(storage, of, [name])


async def test_previews_and_estimates_look_under_each_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [f"{folder}/{n:03d}.txt" for folder in ("in", "on", "un") for n in range(100)]
    memory = memory_of([*keys, "at/all.txt"])
    storage, of = memory, job(uri=[f"s3://corpus/{folder}/" for folder in ("un", "on", "in")])
    few = await spread_over_source(storage, of, 6)
    assert few.whole and few.listed == 300
    assert [each.document_id[:2] for each in few.documents] == ["in", "in", "on", "on", "un", "un"]
    monkeypatch.setattr("batch.previews.sample.LISTED", 50)
    few = await spread_over_source(storage, of, 6)
    assert not few.whole and {each.document_id[:2] for each in few.documents} == {"in", "on", "un"}
    assert [each.document_id for each in await named_documents(storage, of, ["s3://corpus/un/007.txt"])] == [keys[207]]

    found = await sample_of_source(storage, of, 10)
    size = len("text of in/000.txt")
    assert (found.documents, found.bytes, sum(each.weight for each in found.sample)) == (300, 300 * size, 300)
    with_manifest(memory, ["in/001.txt", "in/gone.txt", "in/rows.jsonl"])
    found = await sample_of_source(storage, manifest_job(exclude=["*.jsonl"]), 10)
    assert (found.documents, found.bytes) == (2, size)
    with pytest.raises(CheckFailed, match=r"s3://corpus/in/rows\.jsonl holds rows, which an estimate does not count"):
        await sample_of_source(storage, manifest_job(), 10)


async def test_so_many_are_asked_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_keys, "HEADS_AT_ONCE", 3)
    keys = [f"in/{n:02d}" for n in range(20)]
    memory = memory_of(keys)
    with_manifest(memory, keys)
    now = most = 0
    head = memory.head

    async def slow(bucket: str, key: str) -> Any:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1
        return await head(bucket, key)

    monkeypatch.setattr(memory, "head", slow)
    found: list[PlannedDocument] = await plan(memory, manifest_job())
    assert [each.document_id for each in found] == keys and most == 3
