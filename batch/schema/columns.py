"""JSON schema in, the tree of its column types out. A schema that cannot become columns is refused here, and told why.

Pure, and knows nothing of Arrow; the table of what becomes what is in `batch.schema.arrow`.
"""

import difflib
import graphlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import jsonschema_rs

from batch.schema.json_pointer import escape, pointer, step, tokens
from batch.schema.problems import innermost, quoted, schema_error, shorten

MAX_DEPTH = 32
"""Levels of lists and objects in the result column, the root being the first."""

MAX_PROPERTIES = 1000
"""Properties in the whole result column, those of `$ref`s counted wherever they are used."""

FORMAT_EXAMPLES = {"date": "2024-01-31", "date-time": "2024-01-31T12:00:00Z"}
"""The formats that are asserted, with an example of each."""

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

MASK = "\0"
"""Stands for the answer's own value in the validator's messages."""

_MAX_RAW_DEPTH = 200  # of the schema's own text; jsonschema_rs stops at 255
_MAX_RAW_VALUES = 20_000
_MAX_CHAIN = 128  # schemas inside schemas, $refs followed: 32 levels, each by way of a $ref and a union, and some spare
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
_SCHEMA_KEYWORDS = frozenset({
    "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not", "propertyNames", "then",
    "unevaluatedItems", "unevaluatedProperties",
})  # fmt: skip
_SCHEMA_LIST_KEYWORDS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_SCHEMA_MAP_KEYWORDS = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})
_TEXTS = frozenset({"string", "date", "timestamp"})
_NUMBERS = frozenset({"integer", "number"})
_ARRAYS = frozenset({"array", "tuple"})


@dataclass(frozen=True, slots=True)
class Node:
    """The type of a column: what is left of a schema when its `$ref`s and unions are worked out.

    `kind` is a type of JSON schema, or `date`, `timestamp` (both of them strings); `any`, which no keyword restricts;
    `tuple`, an array whose items differ in type; `never`, which takes nothing. Every column takes null, so `null` is
    what takes nothing else. `at` is where it came from, `size` its number of properties.
    """

    kind: str
    at: str = field(compare=False)
    item: "Node | None" = None
    fields: dict[str, "Node"] = field(default_factory=dict)
    size: int = 0

    @property
    def is_json_text(self) -> bool:
        return self.kind in ("any", "tuple") or (self.kind == "object" and not self.fields)


