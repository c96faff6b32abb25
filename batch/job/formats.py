"""What an object of the source holds, by `source.format` and its name: one document, or a row for each. Pure."""

from __future__ import annotations

from batch.job.source import Source

OBJECT, JSONL, PARQUET = "object", "jsonl", "parquet"
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
_JSONL = tuple(f"{name}{compressed}" for name in (".jsonl", ".ndjson") for compressed in ("", *COMPRESSED))
_JSON = tuple(f".json{compressed}" for compressed in ("", *COMPRESSED))


def kind_of(source: Source, key: str) -> str:
    """`OBJECT`, `JSONL` or `PARQUET`. Case of the key's ending does not matter."""
    if source.format != "auto":
        return source.format
    name = key.lower()
    if name.endswith(_JSONL):
        return JSONL
    return PARQUET if name.endswith(".parquet") else OBJECT


def may_be_jsonl(source: Source, key: str) -> bool:
    """Whether only a look into an object tells a document from rows: Spark and BigQuery call JSON Lines `.json`."""
    return source.format == "auto" and key.lower().endswith(_JSON)
