"""JSON schema in, the Arrow type of the result column out.

Pure: no I/O, the same result for the same input. A job's `output.schema` becomes one struct column, `result`, of the
same type in every file of the run, also in a file whose rows all failed. How it becomes columns:

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

from typing import Any

import pyarrow as pa

from batch.schema.columns import Columns, Node

JSON_TEXT = {b"docbatch.json": b"1"}
"""Arrow field metadata of a string column that holds JSON text."""

_SCALARS: dict[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "string": pa.string(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}


def check_schema(schema: dict[str, Any]) -> None:
    """Check that `schema` is valid JSON schema (2020-12) and can become columns.

    Raises:
        SchemaError: it is not, or cannot.
    """
    Columns(schema)


def arrow_type(schema: dict[str, Any]) -> pa.StructType:
    """Returns the type of the result column: a struct whose fields are the root's properties, all nullable.

    Raises:
        SchemaError: as `check_schema`.
    """
    return _struct(Columns(schema).root)


def _arrow(node: Node) -> pa.DataType:
    if node.is_json_text:
        return pa.string()
    if node.item is not None:
        return pa.list_(_field("item", node.item))
    return _SCALARS[node.kind] if node.kind in _SCALARS else _struct(node)


def _struct(node: Node) -> pa.StructType:
    return pa.struct([_field(name, child) for name, child in node.fields.items()])


def _field(name: str, node: Node) -> "pa.Field[Any]":
    return pa.field(name, _arrow(node), metadata=JSON_TEXT if node.is_json_text else None)
