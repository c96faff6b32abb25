"""The simulated provider's own endpoints: how it behaves, and what it counted."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from batch.local.stack import LocalStack


def ask(stack: LocalStack, path: str, body: Any = None) -> Any:
    """What `path` answers: by POST where there is a body."""
    request = urllib.request.Request(
        f"{stack.provider_url}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read() or b"{}")


def behave(stack: LocalStack, **options: Any) -> None:
    """Changes how it behaves from now on, see `batch.local.simulator.options.ProviderOptions`."""
    ask(stack, "/control", options)


def forget(stack: LocalStack) -> None:
    """Begins to count anew."""
    ask(stack, "/stats/reset", {})


def paid(stack: LocalStack) -> int:
    """Answers that it was paid for since."""
    return int(ask(stack, "/stats")["paid"])
