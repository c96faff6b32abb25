"""A JSON schema becomes one Arrow schema or is refused; an answer becomes its columns or is invalid."""

import base64
import hashlib
import io
import json
import math
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch.schema import (
    JSON_TEXT,
    MAX_ANSWER_BYTES,
    MAX_DEPTH,
    MAX_PROPERTIES,
    ROW_SCHEMA_VERSION,
    AnswerReader,
    InvalidAnswer,
    SchemaError,
    arrow_type,
    check_schema,
    is_strict,
    response_format,
    row_schema,
    schema_from_json,
    schema_to_json,
)

TIMESTAMP = pa.timestamp("us", tz="UTC")
NULL: dict[str, Any] = {"type": "null"}
STRING: dict[str, Any] = {"type": "string"}
INTEGER: dict[str, Any] = {"type": "integer"}
DATE: dict[str, Any] = {"type": "string", "format": "date"}
DATE_TIME: dict[str, Any] = {"type": "string", "format": "date-time"}


def an_object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def with_x(x: Any, **more: Any) -> dict[str, Any]:
    return an_object(x=x) | more


def column(schema: dict[str, Any], name: str = "x") -> "pa.Field[Any]":
    return arrow_type(schema).field(name)


# --- JSON schema to columns

STRUCT_AB = pa.struct([("a", pa.int64()), ("b", pa.string())])
TYPES: list[tuple[Any, pa.DataType]] = [
    (STRING, pa.string()),
    (INTEGER, pa.int64()),
    ({"type": "number"}, pa.float64()),
    ({"type": "boolean"}, pa.bool_()),
    (DATE, pa.date32()),
    (DATE_TIME, TIMESTAMP),
    ({"type": "string", "format": "uri"}, pa.string()),
    # enumerations
    ({"enum": ["a", "b"]}, pa.string()),
    ({"enum": ["a", None]}, pa.string()),
    ({"enum": [1, 2]}, pa.int64()),
    ({"enum": [1, 2.5]}, pa.float64()),
    ({"enum": [True]}, pa.bool_()),
    ({"const": "a"}, pa.string()),
    ({"const": 2**63 - 1}, pa.int64()),
    ({"type": "number", "enum": [1, 2]}, pa.float64()),
    ({"type": ["string", "integer"], "enum": ["a", "b"]}, pa.string()),
    ({"enum": ["2024-01-31"], "format": "date"}, pa.date32()),
    # null beside something else
    ({"type": ["integer", "null"]}, pa.int64()),
    ({"type": ["null", "string"], "format": "date"}, pa.date32()),
    ({"anyOf": [INTEGER, NULL]}, pa.int64()),
    ({"oneOf": [NULL, DATE_TIME]}, TIMESTAMP),
    ({"type": "boolean", "nullable": True}, pa.bool_()),
    ({"anyOf": [{"anyOf": [NULL, INTEGER]}, NULL]}, pa.int64()),
    # unions that one type takes
    ({"type": ["integer", "number"]}, pa.float64()),
    ({"anyOf": [INTEGER, {"type": "number"}]}, pa.float64()),
    ({"anyOf": [{"const": "a"}, {"const": "b"}]}, pa.string()),
    ({"anyOf": [DATE, STRING]}, pa.string()),
    ({"anyOf": [{"const": True}, {"const": False}]}, pa.bool_()),
    ({"anyOf": [DATE, DATE_TIME]}, pa.string()),
    ({"anyOf": [an_object(a=INTEGER), an_object(b=STRING)]}, STRUCT_AB),
    ({"oneOf": [{"items": INTEGER}, {"type": "array", "items": {"type": "number"}}]}, pa.list_(pa.float64())),
    # objects and arrays
    (an_object(a=INTEGER, b=STRING), STRUCT_AB),
    ({"properties": {"a": INTEGER, "b": STRING}}, STRUCT_AB),
    (an_object(a=INTEGER, b=STRING) | {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, STRUCT_AB),
    (an_object(a=INTEGER, b=STRING) | {"additionalProperties": INTEGER}, STRUCT_AB),
    ({"type": "array", "items": INTEGER}, pa.list_(pa.int64())),
    ({"items": {"type": "array", "items": an_object(a=INTEGER, b=STRING)}}, pa.list_(pa.list_(STRUCT_AB))),
    ({"type": "array", "prefixItems": [INTEGER, INTEGER]}, pa.list_(pa.int64())),
    ({"type": "array", "prefixItems": [INTEGER], "items": INTEGER}, pa.list_(pa.int64())),
    ({"type": "array", "prefixItems": [an_object(a=INTEGER), an_object(a=INTEGER)], "items": False},
     pa.list_(pa.struct([("a", pa.int64())]))),
    # all of it
    ({"allOf": [{"type": "number"}, INTEGER]}, pa.int64()),
    ({"type": "boolean", "allOf": [{"enum": [True, False]}]}, pa.bool_()),
    ({"type": "string", "allOf": [{"minLength": 1}, DATE]}, pa.date32()),
    ({"allOf": [an_object(a=INTEGER), an_object(b=STRING)]}, STRUCT_AB),
    (an_object(a={}) | {"allOf": [an_object(a=INTEGER, b=STRING)]}, STRUCT_AB),
    ({"allOf": [{"type": "array"}, {"items": INTEGER}]}, pa.list_(pa.int64())),
    ({"type": "object", "allOf": [{"properties": {"a": INTEGER, "b": STRING}}]}, STRUCT_AB),
    ({"type": "string", "if": {"const": "a"}, "then": {"maxLength": 1}, "not": INTEGER}, pa.string()),
    # references
    ({"$ref": "#/$defs/number"}, pa.float64()),
    ({"$ref": "#/$defs/number", "type": "integer", "description": "beside a reference"}, pa.int64()),
    ({"$ref": "#/$defs/two"}, pa.struct([("y", pa.float64())])),
    ({"$ref": "#/$defs/odd%20%7E1name~1with~0all%25"}, pa.bool_()),
    ({"anyOf": [{"$ref": "#/$defs/number"}, NULL]}, pa.float64()),
]  # fmt: skip
DEFS: dict[str, Any] = {
    "number": {"type": "number"},
    "two": an_object(y={"$ref": "#/$defs/number"}),
    "odd /name/with~all%": {"type": "boolean"},
}


@pytest.mark.parametrize(("x", "expected"), TYPES, ids=[json.dumps(x) for x, _ in TYPES])
def test_a_property_becomes_a_column(x: Any, expected: pa.DataType) -> None:
    found = column(with_x(x, **{"$defs": DEFS}))
    assert found.type == expected
    assert found.nullable
    assert found.metadata is None


JSON_TEXTS: list[Any] = [
    {},
    True,
    {"description": "anything"},
    {"minLength": 3},
    {"type": "object"},
    {"type": "object", "properties": {}},
    {"type": "object", "additionalProperties": INTEGER},
    {"type": ["object", "null"]},
    {"type": "array", "prefixItems": [INTEGER, STRING]},
    {"type": "array", "prefixItems": [INTEGER], "items": STRING},
    {"anyOf": [{"type": "object"}, an_object(a=INTEGER)]},
    {"enum": [{"a": 1}, {"b": 2}]},
    {"anyOf": [{"type": "array"}, {"prefixItems": [INTEGER, STRING]}]},
    {"allOf": [{"type": "array"}, {"prefixItems": [INTEGER, STRING]}]},
]


@pytest.mark.parametrize("x", JSON_TEXTS, ids=json.dumps)
def test_what_has_no_type_of_its_own_becomes_json_text(x: Any) -> None:
    found = column(with_x(x))
    assert found.type == pa.string()
    assert found.metadata == JSON_TEXT == {b"docbatch.json": b"1"}


@pytest.mark.parametrize(
    "x", [{"type": "array"}, {"type": "array", "items": {}}, {"type": "array", "items": False}], ids=json.dumps
)
def test_an_array_of_anything_becomes_a_list_of_json_text(x: Any) -> None:
    found = column(with_x(x)).type
    assert found == pa.list_(pa.string())
    assert found.field(0).metadata == JSON_TEXT


def test_columns_come_in_the_order_of_the_properties_and_every_level_is_nullable() -> None:
    schema = an_object(z=STRING, a=an_object(y=INTEGER, b={"type": "array", "items": STRING}), m=DATE)
    schema["required"] = ["z", "a", "m"]
    found = arrow_type(schema)
    assert [inner.name for inner in found] == ["z", "a", "m"]
    assert [inner.name for inner in found.field("a").type] == ["y", "b"]
    assert all(inner.nullable for inner in [*found, *found.field("a").type])
    assert found.field("a").type.field("b").type.field(0).nullable


def test_the_root_may_be_a_reference_or_a_merger() -> None:
    assert arrow_type({"$ref": "#/$defs/a", "$defs": {"a": an_object(x=INTEGER)}}) == pa.struct([("x", pa.int64())])
    assert arrow_type({"allOf": [an_object(x=INTEGER), an_object(y=STRING)]}).num_fields == 2
    assert arrow_type(with_x(INTEGER, **{"$defs": {"unused": {"$ref": "#"}}})) == pa.struct([("x", pa.int64())])
    for dialect in ("http://json-schema.org/draft-07/schema#", "https://example.com/our-own"):
        about = {"$schema": dialect, "$id": "https://example.com/x", "$defs": {"i": INTEGER}}
        assert AnswerReader(with_x({"$ref": "#/$defs/i"}, **about)).read('{"x": 1}') == {"x": 1}


def nested(levels: int, kind: str = "array") -> dict[str, Any]:
    inner = INTEGER
    for _ in range(levels):
        inner = {"type": "array", "items": inner} if kind == "array" else an_object(x=inner)
    return inner


def doubling(levels: int) -> dict[str, Any]:
    """2**levels properties in a few lines."""
    defs: dict[str, Any] = {
        f"d{level}": an_object(a={"$ref": f"#/$defs/d{level + 1}"}, b={"$ref": f"#/$defs/d{level + 1}"})
        for level in range(levels)
    }
    return with_x({"$ref": "#/$defs/d0"}, **{"$defs": defs | {f"d{levels}": STRING}})


REFUSED: list[tuple[str, Any, str, str]] = [
    # invalid JSON schema
    ("a list", [], "#", "an object, not a list"),
    ("misspelt type", with_x({"type": "strin"}), "#/properties/x/type", "Did you mean `string`"),
    ("unknown type", with_x({"type": "qqq"}), "#/properties/x/type", "Use one of boolean, integer"),
    ("draft 3 required", with_x({"type": "string", "required": True}), "#/properties/x/required",
     "true is not of type"),
    ("draft 7 tuple", with_x({"items": [INTEGER]}), "#/properties/x/items", "prefixItems"),
    ("negative length", with_x({"minLength": -1}), "#/properties/x/minLength", "-1 is less than"),
    ("bad pattern", with_x({"pattern": "("}), "#/properties/x/pattern", "regex"),
    ("bad part of a union", with_x({"anyOf": [{"minLength": -1}, NULL]}), "#/properties/x/anyOf/0/minLength",
     "-1 is less"),
    ("key that is no string", {1: 2}, "#", "the key 1 is not a string"),
    ("date out of YAML", with_x({"enum": [date(2024, 1, 31)]}), "#/properties/x/enum/0",
     "a date, which JSON does not have"),
    ("not a number", with_x({"maximum": math.inf}), "#/properties/x/maximum", "inf is not a JSON number"),
    ("surrogate", with_x({"const": "\ud800"}), "#/properties/x/const", "surrogate"),
    ("surrogate in a name", an_object(**{"\ud800": STRING}), "#/properties", "surrogate"),
    # the root
    ("no properties", {"type": "object"}, "#", "an object with properties"),
    ("empty properties", an_object(), "#", "an object with properties"),
    ("array at the root", {"type": "array", "items": INTEGER}, "#", "not an array"),
    ("nothing at the root", {}, "#", "not any value"),
    ("string at the root", STRING, "#", "not a string"),
    # references
    ("remote", with_x({"$ref": "https://example.com/x.json#/a"}), "#/properties/x/$ref", "remote"),
    ("relative", with_x({"$ref": "other.json"}), "#/properties/x/$ref", "remote"),
    ("hidden remote", with_x({"type": "object", "additionalProperties": {"$ref": "file:///etc/passwd"}}),
     "#/properties/x/additionalProperties/$ref", "remote"),
    ("dangling", with_x({"$ref": "#/$defs/nope"}), "#/properties/x/$ref", "`#/$defs/nope` leads to no schema"),
    ("not a schema", with_x({"$ref": "#/properties"}), "#/properties/x/$ref", "leads to no schema"),
    ("anchor", with_x({"$ref": "#here"}), "#/properties/x/$ref", "not a path"),
    ("dynamic", with_x({"$dynamicRef": "#here"}), "#/properties/x", "$dynamicRef"),
    ("id within", with_x({"$id": "https://example.com/x"}), "#/properties/x", "$id"),
    ("recursion to the root", with_x({"$ref": "#"}), "#/properties/x/$ref", "recursion cannot become columns"),
    ("recursion through items",
     with_x({"$ref": "#/$defs/t"}, **{"$defs": {"t": an_object(c={"type": "array", "items": {"$ref": "#/$defs/t"}})}}),
     "#/$defs/t/properties/c/items/$ref", "recursion cannot become columns"),
    ("recursion to itself", with_x({"$ref": "#/properties/x"}), "#/properties/x/$ref",
     "recursion cannot become columns"),
    ("recursion in JSON text", with_x({"type": "object", "additionalProperties": {"$ref": "#/properties/x"}}),
     "#/properties/x/additionalProperties/$ref", "recursion"),
    # types that do not go together
    ("two types", with_x({"type": ["string", "integer"]}), "#/properties/x/type",
     "both a string and an integer are allowed"),
    ("two types, nullable", with_x({"anyOf": [STRING, {"type": "boolean"}, NULL]}), "#/properties/x/anyOf",
     "a string and a boolean"),
    ("array or object", with_x({"oneOf": [an_object(a=STRING), {"type": "array"}]}), "#/properties/x/oneOf",
     "an object and an array"),
    ("boolean or number", with_x({"type": ["number", "boolean"]}), "#/properties/x/type", "a number and a boolean"),
    ("mixed enum", with_x({"enum": ["a", 1]}), "#/properties/x/enum", "a string and an integer"),
    ("mixed enum of booleans", with_x({"enum": [True, 1]}), "#/properties/x/enum", "a boolean and an integer"),
    ("objects that disagree", with_x({"anyOf": [an_object(a=STRING), an_object(a=INTEGER)]}),
     "#/properties/x/anyOf/1/properties/a", "a string and an integer"),
    ("allOf that disagrees", with_x({"allOf": [STRING, INTEGER]}), "#/properties/x",
     "no value is both a string and an integer"),
    ("reference that disagrees", with_x({"$ref": "#/$defs/s", "type": "integer"}, **{"$defs": {"s": STRING}}),
     "#/properties/x", "no value is both"),
    ("date and date-time", with_x({"allOf": [DATE, DATE_TIME]}), "#/properties/x", "both a date and a date-time"),
    # no values
    ("null alone", with_x(NULL), "#/properties/x", "only null is valid"),
    ("null list", with_x({"type": "array", "items": NULL}), "#/properties/x/items", "only null is valid"),
    ("null const", with_x({"const": None}), "#/properties/x", "only null is valid"),
    ("null and more", with_x({"allOf": [STRING, NULL]}), "#/properties/x/allOf/1", "only null is valid"),
    ("nothing of something", with_x({"allOf": [NULL, False]}), "#/properties/x/allOf/1", "no value is valid"),
    ("false", with_x(False), "#/properties/x", "no value is valid"),
    ("empty enum", with_x({"enum": []}), "#/properties/x", "no value is valid"),
    ("enum of another type", with_x({"type": "integer", "enum": ["1"]}), "#/properties/x/enum", "no value is of type"),
    ("enum beyond 64 bits", with_x({"enum": [2**63]}), "#/properties/x/enum", "64 bits"),
    ("misspelt required", an_object(label=STRING) | {"required": ["lable"], "additionalProperties": False},
     "#/required", "Did you mean `label`"),
    # names and limits
    ("no name", an_object(**{"": STRING}), "#/properties/", "without a name"),
    ("names by case", an_object(Label=STRING, label=STRING), "#/properties/label",
     "`label` and `Label` differ only by case"),
    ("names by case, merged", {"allOf": [an_object(a=STRING), an_object(A=STRING)]}, "#/allOf/1/properties/A",
     "differ only by case"),
    ("names by case, deep", with_x(an_object(ä=STRING, Ä=STRING)), "#/properties/x/properties/Ä",
     "differ only by case"),
    ("lists too deep", with_x(nested(MAX_DEPTH)), "#/properties/x", f"more than {MAX_DEPTH} levels"),
    ("objects too deep", nested(MAX_DEPTH + 1, "object"), "#/properties/x", f"more than {MAX_DEPTH} levels"),
    ("too many properties", an_object(**{f"p{n}": STRING for n in range(MAX_PROPERTIES + 1)}), "#",
     f"more than {MAX_PROPERTIES} properties"),
    ("too many by references", doubling(60), "#/$defs/d", f"more than {MAX_PROPERTIES} properties"),
    ("a long chain",
     with_x({"$ref": "#/$defs/d0"},
            **{"$defs": {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(999)} | {"d999": STRING}}),
     "#/$defs/d", "too deeply"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "at", "problem"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_cannot_become_columns_is_refused_with_place_and_reason(schema: Any, at: str, problem: str) -> None:
    with pytest.raises(SchemaError) as caught:
        check_schema(schema)
    message = str(caught.value)
    where, _, rest = message.partition(": ")
    assert where.startswith(f"output.schema{at}")
    if at[-1:] != "d":  # which of several definitions is named is left open
        assert where == f"output.schema{at}" or "levels" in problem
    assert problem in rest
    assert rest.endswith((".", "?"))
    for use in (arrow_type, AnswerReader, row_schema):
        with pytest.raises(SchemaError):
            use(schema)


def test_limits_are_not_off_by_one() -> None:
    check_schema(with_x(nested(MAX_DEPTH - 1)))
    check_schema(nested(MAX_DEPTH, "object"))
    check_schema(an_object(**{f"p{n}": STRING for n in range(MAX_PROPERTIES)}))


def test_a_required_property_that_only_a_pattern_allows_is_no_mistake() -> None:
    patterns = {"patternProperties": {"^y": INTEGER}, "required": ["y1"], "additionalProperties": False}
    assert AnswerReader(with_x(STRING) | patterns).read('{"x": "a", "y1": 1}') == {"x": "a"}


def test_hostile_schemas_end_in_an_error_and_soon() -> None:
    started = time.monotonic()
    endless: dict[str, Any] = {}
    endless["not"] = endless
    bomb: list[Any] = ["x"]
    for _ in range(60):
        bomb = [bomb, bomb]
    deep: dict[str, Any] = {}
    for _ in range(50_000):
        deep = {"not": deep}
    wide: dict[str, Any] = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(60)}
    for schema in (with_x(endless), with_x({"enum": bomb}), with_x(deep), doubling(100)):
        with pytest.raises(SchemaError):
            check_schema(schema)
    check_schema(with_x({"$ref": "#/$defs/d0"}, **{"$defs": wide | {"d60": STRING}}))
    assert time.monotonic() - started < 5


def test_a_schema_is_not_changed_by_its_use() -> None:
    schema = with_x(
        {"$ref": "#/$defs/d", "nullable": True},
        **{"$id": "https://x/y", "$defs": {"d": {"type": "string", "format": "uri"}}},
    )
    before = json.dumps(schema)
    AnswerReader(schema).read('{"x": null}')
    response_format(schema, "n")
    assert json.dumps(schema) == before


# --- The row schema, and in run.json


def test_row_schema() -> None:
    s, i, f = pa.string(), pa.int64(), pa.float64()
    assert [(c.name, c.type) for c in row_schema(with_x(INTEGER))] == [
        ("document_id", s), ("uri", s), ("etag", s), ("shard", i), ("partition", i), ("status", s),
        ("result", pa.struct([("x", i)])), ("output_text", s), ("error_type", s), ("error_message", s),
        ("retryable", pa.bool_()), ("finish_reason", s), ("model", s), ("attempts", i), ("prompt_tokens", i),
        ("cached_tokens", i), ("completion_tokens", i), ("cost_usd", f), ("latency_seconds", f), ("fingerprint", s),
        ("run_id", s), ("generation", i), ("processed_at", TIMESTAMP),
    ]  # fmt: skip
    with_result, without = row_schema(with_x(INTEGER)).names, row_schema(None).names
    assert [name for name in with_result if name != "result"] == without
    assert ROW_SCHEMA_VERSION == 1


def test_a_schema_survives_run_json_with_its_metadata() -> None:
    schema = row_schema(an_object(a={}, b={"type": "array", "items": an_object(c=DATE_TIME, d={"type": "object"})}))
    schema = schema.with_metadata({"k": "v"})
    text = schema_to_json(schema)
    assert schema_from_json(text).equals(schema, check_metadata=True)
    found = schema_from_json(text).field("result").type.field("b").type.field(0).type.field("d")
    assert found.metadata == JSON_TEXT
    columns = json.loads(text)["columns"]
    assert columns[0] == {"name": "document_id", "type": "string"}
    assert [c["name"] for c in columns] == schema.names


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"arrow_ipc": 5}', '{"arrow_ipc": "?"}', '{"arrow_ipc": ""}',
     json.dumps({"arrow_ipc": base64.b64encode(row_schema(None).serialize().to_pybytes()[:-40]).decode()})],
)  # fmt: skip
def test_a_damaged_schema_in_run_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="Arrow schema cannot be read"):
        schema_from_json(text)


