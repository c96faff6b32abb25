"""What is found out about a bucket while it is used: its region, how it is addressed, what its server lacks.

In memory, by process: it costs one request to find out again.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from batch.storage.aws import AwsSettings

_ELSEWHERE = re.compile(
    r"Received redirect without LOCATION|PermanentRedirect|TemporaryRedirect|AuthorizationHeaderMalformed"
    r"|IllegalLocationConstraint|AuthorizationQueryParametersError|the region '[^']*' is wrong|400 Bad Request\s*$"
)
"""What servers, and obstore of a 301, say of a bucket in another region. A HEAD has no body that says anything."""
_STYLE_REFUSED = re.compile(
    r"SecondLevelDomainForbidden|PathStyle\w*(?:Forbidden|NotAllowed|NotSupported)|virtual[- ]hosted"
)
_OF_A_MOMENT = (407, 408, 429)
"""What a proxy, or a server that has too much to do, says instead of the bucket's server."""
_SET_STYLE = "set `addressing_style = virtual` below `s3 =` in the AWS configuration file (AWS_CONFIG_FILE)"
_REGION = re.compile(r"<Region>([a-z0-9-]+)</Region>|expecting '?([a-z0-9-]+)")


@dataclass
class BucketFacts:
    """Of one bucket. `server` is its name for itself in small letters, "" if it has none, None before it was asked."""

    region: str = ""
    """Where it is not that of the settings."""
    virtual: bool = False
    """Whether it is addressed as `BUCKET.HOST` although the settings do not say so."""
    requester_pays: bool = False
    single_deletes: bool = False
    """Whether objects are deleted one by one: the server has no request for many."""
    plain_reads: bool = False
    """Whether objects are read by boto3: the server's answers are none that obstore takes."""
    other_etags: bool = False
    """Whether listings have other etags than GETs: no condition can be made of them."""
    server: str | None = None
    by_marker: bool = False
    """Whether it lists by version 1 of the request alone."""
    ignores_start: bool = False
    """Whether its listing begins at its start whatever it is to start after."""

    def config(self, bucket: str, settings: AwsSettings | None) -> dict[str, Any]:
        """obstore's settings for the bucket, where they differ from those for all."""
        found: dict[str, Any] = {}
        if self.region:
            found["region"] = self.region
        if self.requester_pays:
            found["request_payer"] = True
        if self.single_deletes:
            found["disable_bulk_delete"] = True
        if settings is not None and (self.virtual or settings.virtual):
            found["virtual_hosted_style_request"] = True
            if settings.endpoint:
                scheme, _, rest = settings.endpoint.partition("://")
                found["endpoint"] = f"{scheme}://{bucket}.{rest}"
        return found

    def misplaced(self, bucket: str, where: str, said: str) -> str:
        """Why a bucket cannot be used as it is addressed, and what to set."""
        if _STYLE_REFUSED.search(said):
            return f"{where} refuses path-style addresses (HOST/BUCKET): {_SET_STYLE}"
        region = _REGION.search(said)
        told = self.region or (next(filter(None, region.groups())) if region else "")
        there = f"the region {told}" if told else "another region"
        return f"the bucket {bucket!r} lies in {there}: set AWS_REGION, or the endpoint of its region"


def is_misplaced(error: BaseException) -> bool:
    """Whether the bucket is to be asked for in another region, or by another address."""
    text = str(error)
    return _ELSEWHERE.search(text) is not None or _STYLE_REFUSED.search(text) is not None


def refuses_path_style(text: str) -> bool:
    """Whether a server says that it wants the bucket in the host's name."""
    return _STYLE_REFUSED.search(text) is not None


def in_another_way(
    client: Callable[..., Any], bucket: str, facts: BucketFacts, settings: AwsSettings, error: Exception
) -> dict[str, Any]:
    """What of `facts` has to change for a request to succeed that failed of `error`; nothing where nobody can say.

    `client` makes boto3's. Blocking.
    """
    if refuses_path_style(str(error)):
        usable = not facts.virtual and not settings.virtual and _has_names(settings.endpoint)
        return {"virtual": True} if usable and _answers(client(virtual=True), bucket) else {}
    said = _REGION.search(str(error))
    region = _region(_head(client(virtual=facts.virtual), bucket)) or (
        next(filter(None, said.groups())) if said else ""
    )
    return {"region": region} if region and region != (facts.region or settings.region) else {}


def served_by(client: Any, bucket: str, settings: AwsSettings) -> dict[str, Any]:
    """The server's name, and the bucket's region if it is another; nothing where nobody answers. Blocking."""
    headers = _head(client, bucket)
    if headers is None:
        return {}
    found: dict[str, Any] = {"server": headers.get("server", "").lower()}
    region = _region(headers)
    if region and region != settings.region:
        found["region"] = region
    return found


def _region(headers: dict[str, str] | None) -> str:
    return (headers or {}).get("x-amz-bucket-region", "")


def _head(client: Any, bucket: str) -> dict[str, str] | None:
    """The headers of whatever answer there is; boto3 follows to another region by itself."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        answer = client.head_bucket(Bucket=bucket)
    except ClientError as error:
        answer = error.response
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
        if status >= 500 or status in _OF_A_MOMENT:
            return None
    except BotoCoreError:
        return None
    return dict(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}))


def _answers(client: Any, bucket: str) -> bool:
    return _head(client, bucket) is not None


def _has_names(endpoint: str | None) -> bool:
    """Whether a bucket may stand before the host: not before an address."""
    host = urlsplit(endpoint).hostname if endpoint else "s3.amazonaws.com"
    try:
        ipaddress.ip_address(host or "")
    except ValueError:
        return True
    return False
