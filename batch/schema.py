"""JSON schema in, the run's one Arrow schema out; answers of the model in, checked column values out.

Everything here is pure: no I/O, the same result for the same input. A job's `output.schema` becomes one struct column,
`result`, of the same type in every file of the run, also in a file whose rows all failed. How it becomes columns:

| JSON schema | column |
|---|---|
| `integer`, `number`, `boolean`, `string` | int64, float64, bool, string |
| `string` with `format: date`, `date-time` | date32, timestamp[us, UTC]; other formats: string, not asserted |
| `enum`, `const` without a `type` | the type of its values; never a dictionary |
| `object` with `properties` | struct, in the order of `properties` |
| `object` without `properties` (a map), `{}`, no type | JSON text |
| `array` | list of what `items` says; without `items` a list of JSON text |
| `prefixItems` | list if all its items have one type, else JSON text of the whole array |
| `anyOf`, `oneOf`, a list of types | the one type that takes every alternative (null aside; objects put their |
| | properties together); none: refused |
| `allOf`, `$ref`, keywords beside them | what fits all of them; nothing: refused |

JSON text is a string column of compact JSON whose field has the metadata `docbatch.json` = `1`; a JSON null in it is
a null. Every field is nullable: error rows have no result. Properties that are no column (allowed only by
`additionalProperties`, `patternProperties`, `if`/`then`/`else` or `dependentSchemas`) are validated, then dropped.
"""

import base64
import difflib
import graphlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import quote, unquote

import jsonschema_rs
import orjson
import pyarrow as pa

ROW_SCHEMA_VERSION = 1
"""Version of the columns that `row_schema` gives; raised when a column is added, removed or changes its meaning."""

JSON_TEXT = {b"docbatch.json": b"1"}
"""Arrow field metadata of a string column that holds JSON text."""

MAX_DEPTH = 32
"""Levels of lists and objects in the result column, the root being the first."""

MAX_PROPERTIES = 1000
"""Properties in the whole result column, those of `$ref`s counted wherever they are used."""

MAX_ANSWER_BYTES = 4 * 1024 * 1024
"""Longest answer that is read: 500 of them, a default partition, fill one Arrow string array (2 GiB)."""

MAX_ANSWER_VALUES = 2**20
"""Most column values that one answer's lists of objects may unfold to: `[{},{},...]` is short text and much memory."""

_WHERE = "output.schema"
_MAX_RAW_DEPTH = 200  # of the schema's own text; jsonschema_rs stops at 255
_MAX_RAW_VALUES = 20_000
_MAX_CHAIN = 128  # schemas inside schemas, $refs followed: 32 levels, each by way of a $ref and a union, and some spare
_MAX_MESSAGE = 500
_MAX_QUOTED = 200
_MAX_PROBLEMS = 5  # that one message names
# The validator makes every error at once, each with a copy of its value (500,000 of them: 5 s and 800 MB).
_EXPLAIN_ALL_BYTES = 8 * 1024
_EXPLAIN_FIRST_BYTES = 64 * 1024
_EXACT_FLOAT = 2**53  # from here on a float may stand for several integers
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_WHITESPACE = b" \t\r\n"
_MASK = "\0"
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
_SCHEMA_KEYWORDS = frozenset({
    "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not", "propertyNames", "then",
    "unevaluatedItems", "unevaluatedProperties",
})  # fmt: skip
_SCHEMA_LIST_KEYWORDS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_SCHEMA_MAP_KEYWORDS = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})
_FORMAT_EXAMPLES = {"date": "2024-01-31", "date-time": "2024-01-31T12:00:00Z"}  # the ones that are asserted
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)", re.ASCII)
_FENCE = re.compile(rb"```json[ \t]*\r?\n(.*)```", re.DOTALL | re.IGNORECASE)

_TEXTS = frozenset({"string", "date", "timestamp"})
_NUMBERS = frozenset({"integer", "number"})
_ARRAYS = frozenset({"array", "tuple"})


class SchemaError(ValueError):
    """The job's `output.schema` is no valid JSON schema, or cannot become columns. Says where, what, and what to do."""


class InvalidAnswer(ValueError):
    """An answer that is not JSON or does not fit the schema.

    The message (at most 500 characters, at most 200 of them the answer's own) is for the error row, and for the model
    on a re-ask.
    """


