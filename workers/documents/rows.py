"""One document's row, with the columns of `batch.schema.row_schema.row_schema`; a column left out is null."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from batch.corpus.planning import PlannedDocument
from batch.files.result_file import ERROR, OK

if TYPE_CHECKING:
    from workers.llm.answer import Answer

Row = dict[str, Any]
TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "cache_write_tokens", "reasoning_tokens")
"""Columns of what a document's calls used; null where an answer did not say."""


@dataclass(frozen=True)
class RowMaker:
    """What the rows that one partition gets in one generation have in common."""

    run_id: str
    fingerprint: str
    generation: int
    shard: int
    partition: int
    keep: tuple[str, ...] = ()
    """`source.keep`: fields of a document's row that its result carries."""

    def row(self, document: PlannedDocument, etag: str, answer: Answer, cost_usd: float | None) -> Row:
        """An ok row, which `failed` makes an error row. `etag`: of the version that was read, or the planned one."""
        return self.kept(document) | {
            "document_id": document.document_id,
            "uri": document.uri,
            "etag": etag,
            "shard": self.shard,
            "partition": self.partition,
            "status": OK,
            "output_text": answer.text,
            "error_type": None,
            "error_message": None,
            "retryable": None,
            "finish_reason": answer.finish_reason,
            "model": answer.model,
            "attempts": answer.attempts,
            **{name: None if answer.uncounted else getattr(answer, name) for name in TOKENS},
            "cost_usd": cost_usd,
            "latency_seconds": answer.latency_seconds,
            "fingerprint": self.fingerprint,
            "run_id": self.run_id,
            "generation": self.generation,
            "processed_at": datetime.now(UTC),
            "same_as": None,
            "pages": None,
            "pages_without_text": None,
        }

    def kept(self, document: PlannedDocument) -> Row:
        """Returns the column of the fields that `source.keep` names; nothing for a whole object."""
        if not self.keep or document.row is None:
            return {}
        fields = orjson.loads(document.row)
        return {"row": orjson.dumps({name: fields[name] for name in self.keep if name in fields}).decode()}


def carried(row: Row, maker: RowMaker, document: PlannedDocument) -> Row:
    """A row of the job's last run as one of this: an answer that still holds. It keeps the run that paid for it."""
    here = {"uri": document.uri, "etag": document.etag, "shard": maker.shard, "partition": maker.partition}
    return {**row, **here, **maker.kept(document), "generation": maker.generation}


def shared(row: Row, maker: RowMaker, document: PlannedDocument) -> Row:
    """Returns the row of a document that shares the answer of the one whose row this is. That one has what it cost."""
    own = {
        "document_id": document.document_id,
        "uri": document.uri,
        "etag": document.etag,
        "same_as": row["document_id"],
    }
    made = {
        "shard": maker.shard,
        "partition": maker.partition,
        "fingerprint": maker.fingerprint,
        "run_id": maker.run_id,
        "generation": maker.generation,
        "processed_at": datetime.now(UTC),
    }
    unpaid = {"attempts": 0, "cost_usd": 0.0, **dict.fromkeys(TOKENS, 0)}
    kept = {"row": None, **maker.kept(document)} if maker.keep else {}
    return {**row, **own, **made, **kept, **unpaid, "latency_seconds": None}


def failed(row: Row, error_type: str, message: str, *, retryable: bool) -> Row:
    """Returns the row as an error row; `message` is cut at 1,000 characters."""
    return {
        **row,
        "status": ERROR,
        "error_type": str(error_type),
        "error_message": message[:1000],
        "retryable": retryable,
    }
