"""What several integration tests need of the session's stack."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from batch.local.stack import LocalStack


def behave(stack: LocalStack, **options: Any) -> None:
    """Changes how the simulated provider behaves, see `batch.local.provider.ProviderOptions`."""
    request = urllib.request.Request(
        f"{stack.provider_url}/control",
        data=json.dumps(options).encode(),
        headers={"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=10).close()


@pytest.fixture
def provider(stack: LocalStack) -> Iterator[Callable[..., None]]:
    """Changes how the simulated provider behaves, for one test."""
    changed: dict[str, Any] = {}

    def control(**options: Any) -> None:
        behave(stack, **options)
        changed.update(dict.fromkeys(options, 0))

    yield control
    control(**changed)
