"""Asks the provider for answers in a JSON schema, by OpenAI's `response_format`. Strictly, if its rules allow that."""

from typing import Any

from batch.schema.json_pointer import tokens

NAME = "answer"
"""What the API calls the schema. The same for every job: a job's name must not change an answer."""


def response_format(schema: dict[str, Any]) -> dict[str, Any]:
    """Returns the value of OpenAI's `response_format` for `schema`, which is passed on as it is."""
    return {"type": "json_schema", "json_schema": {"name": NAME, "schema": schema, "strict": is_strict(schema)}}


def is_strict(schema: dict[str, Any]) -> bool:
    """Whether `schema` keeps OpenAI's rules for strict structured outputs, so that the model cannot but answer in it.

    Where the rules leave room (what counts as a level, keywords that they do not mention) the answer is no: a schema
    that the provider refuses fails the run, one that is not strict only costs a re-ask now and then.
    Rules: https://platform.openai.com/docs/guides/structured-outputs#supported-schemas
    """
    if not isinstance(schema, dict) or schema.get("type") != "object" or "anyOf" in schema:
        return False
    try:
        _StrictRules(schema).check()
    except _NotStrict:
        return False
    return True


class _NotStrict(Exception):
    pass


class _StrictRules:
    """Counts what OpenAI limits, part by part; it follows `$ref`s, so that recursion runs into a limit."""

    KEYWORDS = frozenset({
        "$defs", "$ref", "$schema", "additionalProperties", "anyOf", "const", "definitions", "description", "enum",
        "exclusiveMaximum", "exclusiveMinimum", "format", "items", "maxItems", "maximum", "minItems", "minimum",
        "multipleOf", "pattern", "properties", "required", "title", "type",
    })  # fmt: skip
    FORMATS = frozenset({"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uuid"})
    MAX_LEVELS = 10
    MAX_PROPERTIES = 5_000
    MAX_ENUM_VALUES = 1_000
    MAX_CHARACTERS = 120_000  # of names of properties and definitions, and of enum and const values, together
    LONG_ENUM = 250  # an enum of more strings than these
    MAX_LONG_ENUM_CHARACTERS = 15_000
    MAX_PARTS = 20_000  # ours: what $refs may unfold to
    MAX_HOPS = 20  # ours: $refs and unions in a row

    def __init__(self, schema: dict[str, Any]) -> None:
        self._root = schema
        self._parts = self._properties = self._enum_values = self._characters = 0

    def check(self) -> None:
        self._part(self._root, 1, 0)

    def _part(self, schema: Any, level: int, hops: int) -> None:
        self._parts += 1
        self._require(self._parts <= self.MAX_PARTS and level <= self.MAX_LEVELS and hops <= self.MAX_HOPS)
        self._require(isinstance(schema, dict) and self.KEYWORDS.issuperset(schema))
        self._require("$schema" not in schema or schema is self._root)
        if "$ref" in schema:
            self._require(len(schema) == 1)
            self._part(self._resolve(schema["$ref"]), level, hops + 1)
            return
        for keyword in ("$defs", "definitions"):
            for name, definition in schema.get(keyword, {}).items():
                self._characters += len(name)
                self._part(definition, 1, hops + 1)
        if "anyOf" in schema:
            for alternative in schema["anyOf"]:
                self._part(alternative, level, hops + 1)
            firsts = [next(iter(properties)) for part in schema["anyOf"] if (properties := self._properties_of(part))]
            self._require(len(set(firsts)) == len(firsts))  # how its decoder tells objects apart
        else:
            self._require("type" in schema)
        types = schema.get("type", [])
        types = [types] if isinstance(types, str) else types
        if "object" in types or "properties" in schema:
            self._object(schema, level)
        if "array" in types or "items" in schema:
            self._part(schema.get("items"), level + 1, 0)
        self._require(schema.get("format", "date") in self.FORMATS)
        self._require("(?" not in schema.get("pattern", ""))  # groups with options, lookaround: not in its regex
        self._values(schema)
        self._require(self._characters <= self.MAX_CHARACTERS)

    def _object(self, schema: dict[str, Any], level: int) -> None:
        properties = schema.get("properties")
        self._require(isinstance(properties, dict) and schema.get("additionalProperties") is False)
        assert isinstance(properties, dict)
        self._require(set(schema.get("required", ())) == set(properties))
        self._properties += len(properties)
        self._characters += sum(map(len, properties))
        self._require(self._properties <= self.MAX_PROPERTIES)
        for inner in properties.values():
            self._part(inner, level + 1, 0)

    def _values(self, schema: dict[str, Any]) -> None:
        values = schema.get("enum", [])
        characters = sum(len(value) for value in values if isinstance(value, str))
        self._enum_values += len(values)
        self._characters += characters
        if isinstance(constant := schema.get("const"), str):
            self._characters += len(constant)
        self._require(self._enum_values <= self.MAX_ENUM_VALUES)
        self._require(len(values) <= self.LONG_ENUM or characters <= self.MAX_LONG_ENUM_CHARACTERS)

    def _properties_of(self, schema: dict[str, Any]) -> Any:
        while "$ref" in schema:
            schema = self._resolve(schema["$ref"])
        return schema.get("properties")

    def _resolve(self, ref: str) -> Any:
        self._require(ref.startswith("#/"))
        found: Any = self._root
        for token in tokens(ref)[1:]:
            self._require(isinstance(found, dict) and token in found)
            found = found[token]
        return found

    @staticmethod
    def _require(kept: bool) -> None:
        if not kept:
            raise _NotStrict
