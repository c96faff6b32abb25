"""Stores as others' servers are: each fault is handled, or refused by name; etags are believed as far as proven."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from batch.client.checks import CheckFailed, check_output, check_source
from batch.corpus.planning import UNCHANGED, UNPROVEN, PlannedDocument
from batch.job.job import Job
from batch.storage import buckets, listing_pages
from batch.storage.errors import ListingBroken
from batch.storage.etags import content_hash, is_hash_of, is_proven, proves, quoted, same_form, tells_versions
from batch.storage.output_check import OutputUnfit, _lacking
from batch.storage.store import (
    ObjectArchived,
    ObjectEntry,
    PreconditionFailed,
    Storage,
    StorageRefused,
    StorageUnreachable,
)
from batch.workflows import contracts as c
from tests.jobs import job
from tests.s3_faults import Etag, Faults, FaultyS3, Quirks
from tests.unit.batch.files.states import compared, entry
from workers.extract import Unreadable
from workers.partition.reader import read_planned
from workers.process.control import storage_problem

WORDS = b"The invoice is wrong."


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    with FaultyS3() as running:
        running.bucket("source")
        running.bucket("results")
        settings = {"AWS_ENDPOINT_URL_S3": running.url, "AWS_REGION": "us-east-1", "NO_PROXY": "*"}
        for name, value in {**settings, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}.items():
            monkeypatch.setenv(name, value)
        yield running


def a_job(**source: object) -> Job:
    return Job.parse(job(source={"uri": "s3://source/in/", **source}, output={"uri": "s3://results/out/"}))


async def listed(storage: Storage, after: str = "") -> list[str]:
    return [each.key async for page in storage.source_pages("source", "in/", after=after) for each in page]


async def planned(storage: Storage, key: str = "in/a.txt") -> PlannedDocument:
    found = [each async for page in storage.source_pages("source", key) for each in page]
    return PlannedDocument.of("source", found[0])


# -- listings


@pytest.mark.parametrize(
    "faults",
    [
        Faults(),
        Faults(page=3),
        Faults(page=3, listing="no token"),
        Faults(page=3, listing="says no more"),
        Faults(page=3, listing="version 1"),
        Faults(page=3, listing="no start"),
        Faults(page=3, inclusive=True),
        Faults(page=3, listing="no token", inclusive=True),
        Faults(page=100, listing="no start"),
        Faults(page=3, region="eu-central-1"),
        Faults(page=3, region="eu-central-1", region_status=400),
    ],
    ids=str,
)
async def test_every_key_is_listed_once_from_wherever(server: FaultyS3, faults: Faults) -> None:
    keys = [f"in/{number:02d}.txt" for number in range(10)] + ["in/a/b.txt", "in/a b+c%.txt", "in/é.txt"]
    server.bucket("source", faults)
    for key in keys:
        server.put("source", key, WORDS)
    assert await listed(Storage()) == sorted(keys)
    for number in (0, 2, 5, 12):
        assert await listed(Storage(), sorted(keys)[number]) == sorted(keys)[number + 1 :]


async def test_a_listing_that_goes_in_circles_is_refused_before_a_run(server: FaultyS3) -> None:
    server.bucket("source", Faults(page=2, listing="same token"))
    for number in range(5):
        server.put("source", f"in/{number}.txt", WORDS)
    with pytest.raises(CheckFailed, match=r"source\.uri: list s3://source/in/.* (repeats the token|once more after)"):
        await check_source(Storage(), a_job())


@pytest.mark.parametrize(
    ("faults", "why"),
    [
        (Faults(listing="stands still"), "there is more after .*, and gives nothing"),
        (Faults(listing="empty pages"), "20 pages in a row without a key"),
    ],
    ids=str,
)
async def test_a_listing_that_has_no_end_is_refused(
    server: FaultyS3, faults: Faults, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_pages, "MOST_BARREN", 20)
    server.bucket("source", faults)
    server.put("source", "in/a.txt", WORDS)
    with pytest.raises(ListingBroken, match=why):
        await listed(Storage())


async def test_an_answer_that_is_no_listing_is_no_empty_source(server: FaultyS3) -> None:
    server.bucket("source", Faults(listing="none"))
    server.put("source", "in/a.txt", WORDS)
    with pytest.raises(StorageUnreachable, match="is no listing"):
        await listed(Storage())


# -- where a bucket is, and who pays


@pytest.mark.parametrize("status", [301, 400])
async def test_a_bucket_of_another_region_is_found_and_no_other_is_asked_there(server: FaultyS3, status: int) -> None:
    server.bucket("source", Faults(region="eu-central-1", region_status=status))
    server.put("source", "in/a.txt", WORDS)
    server.put("results", "x", b"x")
    storage = Storage()
    assert await storage.get("source", "in/a.txt") == WORDS
    assert storage.read_range("source", "in/a.txt", 4, 11) == b"invoice"
    assert (await storage.head("source", "in/a.txt")) is not None
    assert await storage.create("source", "in/new", b"new") and server.objects["source"]["in/new"].data == b"new"
    assert await storage.get("results", "x") == b"x"
    assert storage.facts("source").region == "eu-central-1" and not storage.facts("results").region


async def test_requests_say_that_we_pay_where_the_job_says_so(server: FaultyS3) -> None:
    server.bucket("source", Faults(requester_pays=True))
    server.put("source", "in/a.txt", WORDS)
    with pytest.raises(CheckFailed, match=r"requester pays bucket: source\.requester_pays: true"):
        await check_source(Storage(), a_job())
    storage = Storage()
    await check_source(storage, a_job(requester_pays=True))
    assert await storage.get("source", "in/a.txt") == WORDS and await storage.head("source", "in/a.txt") is not None
    assert storage.read_range("source", "in/a.txt", 4, 11) == b"invoice"
    assert a_job(requester_pays=True).fingerprint == a_job().fingerprint


async def test_a_refusal_of_path_style_names_the_setting(server: FaultyS3) -> None:
    server.bucket("source", Faults(path_style_refused=True))
    with pytest.raises(CheckFailed, match="addressing_style = virtual"):
        await check_source(Storage(), a_job())
    with pytest.raises(StorageRefused, match="addressing_style = virtual"):
        await Storage().get("source", "in/a.txt")


# -- reading


@pytest.mark.parametrize(
    ("faults", "quirks"),
    [
        (Faults(), Quirks(header=b'Content-Disposition: attachment; filename="\xc3\x9cbersicht.pdf"')),
        (Faults(), Quirks(header=b'Content-Disposition: attachment; filename="\xdcbersicht.pdf"')),
        (Faults(), Quirks(header=b"x-amz-meta-author: M\xfcller")),
        (Faults(), Quirks(header=b"x-amz-meta-town: \xc3\x85s")),
        (Faults(), Quirks(header=b"Cache-Control: \xe4")),
        (Faults(), Quirks(chunked=True)),
        (Faults(chunked=True, no_ranges=True), Quirks()),
        (Faults(no_ranges=True), Quirks()),
    ],
    ids=str,
)
async def test_an_object_is_read_whatever_its_answer_looks_like(
    server: FaultyS3, faults: Faults, quirks: Quirks
) -> None:
    server.bucket("source", faults)
    server.put("source", "in/a.txt", WORDS, quirks)
    storage = Storage()
    found = await storage.head("source", "in/a.txt")
    assert found is not None and (found.size, found.etag) == (len(WORDS), f'"{hashlib.md5(WORDS).hexdigest()}"')
    assert await storage.get("source", "in/a.txt", max_bytes=100) == WORDS
    assert storage.read_range("source", "in/a.txt", 4, 11, version=found) == b"invoice"
    with storage.reading("source", "in/a.txt") as file:
        file.seek(-6, 2)
        assert file.read() == WORDS[-6:]
    with pytest.raises(PreconditionFailed):
        storage.read_range("source", "in/a.txt", 4, 11, version=found._replace(etag='"another"'))
    with pytest.raises(PreconditionFailed):
        await storage.get("source", "in/a.txt", etag='"another"')


async def test_half_a_body_is_no_object(server: FaultyS3) -> None:
    """Whoever reads it: obstore, or boto3 for a server whose answers obstore does not take."""
    server.put("source", "in/a.txt", WORDS)
    for plain in (False, True):
        server.bucket("source", Faults(flaky=0.5))
        storage = Storage()
        storage.facts("source").plain_reads = plain
        whole = 0
        for _ in range(20):
            try:
                assert await storage.get("source", "in/a.txt") == WORDS
                whole += 1
            except StorageUnreachable:
                pass
        assert whole


async def test_an_archived_object_is_asked_for_once(server: FaultyS3) -> None:
    server.put("source", "in/a.txt", WORDS, Quirks(archived=True))
    server.put("source", "in/b.txt", WORDS)
    wanted = [ObjectEntry(f"in/{name}.txt", len(WORDS), f'"{hashlib.md5(WORDS).hexdigest()}"') for name in "ab"]
    first, second = await Storage().get_many("source", wanted, max_bytes=100)
    assert isinstance(first, ObjectArchived) and second == WORDS
    assert server.counted("GET", "source", lambda each: each.key == "in/a.txt") == 1


# -- etags


def changed(text: bytes) -> Quirks:
    return Quirks(becomes=text)


@pytest.mark.parametrize("etag", ["md5", "constant", "constant-md5", "empty", "weak", "unquoted", "other-in-listing"])
@pytest.mark.parametrize("ignores", [False, True])
async def test_an_object_is_read_as_it_was_listed_whatever_its_etag(
    server: FaultyS3, etag: Etag, ignores: bool
) -> None:
    server.bucket("source", Faults(etag=etag, no_if_match=ignores))
    server.put("source", "in/a.txt", WORDS)
    storage = Storage()
    document = await planned(storage)
    for _ in range(2):
        assert (await read_planned(storage, document, limit=1000))[0] == WORDS


@pytest.mark.parametrize("etag", ["md5", "weak", "unquoted", "other-in-listing", "constant", "empty"])
@pytest.mark.parametrize("ignores", [False, True])
async def test_another_version_is_no_answer_for_the_listed_one(server: FaultyS3, etag: Etag, ignores: bool) -> None:
    server.bucket("source", Faults(etag=etag, no_if_match=ignores))
    server.put("source", "in/a.txt", WORDS, Quirks(becomes=b"Another version, of another size."))
    server.put("source", "in/b.txt", WORDS, Quirks(becomes=WORDS.replace(b"wrong", b"right")))
    storage = Storage()
    with pytest.raises(Unreadable) as error:
        await read_planned(storage, await planned(storage), limit=1000)
    assert error.value.error_type == "source_changed"
    if etag in ("md5", "weak", "unquoted"):
        with pytest.raises(Unreadable, match="changed after it was listed"):
            await read_planned(storage, await planned(storage, "in/b.txt"), limit=1000)


async def test_a_size_that_a_listing_makes_up_is_told_from_another_version(server: FaultyS3) -> None:
    server.put("source", "in/a.txt", WORDS, Quirks(listed_size=3))
    server.put("source", "in/b.txt", WORDS, Quirks(listed_size=3, etag="constant"))
    storage = Storage()
    assert (await read_planned(storage, await planned(storage), limit=1000))[0] == WORDS
    with pytest.raises(Unreadable, match=r"is listed with 3 bytes .* which version this is cannot be told"):
        await read_planned(storage, await planned(storage, "in/b.txt"), limit=1000)


async def test_an_etag_without_quotes_is_the_one_with_them(server: FaultyS3) -> None:
    """`rclone serve s3` lists so. A rerun notes the etag of a GET, which the next night holds against its listing."""
    server.bucket("source", Faults(etag="unquoted"))
    server.put("source", "in/a.txt", WORDS)
    storage = Storage()
    found = await storage.get_entry("source", "in/a.txt")
    assert found is not None and found[1].etag == (await planned(storage)).etag == f'"{hashlib.md5(WORDS).hexdigest()}"'


def test_what_an_etag_proves() -> None:
    md5 = hashlib.md5(WORDS).hexdigest()
    assert proves(md5, WORDS) and proves(f'"{md5}"', WORDS) and not proves(f'W/"{md5}"', WORDS)
    assert not proves(f'"{md5}-1"', WORDS) and not proves("", WORDS) and not proves(f'"{md5}"', b"other")
    assert content_hash(WORDS, f'"{md5}"') == md5 and is_proven(f'"{md5}"', md5)
    other = content_hash(WORDS, f'"{"0" * 32}"')
    assert other == hashlib.sha256(WORDS).hexdigest()[:32] and not is_proven(f'"{"0" * 32}"', other)
    assert all(is_hash_of(each, WORDS) and not is_hash_of(each, b"") for each in (md5, other))
    assert [quoted(each) for each in ("a", '"a"', 'W/"a"', "")] == ['"a"', '"a"', 'W/"a"', ""]
    assert same_form(f'"{md5}"', "0" * 32) and not same_form(f'"{md5}"', '"0x8D0123"')
    assert tells_versions(f'"{md5}-2"') and not any(map(tells_versions, ("", f'"{"0" * 32}-1"', f'W/"{md5}"')))


def test_the_same_etag_is_unchanged_only_where_it_is_proven() -> None:
    known = entry("a")
    document = PlannedDocument("a", "s3://b/a", known.etag, 1)

    def reason(entry_: object, of: PlannedDocument, **how: bool) -> str | None:
        return compared([entry_], **how).judge(of).reason  # type: ignore[list-item]

    assert reason(known, document) == UNCHANGED
    for hashed in (None, "h"):
        unproven = compared([known._replace(content_hash=hashed)]).judge(document)
        assert (unproven.reason, unproven.previous, unproven.content_hash) == (UNPROVEN, known.result, hashed)
    for etag in ("", f'"{"0" * 32}-1"', f'W/"{known.etag}"'):
        assert reason(known._replace(etag=etag), replace(document, etag=etag)) == UNPROVEN
    row = replace(document, etag="hash", content="text")
    assert reason(known._replace(etag="hash"), row) == UNCHANGED, "of a row it is the hash of what it holds"


# -- outputs


@pytest.mark.parametrize(
    ("faults", "why"),
    [
        (Faults(conditional_put="ignored"), "overwritten in spite of If-None-Match"),
        (Faults(conditional_put="create only"), "overwritten in spite of If-Match with another etag"),
        (Faults(conditional_put="not implemented"), r"conditional PUT \(If-None-Match, If-Match\) is refused"),
        (Faults(etag="constant"), "objects of other content have the same etag"),
        (Faults(etag="constant-md5"), "overwritten in spite of If-Match|have the same etag"),
        (Faults(etag="of-the-key"), "objects of other content have the same etag"),
        (Faults(etag="empty"), "objects have no etag"),
    ],
    ids=str,
)
async def test_an_output_without_compare_and_set_is_refused_by_name(server: FaultyS3, faults: Faults, why: str) -> None:
    server.bucket("results", faults)
    with pytest.raises(CheckFailed, match=rf"output\.uri: .*{why}"):
        await check_output(Storage(), a_job())
    assert server.objects["results"] == {}


@pytest.mark.parametrize("faults", [Faults(), Faults(no_bulk_delete=True), Faults(etag="weak"), Faults(no_ranges=True)])
async def test_an_output_that_does_is_left_clean(server: FaultyS3, faults: Faults) -> None:
    server.bucket("results", faults)
    storage = Storage()
    await check_output(storage, a_job())
    assert server.objects["results"] == {}
    assert storage.facts("results").single_deletes == faults.no_bulk_delete


@pytest.mark.parametrize(
    ("said", "lacks"),
    [
        ("put s3://b/.docbatch-write-probe-4005014050ab/1: 503 Slow Down", False),
        ("put s3://b/.docbatch-write-probe-0123456789ab/1: status code: 501 Not Implemented", True),
        ("put s3://b/x/1: status code: 400 Bad Request", True),
    ],
)
def test_what_a_key_has_of_digits_says_nothing_of_a_server(said: str, lacks: bool) -> None:
    assert isinstance(_lacking("b", StorageUnreachable(said)), OutputUnfit) == lacks


@pytest.mark.parametrize("away", [1, 3])
async def test_a_source_answers_again_although_one_document_does_not(
    server: FaultyS3, away: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "RETRIES", {"max_retries": 0, "retry_timeout": timedelta(seconds=1)})
    for number in range(3):
        server.put("source", f"in/{number}.txt", WORDS, Quirks(away=number < away))
    problem = await storage_problem(Storage(), a_job(), c.RunRef("r", "s3://results/out/"))
    assert bool(problem) == (away == 3)
