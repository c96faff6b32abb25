"""A provider's Files and Batch API, and what the lines of a batch's files say.

The openai SDK speaks the API, with its own retries off: it would repeat an exhausted quota, and a creation whose
outcome is unknown, which may have made a batch. Whoever calls decides by the verdict of the error taxonomy.
https://platform.openai.com/docs/guides/batch
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO, Any, Literal

import openai
import orjson
from openai import Omit, omit
from openai.types import Batch

from batch.schema.error_types import ErrorType
from workers.llm.answers.errors import Kind, Verdict, judge_status
from workers.llm.answers.json_text import decoded
from workers.llm.call import retry_after_of
from workers.llm.transport.keys import Keys
from workers.llm.transport.sdk_http import http_client
from workers.llm.transport.transport import Reply, endpoint_proxy, sdk_client

ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
MOST_REQUESTS = 50_000
MOST_BYTES = 190_000_000
"""Of an input file: below the 200 MB that OpenAI allows, whichever megabyte is meant."""
PAGE = 100
TIMEOUT = 60.0
SPOOLING = 2
"""Input files that are written at once in a process."""
TRANSFER_TIMEOUT = 900.0
"""Seconds for one upload or download of a file."""

COMPLETED, FAILED, EXPIRED, CANCELLED = "completed", "failed", "expired", "cancelled"
ENDED = frozenset({COMPLETED, FAILED, EXPIRED, CANCELLED})
TOKEN_LIMIT = "token_limit_exceeded"
UNPROCESSED = frozenset({"pending", "notRunning", "running", "processing", "in_progress", "queued", "uploading"})
"""States of a file from which no batch can be made yet. OpenAI's `uploaded` is none of them.
https://learn.microsoft.com/azure/ai-foundry/openai/how-to/batch"""

_NOT_PROCESSED = re.compile(
    r"pending|(?:not|n't) (?:yet |been |fully )*(?:processed|ready)|still (?:being )?process", re.I
)


class BatchApiError(Exception):
    """A call that failed. `unknown`: it may have been carried out all the same."""

    def __init__(self, verdict: Verdict, status: int | None, retry_after: float | None = None) -> None:
        super().__init__(verdict.message)
        self.verdict, self.status, self.retry_after = verdict, status, retry_after

    @property
    def unknown(self) -> bool:
        return self.status is None or self.status >= 500 or self.status == 408

    @property
    def unprocessed(self) -> bool:
        """Whether it may be the input file that is not processed yet."""
        return self.status in (400, 404, 409, 422) and bool(_NOT_PROCESSED.search(self.verdict.message))

    @property
    def missing(self) -> bool:
        """Whether what the call names is not there."""
        return self.status == 404


@dataclass(frozen=True)
class InputFile:
    """An uploaded input file; `created_at` is by the provider's clock, Unix seconds."""

    id: str
    created_at: int
    pending: bool = False
    """Whether the provider has to look through it before a batch can be made of it, as Azure does."""


