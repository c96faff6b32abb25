"""How the question about one document ended, and what all its calls used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workers.llm.answers.errors import Verdict


@dataclass(slots=True)
class Answer:
    """How a document's question ended: `text` of a usable answer, or the `error` that stands in its place.

    With a schema, a usable answer's `text` is its JSON alone, and `result` what that holds for the columns.
    Tokens are those of every paid call for it; `latency_seconds` is that of the last call. `prompt_tokens` hold those
    that were read from a cache (`cached_tokens`) or written to one. `uncounted`: an answer said nothing of its tokens.
    """

    text: str | None
    error: Verdict | None
    finish_reason: str | None = None
    model: str | None = None
    attempts: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    latency_seconds: float = 0.0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    uncounted: bool = False
    result: dict[str, Any] | None = None