def check_schema(schema: dict[str, Any]) -> None:
    """Check that `schema` is valid JSON schema (2020-12) and can become columns.

    Raises:
        SchemaError: it is not, or cannot.
    """
    _Columns(schema)


def arrow_type(schema: dict[str, Any]) -> pa.StructType:
    """The type of the result column: a struct whose fields are the root's properties, all nullable.

    Raises:
        SchemaError: as `check_schema`.
    """
    return _struct(_Columns(schema).root)


def row_schema(result: dict[str, Any] | None) -> pa.Schema:
    """All columns of a result file, in order; `result` (the job's JSON schema) None leaves the result column out.

    Raises:
        SchemaError: as `check_schema`.
    """
    string, int64 = pa.string(), pa.int64()
    columns: list[tuple[str, pa.DataType]] = [
        ("document_id", string),
        ("uri", string),
        ("etag", string),
        ("shard", int64),
        ("partition", int64),
        ("status", string),
    ]
    if result is not None:
        columns.append(("result", arrow_type(result)))
    columns += [
        ("output_text", string),
        ("error_type", string),
        ("error_message", string),
        ("retryable", pa.bool_()),
        ("finish_reason", string),
        ("model", string),
        ("attempts", int64),
        ("prompt_tokens", int64),
        ("cached_tokens", int64),
        ("completion_tokens", int64),
        ("cost_usd", pa.float64()),
        ("latency_seconds", pa.float64()),
        ("fingerprint", string),
        ("run_id", string),
        ("generation", int64),
        ("processed_at", pa.timestamp("us", tz="UTC")),
    ]
    return pa.schema(columns)


def schema_to_json(schema: pa.Schema) -> str:
    """`schema` as JSON text for `run.json`: names and types for people, Arrow's IPC (base64) for `schema_from_json`."""
    return json.dumps(
        {
            "columns": [{"name": column.name, "type": str(column.type)} for column in schema],
            "arrow_ipc": base64.b64encode(schema.serialize().to_pybytes()).decode("ascii"),
        }
    )


def schema_from_json(text: str) -> pa.Schema:
    """The exact schema, metadata included, that `schema_to_json` wrote.

    Raises:
        ValueError: `text` is something else, or damaged.
    """
    try:
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(json.loads(text)["arrow_ipc"], validate=True)))
    except (ValueError, LookupError, TypeError, OSError, pa.ArrowException) as error:
        raise ValueError(
            f"the run's Arrow schema cannot be read, it is damaged or not one of schema_to_json's: {error}"
        ) from error