class BatchApi:
    """The calls, one HTTP request each, which a refused key makes once more with another one if there is one by then.

    All raise `BatchApiError`, whose words hold no secret.
    """

    def __init__(self, keys: Keys | None = None) -> None:
        self._keys = keys or Keys()
        self._client = sdk_client(self._keys)
        proxy = endpoint_proxy(str(self._client.base_url), self._keys)
        self._client = sdk_client(self._keys, timeout=TIMEOUT, http_client=http_client(self._keys, proxy))
        self.spooling = asyncio.Semaphore(SPOOLING)
        """Held while an input file is written and uploaded: what bounds the disk that a process takes."""

    async def close(self) -> None:
        await self._client.close()

    async def upload(self, file: IO[bytes], name: str) -> InputFile:
        """Uploads the whole of an open file."""
        file.seek(0)
        with self._judged(f"upload of {name}"):
            made = await self._client.files.create(file=(name, file), purpose="batch", timeout=TRANSFER_TIMEOUT)
            return InputFile(made.id, _unix(made.created_at, 0), made.status in UNPROCESSED)

    async def is_pending(self, file_id: str) -> bool:
        """Whether the provider has not yet looked through an uploaded file."""
        with self._judged(f"file {file_id}"):
            found = await self._client.files.retrieve(file_id)
            return found.status in UNPROCESSED

    async def create(self, input_file: str, metadata: dict[str, str]) -> Batch:
        with self._judged("creation of a batch"):
            return await self._client.batches.create(
                input_file_id=input_file, endpoint=ENDPOINT, completion_window="24h", metadata=metadata
            )

    async def retrieve(self, batch_id: str) -> Batch:
        with self._judged(f"batch {batch_id}"):
            return await self._client.batches.retrieve(batch_id)

    async def find(self, is_it: Callable[[Batch], bool], *, since: int) -> Batch | None:
        """The newest batch that is the one, among those created since (Unix seconds of the provider's clock)."""
        with self._judged("list of batches"):
            after: str | Omit = omit
            while True:
                page = await self._client.batches.list(limit=PAGE, after=after)
                for batch in page.data:
                    if is_it(batch):
                        return batch
                # Newest first: a page that ends before the time has nothing to be looked for behind it.
                if not page.data or not page.has_next_page() or _unix(page.data[-1].created_at, since) < since:
                    return None
                after = page.data[-1].id

    async def cancel(self, batch_id: str) -> None:
        """Asks for the end of a batch; one that has ended already stays as it is."""
        try:
            with self._judged(f"cancellation of batch {batch_id}"):
                await self._client.batches.cancel(batch_id)
        except BatchApiError as error:
            if error.status not in (400, 404, 409):
                raise

    async def download(self, file_id: str, file: IO[bytes]) -> None:
        """Replaces an open file's content by that of the provider's."""
        file.seek(0)
        file.truncate()
        with self._judged(f"file {file_id}"):
            async with self._client.files.with_streaming_response.content(
                file_id, timeout=TRANSFER_TIMEOUT
            ) as response:
                left = b""
                async for chunk in response.iter_bytes(2**18):
                    lines, end, left = (left + chunk).rpartition(b"\n")
                    file.write(self._keys.secrets.clean_bytes(lines + end))
                file.write(self._keys.secrets.clean_bytes(left))

    async def delete(self, file_id: str) -> None:
        """Deletes a file; one that is not there is no error."""
        try:
            with self._judged(f"deletion of file {file_id}"):
                await self._client.files.delete(file_id)
        except BatchApiError as error:
            if not error.missing:
                raise

    @contextmanager
    def _judged(self, what: str) -> Iterator[None]:
        try:
            with self._as_verdicts(what):
                yield
        except BatchApiError as error:
            verdict = replace(error.verdict, message=self._keys.secrets.clean(error.verdict.message))
            raise BatchApiError(verdict, error.status, error.retry_after) from None

    @contextmanager
    def _as_verdicts(self, what: str) -> Iterator[None]:
        where = f"{what} at {self._client.base_url}"
        try:
            yield
        except openai.APIStatusError as error:
            verdict = judge_status(error.status_code, {"error": error.body})
            reply = Reply(error.status_code, error.response.headers, error.body)
            said = retry_after_of(reply)
            raise BatchApiError(
                _at(verdict, where), error.status_code, verdict.wait if said is None else said
            ) from None
        except openai.APITimeoutError:
            raise BatchApiError(_transient(ErrorType.TIMEOUT, f"{where}: no answer in time"), None) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            message = f"{where}: {type(cause).__name__}: {cause}"
            raise BatchApiError(_transient(ErrorType.UNREACHABLE, message), None) from None
        except openai.OpenAIError as error:
            raise BatchApiError(_transient(ErrorType.MALFORMED, f"{where}: {error}"), None) from None


def _transient(error_type: str, message: str) -> Verdict:
    return Verdict(Kind.TRANSIENT, error_type, message[:500])


