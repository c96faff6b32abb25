"""Answers of the simulated provider: a document's text and a JSON schema in, a value that the schema accepts out.

The same text and schema always give the same answer, so that tests can tell a repeated answer from a changed one. A
schema is compiled once into a tree of nodes; each answer is then one walk over the tree.
"""

import math
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import Any
from urllib.parse import unquote

import jsonschema_rs
import orjson

from batch.local.simulator.document_text import Text
from batch.local.simulator.patterns import mix
from batch.local.simulator.refusals import SchemaError
from batch.local.simulator.values import (
    Array,
    Choice,
    Draft,
    Node,
    Number,
    Object,
    Slot,
    String,
    Values,
    common_multiple,
)

ATTEMPTS = 8


def _both(one: Any, other: Any) -> Any:
    return other if one is True or one == other else one if other is True else {"allOf": [one, other]}


_TIGHTER: dict[str, Callable[[Any, Any], Any]] = (
    dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems"), max)
    | dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems"), min)
    | {
        "required": lambda one, other: list(dict.fromkeys([*one, *other])),
        "uniqueItems": lambda one, other: one or other,
        "multipleOf": common_multiple,
        "enum": lambda one, other: [value for value in one if any(_same(value, each) for each in other)],
        "items": _both,
        "additionalProperties": _both,
    }
)
_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
_IMPLIED = {
    "object": ("properties", "required", "additionalProperties", "minProperties", "maxProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
# Keywords whose value is a map from names to schemas, and those whose value is data and no schema.
_MAPS = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))
_DATA = frozenset(("enum", "const", "default", "examples"))
# Keywords that say nothing about the value at their own place.
_ELSEWHERE = frozenset(
    ("$defs", "definitions", "$comment", "title", "description", "default", "examples", "deprecated")
)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _same(one: Any, other: Any) -> bool:
    """Equality as JSON has it: 1 equals 1.0 and is not true."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other)


def _merge(base: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Returns one schema for what two ask for together (both without references and combinations)."""
    merged = base | other
    for key in base.keys() & other.keys():
        if key in _TIGHTER:
            merged[key] = _TIGHTER[key](base[key], other[key])
    if "type" in base and "type" in other:
        one, two = ({*_listed(each["type"])} for each in (base, other))
        both = one & two | ({"integer"} if "integer" in one | two and "number" in one | two else set())
        if not both:
            raise SchemaError("two types exclude each other")
        merged["type"] = [name for name in _TYPES if name in both]
    if "properties" in base or "properties" in other:
        names = base.get("properties", {}) | other.get("properties", {})
        merged["properties"] = {name: _both(_property(base, name), _property(other, name)) for name in names}
    return merged


def _property(schema: dict[str, Any], name: str) -> Any:
    return schema.get("properties", {}).get(name, schema.get("additionalProperties", True))


