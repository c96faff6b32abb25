"""What is asked of OpenAI: the schema as it is, and strictly where that is allowed."""

from typing import Any

import pytest

from tests.unit.batch.schema.json_schemas import DATE_TIME, INTEGER, NULL, STRING, with_x
from workers.llm.response_format import is_strict, response_format


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
    assert response_format(schema)["json_schema"]["strict"] is expected


def test_response_format() -> None:
    schema = strict(a=STRING)
    found = response_format(schema)
    assert found == {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    assert found["json_schema"]["schema"] is schema
