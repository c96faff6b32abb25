"""JSON schema in, the run's one Arrow schema out. Every file of the run has it, whatever its rows hold.

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

import base64
import json
from typing import Any

import pyarrow as pa

from batch.schema.columns import Columns, Node

ROW_SCHEMA_VERSION = 3
"""Version of the columns that `row_schema` gives; raised when a column is added, removed or changes its meaning."""

TEXT = "text"
"""The column that `output.keep_text` adds."""

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


def row_schema(
    result: dict[str, Any] | None,
    *,
    incremental: bool = False,
    on_too_long: str | None = None,
    row: bool = False,
    keep_text: bool = False,
) -> pa.Schema:
    """All columns of a result file, in order; `result` (the job's JSON schema) None leaves the result column out.

    `incremental`: with the hash of each document's content, by which the next run knows what did not change.
    `on_too_long` is the job's: `truncate` has the column `truncated`, `chunk` the column `chunks`.
    `keep_text` adds `text`, what was extracted from the document.
    `row`: whether there is a column of the fields that `source.keep` names, as JSON text; null for a whole object.

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
    columns.append(("output_text", string))
    if keep_text:
        columns.append((TEXT, string))
    columns += [
        ("error_type", string),
        ("error_message", string),
        ("retryable", pa.bool_()),
        ("finish_reason", string),
        ("model", string),
        ("attempts", int64),
        ("prompt_tokens", int64),
        ("cached_tokens", int64),
        ("completion_tokens", int64),
        ("cache_write_tokens", int64),
        ("reasoning_tokens", int64),
        ("cost_usd", pa.float64()),
        ("latency_seconds", pa.float64()),
        ("fingerprint", string),
        ("run_id", string),
        ("generation", int64),
        ("processed_at", pa.timestamp("us", tz="UTC")),
        ("same_as", string),
        ("pages", int64),
        ("pages_without_text", int64),
    ]
    if incremental:
        columns.append(("content_hash", string))
    if on_too_long == "truncate":
        columns.append(("truncated", pa.bool_()))
    if on_too_long == "chunk":
        columns.append(("chunks", int64))
    schema = pa.schema(columns)
    return schema.append(pa.field("row", string, metadata=JSON_TEXT)) if row else schema


def schema_to_json(schema: pa.Schema) -> str:
    """`schema` as JSON text for `run.json`: names and types for people, Arrow's IPC (base64) for `schema_from_json`."""
    return json.dumps(
        {
            "columns": [{"name": column.name, "type": str(column.type)} for column in schema],
            "arrow_ipc": base64.b64encode(schema.serialize().to_pybytes()).decode("ascii"),
        }
    )


def schema_from_json(text: str) -> pa.Schema:
    """Returns the exact schema, metadata included, that `schema_to_json` wrote.

    Raises:
        ValueError: `text` is something else, or damaged.
    """
    try:
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(json.loads(text)["arrow_ipc"], validate=True)))
    except (ValueError, LookupError, TypeError, OSError, pa.ArrowException) as error:
        raise ValueError(
            f"the run's Arrow schema cannot be read, it is damaged or not one of schema_to_json's: {error}"
        ) from error


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
