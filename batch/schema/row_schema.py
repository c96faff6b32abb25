"""The columns of a run's rows: one Arrow schema, which every file of the run has, whatever its rows hold."""

import base64
import json
from typing import Any

import pyarrow as pa

from batch.schema.arrow import JSON_TEXT, arrow_type

ROW_SCHEMA_VERSION = 3
"""Version of the columns that `row_schema` gives; raised when a column is added, removed or changes its meaning."""

TEXT = "text"
"""The column that `output.keep_text` adds."""


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
