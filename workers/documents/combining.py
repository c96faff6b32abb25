"""The answers to a document's chunks -> one answer, by a rule for each column: a calculation, no call. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from batch.job.long_documents import TEXT_COLUMN
from batch.schema.answer_reader import AnswerReader


def combined(answers: Sequence[str], rules: Mapping[str, str], reader: AnswerReader | None) -> str:
    """Returns the text of the combined answer: JSON, which may break the schema; without a reader plain text.

    A column's rule sees its values in the order of the chunks, without those that are absent or null; where none is
    left, it is null if any was null, else absent. Raises `InvalidAnswer` for an answer that is no JSON object.
    """
    if reader is None:
        return str(_RULES[rules[TEXT_COLUMN]](answers))
    objects = [reader.parse(answer.encode()) for answer in answers]
    found: dict[str, Any] = {}
    for name, rule in rules.items():
        given = [each[name] for each in objects if isinstance(each, dict) and name in each]
        values = [value for value in given if value is not None]
        if values:
            found[name] = _RULES[rule](values)
        elif given:
            found[name] = None
    return json.dumps(found, ensure_ascii=False, separators=(",", ":"))


def _concat(values: Sequence[Any]) -> Any:
    """Texts on lines of their own, lists one after the other."""
    if isinstance(values[0], str):
        return "\n".join(values)
    return [item for value in values for item in value]


def _union(values: Sequence[Sequence[Any]]) -> list[Any]:
    """Returns each item once, where it first stood."""
    seen: dict[str, Any] = {}
    for value in values:
        for item in value:
            seen.setdefault(_key(item), item)
    return list(seen.values())


def _majority(values: Sequence[Any]) -> Any:
    """Returns the most frequent value; of several the one that came first."""
    counts = Counter(_key(value) for value in values)
    return max(values, key=lambda value: counts[_key(value)])


def _order(value: Any) -> Any:
    """By which numbers, dates and date-times are compared: of the latter the moment, whatever their time zones."""
    if not isinstance(value, str):
        return value
    found = datetime.fromisoformat(value.upper())
    return found.timestamp() if found.tzinfo else found.toordinal()


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


_RULES: dict[str, Callable[[Sequence[Any]], Any]] = {
    "first": lambda values: values[0],
    "last": lambda values: values[-1],
    "majority": _majority,
    "any": any,
    "all": all,
    "sum": sum,
    "max": lambda values: max(values, key=_order),
    "min": lambda values: min(values, key=_order),
    "concat": _concat,
    "union": _union,
}
