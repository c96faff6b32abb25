"""One stack for the directory, so that others' tests do not feel its faults, and a hold on it for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from batch.local.options import StackOptions
from batch.local.ports import choose_ports
from batch.local.stack import LocalStack
from tests.chaos.harness import CALM, Chaos
from tests.chaos.s3_proxy import S3Proxy


@pytest.fixture(scope="package")
def journal_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("provider") / "journal.jsonl"


@pytest.fixture(scope="package")
def chaos_stack(journal_path: Path) -> Iterator[LocalStack]:
    """Its logs lie beside the journal, where pytest keeps those of the last three sessions."""
    logs = journal_path.parent / "logs"
    with LocalStack(StackOptions(provider_args=["--journal", str(journal_path)], logs=logs, ui=False)) as running:
        yield running


@pytest.fixture(scope="package")
def s3_proxy(chaos_stack: LocalStack) -> Iterator[S3Proxy]:
    with S3Proxy(chaos_stack.s3_endpoint, choose_ports(["proxy"])["proxy"]) as proxy:
        yield proxy


@pytest.fixture
def chaos(
    chaos_stack: LocalStack, s3_proxy: S3Proxy, journal_path: Path, request: pytest.FixtureRequest
) -> Iterator[Chaos]:
    """A calm stack without workers; what the test leaves is ended after it."""
    with chaos_stack.applied_environment():
        held = Chaos(chaos_stack, s3_proxy, journal_path, request.node.name.removeprefix("test_"))
        held.provider(**CALM)
        held.ask("/stats/reset", {})
        try:
            yield held
        finally:
            held.clear()