class AnswerReader:
    """Reads the model's answers of one run: parses, validates, converts. Compiled once from the job's JSON schema.

    Raises:
        SchemaError: as `check_schema`.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        columns = _Columns(schema)
        self._convert = _converter(columns.root)
        self._validator = columns.validator
        self._values_per_object = _values_per_listed_object(columns.root)

    def read(self, text: str | bytes) -> dict[str, Any]:
        """The answer as `pa.array([...], type=arrow_type(schema))` takes it: every property there, None where absent.

        Whitespace around the JSON and one surrounding ```json fence are tolerated, nothing else.

        - An integer column takes integral floats as far as a float is exact (2**53); an int64 overflow is invalid.
        - Dates become `date`, date-times aware `datetime` in UTC; digits beyond microseconds are cut off.
        - A date-time that Python cannot hold (a leap second, a year outside 1 to 9999) is invalid.
        - Integers beyond 64 bits lose precision in float and JSON text columns. Of repeated keys the last counts.

        Raises:
            InvalidAnswer: whatever is wrong with the answer; nothing else is raised for any text.
        """
        try:
            data = text.encode() if isinstance(text, str) else text
        except UnicodeEncodeError:
            raise InvalidAnswer("the answer is not valid Unicode: it holds a lone surrogate") from None
        value = self._parse(data)
        try:
            if not self._validator.is_valid(value):
                raise InvalidAnswer(self._explain(value, len(data)))
            answer: dict[str, Any] = self._convert(value)
        except _Unfit as unfit:
            path = _path(unfit.steps[::-1])
            raise InvalidAnswer(f"{path}: {_quote(unfit.value)} {unfit.problem}") from None
        except InvalidAnswer:
            raise
        except ValueError:  # the validator's limit of 255 levels
            raise InvalidAnswer("the answer cannot be validated: it is nested too deeply") from None
        return answer

    def _parse(self, data: bytes) -> Any:
        if len(data) > MAX_ANSWER_BYTES:
            raise InvalidAnswer(f"the answer is too long: {len(data)} bytes, at most {MAX_ANSWER_BYTES} are read")
        data = data.strip(_WHITESPACE)
        if data.startswith(b"```") and (fenced := _FENCE.fullmatch(data)):
            data = fenced[1]
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            if not data:
                raise InvalidAnswer("the answer is empty: JSON was expected") from None
            start = _quote(data[:400].decode(errors="replace"))
            raise InvalidAnswer(f"the answer is not JSON: {error} (it starts with {start})") from None
        if self._values_per_object and data.count(b"{") * self._values_per_object > MAX_ANSWER_VALUES:
            raise InvalidAnswer(
                f"the answer is too large: its lists of objects hold more than {MAX_ANSWER_VALUES} values"
            )
        return value

    def _explain(self, value: Any, size: int) -> str:
        errors: list[jsonschema_rs.ValidationError] = []
        if size <= _EXPLAIN_ALL_BYTES:
            errors += itertools.islice(self._validator.iter_errors(value), _MAX_PROBLEMS + 1)
        else:
            self._convert(value)  # says itself where a type is wrong
            if size <= _EXPLAIN_FIRST_BYTES:
                try:
                    self._validator.validate(value)
                except jsonschema_rs.ValidationError as first:
                    errors.append(first)
        problems: list[str] = []
        budget = _MAX_QUOTED
        for error in map(_innermost, errors):
            path, shown = _path(error.instance_path), _quote(_culprit(error))
            budget -= len(path) + len(shown)
            if len(problems) == _MAX_PROBLEMS or budget < 0:
                problems.append("and more")
                break
            problems.append(f"{path}: {_problem(error, shown)}")
        return _shorten("; ".join(problems), _MAX_MESSAGE) or "the answer does not fit the schema"


def response_format(schema: dict[str, Any], name: str) -> dict[str, Any]:
    """The value of OpenAI's `response_format` for `schema`, which is passed on as it is.

    `name` is the model's only hint at what the answer is; characters that OpenAI does not allow in it become `_`.
    """
    allowed = re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64] or "answer"
    return {"type": "json_schema", "json_schema": {"name": allowed, "schema": schema, "strict": is_strict(schema)}}


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


# --- From JSON schema to a tree of column types


@dataclass(frozen=True, slots=True)
class _Node:
    """The type of a column: what is left of a schema when its `$ref`s and unions are worked out.

    `kind` is a type of JSON schema, or `date`, `timestamp` (both of them strings); `any`, which no keyword restricts;
    `tuple`, an array whose items differ in type; `never`, which takes nothing. Every column takes null, so `null` is
    what takes nothing else. `at` is where it came from, `size` its number of properties.
    """

    kind: str
    at: str = field(compare=False)
    item: "_Node | None" = None
    fields: dict[str, "_Node"] = field(default_factory=dict)
    size: int = 0

    @property
    def is_json_text(self) -> bool:
        return self.kind in ("any", "tuple") or (self.kind == "object" and not self.fields)


