"""AWS' settings: one reading of them for docbatch and polars, and mistakes in them said in words."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import CredentialRetrievalError

from batch.storage import buckets
from batch.storage.aws import resolve, storage_options
from batch.storage.buckets import Buckets
from batch.storage.errors import StorageRefused, StorageUnreachable
from batch.storage.store import Storage


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No settings but those of the test; returns the configuration file."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    return tmp_path / "config"


@pytest.mark.parametrize(
    ("variables", "file", "region"),
    [
        ({}, "", "us-east-1"),
        ({}, "[default]\nregion = eu-north-1\n", "eu-north-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, "", "eu-west-1"),
        ({"AWS_REGION": "eu-central-1", "AWS_DEFAULT_REGION": "eu-west-1"}, "", "eu-central-1"),
    ],
)
def test_polars_reads_the_region_that_docbatch_writes_to(
    variables: dict[str, str], file: str, region: str, monkeypatch: pytest.MonkeyPatch, settings: Path
) -> None:
    settings.write_text(file)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert storage_options()["aws_region"] == resolve().region == Buckets(None).resolve()["region"] == region


def test_polars_reads_from_the_same_endpoint(monkeypatch: pytest.MonkeyPatch, settings: Path) -> None:
    assert resolve().endpoint is None and "aws_endpoint_url" not in storage_options()
    settings.write_text("[default]\nendpoint_url = http://h:1\n")
    assert storage_options()["aws_endpoint_url"] == "http://h:1"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://h:2")
    options = storage_options()
    assert (options["aws_endpoint_url"], options["aws_allow_http"]) == ("https://h:2", "false")


@pytest.mark.parametrize(
    ("variables", "file", "message"),
    [
        ({"AWS_PROFILE": "typo"}, "", r"^AWS_PROFILE: The config profile \(typo\) could not be found"),
        ({"AWS_SECRET_ACCESS_KEY": None}, "", "^AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together"),
        (dict.fromkeys(["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]), "", "^no AWS credentials found: set"),
        ({}, "no section\n", "^AWS settings .*AWS_CONFIG_FILE"),
        (
            dict.fromkeys(["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]),
            "[default]\ncredential_process = false\n",
            "^AWS settings .*credential",
        ),
        ({"AWS_ENDPOINT_URL_S3": "localhost:9000"}, "", "^AWS_ENDPOINT_URL_S3: 'localhost:9000' is no endpoint; write"),
        ({"AWS_ENDPOINT_URL_S3": "http://"}, "", "^AWS_ENDPOINT_URL_S3: 'http://' is no endpoint"),
        ({"AWS_ENDPOINT_URL": "http://h:x"}, "", "^AWS_ENDPOINT_URL: 'http://h:x' is no endpoint"),
        ({}, "[default]\nendpoint_url = localhost\n", "is no endpoint|AWS settings"),
        ({"AWS_REGION": "no such region"}, "", "AWS settings|AWS_REGION"),
    ],
)
def test_mistakes_in_the_settings_are_refused_in_words(
    variables: dict[str, str | None], file: str, message: str, monkeypatch: pytest.MonkeyPatch, settings: Path
) -> None:
    settings.write_text(file)
    for name, value in variables.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(StorageRefused, match=message):
        asyncio.run(Storage().get("b", "k"))
    with pytest.raises(StorageRefused, match=message):
        storage_options()


async def test_credentials_that_do_not_come_for_a_moment_are_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """STS or the instance's metadata service is away: nothing that a person has to mend."""

    def away(*_: Any) -> None:
        raise CredentialRetrievalError(provider="assume-role", error_msg="sts is away")

    monkeypatch.setattr("botocore.credentials.Credentials.get_frozen_credentials", away)
    monkeypatch.setattr(buckets, "RETRIES", {"max_retries": 0, "retry_timeout": timedelta(seconds=1)})
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    with pytest.raises(StorageUnreachable, match="sts is away"):
        await Storage().get("b", "k")
    with pytest.raises(StorageUnreachable, match="sts is away"):
        [page async for page in Storage().source_pages("b", "")]
