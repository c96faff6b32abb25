"""The source's listing: every object with its key exactly as S3 has it.

By boto3, not obstore, which strips slashes at a key's ends (a folder marker `a/b/` becomes the object `a/b`, and a
listing cannot go on after it) and fails a whole listing because of one key such as `a//b`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from batch.storage_errors import BucketMissing, StorageError, StorageRefused, StorageUnreachable

PAGE = 1000
"""Objects that S3 gives at once, at most."""
_UNADDRESSABLE = re.compile(r"^/|//|/$|(?:^|/)\.\.?(?:/|$)|[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class ObjectEntry:
    """One object of a listing. `size` in bytes; `etag` with its quotes, as S3 gives it."""

    key: str
    size: int
    etag: str


def is_addressable(key: str) -> bool:
    """Whether obstore can ask for the object: no empty, `.` or `..` step, no control character."""
    return _UNADDRESSABLE.search(key) is None


def list_page(
    client: Any, bucket: str, prefix: str, *, after: str, token: str | None, where: str, most: int = PAGE
) -> tuple[list[ObjectEntry], str | None]:
    """One page of at most `most` objects after the key `after`, and the token of the next. Blocking: for threads."""
    from botocore.exceptions import BotoCoreError, ClientError

    position = {"ContinuationToken": token} if token else {"StartAfter": after} if after else {}
    try:
        page = client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=most, **position)
    except (BotoCoreError, ClientError) as error:
        raise _explain(error, bucket, prefix, where) from error
    entries = [ObjectEntry(item["Key"], int(item["Size"]), item.get("ETag", "")) for item in page.get("Contents", ())]
    return entries, page.get("NextContinuationToken") if page.get("IsTruncated") else None


def lists_by_folders(client: Any, bucket: str, *, where: str) -> bool:
    """Whether the server lists what is in `a/` before `a.txt`, as SeaweedFS does; S3 goes by keys' bytes. Blocking."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        answer = client.head_bucket(Bucket=bucket)
    except (BotoCoreError, ClientError) as error:
        raise _explain(error, bucket, "", where) from error
    return str(answer["ResponseMetadata"]["HTTPHeaders"].get("server", "")).lower().startswith("seaweedfs")


def _explain(error: Exception, bucket: str, prefix: str, where: str) -> StorageError:
    what = f"list s3://{bucket}/{prefix}"
    answer: dict[str, Any] = getattr(error, "response", {})
    code = str(answer.get("Error", {}).get("Code", ""))
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if code == "NoSuchBucket":
        return BucketMissing(f"{what}: there is no bucket {bucket!r} at {where}")
    if status in (401, 403):
        return StorageRefused(f"{what}: access refused by {where}: {error}")
    return StorageUnreachable(f"{what}: no usable answer from {where} (AWS_ENDPOINT_URL_S3 sets the address): {error}")
