"""The source's listing: every object with its key exactly as S3 has it.

By boto3, not obstore, which strips slashes at a key's ends (a folder marker `a/b/` becomes the object `a/b`, and a
listing cannot go on after it) and fails a whole listing because of one key such as `a//b`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import unquote_plus
from xml.sax.saxutils import unescape

from batch.storage.bucket_facts import BucketFacts, is_misplaced
from batch.storage.errors import BucketMissing, StorageError, StorageRefused, StorageUnreachable
from batch.storage.etags import quoted

PAGE = 1000
"""Objects that S3 gives at once, at most."""
_UNADDRESSABLE = re.compile(r"^/|//|/$|(?:^|/)\.\.?(?:/|$)|[\x00-\x1f\x7f]")


class ObjectEntry(NamedTuple):
    """One object of a listing. `size` in bytes; `etag` with its quotes, as S3 gives it: some servers leave them out.

    `problem` (`TYPE: message`) says why the rows of an object that a manifest names are not to be had. `modified`: when
    it was written, in seconds since 1970, where an answer for the object itself says so; else 0.
    """

    key: str
    size: int
    etag: str
    problem: str | None = None
    modified: float = 0.0


def is_addressable(key: str) -> bool:
    """Whether obstore can ask for the object: no empty, `.` or `..` step, no control character."""
    return _UNADDRESSABLE.search(key) is None


class Position(NamedTuple):
    """Where a page begins: at the token that the server gave, or after the key `after`.

    `last` is the last key that was listed before, which no page may have again; `skip` the one up to which keys are
    left out, where the server cannot start after it. `barren`: how many pages before it had no key.
    """

    after: str = ""
    token: str | None = None
    last: str = ""
    skip: str = ""
    barren: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """Up to 1,000 objects of a listing, and where the next page begins; None: there is none.

    `by_key`: the server is known to list in the order of the keys' bytes, and none before the key that it starts after.
    """

    entries: list[ObjectEntry]
    next: Position | None
    by_key: bool


class Answer(NamedTuple):
    """One answer as the server gives it. `truncated`: it says that there is more."""

    entries: list[ObjectEntry]
    token: str | None
    truncated: bool
    by_key: bool


def ask_page(
    client: Any,
    bucket: str,
    prefix: str,
    *,
    after: str = "",
    token: str | None = None,
    where: str,
    most: int = PAGE,
    by_marker: bool = False,
    pays: bool = False,
) -> Answer:
    """One page of at most `most` objects. `by_marker`: by version 1 of the request. Blocking: for threads."""
    from botocore.exceptions import BotoCoreError, ClientError

    options: dict[str, Any] = {"RequestPayer": "requester"} if pays else {}
    try:
        if by_marker:
            page = client.list_objects(Bucket=bucket, Prefix=prefix, MaxKeys=most, Marker=after, **options)
        else:
            position = {"ContinuationToken": token} if token else {"StartAfter": after} if after else {}
            page = client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=most, **position, **options)
    except (BotoCoreError, ClientError, ValueError) as error:
        raise explain(error, bucket, prefix, where) from None
    if page.keys().isdisjoint(_OF_LISTING):
        raise StorageUnreachable(f"list s3://{bucket}/{prefix}: the answer of {where} is no listing")
    entries = page.get(_ENTRIES)
    if entries is None:
        contents = page.get("Contents", ())
        entries = [ObjectEntry(item["Key"], int(item["Size"]), quoted(item.get("ETag") or "")) for item in contents]
    # Of directory buckets AWS says that they list in no order.
    by_key = page["ResponseMetadata"]["HTTPHeaders"].get("server") == "AmazonS3" and not bucket.endswith("--x-s3")
    return Answer(entries, page.get("NextContinuationToken") or None, bool(page.get("IsTruncated")), by_key)


_OF_LISTING = frozenset(("Name", "Prefix", "MaxKeys", "KeyCount", "IsTruncated", "Contents"))
"""What an answer has at least one of that is a listing: not an empty body, nor a proxy's page."""


def read_quickly(client: Any) -> None:
    """Makes a boto3 client read a listing's objects in a tenth of the time: just their key, size and etag.

    botocore parses the whole body twice, and makes a dict of every element, by the service's model. It still reads all
    the rest of the answer, errors among it, and the objects too where they are not written in the plain way of S3.
    """
    # The wildcard makes this the first of all handlers: one of botocore's parses the body to look for an error in it.
    client.meta.events.register_first("before-parse.*.ListObjectsV2", _take_entries)


_ENTRIES = "docbatch.Entries"
_KEYS, _SIZES, _ETAGS = (re.compile(rb"<%b>([^<]*)</%b>" % (name, name)) for name in (b"Key", b"Size", b"ETag"))
_END = b"</Contents>"


def _take_entries(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """A handler of botocore's: takes the objects out of an answer's body before botocore parses that."""
    body = response_dict["body"]
    if response_dict["status_code"] != 200 or b"<ListBucketResult" not in body or b"&#" in body or b"<!" in body:
        return
    count = body.count(b"<Contents>")
    keys, sizes, etags = (pattern.findall(body) for pattern in (_KEYS, _SIZES, _ETAGS))
    if not len(keys) == len(sizes) == len(etags) == count:
        return
    rest = body if not count else body[: body.index(b"<Contents>")] + body[body.rindex(_END) + len(_END) :]
    if b"<EncodingType>url</EncodingType>" not in rest:
        return
    if b"<NextContinuationToken>" not in rest and b"<IsTruncated>false</IsTruncated>" not in rest:
        return
    customized_response_dict[_ENTRIES] = [
        ObjectEntry(_plain(key, in_url=True), int(size), quoted(_plain(etag)))
        for key, size, etag in zip(keys, sizes, etags, strict=True)
    ]
    response_dict["body"] = rest


def _plain(text: bytes, *, in_url: bool = False) -> str:
    found = text.decode()
    if "&" in found:
        found = found.replace("&quot;", '"')  # of every etag, and mostly all that there is
    if "&" in found:
        found = unescape(found, {"&apos;": "'"})
    return unquote_plus(found) if in_url and ("%" in found or "+" in found) else found


def explain(error: Exception, bucket: str, prefix: str, where: str) -> StorageError:
    """The class that tells a caller what to do about a listing that failed."""
    what = f"list s3://{bucket}/{prefix}"
    answer: dict[str, Any] = getattr(error, "response", {})
    code = str(answer.get("Error", {}).get("Code", ""))
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if code == "NoSuchBucket":
        return BucketMissing(f"{what}: there is no bucket {bucket!r} at {where}")
    if is_misplaced(error):
        return StorageRefused(f"{what}: {BucketFacts().misplaced(bucket, where, str(error))}: {error}")
    if status in (401, 403):
        return StorageRefused(
            f"{what}: access refused by {where}: {error} (of a requester pays bucket: source.requester_pays: true)"
        )
    return StorageUnreachable(f"{what}: no usable answer from {where} (AWS_ENDPOINT_URL_S3 sets the address): {error}")
