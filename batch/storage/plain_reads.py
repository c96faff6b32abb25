"""Objects read by boto3: those whose answer obstore does not take. Blocking: for threads.

obstore refuses headers beyond ASCII (`filename="Übersicht.pdf"`, names in metadata, which S3 passes on as bytes),
bodies without a length (chunked ones) and whole answers to a request for a part. Such a GET costs 1.3 ms of CPU, five
times that of obstore, so this is for those alone.
"""

from __future__ import annotations

import re
from contextlib import closing
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from batch.storage.errors import (
    BucketMissing,
    ObjectArchived,
    ObjectMissing,
    ObjectTooLarge,
    PreconditionFailed,
    StorageError,
    StorageRefused,
    StorageUnreachable,
)
from batch.storage.etags import quoted
from batch.storage.listing import ObjectEntry

FAILURES = (BotoCoreError, ClientError, OSError)
"""What boto3 raises of a request that fails; urllib3's own come as `BotoCoreError`."""
_OF_OBJECT = re.compile(
    r"contained non UTF-8 characters|containing non-ASCII data|Invalid last modified|MissingLastModified"
)
_OF_SERVER = re.compile(
    r"Content-Length Header missing|MissingContentLength|non-partial response|NotPartial|ContentRange"
)
_WHOLE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
CHUNK = 2**20


def is_needed(error: Exception) -> bool:
    """Whether obstore failed of the answer's form, not of what it says."""
    text = str(error)
    return _OF_OBJECT.search(text) is not None or _OF_SERVER.search(text) is not None


def is_of_server(error: Exception) -> bool:
    """Whether every answer of the server will have that form."""
    return _OF_SERVER.search(str(error)) is not None


def read(
    client: Any,
    bucket: str,
    key: str,
    *,
    etag: str | None = None,
    within: tuple[int, int] | None = None,
    most: int | None = None,
    pays: bool = False,
) -> tuple[bytes, ObjectEntry]:
    """The object, or its bytes from a start up to an end, and what the answer says of the whole.

    Of a server that ignores ranges the whole is read and cut. Raises `ObjectTooLarge` of one past `most` bytes, and
    `FAILURES`.
    """
    options: dict[str, Any] = {"IfMatch": quoted(etag)} if etag else {}
    if within is not None:
        options["Range"] = f"bytes={within[0]}-{within[1] - 1}"
    answer = client.get_object(Bucket=bucket, Key=key, **options, **_payer(pays))
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    part = _WHOLE.fullmatch(headers.get("content-range", "")) if within is not None else None
    with closing(answer["Body"]) as body:  # itself a context manager, but of a stream that takes half a body for whole
        pieces, size = [], 0
        while piece := body.read(CHUNK):
            size += len(piece)
            if most is not None and size > most:
                raise ObjectTooLarge(f"s3://{bucket}/{key} has more than {most:,} bytes, the limit")
            pieces.append(piece)
    data = b"".join(pieces)
    if part is not None and within is not None:
        if int(part[1]) != within[0]:
            raise StorageUnreachable(f"get s3://{bucket}/{key}: another part came than was asked for")
        return data, _entry(key, headers, int(part[3]))
    whole = _entry(key, headers, len(data))
    return (data if within is None else data[within[0] : within[1]]), whole


def head(client: Any, bucket: str, key: str, *, pays: bool = False) -> ObjectEntry:
    """What a HEAD says of the object. Raises `FAILURES`."""
    answer = client.head_object(Bucket=bucket, Key=key, **_payer(pays))
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    if "content-length" in headers:
        return _entry(key, headers, int(headers["content-length"]))
    return read(client, bucket, key, pays=pays)[1]


def explained(error: Exception, what: str, where: str) -> StorageError:
    """The class that tells a caller what to do."""
    if isinstance(error, StorageError):
        return error
    answer: dict[str, Any] = getattr(error, "response", {})
    code = str(answer.get("Error", {}).get("Code", ""))
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    why = " ".join(str(error).split())[:400]
    if code == "InvalidObjectState":
        return ObjectArchived(f"{what}: it is archived: restore it first")
    if code == "NoSuchBucket":
        return BucketMissing(f"{what}: there is no such bucket at {where}")
    if status == 404:
        return ObjectMissing(f"{what}: no such object")
    if status in (409, 412):
        return PreconditionFailed(f"{what}: {why}")
    if status in (401, 403):
        return StorageRefused(f"{what}: access refused by {where}: {why}")
    return StorageUnreachable(f"{what}: no usable answer from {where} (AWS_ENDPOINT_URL_S3 sets the address): {why}")


def _payer(pays: bool) -> dict[str, str]:
    return {"RequestPayer": "requester"} if pays else {}


def _entry(key: str, headers: dict[str, str], size: int) -> ObjectEntry:
    try:
        modified = parsedate_to_datetime(headers["last-modified"]).timestamp()
    except (KeyError, TypeError, ValueError):
        modified = 0.0
    return ObjectEntry(key, size, quoted(headers.get("etag", "")), modified=modified)
