"""A JSON schema becomes one Arrow schema, the same for every file of a run, or is refused with a reason."""

import base64
import json
import math
import time
from datetime import date
from typing import Any

import pyarrow as pa
import pytest

from batch.schema.answer_reader import AnswerReader
from batch.schema.arrow import JSON_TEXT, arrow_type, check_schema
from batch.schema.columns import MAX_DEPTH, MAX_PROPERTIES
from batch.schema.problems import SchemaError
from batch.schema.row_schema import ROW_SCHEMA_VERSION, row_schema, schema_from_json, schema_to_json
from tests.unit.batch.schema.json_schemas import (
    DATE,
    DATE_TIME,
    DEFS,
    INTEGER,
    NULL,
    STRING,
    TIMESTAMP,
    an_object,
    as_parquet,
    with_x,
)
from workers.llm.response_format import response_format


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
    response_format(schema)
    assert json.dumps(schema) == before


# --- The row schema, and in run.json


def test_row_schema() -> None:
    s, i, f = pa.string(), pa.int64(), pa.float64()
    assert [(c.name, c.type) for c in row_schema(with_x(INTEGER))] == [
        ("document_id", s), ("uri", s), ("etag", s), ("shard", i), ("partition", i), ("status", s),
        ("result", pa.struct([("x", i)])), ("output_text", s), ("error_type", s), ("error_message", s),
        ("retryable", pa.bool_()), ("finish_reason", s), ("model", s), ("attempts", i), ("prompt_tokens", i),
        ("cached_tokens", i), ("completion_tokens", i), ("cache_write_tokens", i), ("reasoning_tokens", i),
        ("cost_usd", f), ("latency_seconds", f), ("fingerprint", s), ("run_id", s),
        ("generation", i), ("processed_at", TIMESTAMP), ("same_as", s),
        ("pages", i), ("pages_without_text", i),
    ]  # fmt: skip
    with_result, without = row_schema(with_x(INTEGER)).names, row_schema(None).names
    assert [name for name in with_result if name != "result"] == without
    assert ROW_SCHEMA_VERSION == 3


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