def _rooted(schema: Any) -> Any:
    """Returns the schema as it stands below `#/$defs/root` of another document."""
    if isinstance(schema, list):
        return [_rooted(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "$ref" and isinstance(value, str) and value.startswith("#") and value[1:2] in ("", "/"):
            result[key] = "#/$defs/root" + value[1:]
        elif key in _MAPS and isinstance(value, dict):
            result[key] = {name: _rooted(each) for name, each in value.items()}
        elif key not in ("$id", "$schema"):
            result[key] = value if key in _DATA else _rooted(value)
    return result


class _Compiler:
    def __init__(self, schema: Any) -> None:
        self._document: dict[str, Any] = {"$defs": {"root": _rooted(schema)}}
        if isinstance(schema, dict) and "$schema" in schema:
            self._document["$schema"] = schema["$schema"]
        self._slots: dict[bytes, Slot | SchemaError] = {}
        self._nodes: list[Node] = []

    def compiled(self) -> tuple[Node, Callable[[Any], bool]]:
        """Returns the tree of nodes, and the check that an answer is valid."""
        top = {"$ref": "#/$defs/root"}
        accepts = self._validator(top)
        root = self._node(top, "")
        changed = True
        while changed:
            heights = [node.measure() for node in self._nodes]
            changed = heights != [node.height for node in self._nodes]
            for node, height in zip(self._nodes, heights, strict=True):
                node.height = height
        if root.height == math.inf:
            raise SchemaError("every answer to it would be infinitely deep")
        for node in self._nodes:
            node.settle()
        return root, accepts

    def _validator(self, schema: Any) -> Callable[[Any], bool]:
        try:
            document = self._document | {"allOf": [schema]}
            return jsonschema_rs.validator_for(document, validate_formats=True, offline=True).is_valid
        except ValueError as error:
            raise SchemaError(str(error).splitlines()[0]) from error

    def _node(self, schema: Any, hint: str) -> Node:
        key = orjson.dumps([schema, hint])
        known = self._slots.get(key)
        if isinstance(known, SchemaError):
            raise known
        if known is not None:
            return known.target or known
        slot = self._slots[key] = Slot()
        self._nodes.append(slot)
        try:
            slot.target = self._made(*self._flat(schema), hint)
        except SchemaError as error:
            self._slots[key] = error
            raise
        return slot.target

    def _flat(self, schema: Any) -> tuple[dict[str, Any], list[tuple[str, list[Any]]]]:
        """References followed, allOf merged: the keywords of a schema, and the anyOf and oneOf beside them."""
        base: dict[str, Any] = {}
        groups: list[tuple[str, list[Any]]] = []
        pending, followed = [schema], set()
        while pending:
            part = pending.pop(0)
            if part is False:
                raise SchemaError("false accepts nothing")
            part = {} if part is True else {key: value for key, value in part.items() if key not in _ELSEWHERE}
            reference = part.pop("$ref", None)
            if reference is not None and reference not in followed:
                followed.add(reference)
                pending.append(self._target(reference))
            pending += part.pop("allOf", [])
            groups += [(kind, part.pop(kind)) for kind in ("anyOf", "oneOf") if kind in part]
            if "const" in part:
                part = _merge(part, {"enum": [part.pop("const")]})
            base = _merge(base, part)
        return base, groups

    def _target(self, reference: str) -> Any:
        place: Any = self._document
        try:
            for step in reference.removeprefix("#/").split("/"):
                name = unquote(step).replace("~1", "/").replace("~0", "~")
                place = place[int(name) if isinstance(place, list) else name]
        except (KeyError, IndexError, ValueError, TypeError):
            message = f"$ref {reference!r} leads nowhere; only pointers into the schema itself are followed"
            raise SchemaError(message) from None
        return place

    def _kept(self, node: Node) -> Node:
        self._nodes.append(node)
        return node

    def _any(self, makers: Iterable[Callable[[], Node]], exclusive: list[Callable[[Any], bool]]) -> Node:
        """Returns a choice of the branches that can be answered at all."""
        branches, error = [], SchemaError("it has no branches")
        for maker in makers:
            try:
                branches.append(maker())
            except SchemaError as failure:
                error = failure
        if not branches:
            raise error
        return branches[0] if len(branches) == 1 and not exclusive else self._kept(Choice(branches, exclusive))

    def _made(self, base: dict[str, Any], groups: list[tuple[str, list[Any]]], hint: str) -> Node:
        if groups:
            (kind, options), *others = groups
            rest = [base, *({kind: options} for kind, options in others)]
            exclusive = [self._validator(option) for option in options] if kind == "oneOf" and len(options) > 1 else []
            return self._any([partial(self._node, {"allOf": [*rest, each]}, hint) for each in options], exclusive)
        if "enum" in base:
            values = list(filter(self._validator(base), base["enum"]))
            if not values:
                raise SchemaError("enum and its neighbours exclude each other")
            return self._kept(Values(values))
        implied = (name for name, keywords in _IMPLIED.items() if not base.keys().isdisjoint(keywords))
        names = _listed(base.get("type") or next(implied, "string"))
        return self._any([partial(self._typed, name, base, hint) for name in names], [])

    def _typed(self, name: str, base: dict[str, Any], hint: str) -> Node:
        match name:
            case "object":
                return self._kept(self._object(base))
            case "array":
                return self._kept(self._array(base, hint.removesuffix("[]") + "[]"))
            case "string":
                return self._kept(String(base, hint))
            case "null" | "boolean":
                return self._kept(Values([None] if name == "null" else [False, True]))
            case _:
                return self._kept(Number(base, hint, integer=name == "integer"))

    def _array(self, base: dict[str, Any], hint: str) -> Array:
        prefix, rest = base.get("prefixItems", []), base.get("items", True)
        if isinstance(rest, list):  # as up to draft 7
            prefix, rest = rest, base.get("additionalItems", True)
        return Array(base, [self._node(each, hint) for each in prefix], self._optional(rest, hint))

    def _object(self, base: dict[str, Any]) -> Object:
        required, schemas = base.get("required", []), base.get("properties", {})
        if base.get("additionalProperties") is False and not schemas.keys() >= set(required):
            raise SchemaError("a required property is not allowed")
        asked = {**schemas, **{name: _property(base, name) for name in required}}
        return Object({name: self._optional(schema, name) for name, schema in asked.items()}, required)

    def _optional(self, schema: Any, hint: str) -> Node | None:
        try:
            return self._node(schema, hint)
        except SchemaError:
            return None


class Answerer:
    """Makes answers to one schema.

    Raises:
        SchemaError: the schema is no valid JSON schema, or one that no answer of ours can satisfy.
    """

    def __init__(self, schema: Any) -> None:
        try:
            self._root, self._accepts = _Compiler(schema).compiled()
        except (RecursionError, TypeError, AttributeError) as error:
            raise SchemaError(f"it is nested too deeply or has a keyword of the wrong type ({error})") from error

    def answer(self, text: Text) -> Any:
        """Returns the answer for a text: always the same one, and valid against the schema."""
        for attempt in range(ATTEMPTS):
            draft = Draft(text, lean=attempt >= ATTEMPTS // 2, plain=attempt >= ATTEMPTS - 2)
            try:
                value = self._root.make(draft, mix(text.seed + attempt))
            except RecursionError:
                continue
            if self._accepts(value):
                return value
        raise SchemaError("the simulated provider cannot make an answer that it accepts")


@lru_cache(maxsize=512)
def _answerer(schema: bytes) -> Answerer:
    return Answerer(orjson.loads(schema))


def answer_for(text: Text, schema: Any) -> Any:
    """A JSON value for a text, valid against a JSON schema (given as parsed JSON); `SchemaError` if there is none."""
    try:
        key = orjson.dumps(schema)
    except TypeError as error:
        raise SchemaError(f"it is not JSON: {error}") from error
    return _answerer(key).answer(text)