EVERY_KIND = an_object(
    text=STRING,
    count=INTEGER,
    score={"type": "number"},
    urgent={"type": "boolean"},
    day=DATE,
    at=DATE_TIME,
    label={"enum": ["a", "b"]},
    tags={"type": "array", "items": STRING},
    people={"type": "array", "items": an_object(name=STRING, born=DATE, extra={})},
    place=an_object(city=STRING, at=an_object(lat={"type": "number"})),
    free={},
    pair={"type": "array", "prefixItems": [INTEGER, STRING]},
)
EVERY_VALUE = {
    "text": "ä\0☃", "count": 1, "score": 1, "urgent": True, "day": "2024-02-29", "at": "2024-02-29T12:00:00+02:00",
    "label": "a", "tags": ["x", ""], "people": [{"name": "P", "born": "1999-12-31", "extra": {"k": [1]}}, {}],
    "place": {"city": "C", "at": {"lat": 1.5}}, "free": {"z": 1, "a": [None]}, "pair": [1, "x"],
}  # fmt: skip


def as_parquet(table: pa.Table) -> pa.Table:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return pq.read_table(buffer)


def test_all_files_of_a_run_have_one_schema_also_if_all_rows_failed() -> None:
    schema = row_schema(EVERY_KIND)
    answer = AnswerReader(EVERY_KIND).read(json.dumps(EVERY_VALUE))
    ok = as_parquet(pa.Table.from_pylist([{"document_id": "1", "result": answer}, {"document_id": "2"}], schema=schema))
    failed = as_parquet(pa.Table.from_pylist([{"document_id": "3"}, {"document_id": "4"}], schema=schema))
    empty = as_parquet(schema.empty_table())
    for table in (ok, failed, empty):
        assert table.schema.equals(schema)
        assert table.schema.field("result").type.field("free").metadata[b"docbatch.json"] == b"1"
    assert failed.column("result").null_count == 2
    assert ok.column("result").to_pylist() == [answer, None]
    assert pa.concat_tables([ok, failed, empty]).num_rows == 4


