"""What several integration tests need of the session's stack."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from batch.local.stack import LocalStack
from tests.provider import behave


@pytest.fixture
def env(stack: LocalStack) -> Iterator[LocalStack]:
    """The stack, its endpoints applied to this process."""
    with stack.applied_environment():
        yield stack


@pytest.fixture
def provider(stack: LocalStack) -> Iterator[Callable[..., None]]:
    """Changes how the simulated provider behaves, for one test."""
    changed: dict[str, Any] = {}

    def control(**options: Any) -> None:
        behave(stack, **options)
        changed.update(dict.fromkeys(options, 0))

    yield control
    control(**changed)
