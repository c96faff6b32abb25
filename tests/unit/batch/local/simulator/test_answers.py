"""Answers of the simulated provider: valid for every schema, taken from the text, the same each time."""

import hashlib
import time
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch.local.simulator.answers import answer_for
from batch.local.simulator.document_text import Text
from batch.local.simulator.refusals import SchemaError

TICKET = """Label this ticket.

# Printer on **fire**

My printer has caught fire again. The technicians replaced the cartridge yesterday, but the new cartridge exploded!
Please send technicians, a cartridge and a fire extinguisher. I am waiting at the printer.
"""
TICKET_SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "summary": {"type": "string"},
        "category": {"enum": ["hardware", "software", "billing"]},
        "keywords": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["title", "summary", "category", "keywords"],
    "additionalProperties": False,
}


def text(raw: str) -> Text:
    return Text(raw, hashlib.sha256(raw.encode()).digest())


def answer(schema: Any, raw: str = TICKET) -> Any:
    value = answer_for(text(raw), schema)
    jsonschema_rs.validator_for(schema, validate_formats=True).validate(value)
    return value


def test_an_answer_is_taken_from_the_text() -> None:
    found = answer(TICKET_SCHEMA)
    assert list(found) == ["title", "summary", "category", "keywords"]
    assert found["title"] == "Printer on fire"
    assert found["summary"] == "My printer has caught fire again."
    assert found["keywords"][:2] == ["cartridge", "printer"]


@pytest.mark.parametrize(
    ("raw", "title"),
    [
        ("Quarterly report\n\nSales rose.", "Quarterly report"),
        ("Summarize the text below:\n\nQuarterly report\n\nSales rose.", "Quarterly report"),
        ("Subject: Broken *pipe*\nWater everywhere.", "Broken pipe"),
        ("<html><title>A page</title><body><p>Its text.</p></body></html>", "A page"),
        ("Classify this.", "Classify this."),
        ("", "Empty document"),
        ("   \n\t\n", "Empty document"),
        ("四半期報告\n売上が増えた。", "四半期報告"),
    ],
)
def test_the_title_is_the_first_heading_or_line_that_is_no_instruction(raw: str, title: str) -> None:
    assert answer(TICKET_SCHEMA, raw)["title"] == title


def test_the_same_text_gives_the_same_answer_and_others_differ() -> None:
    answers = [
        answer(TICKET_SCHEMA, f"Ticket {number}\nThe machine makes noise number {number}.") for number in range(30)
    ]
    again = [
        answer(TICKET_SCHEMA, f"Ticket {number}\nThe machine makes noise number {number}.") for number in range(30)
    ]
    assert answers == again
    assert {each["category"] for each in answers} == {"hardware", "software", "billing"}
    assert len({each["title"] for each in answers}) == 30


def test_a_large_document_costs_no_more_than_a_small_one() -> None:
    large = text("Word after word. " * 1_500_000)
    answer_for(large, TICKET_SCHEMA)
    started = time.process_time()
    for _ in range(20):
        answer_for(Text(large._head, b"12345678"), TICKET_SCHEMA)
    assert time.process_time() - started < 0.2


def test_nullable_fields_are_sometimes_null() -> None:
    schema = {"type": "object", "properties": {"note": {"type": ["string", "null"]}}, "required": ["note"]}
    nulls = sum(answer(schema, f"Text {number}.")["note"] is None for number in range(400))
    assert 20 < nulls < 90


def test_recursion_ends() -> None:
    tree = {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "parent": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                },
                "required": ["name", "parent", "children"],
            }
        },
        "$ref": "#/$defs/node",
    }
    assert answer(tree)["children"]
    answer({"type": "object", "properties": {"name": {"type": "string"}, "inner": {"$ref": "#"}}, "required": ["name"]})


@pytest.mark.parametrize(
    "schema",
    [
        {"oneOf": [{"type": "integer"}, {"type": "number"}]},
        {"oneOf": [{"type": "number", "multipleOf": 0.5}, {"type": "number", "minimum": 50}, {"type": "boolean"}]},
        {"allOf": [{"type": "integer", "multipleOf": 4}, {"multipleOf": 6, "minimum": 13}, {"maximum": 24}]},
        {"type": "integer", "multipleOf": 2.5, "minimum": 6},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1e-9},
        {"type": "number", "minimum": -1e308, "maximum": 1e308},
        {"type": "array", "items": {"type": ["boolean", "null"]}, "minItems": 3, "uniqueItems": True},
        {"type": "array", "items": {"type": "string", "maxLength": 1}, "minItems": 40, "uniqueItems": True},
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "boolean"}], "items": False},
        {"type": "object", "additionalProperties": {"type": "integer"}, "required": ["a", "b"]},
        {"type": "string", "pattern": r"^[A-Z]{2,3}-\d{4}(x|yy)?$", "minLength": 8},
        {"type": "string", "pattern": r"^(\w)\1[^a-z]\S+$", "maxLength": 30},
        {"type": "string", "pattern": r"\d", "minLength": 20},
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "definitions": {"a/b": {"const": 1}},
            "$ref": "#/definitions/a~1b",
        },
        {
            "properties": {"$ref": {"type": "integer"}, "enum": {"$ref": "#/properties/$ref"}},
            "required": ["$ref", "enum"],
        },
        {"enum": [1, "a", None, {"$ref": "#/nowhere"}], "type": ["object", "null"]},
        {},
        True,
    ],
    ids=str,
)
def test_awkward_schemas_are_answered(schema: Any) -> None:
    for number in range(10):
        answer(schema, f"{TICKET}{number}")


