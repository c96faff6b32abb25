"""A segment of a ledger as it lies in object storage: some answers of a partition that was not committed then. Pure.

Each checks itself: one that is torn, foreign or of another job is ignored, never trusted.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import orjson

from batch.storage.records import read_record

MAGIC = b"docbatch-ledger-1\n"


@dataclass(frozen=True)
class LedgerName:
    """Whose answers a segment holds; a segment that says otherwise is not ours."""

    run_id: str
    fingerprint: str
    partition: int
    generation: int
    dispatch: int
    attempt: int

    def is_beside(self, other: LedgerName) -> bool:
        """Whether both are of the same partition, run and job, of whatever attempt."""
        return (self.run_id, self.fingerprint, self.partition) == (other.run_id, other.fingerprint, other.partition)


def encode_segment(name: LedgerName, rows: list[dict[str, Any]]) -> bytes:
    """Magic, SHA-256 of the body, body."""
    body = orjson.dumps({**name.__dict__, "rows": rows})
    return MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def decode_segment(data: bytes) -> tuple[LedgerName, list[dict[str, Any]]] | None:
    """None for whatever is not a whole segment."""
    if not data.startswith(MAGIC):
        return None
    digest, _, body = data[len(MAGIC) :].partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        return None
    try:
        fields = orjson.loads(body)
        return read_record(LedgerName, fields), fields["rows"]
    except (KeyError, ValueError):
        return None


class Newest:
    """Puts segments together, in any order: the newest row of each document, and what is known of chunks."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.chunks: dict[str, dict[str, dict[str, Any]]] = {}
        """Document -> key of a chunk of it -> what is known of that."""

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Takes one segment's rows."""
        for row in rows:
            if "chunk" in row:
                self.chunks.setdefault(row["document_id"], {})[row["chunk"]] = row
                continue
            old = self.rows.get(row["document_id"])
            if old is None or (row["generation"], row["processed_at"]) >= (old["generation"], old["processed_at"]):
                self.rows[row["document_id"]] = row
