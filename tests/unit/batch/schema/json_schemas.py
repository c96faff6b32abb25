"""JSON schemas to test with: a few by name, and hypothesis strategies for any of the supported kinds.

A `Kind` knows the column that it must become, and values with what that column must then hold.
"""

import hashlib
import io
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

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


DEFS: dict[str, Any] = {
    "number": {"type": "number"},
    "two": an_object(y={"$ref": "#/$defs/number"}),
    "odd /name/with~all%": {"type": "boolean"},
}


def as_parquet(table: pa.Table) -> pa.Table:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return pq.read_table(buffer)


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