# --- Answers

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


@dataclass
class Kind:
    """A schema, the type it must become, and pairs of a JSON value and what the column must then hold."""

    schema: Any
    type: pa.DataType
    values: st.SearchStrategy[tuple[Any, Any]]
    defs: dict[str, Any] = field(default_factory=dict)
    takes_null: bool = False


def same(values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, Any]]:
    return values.map(lambda value: (value, value))


floats = st.floats(allow_nan=False, allow_infinity=False)
int64s = st.integers(-(2**63), 2**63 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.booleans() | int64s | floats | texts,
    lambda inner: st.lists(inner | st.none(), max_size=3) | st.dictionaries(texts, inner | st.none(), max_size=3),
    max_leaves=5,
)


@st.composite
def date_times(draw: st.DrawFn) -> tuple[str, datetime]:
    offset = timedelta(minutes=draw(st.integers(-23 * 60 - 59, 23 * 60 + 59)))
    at = draw(st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31))).replace(microsecond=0, tzinfo=timezone(offset))
    digits = draw(st.text("0123456789", max_size=9))
    text = at.isoformat().replace("T", draw(st.sampled_from("Tt")))
    if not offset and draw(st.booleans()):
        text = text.removesuffix("+00:00") + draw(st.sampled_from("Zz"))
    if digits:
        text = f"{text[:19]}.{digits}{text[19:]}"
    return text, at.astimezone(UTC).replace(microsecond=int(digits[:6].ljust(6, "0")))


