"""Rules that make one answer of many, column by column."""

from __future__ import annotations

import json
from typing import Any

import pytest

from batch.job.long_documents import KINDS, check_rules
from batch.schema.answer_reader import AnswerReader, InvalidAnswer
from workers.documents.combining import combined

KIND_OF = {"n": "number", "b": "boolean", "s": "string", "l": "array", "d": "string", "t": "string"}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        **{name: {"type": kind} for name, kind in KIND_OF.items()},
        "d": {"type": "string", "format": "date"},
        "t": {"type": "string", "format": "date-time"},
        "l": {"type": "array", "items": {}},
    },
}
EARLY, LATE = "2024-01-01T23:00:00+05:00", "2024-01-01T20:00:00Z"


@pytest.mark.parametrize(
    ("column", "rule", "values", "expected"),
    [
        ("s", "first", [None, "b", "c"], "b"),
        ("s", "last", ["b", "c", None], "c"),
        ("s", "majority", ["a", "b", "c", "b", "c"], "b"),
        ("n", "majority", [2, 1, 1.0, 1, True], 1),
        ("b", "any", [False, True, None], True),
        ("b", "any", [False, False], False),
        ("b", "all", [True, True, None], True),
        ("b", "all", [True, False], False),
        ("n", "sum", [1, 2, None, 3], 6),
        ("n", "sum", [0.5, 1], 1.5),
        ("n", "max", [1, 7, 3.5], 7),
        ("n", "min", [1, 7, 0.5], 0.5),
        ("d", "max", ["2024-02-01", "2024-11-30", "2023-12-31"], "2024-11-30"),
        ("t", "max", [EARLY, LATE], LATE),
        ("t", "min", [LATE, EARLY], EARLY),
        ("s", "concat", ["a", None, "b"], "a\nb"),
        ("l", "concat", [[1, 2], [2, 3]], [1, 2, 2, 3]),
        ("l", "union", [[1, {"x": 1}], [{"x": 1}, 2, 1, "1"]], [1, {"x": 1}, 2, "1"]),
        ("s", "first", [None, None], None),
    ],
)
def test_a_rule(column: str, rule: str, values: list[Any], expected: Any) -> None:
    answers = [json.dumps({column: value}) for value in values]
    found = json.loads(combined(answers, {column: rule}, AnswerReader(SCHEMA)))
    assert found == {column: expected} and type(found[column]) is type(expected)


def test_a_column_that_no_answer_has_is_absent_and_fences_are_no_matter() -> None:
    answers = ['```json\n{"s": "a"}\n```', "{}"]
    assert combined(answers, {"s": "last", "n": "sum"}, AnswerReader(SCHEMA)) == '{"s":"a"}'


def test_plain_texts_are_a_column_too() -> None:
    assert combined(["a", "b"], {"output_text": "concat"}, None) == "a\nb"
    assert combined(["a", "b"], {"output_text": "last"}, None) == "b"


@pytest.mark.parametrize("values", [[2**62, 2**62], [1e308, 1e308]])
def test_a_rule_may_break_the_schema_and_that_is_found(values: list[Any]) -> None:
    reader = AnswerReader({"type": "object", "properties": {"i": {"type": "integer"}, "n": {"type": "number"}}})
    column = "i" if isinstance(values[0], int) else "n"
    text = combined([json.dumps({column: value}) for value in values], {column: "sum"}, reader)
    with pytest.raises(InvalidAnswer):
        reader.read(text)


def test_each_rule_can_be_for_its_kinds_alone() -> None:
    schema = {
        "type": "object",
        "properties": {
            "boolean": {"type": "boolean"},
            "integer": {"type": "integer"},
            "number": {"type": "number"},
            "string": {"type": "string"},
            "date": {"type": "string", "format": "date"},
            "timestamp": {"type": "string", "format": "date-time"},
            "array": {"type": "array"},
            "object": {"type": "object"},
            "any": {},
        },
    }
    names = schema["properties"].keys()  # type: ignore[attr-defined]
    for rule, kinds in KINDS.items():
        for name in names:
            rules: dict[str, Any] = dict.fromkeys(names, "first") | {name: rule}
            if name in kinds:
                check_rules(rules, schema)
            else:
                with pytest.raises(
                    ValueError, match=rf"rules\.{name}: {rule} cannot be for a column of kind {name}; use"
                ):
                    check_rules(rules, schema)
