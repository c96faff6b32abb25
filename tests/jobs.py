"""The smallest job, as plain data."""

from __future__ import annotations

from typing import Any


def job(**changes: Any) -> dict[str, Any]:
    """The smallest job, with dotted keys changed (`model__name`)."""
    data: dict[str, Any] = {
        "name": "tickets",
        "source": {"uri": "s3://corpus/tickets/"},
        "prompt": {"user": "Label this.\n{{ text }}"},
        "model": {"name": "simulated-small"},
        "output": {"uri": "s3://results/tickets/"},
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        part = data
        for step in path:
            part = part.setdefault(step, {})
        part[last] = value
    return data