@pytest.mark.parametrize(
    "schema",
    [
        False,
        [],
        "string",
        {"type": "strin"},
        {"type": "string", "minLength": "a"},
        {"type": "string", "minLength": 5, "maxLength": 4},
        {"type": "string", "minLength": 10**9},
        {"type": "array", "items": {"type": "boolean"}, "minItems": 3, "uniqueItems": True},
        {"type": "array", "minItems": 10**9},
        {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 4},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"$ref": "#/$defs/missing"},
        {"$ref": "https://example.com/schema.json"},
        {"enum": [1, 2], "type": "string"},
        {"not": {}},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
    ],
    ids=str,
)
def test_what_cannot_be_answered_is_a_schema_error(schema: Any) -> None:
    with pytest.raises(SchemaError):
        answer_for(text(TICKET), schema)


NAMES = st.sampled_from(["title", "summary", "keywords", "score", "orderId", "due_date", "entities", "größe", "a b"])
FORMATS = ["date", "date-time", "time", "email", "uri", "uuid", "hostname", "ipv4", "ipv6", "duration"]
PATTERNS = [
    r"^[a-z]+$",
    r"^[A-Z]{3}-\d{2,4}$",
    r"^(red|green|blue)$",
    r"^\d+(\.\d+)?$",
    r"^[^\s@]+@[^\s@]+$",
    r"^#?[0-9a-f]{6}$",
]


def bounds(low: str, high: str, most: int) -> st.SearchStrategy[dict[str, int]]:
    pair = st.tuples(st.integers(0, most), st.integers(0, most)).map(sorted)
    return st.one_of(
        st.just({}),
        st.integers(0, most).map(lambda value: {low: value}),
        st.integers(1, most).map(lambda value: {high: value}),
        pair.map(lambda two: {low: two[0], high: max(1, two[1])}),
    )


@st.composite
def numbers(draw: st.DrawFn) -> dict[str, Any]:
    integer = draw(st.booleans())
    low = (
        draw(st.integers(-1000, 1000))
        if integer
        else draw(st.integers(-1000, 1000)) / draw(st.sampled_from([1, 4, 10]))
    )
    width = draw(st.integers(2, 500))
    step = draw(st.sampled_from([None, 1, 2] if integer else [None, 1, 0.5, 0.01, 0.1]))
    schema: dict[str, Any] = {"type": "integer" if integer else "number"}
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["minimum", "exclusiveMinimum"]))] = low
    if draw(st.booleans()):
        # Wide enough for a multiple of any of the steps between two exclusive bounds.
        schema[draw(st.sampled_from(["maximum", "exclusiveMaximum"]))] = low + width + 1
    return schema | ({"multipleOf": step} if step else {})


STRINGS = st.one_of(
    bounds("minLength", "maxLength", 60).map(lambda sizes: {"type": "string", **sizes}),
    st.sampled_from(FORMATS).map(lambda name: {"type": "string", "format": name}),
    st.sampled_from(PATTERNS).map(lambda pattern: {"type": "string", "pattern": pattern}),
)
JSON_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-100, 100), st.text(max_size=8), st.lists(st.integers(0, 3))
)
SCALARS = st.one_of(
    STRINGS,
    numbers(),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {}]),
    st.lists(JSON_VALUES, min_size=1, max_size=5).map(lambda values: {"enum": values}),
    JSON_VALUES.map(lambda value: {"const": value}),
    st.one_of(STRINGS, numbers()).map(lambda schema: schema | {"type": [schema["type"], "null"]}),
    st.sampled_from([{"$ref": "#/$defs/shared"}, {"$ref": "#/$defs/tree"}]),
)


@st.composite
def objects(draw: st.DrawFn, children: st.SearchStrategy[Any]) -> dict[str, Any]:
    properties = draw(st.dictionaries(NAMES, children, max_size=4))
    required = draw(st.lists(st.sampled_from(sorted(properties)), unique=True)) if properties else []
    closed = draw(st.sampled_from([{}, {"additionalProperties": False}]))
    return {"type": "object", "properties": properties, "required": required} | closed


