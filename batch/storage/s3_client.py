"""A boto3 client of the same S3 as obstore's: for listings of what others wrote, and for what obstore cannot read."""

from __future__ import annotations

from typing import Any

from batch.storage.aws import AwsSettings, mistakes_named
from batch.storage.listing import read_quickly


def s3_client(settings: AwsSettings, *, virtual: bool = False) -> Any:
    """A boto3 client of the same S3, for the source's listings. `virtual`: of buckets that want to be `BUCKET.HOST`."""
    from botocore.config import Config

    virtual = virtual or settings.virtual

    config = Config(
        retries={"total_max_attempts": 3, "mode": "standard"},
        s3={"addressing_style": "virtual" if virtual else "path" if settings.endpoint else "auto"},
        connect_timeout=5,
        read_timeout=60,
    )
    with mistakes_named():
        client = settings.session.client(
            "s3", region_name=settings.region, endpoint_url=settings.endpoint, config=config
        )
    read_quickly(client)
    return client
