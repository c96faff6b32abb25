"""The real servers, once a test session: Temporal, SeaweedFS, the simulated provider and one worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from batch.local.isolation import bypass_proxies
from batch.local.options import StackOptions
from batch.local.stack import LocalStack


def pytest_configure() -> None:
    """A shell that runs us in its background makes us ignore Ctrl-C, and all our children.

    And what tests change in the environment is Python's alone: C's has no lock, and native threads of earlier tests
    (polars', Temporal's) go on reading it, so a `setenv` beside them crashed the whole session now and then.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    bypass_proxies()
    for name in [name for name in os.environ if name.startswith(("AWS_", "OPENAI_", "TEMPORAL_"))]:
        del os.environ[name]  # C's too, which native clients read
    os.putenv = os.unsetenv = lambda *_: None  # type: ignore[assignment]


@pytest.fixture(scope="session")
def stack() -> Iterator[LocalStack]:
    """A running stack on free ports with data of its own; heartbeats each second, at most 2 s of CPU for a text."""
    worker_args = ["--heartbeat-throttle-seconds", "1", "--extraction-seconds", "2"]
    options = StackOptions(workers=1, worker_args=worker_args, ui=False)
    with LocalStack(options) as running:
        yield running


@pytest.fixture(scope="session")
def environment(stack: LocalStack) -> dict[str, str]:
    """What the command line and clients need to reach the stack."""
    return stack.environment()
