"""A line of a batch's input file."""

from __future__ import annotations

from typing import Any


def line(number: int, **more: Any) -> dict[str, Any]:
    body = {"model": "simulated-small", "messages": [{"role": "user", "content": f"Document {number}"}]}
    return {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body, **more}