class _Columns:
    """A JSON schema, checked and compiled: `root`, the tree of its columns, and `validator` for its answers."""

    def __init__(self, schema: dict[str, Any]) -> None:
        if not isinstance(schema, dict):
            raise _error("#", f"a JSON schema is an object, not {_named(schema)}", "Write `type` and `properties`")
        self._raw_values = 0
        self._check_raw(schema, "#", 1)
        self._check_metaschema(schema)
        self._schemas: dict[str, dict[str, Any] | bool] = {}
        self._refs: dict[str, str] = {}
        self._collect(schema)
        self._nodes: dict[str, _Node] = {}
        self.root = self._root()
        self.validator = self._compile(schema)

    # Is it a JSON schema?

    def _check_raw(self, value: Any, at: str, depth: int) -> None:
        """Refuse what YAML can hold and JSON cannot, and what would exhaust the stack or the memory further on."""
        self._raw_values += 1
        if depth > _MAX_RAW_DEPTH or self._raw_values > _MAX_RAW_VALUES:
            raise _error(at, "the schema is too deep or too large", "Simplify it, perhaps with `{}` (JSON text)")
        if isinstance(value, dict):
            for key, inner in value.items():
                if not isinstance(key, str):
                    raise _error(at, f"the key {key!r} is not a string", "Quote it")
                self._check_raw(key, at, depth + 1)
                self._check_raw(inner, _step(at, key), depth + 1)
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                self._check_raw(inner, _step(at, index), depth + 1)
        elif isinstance(value, str):
            if re.search("[\ud800-\udfff]", value):
                raise _error(at, "a lone surrogate is not valid Unicode", "Remove it")
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise _error(at, f"{value} is not a JSON number", "Use a finite number")
        elif not isinstance(value, int | None):
            raise _error(at, f"{value!r:.100} is {_named(value)}, which JSON does not have", "Put it in quotes")

    def _check_metaschema(self, schema: dict[str, Any]) -> None:
        """Against 2020-12 whatever `$schema` says: it is the dialect that answers are validated in."""
        try:
            jsonschema_rs.meta.validate({key: value for key, value in schema.items() if key != "$schema"})
        except jsonschema_rs.ValidationError as found:
            error = _innermost(found)
            at, value = _pointer(error.instance_path), error.instance
            if error.instance_path[-1:] == ["type"] and isinstance(value, str):
                near = difflib.get_close_matches(value, _TYPES.values(), n=1, cutoff=0.5)
                hint = f"Did you mean `{near[0]}`?" if near else f"Use one of {', '.join(_TYPES.values())}"
                raise _error(at, f"`{value:.100}` is not a JSON type", hint) from None
            hint = "Correct it as JSON Schema 2020-12 has it"
            if error.instance_path[-1:] == ["items"] and isinstance(value, list):
                hint = "Use `prefixItems` for a list of schemas"
            raise _error(at, _shorten(error.message, 300), hint) from None
        except ValueError as error:
            raise _error("#", _shorten(str(error), 300), "Simplify the schema") from None

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
                    raise _error(at, f"`{keyword}` cannot become columns", "Use `$ref` to `#/$defs/...`")
        for at, target in self._refs.items():
            if target not in self._schemas:
                raise _error(_step(at, "$ref"), f"`{target:.100}` leads to no schema", "Put it under `$defs`")
        chains: dict[str, int] = {}
        try:
            for at in graphlib.TopologicalSorter(edges).static_order():
                chains[at] = 1 + max((chains[child] for child in edges[at]), default=0)
                if chains[at] > _MAX_CHAIN:
                    raise _error(at, "schemas are nested too deeply to become columns", "Simplify it")
        except graphlib.CycleError as error:
            at = next(node for node in error.args[1] if node in self._refs)
            raise _error(
                _step(at, "$ref"),
                f"the schema refers to itself through `{self._refs[at]:.100}`; recursion cannot become columns",
                "Write out as many levels as are needed, or use `{}` (JSON text) for the inner part",
            ) from None

    def _target(self, ref: str, at: str) -> str:
        if not ref.startswith("#"):
            raise _error(_step(at, "$ref"), f"`{ref:.100}` is remote, and none is fetched", "Copy it under `$defs`")
        if ref != "#" and not ref.startswith("#/"):
            raise _error(_step(at, "$ref"), f"`{ref:.100}` is not a path", "Refer by path, as `#/$defs/...`")
        # Written anew, so that one place has one spelling.
        self._refs[at] = "/".join(_escape(token) for token in _tokens(ref))
        return self._refs[at]

    # What columns does it make?

    def _root(self) -> _Node:
        root = self._node("#")
        if root.kind != "object" or not root.fields:
            raise _error(
                "#",
                f"the root must be an object with properties, not {_kind_text(root)}",
                "Write `type: object` and name each value under `properties`",
            )
        waiting = [(root, 1)]
        while waiting:
            node, depth = waiting.pop()
            if node.kind == "never":
                raise _error(node.at, "no value is valid here", "Leave it out")
            if node.kind == "null":
                raise _error(node.at, "only null is valid here", "Leave it out or give it a second type")
            if node.is_json_text:
                continue
            if node.item is not None:
                waiting.append((node.item, depth + 1))
            if depth > MAX_DEPTH and (node.item is not None or node.fields):
                raise _error(node.at, f"more than {MAX_DEPTH} levels deep", "Flatten it, or use `{}` (JSON text)")
            spelled: dict[str, str] = {}
            for name, child in node.fields.items():
                if not name:
                    raise _error(child.at, "a property without a name cannot become a column", "Name it")
                if (other := spelled.setdefault(name.lower(), name)) != name:
                    problem = f"`{name}` and `{other}` differ only by case, which Spark and Athena do not see"
                    raise _error(child.at, problem, "Rename one")
                waiting.append((child, depth + 1))
        return root

    def _node(self, at: str) -> _Node:
        if at not in self._nodes:
            self._nodes[at] = self._build(at)
        return self._nodes[at]

    def _build(self, at: str) -> _Node:
        schema = self._schemas[at]
        if isinstance(schema, bool):
            return _Node("any" if schema else "never", at)
        node = self._typed(schema, at)
        if at in self._refs:
            node = self._meet(node, self._node(self._refs[at]), at)
        for index in range(len(schema.get("allOf", ()))):
            node = self._meet(node, self._node(_step(_step(at, "allOf"), index)), at)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                within = _step(at, keyword)
                union = _Node("never", within)
                for index in range(len(schema[keyword])):
                    union = self._join(union, self._node(_step(within, index)), within)
                node = self._meet(node, union, at)
        return node

    def _typed(self, schema: dict[str, Any], at: str) -> _Node:
        """What `type`, `enum`, `const`, `properties` and `items` say, before anything is merged in."""
        values = schema.get("enum", [schema["const"]] if "const" in schema else None)
        names = schema.get("type")
        if isinstance(names, str):
            names = [names]
        if values is not None:
            where = _step(at, "enum" if "enum" in schema else "const")
            if names is None:
                names = list(dict.fromkeys(_json_type(value) for value in values))
            elif not (names := [name for name in names if any(_is_of_type(value, name) for value in values)]):
                raise _error(where, f"no value is of type {schema['type']}", "Correct the values or the type")
            integers = (value for value in values if isinstance(value, int))
            if "integer" in names and not all(_INT64_MIN <= value <= _INT64_MAX for value in integers):
                raise _error(where, "an integer column holds 64 bits", "Use smaller numbers or strings")
        elif names is None:
            if "properties" in schema:
                names = ["object"]
            elif "items" in schema or "prefixItems" in schema:
                names = ["array"]
            else:
                return _Node("any", at)
        where = _step(at, "type" if "type" in schema else "enum")
        node = _Node("never", at)
        for name in names:
            node = self._join(node, self._of_type(name, schema, at), where)
        return node

    def _of_type(self, name: str, schema: dict[str, Any], at: str) -> _Node:
        if name == "object":
            return self._object(schema, at)
        if name == "array":
            return self._array(schema, at)
        if name == "string":
            return _Node({"date": "date", "date-time": "timestamp"}.get(schema.get("format", ""), "string"), at)
        return _Node(name, at)

    def _object(self, schema: dict[str, Any], at: str) -> _Node:
        properties = schema.get("properties", {})
        if schema.get("additionalProperties") is False and "patternProperties" not in schema:
            for name in schema.get("required", ()):
                if name not in properties:
                    near = difflib.get_close_matches(name, properties, n=1)
                    hint = f"Did you mean `{near[0]}`?" if near else "Add it to `properties`"
                    raise _error(_step(at, "required"), f"`{name:.100}` is required, but no property", hint)
        within = _step(at, "properties")
        return _object_node({name: self._node(_step(within, name)) for name in properties}, at)

    def _array(self, schema: dict[str, Any], at: str) -> _Node:
        within = _step(at, "prefixItems")
        items = [self._node(_step(within, index)) for index in range(len(schema.get("prefixItems", ())))]
        if "items" in schema and (not items or isinstance(schema["items"], dict)):
            items.append(self._node(_step(at, "items")))
        if not items or (len(items) == 1 and items[0].kind == "never"):  # `items: false`: only the empty list
            return _array_node(_Node("any", at), at)
        if all(item == items[0] for item in items):
            return _array_node(items[0], at)
        return _Node("tuple", at)

    def _join(self, one: _Node, other: _Node, at: str) -> _Node:
        """What takes the values of either: for unions."""
        kinds = {one.kind, other.kind}
        if one is other or other.kind == "never" or (other.kind == "null" and one.kind != "never"):
            return one
        if one.kind in ("never", "null"):
            return other
        if "any" in kinds:
            return _Node("any", at)
        if kinds == _NUMBERS:
            return _Node("number", at)
        if kinds <= _TEXTS:
            return one if len(kinds) == 1 else _Node("string", at)
        if kinds == {"object"}:
            if not one.fields or not other.fields:
                return _Node("object", at)
            return self._merge_fields(one, other, at, self._join)
        if kinds <= _ARRAYS:
            if one.item is None or other.item is None:
                return _Node("tuple", at)
            return _array_node(self._join(one.item, other.item, at), at)
        if len(kinds) == 1:
            return one
        raise _error(
            at,
            f"both {_kind_text(one)} and {_kind_text(other)} are allowed, but a column has one type",
            "Choose one, use a property for each, or `{}` for JSON text",
        )

    def _meet(self, one: _Node, other: _Node, at: str) -> _Node:
        """What takes the values that are of both: for `allOf`, and for keywords side by side."""
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
                return _Node("tuple", at)
            return _array_node(self._meet(one.item, other.item, at), at)
        if len(kinds) == 1:
            return one
        raise _error(at, f"no value is both {_kind_text(one)} and {_kind_text(other)}", "Make the parts agree")

    def _merge_fields(self, one: _Node, other: _Node, at: str, merge: Callable[[_Node, _Node, str], _Node]) -> _Node:
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
                self._in_plain_2020_12(schema, "#", nullable), validate_formats=True, mask=_MASK, offline=True
            )
        except jsonschema_rs.ValidationError as error:
            at = _pointer(error.instance_path)
            problem = error.message.replace(_MASK, _quote(error.instance))
            raise _error(at, _shorten(problem, 300), "Correct it as JSON Schema 2020-12 has it") from None
        except ValueError as error:
            raise _error("#", _shorten(str(error), 300), "Simplify the schema") from None

    def _in_plain_2020_12(self, value: Any, at: str, nullable: set[str]) -> Any:
        """A copy with OpenAPI's `nullable` spelled as a union with null, and only the formats that make a column."""
        if isinstance(value, list):
            return [self._in_plain_2020_12(inner, _step(at, index), nullable) for index, inner in enumerate(value)]
        if not isinstance(value, dict):
            return value
        plain = {key: self._in_plain_2020_12(inner, _step(at, key), nullable) for key, inner in value.items()}
        if at not in self._schemas:
            return plain
        plain.pop("$schema", None)
        if plain.get("format") not in _FORMAT_EXAMPLES:
            plain.pop("format", None)
        if at in self._refs:
            plain["$ref"] = _ref_into(self._refs[at], nullable)
        return {"anyOf": [{"type": "null"}, plain]} if at in nullable else plain


