"""What a preview or an estimate asks of a worker, and what comes back: one object in S3, first the one, then the other.

So job, documents and answers stay out of Temporal. The client creates the object and deletes it. Of a client that died
it stays until the next preview of the output finds it an hour old.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from batch.files.result_file import ERROR, OK
from batch.job.job import Job
from batch.job.logical_date import Nominal
from batch.job.stored import stored_job
from batch.previews.estimation import Estimate
from batch.previews.sample import Picked
from batch.storage.compare_and_set import compare_and_set
from batch.storage.layout import PreviewLayout, preview_made_at
from batch.storage.records import read_record
from batch.storage.store import Storage

LEFT_AFTER = timedelta(hours=1)
"""Age at which nobody waits any more for what an object holds."""
UNANSWERED = "unanswered"


class PreviewGone(LookupError):
    """Nobody waits any more: the client has taken its object away."""


@dataclass(frozen=True)
class PreviewRequest:
    """Documents to read and render, of which some are asked about; what a listing counted, for an estimate."""

    job: Job
    nominal: Nominal
    picked: list[Picked]
    asks: int
    characters: int = 0
    """Of each message and answer that come back; the rest is cut out of the middle."""
    documents: int = 0
    size: int = 0
    too_large: int = 0
    processes: int = 0

    @property
    def fingerprint(self) -> str:
        """The job's, with the dates filled in."""
        return self.job.fingerprint_at(self.nominal)

    def to_bytes(self) -> bytes:
        return orjson.dumps({**vars(self), "job": json.loads(self.job.to_json()), "nominal": str(self.nominal)})

    @classmethod
    def from_bytes(cls, data: bytes, fingerprint: str = "") -> PreviewRequest:
        fields = orjson.loads(data)
        nominal = Nominal.parse(fields["nominal"])
        job = stored_job(fields["job"], nominal, fingerprint or None, where="preview")
        return read_record(cls, {**fields, "job": job, "nominal": nominal})


@dataclass(frozen=True)
class PreviewedDocument:
    """A document as a run would ask about it (`messages`), and the row that it would get; see `batch.schema.arrow`.

    `status` is `ok`, `error`, or `unanswered` where the preview was stopped first. Messages and `output_text` may have
    lost their middle.
    """

    document_id: str
    uri: str
    size: int
    messages: list[dict[str, str]]
    status: str
    result: dict[str, Any] | None = None
    output_text: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    retryable: bool | None = None
    finish_reason: str | None = None
    model: str | None = None
    attempts: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None
    latency_seconds: float = 0.0
    chunks: int | None = None
    """Of a document that was asked in chunks: `messages` are those of the first."""
    truncated: bool | None = None


@dataclass(frozen=True)
class PreviewResult:
    """The documents of a preview. `stopped` says why not all were asked about, as a run's pause would; else empty."""

    job_name: str
    model: str
    documents: list[PreviewedDocument]
    stopped: str = ""
    listed: int = 0
    """Keys of the source that were looked through to spread the documents over them; 0: documents were named."""
    whole: bool = True
    """Whether those were all keys. If not, the documents are spread over the names of the rest."""

    @property
    def ok(self) -> int:
        return self._count(OK)

    @property
    def errors(self) -> int:
        return self._count(ERROR)

    @property
    def unanswered(self) -> int:
        return self._count(UNANSWERED)

    @property
    def cost_usd(self) -> float:
        """US dollars, without the answers that have no known price."""
        return sum(document.cost_usd or 0.0 for document in self.documents)

    @property
    def unpriced(self) -> int:
        """Answers of a model without a known price."""
        return sum(document.attempts > 0 and document.cost_usd is None for document in self.documents)

    @property
    def prompt_tokens(self) -> int:
        return sum(document.prompt_tokens for document in self.documents)

    @property
    def cached_tokens(self) -> int:
        return sum(document.cached_tokens for document in self.documents)

    @property
    def completion_tokens(self) -> int:
        return sum(document.completion_tokens for document in self.documents)

    def _count(self, status: str) -> int:
        return sum(document.status == status for document in self.documents)

    def to_dict(self) -> dict[str, Any]:
        totals = ("ok", "errors", "unanswered", "prompt_tokens", "cached_tokens", "completion_tokens", "unpriced")
        return {
            **asdict(self),
            **{name: getattr(self, name) for name in totals},
            "cost_usd": round(self.cost_usd, 6),
        }


async def read_request(
    storage: Storage, layout: PreviewLayout, token: str, fingerprint: str
) -> tuple[PreviewRequest, str]:
    """Returns the request and its etag, for a worker. Raises `PreviewGone`, and `JobError` for a newer job."""
    found = await storage.get_entry(layout.output.bucket, layout.file(token))
    if found is None:
        raise PreviewGone(f"preview {token} was taken back before a worker got to it")
    return PreviewRequest.from_bytes(found[0], fingerprint), found[1].etag


async def write_answer(
    storage: Storage, layout: PreviewLayout, token: str, answer: PreviewResult | Estimate, *, etag: str
) -> None:
    """Puts the answer in the place of the request `etag`, and nowhere else: nothing is left behind for a client that
    went. Raises `PreviewGone`, `StorageError`."""
    standing = await compare_and_set(storage, layout.output.bucket, layout.file(token), orjson.dumps(answer), over=etag)
    if not standing.ours:
        raise PreviewGone(f"preview {token} was taken back while a worker was at it")


async def delete_left(storage: Storage, layout: PreviewLayout) -> None:
    """Deletes what clients that died have left behind."""
    before = datetime.now(UTC) - LEFT_AFTER

    def is_left(key: str) -> bool:
        made = preview_made_at(key)
        return made is not None and made < before

    await storage.delete_below(layout.folder.bucket, layout.folder.prefix, is_left)


def cut(text: str, most: int) -> str:
    """At most about `most` characters of the text: its beginning, its end, and how much is left out between them."""
    left_out = len(text) - most
    if left_out <= 0:
        return text
    half = most // 2
    return f"{text[:half]}\n[... {left_out:,} characters left out ...]\n{text[len(text) - (most - half) :]}"


def cut_messages(messages: Sequence[dict[str, str]], most: int) -> list[dict[str, str]]:
    return [{**message, "content": cut(message["content"], most)} for message in messages]