@st.composite
def arrays(draw: st.DrawFn, children: st.SearchStrategy[Any]) -> dict[str, Any]:
    if draw(st.booleans()):
        return {"type": "array", "items": draw(children), **draw(bounds("minItems", "maxItems", 4))}
    varied = st.sampled_from(
        [{"type": "string"}, {"type": "string", "maxLength": 2}, {"type": "integer", "minimum": 3}]
    )
    items = draw(
        st.one_of(
            varied,
            st.just({"enum": [None, 1, "1", [1], True]}),
            objects(varied).map(
                lambda o: (
                    o
                    | {
                        "properties": o["properties"] | {"name": {"type": "string"}},
                        "required": [*o["required"], "name"],
                    }
                )
            ),
        )
    )
    return {"type": "array", "items": items, "uniqueItems": True, **draw(bounds("minItems", "maxItems", 5))}


@st.composite
def combined(draw: st.DrawFn, children: st.SearchStrategy[Any]) -> dict[str, Any]:
    match draw(st.sampled_from(["anyOf", "oneOf", "tagged", "allOf"])):
        case "anyOf":
            return {"anyOf": draw(st.lists(children, min_size=1, max_size=3))}
        case "oneOf":
            return {"oneOf": [draw(STRINGS), draw(numbers()), {"type": "array", "items": draw(children)}]}
        case "tagged":
            tagged = [draw(objects(children)) for _ in range(draw(st.integers(1, 3)))]
            for tag, branch in enumerate(tagged):
                branch["properties"] = branch["properties"] | {"kind": {"const": tag}}
                branch["required"] = [*branch["required"], "kind"]
            return {"oneOf": tagged}
        case _:
            whole = draw(st.one_of(numbers(), objects(children), arrays(children)))
            parts = [{key: value} for key, value in whole.items() if key not in ("additionalProperties", "properties")]
            kept = {key: whole[key] for key in ("additionalProperties", "properties") if key in whole}
            return {"allOf": [*parts, kept]}


@st.composite
def schemas(draw: st.DrawFn) -> dict[str, Any]:
    body: dict[str, Any] = draw(
        st.recursive(SCALARS, lambda inner: st.one_of(objects(inner), arrays(inner), combined(inner)), max_leaves=8)
    )
    tree = {
        "type": "object",
        "properties": {
            "value": {"$ref": "#/$defs/shared"},
            "next": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]},
            "inner": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
        },
        "required": ["value", "next"],
    }
    return body | {"$defs": {"shared": draw(st.one_of(STRINGS, numbers())), "tree": tree}}


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(schemas(), st.one_of(st.just(TICKET), st.text(max_size=200)))
def test_answers_to_any_schema_are_valid(schema: dict[str, Any], raw: str) -> None:
    assert answer(schema, raw) == answer(schema, raw)


KEYWORDS: dict[str, st.SearchStrategy[Any]] = {
    "type": st.sampled_from(
        ["string", "integer", "number", "array", "object", ["string", "null"], ["integer", "array"]]
    ),
    "enum": st.lists(JSON_VALUES, max_size=3, min_size=1),
    "minimum": st.floats(-10, 10),
    "maximum": st.integers(-10, 10),
    "exclusiveMaximum": st.floats(-1, 1),
    "multipleOf": st.sampled_from([1, 3, 0.25, 1e-3]),
    "minLength": st.integers(0, 9),
    "maxLength": st.integers(0, 9),
    "pattern": st.sampled_from(PATTERNS),
    "format": st.sampled_from(FORMATS),
    "minItems": st.integers(0, 3),
    "maxItems": st.integers(0, 3),
    "uniqueItems": st.booleans(),
    "required": st.lists(NAMES, max_size=2, unique=True),
    "minProperties": st.integers(0, 3),
    "maxProperties": st.integers(0, 3),
    "$ref": st.sampled_from(["#", "#/$defs/a", "#/$defs/a/items", "#/properties/title"]),
}


def freely(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    nested: dict[str, st.SearchStrategy[Any]] = {
        "items": inner,
        "properties": st.dictionaries(NAMES, inner, max_size=3),
        "additionalProperties": inner,
        "anyOf": st.lists(inner, min_size=1, max_size=2),
        "oneOf": st.lists(inner, min_size=1, max_size=2),
        "allOf": st.lists(inner, min_size=1, max_size=2),
        "$defs": st.fixed_dictionaries({"a": inner}),
    }
    return st.one_of(st.booleans(), st.fixed_dictionaries({}, optional=KEYWORDS | nested))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.recursive(st.fixed_dictionaries({}, optional=KEYWORDS), freely, max_leaves=6))
def test_any_schema_at_all_gets_a_valid_answer_or_a_schema_error(schema: Any) -> None:
    try:
        value = answer_for(text(TICKET), schema)
    except SchemaError:
        return
    jsonschema_rs.validator_for(schema, validate_formats=True).validate(value)