def _object_node(fields: dict[str, _Node], at: str) -> _Node:
    size = sum(1 + child.size for child in fields.values())
    if size > MAX_PROPERTIES:
        raise _error(at, f"more than {MAX_PROPERTIES} properties in all", "Use `{}` (JSON text) for some parts")
    return _Node("object", at, fields=fields, size=size)


def _array_node(item: _Node, at: str) -> _Node:
    return _Node("array", at, item=item, size=item.size)


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
    """Each schema directly inside `schema`: the keyword it stands under, itself, and where it is."""
    for keyword, value in schema.items():
        within = _step(at, keyword)
        if keyword in _SCHEMA_KEYWORDS:
            yield keyword, value, within
        elif keyword in _SCHEMA_LIST_KEYWORDS:
            for index, inner in enumerate(value):
                yield keyword, inner, _step(within, index)
        elif keyword in _SCHEMA_MAP_KEYWORDS:
            for name, inner in value.items():
                yield keyword, inner, _step(within, name)


def _is_of_type(value: Any, name: str) -> bool:
    kind = _json_type(value)
    if name == "integer":
        return kind == "integer" or (isinstance(value, float) and value.is_integer())
    return kind == name or (name == "number" and kind == "integer")


def _json_type(value: Any) -> str:
    return next((name for kind, name in _TYPES.items() if isinstance(value, kind)), "null")