def _at(verdict: Verdict, where: str) -> Verdict:
    return replace(verdict, message=f"{where}: {verdict.message}")


# -- input


def request_line(custom_id: str, body: bytes) -> bytes:
    """A line of an input file; `body` is the JSON of an online request."""
    head = {"custom_id": custom_id, "method": "POST", "url": ENDPOINT}
    return orjson.dumps(head)[:-1] + b',"body":' + body + b"}\n"


# -- output


@dataclass(frozen=True, slots=True)
class AnsweredLine:
    """One line of an output or error file: an HTTP answer, or (`status` None) the `code` of why there is none."""

    custom_id: str
    status: int | None
    body: Any
    code: str = ""
    message: str = ""

    @property
    def is_success(self) -> bool:
        """Whether it is an HTTP answer with a 2xx."""
        return self.status is not None and 200 <= self.status < 300


def read_line(line: bytes) -> AnsweredLine | None:
    """None for whatever is no answer to one of our lines."""
    try:
        found = decoded(line)
        custom_id, response, error = found["custom_id"], found.get("response"), found.get("error")
        if not isinstance(custom_id, str):
            return None
        if isinstance(response, dict) and response.get("status_code"):
            return AnsweredLine(custom_id, int(response["status_code"]), response.get("body"))
        error = error if isinstance(error, dict) else {}
        return AnsweredLine(custom_id, None, None, str(error.get("code") or ""), str(error.get("message") or ""))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def read_lines(file: IO[bytes]) -> Iterator[AnsweredLine]:
    """The answers of a downloaded file, in its order, one in memory at a time."""
    file.seek(0)
    for line in file:
        answered = read_line(line)
        if answered is not None:
            yield answered


# -- a batch at its end


def seconds_of(batch: Batch) -> float:
    """How long a batch took that has ended; 0 where the server does not say."""
    ended_at = batch.completed_at or batch.expired_at or batch.cancelled_at
    return float(max(0, _unix(ended_at, 0) - _unix(batch.created_at, 2**62)))


def _unix(value: object, default: int) -> int:
    """A time as OpenAI gives it; some servers give other things."""
    return int(value) if isinstance(value, (int, float)) else default


@dataclass(frozen=True)
class Failure:
    """Why a batch failed its validation: `lines` are the input lines at fault (from 1) and what is said of each."""

    verdict: Verdict
    lines: dict[int, str]
    enqueued_limit: int | None = None
    """Tokens that may be enqueued at once, where the provider says so."""


def judge_failure(batch: Batch) -> Failure:
    """What the errors of a failed batch mean.

    TRANSIENT: too many tokens are enqueued (`rate_limited`). JOB: no batch of this run can succeed. DOCUMENT: some
    lines are at fault (`lines`), or (none) nobody says what is: the same batch may be accepted another time.
    """
    errors = (batch.errors.data if batch.errors else None) or []
    said = "; ".join(f"{error.code}: {error.message}" for error in errors[:3]) or "no error is given"
    message = f"batch {batch.id} failed: {said}"[:500]
    for error in errors:
        if error.code == TOKEN_LIMIT:
            found = re.search(r"limit: ([\d,_. ]*\d)", error.message or "", re.IGNORECASE)
            limit = int(re.sub(r"\D", "", found[1])) if found else None
            return Failure(Verdict(Kind.TRANSIENT, ErrorType.RATE_LIMITED, message), {}, limit)
        status = 404 if error.code == "model_not_found" else 400
        verdict = judge_status(status, {"error": {"code": error.code, "message": error.message}})
        if verdict.kind is Kind.JOB:
            return Failure(Verdict(Kind.JOB, verdict.error_type, message), {})
    lines = {error.line: f"{error.code}: {error.message}" for error in errors if error.line}
    return Failure(Verdict(Kind.DOCUMENT, ErrorType.BAD_REQUEST, message), lines)
