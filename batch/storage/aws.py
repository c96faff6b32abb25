"""AWS' own settings as boto3 reads them: which endpoint, region and credentials docbatch and polars use.

Environment names (`AWS_ENDPOINT_URL_S3`, `AWS_REGION`, `AWS_PROFILE`, ...), profiles and roles; none of them ours.
"""

from __future__ import annotations

import functools
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from batch.storage.errors import StorageRefused

if TYPE_CHECKING:
    from collections.abc import Iterator

    import boto3
    import botocore.session
    from botocore.credentials import Credentials

DEFAULT_REGION = "us-east-1"


@dataclass(frozen=True)
class AwsSettings:
    """What boto3 resolved. `endpoint` is None for AWS itself."""

    session: boto3.Session
    credentials: Credentials
    region: str
    endpoint: str | None
    virtual: bool = False
    """Whether `addressing_style = virtual` is set for S3 in the AWS configuration file: `BUCKET.HOST`."""

    @property
    def where(self) -> str:
        """The address as messages name it."""
        return self.endpoint or f"AWS S3 in {self.region}"


def resolve() -> AwsSettings:
    """The settings of this process. Raises `StorageRefused`, which names the variable to mend."""
    import boto3

    with mistakes_named():
        core = new_session()
        # Dates stay text, as in the AWS CLI: two thirds of a listing's CPU went into parsing what nobody reads. (The
        # one date that botocore needs, a credential's end, it parses from text itself.)
        core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
        session = boto3.Session(botocore_session=core)
        credentials = session.get_credentials()
        region = os.environ.get("AWS_REGION") or session.region_name or DEFAULT_REGION
        endpoint = _endpoint(session, region)
        style = (core.get_scoped_config().get("s3") or {}).get("addressing_style")
    if credentials is None:
        raise StorageRefused(
            "no AWS credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or a role"
        )
    return AwsSettings(session, credentials, region, endpoint, virtual=style == "virtual")


def new_session() -> botocore.session.Session:
    """A session of its own that shares AWS' descriptions of its services with the others: 0.1 s to parse (measured)."""
    import botocore.session

    core = botocore.session.get_session()
    core.lazy_register_component("data_loader", lambda: _descriptions(core.get_config_variable("data_path")))
    return core


@functools.cache
def _descriptions(data_path: str | None) -> Any:
    from botocore.loaders import create_loader

    return create_loader(data_path)


def _endpoint(session: boto3.Session, region: str) -> str | None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        url = os.environ.get(name)
        if url:
            return _checked(url, name)
    resolved = str(session.client("s3", region_name=region).meta.endpoint_url)
    if resolved.endswith((".amazonaws.com", ".amazonaws.com.cn")):
        return None
    return _checked(resolved, "endpoint_url in the AWS configuration file")


def _checked(url: str, name: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise StorageRefused(f"{name}: {url!r} is no endpoint; write http://HOST:PORT or https://HOST")
    return url


@contextmanager
def mistakes_named() -> Iterator[None]:
    """Turns boto3's complaints about settings into `StorageRefused` that says where they are made."""
    from botocore.exceptions import BotoCoreError, PartialCredentialsError, ProfileNotFound

    try:
        yield
    except ProfileNotFound as error:
        raise StorageRefused(f"AWS_PROFILE: {error}") from None
    except PartialCredentialsError as error:
        raise StorageRefused(f"AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together: {error}") from None
    except (BotoCoreError, ValueError) as error:
        raise StorageRefused(
            f"AWS settings (AWS_* in the environment, AWS_CONFIG_FILE, AWS_SHARED_CREDENTIALS_FILE): {error}"
        ) from None


def storage_options() -> dict[str, str]:
    """polars' settings for the same S3. Raises `StorageRefused`."""
    settings = resolve()
    with mistakes_named():
        frozen = settings.credentials.get_frozen_credentials()
    options = {
        "aws_region": settings.region,
        "aws_access_key_id": frozen.access_key or "",
        "aws_secret_access_key": frozen.secret_key or "",
    }
    if frozen.token:
        options["aws_session_token"] = frozen.token
    if settings.endpoint:
        options["aws_endpoint_url"] = settings.endpoint
        options["aws_allow_http"] = str(settings.endpoint.startswith("http://")).lower()
    return options