SCALARS = [
    Kind(INTEGER, pa.int64(), same(int64s) | st.integers(-(2**53) + 1, 2**53 - 1).map(lambda n: (float(n), n))),
    Kind({"type": "number"}, pa.float64(), (floats | int64s).map(lambda n: (n, float(n)))),
    Kind({"type": "boolean"}, pa.bool_(), same(st.booleans())),
    Kind(STRING, pa.string(), same(texts)),
    Kind({"type": "string", "format": "uri"}, pa.string(), same(texts)),
    Kind(DATE, pa.date32(), st.dates().map(lambda day: (day.isoformat(), day))),
    Kind(DATE_TIME, TIMESTAMP, date_times()),
    Kind({"enum": ["a", "", "☃"]}, pa.string(), same(st.sampled_from(["a", "", "☃"]))),
    Kind({"const": -5}, pa.int64(), same(st.just(-5))),
    Kind({}, pa.string(), json_values.map(lambda value: (value, orjson.dumps(value).decode())), takes_null=True),
    Kind({"type": "object", "additionalProperties": INTEGER}, pa.string(),
         st.dictionaries(texts, int64s, max_size=3).map(lambda value: (value, orjson.dumps(value).decode()))),
]  # fmt: skip


def nullable(kind: Kind, way: str) -> Kind:
    schema: dict[str, Any]
    match way:
        case "type" if isinstance(kind.schema.get("type"), str):
            schema = {**kind.schema, "type": [kind.schema["type"], "null"]}
        case "openapi":
            schema = {**kind.schema, "nullable": True}
        case "oneOf" if not kind.takes_null:
            schema = {"oneOf": [NULL, kind.schema]}
        case _:
            schema = {"anyOf": [kind.schema, NULL]}
    return replace(kind, schema=schema, values=kind.values | st.just((None, None)), takes_null=True)


