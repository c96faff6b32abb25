"""How long an answer will be that nobody has seen yet, by the schema that it has to obey. Pure, and a rough guess."""

from __future__ import annotations

from batch.job.job import Job
from batch.schema.columns import Columns, Node

BYTES_PER_TOKEN = 4
"""A rule of thumb for English text: https://platform.openai.com/tokenizer. Bytes of UTF-8, so that other scripts, which
take more tokens a character, count for more."""

PLAIN_TEXT = (20, 300, 1500)
"""Tokens of an answer without a schema: as little, about, and as much."""

_TEXT = (4, 60, 400)
"""Bytes of a string, of JSON text."""
_OTHERS = {"boolean": (4, 5, 5), "null": (4, 4, 4), "date": (12, 12, 12), "timestamp": (22, 22, 30)}
_NUMBER = (1, 4, 12)
_ITEMS = (0, 3, 12)
"""Of a list."""

Guess = tuple[float, float, float]
"""As little, about, and as much."""


def answer_tokens(job: Job) -> Guess:
    """Returns tokens of one answer; `model.max_output_tokens` bounds it. Lists and texts are anyone's guess."""
    if job.output.json_schema is None:
        guess: Guess = PLAIN_TEXT
    else:
        low, about, high = _bytes_of(Columns(job.output.json_schema).root)
        guess = (low / BYTES_PER_TOKEN, about / BYTES_PER_TOKEN, high / BYTES_PER_TOKEN)
    most = job.model.most_output_tokens or float("inf")
    low, about, high = (max(1.0, min(size, most)) for size in guess)
    return low, about, high


def _bytes_of(node: Node) -> Guess:
    if node.is_json_text or node.kind == "string":
        return _TEXT
    if node.item is not None:
        each = _bytes_of(node.item)
        low, about, high = (2 + count * (size + 1) for count, size in zip(_ITEMS, each, strict=True))
        return low, about, high
    if node.kind == "object":
        parts = [_bytes_of(child) for child in node.fields.values()]
        names = sum(len(name.encode()) + len('"":,') for name in node.fields)
        low, about, high = (2 + names + sum(part[at] for part in parts) for at in range(3))
        return low, about, high
    return _OTHERS.get(node.kind, _NUMBER)