def _error(at: str, problem: str, advice: str) -> SchemaError:
    return SchemaError(f"{_WHERE}{_shorten(at, 300)}: {problem}. {advice}{'' if advice.endswith('?') else '.'}")


def _named(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _kind_text(node: _Node) -> str:
    if node.kind == "object" and not node.fields:
        return "an object without properties"
    plain = {"any": "any value", "never": "no value", "null": "only null", "timestamp": "a date-time"}
    return plain.get(node.kind) or f"{'an' if node.kind[0] in 'aio' else 'a'} {node.kind}"


def _escape(token: str | int) -> str:
    return str(token).replace("~", "~0").replace("/", "~1")


def _step(at: str, token: str | int) -> str:
    return f"{at}/{_escape(token)}"


def _pointer(tokens: list[str | int]) -> str:
    return "/".join(["#", *(_escape(token) for token in tokens)])


def _tokens(ref: str) -> list[str]:
    return [token.replace("~1", "/").replace("~0", "~") for token in unquote(ref).split("/")]


# --- From the tree to Arrow types


def _arrow(node: _Node) -> pa.DataType:
    if node.is_json_text:
        return pa.string()
    if node.item is not None:
        return pa.list_(_field("item", node.item))
    return _SCALARS[node.kind][0] if node.kind in _SCALARS else _struct(node)


def _struct(node: _Node) -> pa.StructType:
    return pa.struct([_field(name, child) for name, child in node.fields.items()])


def _field(name: str, node: _Node) -> "pa.Field[Any]":
    return pa.field(name, _arrow(node), metadata=JSON_TEXT if node.is_json_text else None)


# --- From the tree to converters: each trusts nothing, for the merged type of a union is wider than any one alternative


class _Unfit(Exception):
    """A value that its column does not take. `steps` is the way to it, innermost first."""

    def __init__(self, value: Any, problem: str) -> None:
        self.value = value
        self.problem = problem
        self.steps: list[str | int] = []


_Converter = Callable[[Any], Any]


def _converter(node: _Node) -> _Converter:
    if node.is_json_text:
        return _to_json_text
    if node.kind == "object":
        return _object_converter(node)
    if node.item is not None:
        return _array_converter(_converter(node.item))
    return _SCALARS[node.kind][1]


def _object_converter(node: _Node) -> _Converter:
    converters = [(name, _converter(child)) for name, child in node.fields.items()]

    def convert(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise _Unfit(value, "is not an object")
        converted: dict[str, Any] = {}
        name = ""
        try:
            for name, convert_property in converters:
                inner = value.get(name)
                converted[name] = None if inner is None else convert_property(inner)
        except _Unfit as unfit:
            unfit.steps.append(name)
            raise
        return converted

    return convert


def _array_converter(convert_item: _Converter) -> _Converter:
    def convert(value: Any) -> list[Any]:
        if type(value) is not list:
            raise _Unfit(value, "is not an array")
        converted: list[Any] = []
        try:
            for inner in value:
                converted.append(None if inner is None else convert_item(inner))
        except _Unfit as unfit:
            unfit.steps.append(len(converted))
            raise
        return converted

    return convert


def _to_string(value: Any) -> str:
    if type(value) is str:
        return value
    raise _Unfit(value, "is not a string")


def _to_boolean(value: Any) -> bool:
    if type(value) is bool:
        return value
    raise _Unfit(value, "is not a boolean")


def _to_integer(value: Any) -> int:
    if type(value) is int:
        if _INT64_MIN <= value <= _INT64_MAX:
            return value
        raise _Unfit(value, "is beyond the 64 bits of an integer column")
    if type(value) is not float or not value.is_integer():
        raise _Unfit(value, "is not an integer")
    if abs(value) < _EXACT_FLOAT:
        return int(value)
    if abs(value) >= 2**63:
        raise _Unfit(value, "is beyond the 64 bits of an integer column")
    raise _Unfit(value, "is too large for an integer with a fraction or an exponent: write out its digits alone")


def _to_number(value: Any) -> float:
    if type(value) is float:
        return value
    if type(value) is int:
        return float(value)
    raise _Unfit(value, "is not a number")


def _to_date(value: Any) -> date:
    try:
        if type(value) is str and _DATE.fullmatch(value):
            return date.fromisoformat(value)
    except ValueError:
        pass
    raise _Unfit(value, f"is not a date of the years 1 to 9999, such as {_FORMAT_EXAMPLES['date']}")


def _to_timestamp(value: Any) -> datetime:
    try:
        if type(value) is str and _DATE_TIME.fullmatch(upper := value.upper()):
            return datetime.fromisoformat(upper).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise _Unfit(value, f"is not a date-time of the years 1 to 9999, such as {_FORMAT_EXAMPLES['date-time']}")


def _to_json_text(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # its limit is 254 levels
        raise _Unfit(value, "is nested too deeply") from None


_SCALARS: dict[str, tuple[pa.DataType, _Converter]] = {
    "boolean": (pa.bool_(), _to_boolean),
    "integer": (pa.int64(), _to_integer),
    "number": (pa.float64(), _to_number),
    "string": (pa.string(), _to_string),
    "date": (pa.date32(), _to_date),
    "timestamp": (pa.timestamp("us", tz="UTC"), _to_timestamp),
}


def _values_per_listed_object(node: _Node) -> int:
    """Column values that one `{}` in a list can unfold to, at most; 0 if no list holds objects."""
    if node.item is None:
        return max((_values_per_listed_object(child) for child in node.fields.values()), default=0)
    return 1 + node.item.size if node.item.size else 0  # what is deeper is smaller


# --- Saying what is wrong with an answer

_Kinds = jsonschema_rs.ValidationErrorKind
_UNIONS = (_Kinds.AnyOf, _Kinds.OneOfNotValid)


def _innermost(error: jsonschema_rs.ValidationError) -> jsonschema_rs.ValidationError:
    """The error that says most: of a union with null, the one of its other alternative."""
    while isinstance(error.kind, _UNIONS):
        telling = [errors for errors in error.kind.context if errors and not _is_only_null(errors)]
        if len(telling) != 1:
            break
        error = telling[0][0]
    return error


def _culprit(error: jsonschema_rs.ValidationError) -> Any:
    match error.kind:
        case _Kinds.AdditionalProperties(unexpected=names) | _Kinds.UnevaluatedProperties(unexpected=names):
            return ", ".join(names)
        case _Kinds.PropertyNames(error=inner):
            return inner.instance
    return error.instance


def _is_only_null(errors: list[jsonschema_rs.ValidationError]) -> bool:
    kind = errors[0].kind
    return len(errors) == 1 and isinstance(kind, _Kinds.Type) and kind.types == ["null"]


def _problem(error: jsonschema_rs.ValidationError, shown: str) -> str:
    match error.kind:
        case _Kinds.AdditionalProperties() | _Kinds.UnevaluatedProperties():
            return f"the schema does not allow the properties {shown}"
        case _Kinds.PropertyNames():
            return f"the schema does not allow a property with the name {shown}"
        case _Kinds.Enum(options=options):
            listed = ", ".join(json.dumps(option, ensure_ascii=False) for option in options)
            return f"{shown} is not one of {_shorten(listed, 200)}"
        case _Kinds.Format(format=name) if name in _FORMAT_EXAMPLES:
            return f"{shown} is not a {name}, such as {_FORMAT_EXAMPLES[name]}"
    return _shorten(error.message, 200).replace(_MASK, shown)


def _path(steps: list[str | int]) -> str:
    text = ""
    for step in steps:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return _shorten(text.removeprefix("."), 100) or "the answer"


def _quote(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (RecursionError, TypeError):
        return "the value"
    return _shorten(text, 60)


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


# --- OpenAI's rules for strict structured outputs


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
        for token in _tokens(ref)[1:]:
            self._require(isinstance(found, dict) and token in found)
            found = found[token]
        return found

    @staticmethod
    def _require(kept: bool) -> None:
        if not kept:
            raise _NotStrict