def referenced(kind: Kind) -> Kind:
    name = f"a/{hashlib.sha1(json.dumps(kind.schema).encode()).hexdigest()[:8]} ~%"
    ref = "#/$defs/" + name.replace("~", "~0").replace("/", "~1").replace("%", "%25").replace(" ", "%20")
    return replace(kind, schema={"$ref": ref}, defs={**kind.defs, name: kind.schema})


def merged(kind: Kind) -> Kind:
    return replace(kind, schema={"allOf": [kind.schema, {"description": "d"}]})


def listed(kind: Kind) -> Kind:
    values = st.lists(kind.values, max_size=3).map(
        lambda pairs: ([one for one, _ in pairs], [other for _, other in pairs])
    )
    return Kind({"type": "array", "items": kind.schema}, pa.list_(kind.type), values, kind.defs)


@st.composite
def objects(draw: st.DrawFn, kinds: st.SearchStrategy[Kind]) -> Kind:
    names = draw(st.lists(texts.filter(bool), min_size=1, max_size=4, unique_by=str.lower))
    members = {name: draw(kinds) for name in names}
    required = draw(st.sets(st.sampled_from(names)))
    closed = draw(st.booleans())

    @st.composite
    def values(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
        given, expected = {}, dict.fromkeys(names)
        for name in draw(st.permutations(names)):
            if name in required or draw(st.booleans()):
                given[name], expected[name] = draw(members[name].values)
        if not closed:
            given |= draw(st.dictionaries(texts.filter(lambda name: name not in members), json_values, max_size=1))
        return given, expected

    schema: dict[str, Any] = {"type": "object", "properties": {name: kind.schema for name, kind in members.items()}}
    schema |= {"required": sorted(required), "additionalProperties": not closed}
    defs = {name: schema for kind in members.values() for name, schema in kind.defs.items()}
    return Kind(schema, pa.struct([(name, kind.type) for name, kind in members.items()]), values(), defs)


WAYS = st.sampled_from(["type", "openapi", "anyOf", "oneOf"])
kinds: st.SearchStrategy[Kind] = st.recursive(
    st.sampled_from(SCALARS),
    lambda inner: (
        inner.map(listed)
        | inner.map(referenced)
        | st.builds(nullable, inner, WAYS)
        | inner.map(merged)
        | objects(inner)
    ),
    max_leaves=6,
)


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


# --- What is asked of the provider


def strict(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def strict_levels(levels: int) -> dict[str, Any]:
    inner: dict[str, Any] = STRING
    for _ in range(levels - 1):
        inner = strict(x=inner)
    return inner


OPTIONS = [f"{n:060}" for n in range(251)]
STRICT: list[tuple[str, dict[str, Any], bool]] = [
    ("plain",
     strict(a=STRING, b=INTEGER, c={"type": ["number", "null"]}, d={"type": "array", "items": {"type": "boolean"}}),
     True),
    ("described",
     strict(a=STRING | {"description": "d",
     "title": "A"}) | {"$schema": "https://json-schema.org/draft/2020-12/schema"}, True),
    ("enum", strict(a={"type": "string", "enum": ["a", "b"]}), True),
    ("nested", strict(a=strict(b={"type": "array", "items": strict(c=STRING)})), True),
    ("reference", strict(a={"$ref": "#/$defs/d"}) | {"$defs": {"d": strict(b=STRING)}}, True),
    ("union", strict(a={"anyOf": [strict(b=STRING), strict(c=STRING), NULL]}), True),
    ("limits on values",
     strict(a={"type": "integer", "minimum": 0, "maximum": 9}, b={"type": "array", "items": STRING, "maxItems": 3}),
     True),
    ("formats and patterns", strict(a=DATE_TIME, b={"type": "string", "pattern": "^[a-z]+$"}), True),
    ("ten levels", strict_levels(10), True),
    ("open object", with_x(STRING) | {"required": ["x"]}, False),
    ("not all required", strict(a=STRING, b=STRING) | {"required": ["a"]}, False),
    ("open object within", strict(a=with_x(STRING) | {"required": ["x"]}), False),
    ("open object in a list", strict(a={"type": "array", "items": with_x(STRING)}), False),
    ("open object in an unused definition", strict(a=STRING) | {"$defs": {"d": with_x(STRING)}}, False),
    ("open object behind a reference", strict(a={"$ref": "#/properties/b"}, b=with_x(STRING)), False),
    ("free-form object", strict(a={"type": "object"}), False),
    ("map", strict(a={"type": "object", "additionalProperties": STRING}), False),
    ("no type", strict(a={}), False),
    ("enum without a type", strict(a={"enum": ["a"]}), False),
    ("array of anything", strict(a={"type": "array"}), False),
    ("allOf", strict(a={"allOf": [STRING]}), False),
    ("oneOf", strict(a={"oneOf": [STRING, NULL]}), False),
    ("not", strict(a=STRING | {"not": {"const": "a"}}), False),
    ("if", strict(a=STRING | {"if": {"const": "a"}, "then": {"minLength": 1}}), False),
    ("dependentRequired", strict(a=STRING) | {"dependentRequired": {"a": ["a"]}}, False),
    ("patternProperties", strict(a=STRING) | {"patternProperties": {"b": STRING}}, False),
    ("default", strict(a=STRING | {"default": ""}), False),
    ("minLength", strict(a=STRING | {"minLength": 1}), False),
    ("uniqueItems", strict(a={"type": "array", "items": STRING, "uniqueItems": True}), False),
    ("nullable", strict(a=STRING | {"nullable": True}), False),
    ("format", strict(a=STRING | {"format": "uri"}), False),
    ("lookahead", strict(a=STRING | {"pattern": "(?=a)"}), False),
    ("beside a reference", strict(a={"$ref": "#/$defs/d", "description": "x"}) | {"$defs": {"d": STRING}}, False),
    ("objects that look alike",
     strict(a={"anyOf": [strict(k=STRING, b=STRING), {"$ref": "#/$defs/d"}]}) | {"$defs": {"d": strict(k=STRING)}},
     False),
    ("union at the root", {"anyOf": [strict(a=STRING)], "type": "object"} | strict(a=STRING), False),
    ("dialect within", strict(a=STRING | {"$schema": "https://json-schema.org/draft/2020-12/schema"}), False),
    ("root that may be null", strict(a=STRING) | {"type": ["object", "null"]}, False),
    ("root without a type", {key: value for key, value in strict(a=STRING).items() if key != "type"}, False),
    ("lists are levels", strict(a={"type": "array", "items": strict_levels(9)}), False),
    ("not as many", strict(a={"type": "array", "items": strict_levels(8)}), True),
    ("eleven levels", strict_levels(11), False),
    ("too many properties", strict(**{f"p{n}": STRING for n in range(5001)}), False),
    ("too many characters", strict(**{f"{n:0200}": STRING for n in range(601)}), False),
    ("too many characters in values", strict(a={"type": "string", "const": "x" * 120_000}), False),
    ("too many values", strict(**{f"p{n}": {"type": "string", "enum": ["a"] * 101} for n in range(10)}), False),
    ("a long enum", strict(a={"type": "string", "enum": OPTIONS}), False),
    ("an enum not as long", strict(a={"type": "string", "enum": OPTIONS[:250]}), True),
    ("recursion", strict(a={"$ref": "#/$defs/d"}) | {"$defs": {"d": strict(b={"$ref": "#/$defs/d"})}}, False),
    ("recursion without end", strict(a={"$ref": "#/$defs/d"}) | {"$defs": {"d": {"$ref": "#/$defs/d"}}}, False),
    ("dangling", strict(a={"$ref": "#/$defs/d"}), False),
    ("unfolding",
     strict(a={"$ref": "#/$defs/d0"})
     | {"$defs": {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 9} for n in range(5)} | {"d5": STRING}}, False),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "expected"), [case[1:] for case in STRICT], ids=[case[0] for case in STRICT])
def test_strict_is_what_openai_takes_as_strict(schema: dict[str, Any], expected: bool) -> None:
    assert is_strict(schema) is expected
    assert response_format(schema, "n")["json_schema"]["strict"] is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("support-tickets", "support-tickets"),
        ("a b/ü☃.1", "a_b____1"),
        ("", "answer"),
        ("x" * 65, "x" * 64),
        ("a\n", "a_"),
    ],
)
def test_response_format(name: str, expected: str) -> None:
    schema = strict(a=STRING)
    found = response_format(schema, name)
    assert found == {"type": "json_schema", "json_schema": {"name": expected, "schema": schema, "strict": True}}
    assert found["json_schema"]["schema"] is schema
