"""The source's listing: keys exactly as S3 has them, errors by class, and which keys can be asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import boto3
import obstore
import pytest
from moto.server import ThreadedMotoServer
from obstore.store import MemoryStore

from batch.client.checks import CheckFailed, check_source
from batch.job.job import Job
from batch.storage.buckets import Buckets
from batch.storage.errors import BucketMissing, ObjectMissing, StorageUnreachable
from batch.storage.listing import ObjectEntry, is_addressable
from batch.storage.store import Storage
from tests.jobs import job

X = f'"{hashlib.md5(b"x").hexdigest()}"'
KEYS = ["/a", "a/./b.txt", "a//b.txt", "p/", "p/sub-1.txt", "p/sub/", "p/sub/a.txt", "ü b+c%20.txt"]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    settings = {"AWS_ENDPOINT_URL_S3": f"http://{host}:{port}", "AWS_REGION": "us-east-1", "NO_PROXY": "*"}
    for name, value in {**settings, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=settings["AWS_ENDPOINT_URL_S3"], region_name="us-east-1")
    client.create_bucket(Bucket="keys")
    for key in KEYS:
        client.put_object(Bucket="keys", Key=key, Body=b"x")
    yield "keys"
    server.stop()


async def listed(storage: Storage, bucket: str, prefix: str = "", after: str = "") -> list[str]:
    return [e.key async for page in storage.source_pages(bucket, prefix, after=after) for e in page]


async def test_keys_are_what_s3_has_and_a_listing_goes_on_after_each(bucket: str) -> None:
    storage = Storage()
    assert await listed(storage, bucket) == KEYS
    for position, key in enumerate(KEYS):
        assert await listed(storage, bucket, after=key) == KEYS[position + 1 :], key
    assert await listed(storage, bucket, "p/") == KEYS[3:7]


async def test_a_missing_bucket_and_an_absent_server(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BucketMissing, match=r"list s3://none/: there is no bucket 'none' at http://"):
        await listed(Storage(), "none")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    with pytest.raises(StorageUnreachable, match=r"no usable answer from http://127\.0\.0\.1:1 \(AWS_ENDPOINT_URL_S3"):
        await listed(Storage(), "keys")


async def test_a_burst_gives_what_it_can_whatever_else_is_asked_for(bucket: str) -> None:
    """More than may be under way at once, twice: whatever fails gives its place back."""
    storage = Storage(concurrency=2)
    wanted = ["p/sub-1.txt", "a//b.txt", "gone", "a/./b.txt", "ü b+c%20.txt", "p/sub/a.txt"]
    for most, found in ((1, b"x"), (0, None)):
        assert await storage.get_many(bucket, [ObjectEntry(key, 1, X) for key in wanted], max_bytes=most) == [
            found, None, None, None, found, found
        ]  # fmt: skip
    others = [ObjectEntry("p/sub-1.txt", 1, '"another"'), ObjectEntry("p/sub/a.txt", 2, X)]
    assert await storage.get_many(bucket, [*others, ObjectEntry("p/sub/a.txt", 1, X)], max_bytes=1) == [
        None,
        None,
        b"x",
    ]
    assert await storage.get(bucket, "p/sub-1.txt") == b"x"


async def test_a_missing_bucket_is_no_missing_object_whatever_its_name(bucket: str) -> None:
    with pytest.raises(BucketMissing):
        await Storage().get("none", "a")
    with pytest.raises(ObjectMissing):
        await Storage().get(bucket, "about/NoSuchBucket.txt")


async def test_a_prefix_with_its_marker_alone_holds_no_document(bucket: str) -> None:
    boto3.client("s3", endpoint_url=Buckets(None).resolve()["endpoint"]).put_object(
        Bucket=bucket, Key="only/", Body=b""
    )
    with pytest.raises(CheckFailed, match="none of the 1 objects under s3://keys/only/ is a document"):
        await check_source(Storage(), Job.parse(job(source__uri="s3://keys/only/")))
    await check_source(Storage(), Job.parse(job(source__uri="s3://keys/p/")))


@pytest.mark.parametrize(
    "key", [*KEYS, "a/", "..", "a/..", "../a", "a/..b", "...", ".hidden/x", "a\nb", "a\x7fb", "a\tb", "a\\b", "//"]
)
def test_addressable_is_just_what_obstore_takes(key: str) -> None:
    store = MemoryStore()
    try:
        obstore.put(store, key, b"x")
        takes = [str(meta["path"]) for page in obstore.list(store) for meta in page] == [key]
    except ValueError:
        takes = False
    assert is_addressable(key) is takes
