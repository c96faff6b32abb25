"""An answer becomes the values of its columns, or is invalid and says why."""

import json
import time
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch.schema.answer_reader import MAX_ANSWER_BYTES, AnswerReader, InvalidAnswer
from batch.schema.arrow import arrow_type
from tests.unit.batch.schema.json_schemas import (
    DATE,
    DATE_TIME,
    DEFS,
    INTEGER,
    NULL,
    STRING,
    Kind,
    an_object,
    as_parquet,
    json_values,
    kinds,
    objects,
    with_x,
)

VALUES: list[tuple[Any, str, Any]] = [
    (INTEGER, "1", 1),
    (INTEGER, "1.0", 1),
    (INTEGER, "-2e3", -2000),
    (INTEGER, "9007199254740991.0", 2**53 - 1),
    (INTEGER, "9223372036854775807", 2**63 - 1),
    (INTEGER, "-9223372036854775808", -(2**63)),
    ({"enum": [1, 2]}, "2.0", 2),
    ({"type": "number"}, "1", 1.0),
    ({"type": "number"}, "1e308", 1e308),
    ({"type": "number"}, "18446744073709551616", 2.0**64),
    ({"type": "boolean"}, "true", True),
    (STRING, r'"\u00e4\ud83d\ude00\u0000"', "ä😀\0"),
    ({"type": "string", "format": "email"}, '"no address"', "no address"),
    ({"enum": ["a", "b"]}, '"b"', "b"),
    (DATE, '"0001-01-01"', date(1, 1, 1)),
    (DATE, '"9999-12-31"', date(9999, 12, 31)),
    (DATE_TIME, '"2024-02-29T12:30:00Z"', datetime(2024, 2, 29, 12, 30, tzinfo=UTC)),
    (DATE_TIME, '"2024-02-29t12:30:00z"', datetime(2024, 2, 29, 12, 30, tzinfo=UTC)),
    (DATE_TIME, '"2024-03-01T00:30:00.5+02:00"', datetime(2024, 2, 29, 22, 30, 0, 500_000, tzinfo=UTC)),
    (DATE_TIME, '"2024-02-29T12:30:00.1234569999-00:00"', datetime(2024, 2, 29, 12, 30, 0, 123_456, tzinfo=UTC)),
    (DATE_TIME, '"9999-12-31T23:59:59.999999Z"', datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
    (DATE_TIME, '"0001-01-01T00:00:00Z"', datetime(1, 1, 1, tzinfo=UTC)),
    ({"type": ["integer", "null"]}, "null", None),
    ({"anyOf": [DATE, NULL]}, "null", None),
    ({"anyOf": [DATE, NULL]}, '"2024-01-31"', date(2024, 1, 31)),
    ({"type": "string", "nullable": True}, "null", None),
    ({"enum": ["a"], "nullable": True}, "null", None),
    ({"$ref": "#/$defs/two", "nullable": True}, "null", None),
    ({"$ref": "#/$defs/two", "nullable": True}, '{"y": 2}', {"y": 2.0}),
    ({"anyOf": [DATE, DATE_TIME]}, '"2024-01-31"', "2024-01-31"),
    ({"type": "array", "items": INTEGER}, "[1, 2.0]", [1, 2]),
    ({"type": "array", "items": {"type": ["integer", "null"]}}, "[1, null]", [1, None]),
    ({"type": "array"}, '[1, "a", {"b": [ ]}, null]', ["1", '"a"', '{"b":[]}', None]),
    ({"type": "array", "items": False}, "[]", []),
    (an_object(a=INTEGER, b=STRING), '{"b": "x", "c": 5}', {"a": None, "b": "x"}),
    ({"anyOf": [an_object(k={"const": "a"}, a=INTEGER), an_object(k={"const": "b"}, b=STRING)]}, '{"k": "b", "b": "x"}',
     {"k": "b", "a": None, "b": "x"}),
    ({}, '{"z": 1, "a": [1.5, null, "\\u00e4"]}', '{"z":1,"a":[1.5,null,"ä"]}'),
    ({}, '"text"', '"text"'),
    ({}, "18446744073709551615", "18446744073709551615"),
    ({}, "null", None),
    ({"type": "object", "additionalProperties": INTEGER}, '{"b": 1, "a": 2}', '{"b":1,"a":2}'),
    ({"prefixItems": [INTEGER, STRING]}, '[1, "a", {}]', '[1,"a",{}]'),
]  # fmt: skip


@pytest.mark.parametrize(("x", "text", "expected"), VALUES, ids=[f"{json.dumps(x)} {text}" for x, text, _ in VALUES])
def test_an_answer_becomes_column_values(x: Any, text: str, expected: Any) -> None:
    schema = with_x(x, **{"$defs": DEFS})
    value = AnswerReader(schema).read(f'{{"x": {text}}}')
    assert value == {"x": expected}
    assert type(value["x"]) is type(expected)
    array: Any = pa.array([value], type=arrow_type(schema))
    assert array.to_pylist() == [{"x": expected}]


INVALID: list[tuple[Any, str, str]] = [
    (INTEGER, "1.5", 'x: 1.5 is not of type "integer"'),
    (INTEGER, '"1"', 'x: "1" is not of type "integer"'),
    (INTEGER, "true", 'x: true is not of type "integer"'),
    (INTEGER, "null", 'x: null is not of type "integer"'),
    (INTEGER, "9223372036854775808", "x: 9223372036854775808 is beyond the 64 bits"),
    (INTEGER, "-9223372036854775809", "is beyond the 64 bits"),
    (INTEGER, "1e300", "is beyond the 64 bits"),
    (INTEGER, "9007199254740993.0", "write out its digits"),
    ({"type": "number"}, "NaN", "not JSON"),
    ({"type": "number"}, "Infinity", "not JSON"),
    ({"type": "number"}, "1e999", "not JSON"),
    ({"type": "number"}, "1" * 5000, "not JSON"),
    ({"type": "number"}, "true", 'x: true is not of type "number"'),
    ({"enum": ["red", "green"]}, '"blue"', 'x: "blue" is not one of "red", "green"'),
    ({"enum": ["red"], "nullable": True}, '"blue"', 'x: "blue" is not one of "red"'),
    ({"const": "red"}, '"blue"', 'x: "red" was expected'),
    (STRING, r'"\ud800"', "not JSON"),
    ({}, r'"\udc00"', "not JSON"),
    (DATE, '"31.1.2024"', 'x: "31.1.2024" is not a date, such as 2024-01-31'),
    (DATE, '"2023-02-29"', "is not a date, such as"),
    (DATE, '"2024-W01-1"', "is not a date, such as"),
    (DATE, '"20240131"', "is not a date, such as"),
    (DATE, '"0000-01-01"', "is not a date of the years 1 to 9999"),
    (DATE, '"12024-01-01"', "is not a date, such as"),
    (DATE_TIME, '"2024-01-31"', "is not a date-time, such as"),
    (DATE_TIME, '"2024-01-31T12:00:00"', "is not a date-time, such as 2024-01-31T12:00:00Z"),
    (DATE_TIME, '"2024-01-31 12:00:00Z"', "is not a date-time, such as"),
    (DATE_TIME, '"2016-12-31T23:59:60Z"', "is not a date-time of the years"),
    (DATE_TIME, '"0000-01-01T00:00:00Z"', "is not a date-time of the years"),
    (DATE_TIME, '"0001-01-01T00:00:00+00:01"', "is not a date-time of the years"),
    (DATE_TIME, '"9999-12-31T23:59:59-00:01"', "is not a date-time of the years"),
    ({"anyOf": [DATE, NULL]}, '"tomorrow"', 'x: "tomorrow" is not a date, such as'),
    ({"type": "array", "items": INTEGER}, '[1, 2, "c"]', 'x[2]: "c" is not of type "integer"'),
    ({"type": "array", "items": an_object(a=INTEGER)}, '[{}, {"a": 1e300}]', "x[1].a: 1e+300 is beyond"),
    ({"type": "array", "maxItems": 1}, "[1, 2]", "x: "),
    (an_object(a=INTEGER) | {"required": ["a"]}, "{}", 'x: "a" is a required property'),
    (an_object(a=INTEGER) | {"additionalProperties": False}, '{"b": 1, "c": 2}',
     'x: the schema does not allow the properties "b, c"'),
    (an_object(a=INTEGER) | {"required": ["a"]}, '{"b": "the text"}', '"a" is a required property'),
    ({"type": "string", "pattern": "^a+$"}, '"b"', 'x: "b" does not match'),
    ({"properties": {"a": INTEGER}}, "5", "x: 5 is not an object"),
    ({"items": INTEGER}, '"5"', 'x: "5" is not an array'),
    # each alternative lets pass what only the other one has a column for
    ({"anyOf": [an_object(k={"const": "a"}, a=INTEGER), an_object(k={"const": "b"}, b=STRING)]}, '{"k": "a", "b": 5}',
     "x.b: 5 is not a string"),
    ({"anyOf": [an_object(k={"const": "a"}), an_object(k={"const": "b"}, b=DATE)]}, '{"k": "a", "b": "2024-W01-1"}',
     "x.b: \"2024-W01-1\" is not a date"),
    ({"anyOf": [an_object(k={"const": "a"}), an_object(k={"const": "b"}, b={"type": "boolean"})]}, '{"k": "a", "b": 1}',
     "x.b: 1 is not a boolean"),
    ({"properties": {"a": INTEGER}}, "[" * 1000 + "]" * 1000, "x: the value is not an object"),
    ({}, "[" * 400 + "]" * 400, "nested too deeply"),
    ({"type": "array"}, "[" * 300 + "]" * 300, "nested too deeply"),
    (STRING, "[" * 400 + "]" * 400, "nested too deeply"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("x", "text", "problem"), INVALID, ids=[f"{json.dumps(x)} {text:.40}" for x, text, _ in INVALID]
)
def test_an_answer_that_does_not_fit_is_invalid_with_path_and_problem(x: Any, text: str, problem: str) -> None:
    with pytest.raises(InvalidAnswer) as caught:
        AnswerReader(with_x(x)).read(f'{{"x": {text}}}')
    assert problem in str(caught.value)


READER = AnswerReader(with_x(STRING))


@pytest.mark.parametrize(
    "text",
    ['{"x":"a"}', ' \r\n\t{"x": "a"}\n', '```json\n{"x": "a"}\n```', '\n```json\r\n{"x":\n"a"}```\n',
     '```JSON \n{"x": "a"}\n```', '{"x": "b", "y": 1, "x": "a"}'],
)  # fmt: skip
@pytest.mark.parametrize("form", [str, str.encode])
def test_json_is_read_with_whitespace_and_a_fence_around_it(text: str, form: Any) -> None:
    assert READER.read(form(text)) == {"x": "a"}


def test_a_fence_inside_a_string_is_text() -> None:
    assert READER.read('{"x": "```json\\n{}\\n```"}') == {"x": "```json\n{}\n```"}


NOT_READ: list[tuple[str | bytes, str]] = [
    ("", "empty"),
    (" \n", "empty"),
    ("```json\n```", "empty"),
    ('Here it is: {"x": "a"}', 'it starts with "Here it is: '),
    ('{"x": "a"} I hope this helps', "not JSON"),
    ('{"x": "a"', "not JSON"),
    ("{'x': 'a'}", "not JSON"),
    ('{"x": "a",}', "not JSON"),
    ('```\n{"x": "a"}\n```', "not JSON"),
    ('```json\n{"x": "a"}\n```\n```json\n{"x": "a"}\n```', "not JSON"),
    ('\ufeff{"x": "a"}', "not JSON"),
    ('\u00a0{"x": "a"}', "not JSON"),
    ('\x0c{"x": "a"}', "not JSON"),
    ('{"x": "\ud800"}', "surrogate"),
    (b'{"x": "\xff"}', "not JSON"),
    ("null", 'the answer: null is not of type "object"'),
    ("[]", 'the answer: [] is not of type "object"'),
    ('"text"', "is not of type"),
    ("[" * 100_000, "not JSON"),
    ('{"x":' * 100_000, "not JSON"),
    ("[" * 1000 + "]" * 1000, "nested too deeply"),
    ("9" * 100_000, "not JSON"),
    ('{"x": "' + "a" * MAX_ANSWER_BYTES + '"}', "too long"),
    ("\0" * 1000, "not JSON"),
]


@pytest.mark.parametrize(("text", "problem"), NOT_READ, ids=[repr(text[:30]) for text, _ in NOT_READ])
def test_nothing_else_is_read(text: str | bytes, problem: str) -> None:
    with pytest.raises(InvalidAnswer) as caught:
        READER.read(text)
    assert problem in str(caught.value)
    assert len(str(caught.value)) <= 500


def test_a_root_that_may_be_null_is_still_an_object() -> None:
    for schema in (with_x(STRING) | {"type": ["object", "null"]}, with_x(STRING) | {"nullable": True}):
        with pytest.raises(InvalidAnswer, match="null is not"):
            AnswerReader(schema).read("null")


def test_several_problems_are_named_at_once() -> None:
    reader = AnswerReader(an_object(**dict.fromkeys("abcdefg", INTEGER)) | {"required": ["g"], "nullable": True})
    with pytest.raises(InvalidAnswer) as caught:
        reader.read('{"a": "no", "b": 1.5}')
    problems = ['"g" is a required property', 'a: "no" is not of type "integer"', 'b: 1.5 is not of type "integer"']
    assert all(problem in str(caught.value) for problem in problems)
    assert "and more" not in str(caught.value)
    with pytest.raises(InvalidAnswer) as caught:
        reader.read('{"a": "", "b": "", "c": "", "d": "", "e": "", "g": ""}')
    assert str(caught.value).count("is not of type") == 5
    assert str(caught.value).endswith("; and more")


def test_a_long_answer_is_told_the_first_problem_and_a_very_long_one_only_that_it_has_one() -> None:
    reader = AnswerReader(with_x(STRING) | {"required": ["x"]})
    with pytest.raises(InvalidAnswer, match='"x" is a required property'):
        reader.read(json.dumps({"y": "y" * 20_000}))
    with pytest.raises(InvalidAnswer, match="x: 1 is not a string"):
        reader.read(json.dumps({"x": 1, "y": "y" * 200_000}))
    with pytest.raises(InvalidAnswer, match="the answer does not fit the schema"):
        reader.read(json.dumps({"y": "y" * 200_000}))


def test_references_into_nullable_schemas_still_lead_there() -> None:
    items = {
        "type": "array",
        "nullable": True,
        "items": {"nullable": True, "type": "object", "properties": {"z": INTEGER}},
    }
    reader = AnswerReader(
        an_object(a={"$ref": "#/properties/b/items/properties/z"}, b=items, c={"$ref": "#/properties/b"})
    )
    assert reader.read('{"a": 5, "b": null, "c": [null, {"z": 1}]}') == {"a": 5, "b": None, "c": [None, {"z": 1}]}
    with pytest.raises(InvalidAnswer, match=r'a: "5" is not of type "integer"'):
        reader.read('{"a": "5"}')


def test_properties_named_like_keywords_are_properties() -> None:
    schema = an_object(
        enum=STRING, const=INTEGER, format={"type": "string", "format": "uri"}, nullable=STRING, required=INTEGER,
        properties={"$ref": "#/properties/const"}, type={"enum": ["a"]}, items=DATE,
    )  # fmt: skip
    answer = {
        "enum": "e",
        "const": 1,
        "format": "not a uri",
        "nullable": "n",
        "required": 2,
        "properties": 3,
        "type": "a",
    }
    assert AnswerReader(schema).read(json.dumps(answer | {"items": "2024-01-31"})) == answer | {
        "items": date(2024, 1, 31)
    }
    with pytest.raises(InvalidAnswer, match="properties: "):
        AnswerReader(schema).read('{"properties": "x"}')


SNOW = "☃" * 5_000
LEAKY: list[tuple[dict[str, Any], Any]] = [
    (with_x(INTEGER), {"x": SNOW}),
    (with_x({"enum": ["a"]}), {"x": SNOW}),
    (with_x({"enum": ["a"] + [f"option {n}" for n in range(1000)]}), {"x": SNOW}),
    (with_x({"not": STRING}), {"x": SNOW}),
    (with_x(DATE), {"x": SNOW}),
    (with_x({"type": "array", "items": INTEGER}), {"x": [SNOW] * 8}),
    (with_x({"type": "array", "uniqueItems": True}), {"x": [SNOW] * 8}),
    (with_x({"type": "array", "contains": INTEGER}), {"x": [SNOW] * 8}),
    (with_x({"type": "object", "additionalProperties": INTEGER}), {"x": {SNOW: SNOW}}),
    (with_x({}) | {"patternProperties": {"^☃": INTEGER}}, {SNOW: SNOW}),
    (with_x({}) | {"additionalProperties": False}, {SNOW: 1, "y" + SNOW: 2}),
    (with_x({}) | {"unevaluatedProperties": False}, {SNOW: 1, "y" + SNOW: 2}),
    (with_x({}) | {"propertyNames": {"maxLength": 9}}, {SNOW: 1}),
    (with_x({"anyOf": [INTEGER, {"type": "number"}]}), {"x": SNOW}),
    (with_x({"type": "object", "dependentSchemas": {"a": False}}), {"x": {"a": SNOW}}),
    (with_x({"properties": {"a": INTEGER}}), {"x": SNOW}),
    (with_x(STRING), SNOW),
]


@pytest.mark.parametrize("long", [True, False])
@pytest.mark.parametrize(("schema", "answer"), LEAKY, ids=[json.dumps(schema)[:80] for schema, _ in LEAKY])
def test_messages_are_short_and_quote_little_of_the_answer(schema: dict[str, Any], answer: Any, long: bool) -> None:
    text = json.dumps(answer) if long else json.dumps(answer, ensure_ascii=False).replace(SNOW, SNOW[:100])
    with pytest.raises(InvalidAnswer) as caught:
        AnswerReader(schema).read(text)
    assert len(str(caught.value)) <= 500
    assert str(caught.value).count("☃") <= 200
    with pytest.raises(InvalidAnswer) as caught:
        AnswerReader(schema).read(text[: len(text) - 1])
    assert str(caught.value).count("☃") <= 200


@pytest.mark.parametrize(
    ("x", "text"),
    [
        ({"type": "array", "items": STRING}, "[" + "1," * 1_000_000 + "1]"),
        ({"anyOf": [{"type": "array", "items": STRING}, NULL]}, "[" + "1," * 1_000_000 + "1]"),
        ({"type": "array", "items": {"type": "string", "minLength": 2}}, "[" + '"a",' * 500_000 + '"a"]'),
        (an_object(**{f"p{n}": STRING for n in range(900)}) | {"required": [f"p{n}" for n in range(900)]},
         '{"z": [' + "1," * 30_000 + "1]}"),
        ({"type": "array", "items": an_object(**{f"p{n}": STRING for n in range(100)})},
     "[" + "{}," * 1_000_000 + "{}]"),
        ({"type": "string", "pattern": "^(?=(a+)+$)a"}, '"' + "a" * 100_000 + 'b"'),
    ],
    ids=["items", "items of a union", "short items", "missing properties", "unfolding objects", "backtracking"],
)  # fmt: skip
def test_hostile_answers_cost_little(x: Any, text: str) -> None:
    reader = AnswerReader(with_x(x))
    started = time.monotonic()
    with pytest.raises(InvalidAnswer) as caught:
        reader.read(f'{{"x": {text}}}')
    assert time.monotonic() - started < 2  # tens of seconds and gigabytes, were the validator asked for all errors
    assert str(caught.value)


# --- Any schema of the supported kinds, any answer to it


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(root=objects(kinds), data=st.data())
def test_conforming_answers_come_out_of_parquet_as_they_went_in(root: Kind, data: st.DataObject) -> None:
    schema = root.schema | {"$defs": root.defs}
    assert arrow_type(schema) == root.type
    reader = AnswerReader(schema)
    pairs = data.draw(st.lists(root.values, min_size=1, max_size=3))
    read = [reader.read(json.dumps(given, ensure_ascii=data.draw(st.booleans()))) for given, _ in pairs]
    expected = [expected for _, expected in pairs]
    assert read == expected
    rows = pa.schema([("result", arrow_type(schema))])
    table = as_parquet(pa.Table.from_pylist([{"result": value} for value in [*read, None]], schema=rows))
    assert table.schema.equals(rows)
    assert table.column("result").to_pylist() == [*expected, None]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(root=objects(kinds), data=st.data())
def test_any_other_answer_is_invalid_or_fits_the_columns(root: Kind, data: st.DataObject) -> None:
    """Also values of the wrong type at the right place."""
    schema = root.schema | {"$defs": root.defs}
    answer, _ = data.draw(root.values)
    if answer and data.draw(st.booleans()):
        answer = {**answer, data.draw(st.sampled_from(sorted(answer))): data.draw(json_values | st.none())}
    elif data.draw(st.booleans()):
        answer = data.draw(json_values)
    text = json.dumps(answer)
    try:
        value = AnswerReader(schema).read(
            text[: data.draw(st.integers(0, len(text)))] if data.draw(st.booleans()) else text
        )
    except InvalidAnswer as error:
        assert 0 < len(str(error)) <= 500
    else:
        pa.array([value], type=arrow_type(schema)).validate(full=True)


@settings(max_examples=200, deadline=None)
@given(text=st.text() | st.binary() | st.text('{}[]",:xe0123456789.-\\ud8 \n`json', max_size=40))
def test_any_text_is_read_or_invalid(text: str | bytes) -> None:
    try:
        assert list(READER.read(text)) == ["x"]
    except InvalidAnswer as error:
        assert 0 < len(str(error)) <= 500