class Columns:
    """A JSON schema, checked and compiled: `root`, the tree of its columns, and `validator` for its answers."""

    def __init__(self, schema: dict[str, Any]) -> None:
        if not isinstance(schema, dict):
            raise schema_error(
                "#", f"a JSON schema is an object, not {_named(schema)}", "Write `type` and `properties`"
            )
        self._raw_values = 0
        self._check_raw(schema, "#", 1)
        self._check_metaschema(schema)
        self._schemas: dict[str, dict[str, Any] | bool] = {}
        self._refs: dict[str, str] = {}
        self._collect(schema)
        self._nodes: dict[str, Node] = {}
        self.root = self._root()
        self.validator = self._compile(schema)

    # Is it a JSON schema?

    def _check_raw(self, value: Any, at: str, depth: int) -> None:
        """Refuse what YAML can hold and JSON cannot, and what would exhaust the stack or the memory further on."""
        self._raw_values += 1
        if depth > _MAX_RAW_DEPTH or self._raw_values > _MAX_RAW_VALUES:
            raise schema_error(at, "the schema is too deep or too large", "Simplify it, perhaps with `{}` (JSON text)")
        if isinstance(value, dict):
            for key, inner in value.items():
                if not isinstance(key, str):
                    raise schema_error(at, f"the key {key!r} is not a string", "Quote it")
                self._check_raw(key, at, depth + 1)
                self._check_raw(inner, step(at, key), depth + 1)
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                self._check_raw(inner, step(at, index), depth + 1)
        elif isinstance(value, str):
            if re.search("[\ud800-\udfff]", value):
                raise schema_error(at, "a lone surrogate is not valid Unicode", "Remove it")
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise schema_error(at, f"{value} is not a JSON number", "Use a finite number")
        elif not isinstance(value, int | None):
            raise schema_error(at, f"{value!r:.100} is {_named(value)}, which JSON does not have", "Put it in quotes")

    def _check_metaschema(self, schema: dict[str, Any]) -> None:
        """Against 2020-12 whatever `$schema` says: it is the dialect that answers are validated in."""
        try:
            jsonschema_rs.meta.validate({key: value for key, value in schema.items() if key != "$schema"})
        except jsonschema_rs.ValidationError as found:
            error = innermost(found)
            at, value = pointer(error.instance_path), error.instance
            if error.instance_path[-1:] == ["type"] and isinstance(value, str):
                near = difflib.get_close_matches(value, _TYPES.values(), n=1, cutoff=0.5)
                hint = f"Did you mean `{near[0]}`?" if near else f"Use one of {', '.join(_TYPES.values())}"
                raise schema_error(at, f"`{value:.100}` is not a JSON type", hint) from None
            hint = "Correct it as JSON Schema 2020-12 has it"
            if error.instance_path[-1:] == ["items"] and isinstance(value, list):
                hint = "Use `prefixItems` for a list of schemas"
            raise schema_error(at, shorten(error.message, 300), hint) from None
        except ValueError as error:
            raise schema_error("#", shorten(str(error), 300), "Simplify the schema") from None

    def _collect(self, schema: dict[str, Any]) -> None:
        """Find every subschema and `$ref`; refuse remote and circular ones."""
        waiting: list[tuple[str, dict[str, Any] | bool]] = [("#", schema)]
        edges: dict[str, list[str]] = {}
        while waiting:
            at, found = waiting.pop()
            self._schemas[at] = found
            edges[at] = []
            if isinstance(found, bool):
                continue
            for keyword, inner, child in _subschemas(found, at):
                if keyword not in ("$defs", "definitions"):
                    edges[at].append(child)
                waiting.append((child, inner))
            if "$ref" in found:
                edges[at].append(self._target(found["$ref"], at))
            for keyword in ("$dynamicRef", "$recursiveRef") + (("$id",) if at != "#" else ()):
                if keyword in found:
                    raise schema_error(at, f"`{keyword}` cannot become columns", "Use `$ref` to `#/$defs/...`")
        for at, target in self._refs.items():
            if target not in self._schemas:
                raise schema_error(step(at, "$ref"), f"`{target:.100}` leads to no schema", "Put it under `$defs`")
        chains: dict[str, int] = {}
        try:
            for at in graphlib.TopologicalSorter(edges).static_order():
                chains[at] = 1 + max((chains[child] for child in edges[at]), default=0)
                if chains[at] > _MAX_CHAIN:
                    raise schema_error(at, "schemas are nested too deeply to become columns", "Simplify it")
        except graphlib.CycleError as error:
            at = next(node for node in error.args[1] if node in self._refs)
            raise schema_error(
                step(at, "$ref"),
                f"the schema refers to itself through `{self._refs[at]:.100}`; recursion cannot become columns",
                "Write out as many levels as are needed, or use `{}` (JSON text) for the inner part",
            ) from None

    def _target(self, ref: str, at: str) -> str:
        if not ref.startswith("#"):
            raise schema_error(
                step(at, "$ref"), f"`{ref:.100}` is remote, and none is fetched", "Copy it under `$defs`"
            )
        if ref != "#" and not ref.startswith("#/"):
            raise schema_error(step(at, "$ref"), f"`{ref:.100}` is not a path", "Refer by path, as `#/$defs/...`")
        # Written anew, so that one place has one spelling.
        self._refs[at] = "/".join(escape(token) for token in tokens(ref))
        return self._refs[at]

    # What columns does it make?

    def _root(self) -> Node:
        root = self._node("#")
        if root.kind != "object" or not root.fields:
            raise schema_error(
                "#",
                f"the root must be an object with properties, not {_kind_text(root)}",
                "Write `type: object` and name each value under `properties`",
            )
        waiting = [(root, 1)]
        while waiting:
            node, depth = waiting.pop()
            if node.kind == "never":
                raise schema_error(node.at, "no value is valid here", "Leave it out")
            if node.kind == "null":
                raise schema_error(node.at, "only null is valid here", "Leave it out or give it a second type")
            if node.is_json_text:
                continue
            if node.item is not None:
                waiting.append((node.item, depth + 1))
            if depth > MAX_DEPTH and (node.item is not None or node.fields):
                raise schema_error(node.at, f"more than {MAX_DEPTH} levels deep", "Flatten it, or use `{}` (JSON text)")
            spelled: dict[str, str] = {}
            for name, child in node.fields.items():
                if not name:
                    raise schema_error(child.at, "a property without a name cannot become a column", "Name it")
                if (other := spelled.setdefault(name.lower(), name)) != name:
                    problem = f"`{name}` and `{other}` differ only by case, which Spark and Athena do not see"
                    raise schema_error(child.at, problem, "Rename one")
                waiting.append((child, depth + 1))
        return root

    def _node(self, at: str) -> Node:
        if at not in self._nodes:
            self._nodes[at] = self._build(at)
        return self._nodes[at]

    def _build(self, at: str) -> Node:
        schema = self._schemas[at]
        if isinstance(schema, bool):
            return Node("any" if schema else "never", at)
        node = self._typed(schema, at)
        if at in self._refs:
            node = self._meet(node, self._node(self._refs[at]), at)
        for index in range(len(schema.get("allOf", ()))):
            node = self._meet(node, self._node(step(step(at, "allOf"), index)), at)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                within = step(at, keyword)
                union = Node("never", within)
                for index in range(len(schema[keyword])):
                    union = self._join(union, self._node(step(within, index)), within)
                node = self._meet(node, union, at)
        return node

    def _typed(self, schema: dict[str, Any], at: str) -> Node:
        """Returns what `type`, `enum`, `const`, `properties` and `items` say, before anything is merged in."""
        values = schema.get("enum", [schema["const"]] if "const" in schema else None)
        names = schema.get("type")
        if isinstance(names, str):
            names = [names]
        if values is not None:
            where = step(at, "enum" if "enum" in schema else "const")
            if names is None:
                names = list(dict.fromkeys(_json_type(value) for value in values))
            elif not (names := [name for name in names if any(_is_of_type(value, name) for value in values)]):
                raise schema_error(where, f"no value is of type {schema['type']}", "Correct the values or the type")
            integers = (value for value in values if isinstance(value, int))
            if "integer" in names and not all(INT64_MIN <= value <= INT64_MAX for value in integers):
                raise schema_error(where, "an integer column holds 64 bits", "Use smaller numbers or strings")
        elif names is None:
            if "properties" in schema:
                names = ["object"]
            elif "items" in schema or "prefixItems" in schema:
                names = ["array"]
            else:
                return Node("any", at)
        where = step(at, "type" if "type" in schema else "enum")
        node = Node("never", at)
        for name in names:
            node = self._join(node, self._of_type(name, schema, at), where)
        return node

    def _of_type(self, name: str, schema: dict[str, Any], at: str) -> Node:
        if name == "object":
            return self._object(schema, at)
        if name == "array":
            return self._array(schema, at)
        if name == "string":
            return Node({"date": "date", "date-time": "timestamp"}.get(schema.get("format", ""), "string"), at)
        return Node(name, at)

    def _object(self, schema: dict[str, Any], at: str) -> Node:
        properties = schema.get("properties", {})
        if schema.get("additionalProperties") is False and "patternProperties" not in schema:
            for name in schema.get("required", ()):
                if name not in properties:
                    near = difflib.get_close_matches(name, properties, n=1)
                    hint = f"Did you mean `{near[0]}`?" if near else "Add it to `properties`"
                    raise schema_error(step(at, "required"), f"`{name:.100}` is required, but no property", hint)
        within = step(at, "properties")
        return _object_node({name: self._node(step(within, name)) for name in properties}, at)

    def _array(self, schema: dict[str, Any], at: str) -> Node:
        within = step(at, "prefixItems")
        items = [self._node(step(within, index)) for index in range(len(schema.get("prefixItems", ())))]
        if "items" in schema and (not items or isinstance(schema["items"], dict)):
            items.append(self._node(step(at, "items")))
        if not items or (len(items) == 1 and items[0].kind == "never"):  # `items: false`: only the empty list
            return _array_node(Node("any", at), at)
        if all(item == items[0] for item in items):
            return _array_node(items[0], at)
        return Node("tuple", at)

    def _join(self, one: Node, other: Node, at: str) -> Node:
        """Returns what takes the values of either: for unions."""
        kinds = {one.kind, other.kind}
        if one is other or other.kind == "never" or (other.kind == "null" and one.kind != "never"):
            return one
        if one.kind in ("never", "null"):
            return other
        if "any" in kinds:
            return Node("any", at)
        if kinds == _NUMBERS:
            return Node("number", at)
        if kinds <= _TEXTS:
            return one if len(kinds) == 1 else Node("string", at)
        if kinds == {"object"}:
            if not one.fields or not other.fields:
                return Node("object", at)
            return self._merge_fields(one, other, at, self._join)
        if kinds <= _ARRAYS:
            if one.item is None or other.item is None:
                return Node("tuple", at)
            return _array_node(self._join(one.item, other.item, at), at)
        if len(kinds) == 1:
            return one
        raise schema_error(
            at,
            f"both {_kind_text(one)} and {_kind_text(other)} are allowed, but a column has one type",
            "Choose one, use a property for each, or `{}` for JSON text",
        )

    def _meet(self, one: Node, other: Node, at: str) -> Node:
        """Returns what takes the values that are of both: for `allOf`, and for keywords side by side."""
        kinds = {one.kind, other.kind}
        if one is other or other.kind == "any":
            return one
        if one.kind == "any":
            return other
        for kind in ("never", "null"):
            if kind in kinds:
                return one if one.kind == kind else other
        if kinds == _NUMBERS:
            return one if one.kind == "integer" else other
        if kinds <= _TEXTS and "string" in kinds:
            return other if one.kind == "string" else one
        if kinds == {"object"}:
            return self._merge_fields(one, other, at, self._meet)
        if kinds <= _ARRAYS:
            if one.item is None or other.item is None:
                return Node("tuple", at)
            return _array_node(self._meet(one.item, other.item, at), at)
        if len(kinds) == 1:
            return one
        raise schema_error(at, f"no value is both {_kind_text(one)} and {_kind_text(other)}", "Make the parts agree")

    def _merge_fields(self, one: Node, other: Node, at: str, merge: Callable[[Node, Node, str], Node]) -> Node:
        fields = dict(one.fields)
        for name, child in other.fields.items():
            fields[name] = merge(fields[name], child, child.at) if name in fields else child
        return _object_node(fields, at)

    # What must an answer pass?

    def _compile(self, schema: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
        schemas = ((at, found) for at, found in self._schemas.items() if isinstance(found, dict))
        nullable = {at for at, found in schemas if found.get("nullable") is True}
        nullable.discard("#")  # an answer is never null
        try:
            return jsonschema_rs.Draft202012Validator(
                self._in_plain_2020_12(schema, "#", nullable), validate_formats=True, mask=MASK, offline=True
            )
        except jsonschema_rs.ValidationError as error:
            at = pointer(error.instance_path)
            problem = error.message.replace(MASK, quoted(error.instance))
            raise schema_error(at, shorten(problem, 300), "Correct it as JSON Schema 2020-12 has it") from None
        except ValueError as error:
            raise schema_error("#", shorten(str(error), 300), "Simplify the schema") from None

    def _in_plain_2020_12(self, value: Any, at: str, nullable: set[str]) -> Any:
        """A copy with OpenAPI's `nullable` spelled as a union with null, and only the formats that make a column."""
        if isinstance(value, list):
            return [self._in_plain_2020_12(inner, step(at, index), nullable) for index, inner in enumerate(value)]
        if not isinstance(value, dict):
            return value
        plain = {key: self._in_plain_2020_12(inner, step(at, key), nullable) for key, inner in value.items()}
        if at not in self._schemas:
            return plain
        plain.pop("$schema", None)
        if plain.get("format") not in FORMAT_EXAMPLES:
            plain.pop("format", None)
        if at in self._refs:
            plain["$ref"] = _ref_into(self._refs[at], nullable)
        return {"anyOf": [{"type": "null"}, plain]} if at in nullable else plain


def _object_node(fields: dict[str, Node], at: str) -> Node:
    size = sum(1 + child.size for child in fields.values())
    if size > MAX_PROPERTIES:
        raise schema_error(at, f"more than {MAX_PROPERTIES} properties in all", "Use `{}` (JSON text) for some parts")
    return Node("object", at, fields=fields, size=size)


def _array_node(item: Node, at: str) -> Node:
    return Node("array", at, item=item, size=item.size)


def _ref_into(target: str, nullable: set[str]) -> str:
    """`target` where it lies after each nullable schema on the way has become the second part of a union."""
    here, moved = "#", "#"
    for token in target.split("/")[1:]:
        if here in nullable:
            moved += "/anyOf/1"
        here += f"/{token}"
        moved += f"/{quote(token, safe='~$')}"
    return moved


def _subschemas(schema: dict[str, Any], at: str) -> Iterator[tuple[str, dict[str, Any] | bool, str]]:
    """Yields each schema directly inside `schema`: the keyword it stands under, itself, and where it is."""
    for keyword, value in schema.items():
        within = step(at, keyword)
        if keyword in _SCHEMA_KEYWORDS:
            yield keyword, value, within
        elif keyword in _SCHEMA_LIST_KEYWORDS:
            for index, inner in enumerate(value):
                yield keyword, inner, step(within, index)
        elif keyword in _SCHEMA_MAP_KEYWORDS:
            for name, inner in value.items():
                yield keyword, inner, step(within, name)


def _is_of_type(value: Any, name: str) -> bool:
    kind = _json_type(value)
    if name == "integer":
        return kind == "integer" or (isinstance(value, float) and value.is_integer())
    return kind == name or (name == "number" and kind == "integer")


def _json_type(value: Any) -> str:
    return next((name for kind, name in _TYPES.items() if isinstance(value, kind)), "null")


def _named(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _kind_text(node: Node) -> str:
    if node.kind == "object" and not node.fields:
        return "an object without properties"
    plain = {"any": "any value", "never": "no value", "null": "only null", "timestamp": "a date-time"}
    return plain.get(node.kind) or f"{'an' if node.kind[0] in 'aio' else 'a'} {node.kind}"
