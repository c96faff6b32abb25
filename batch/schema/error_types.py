"""The words that say in `error_type` of a row why a document has no result, each with the stage that it stopped at.

They go as they are into rows, metrics, plans and payloads. A reader takes any text: another version has other words,
and what a provider answers with a status alone is `http_<status>`. docs/errors.md and docs/extraction.md say what each
word means.
"""

from __future__ import annotations

from enum import Enum, StrEnum, auto


class Stage(Enum):
    """How far a document came."""

    SOURCE = auto()
    """It could not be read."""
    OBJECT = auto()
    """It stands for an object of rows that could not be read to its end."""
    EXTRACTION = auto()
    """Its bytes gave no text."""
    PROMPT = auto()
    """Its text made no prompt."""
    CALL = auto()
    """The call was repeated in place, and that was of no use."""
    PROVIDER = auto()
    """The provider refused this document."""
    ANSWER = auto()
    """The answer is not whole."""
    SCHEMA = auto()
    """The answer is whole and does not obey its schema."""
    BATCH = auto()
    """Nobody answered its line of a batch."""
    PARTITION = auto()
    """Its partition was given up."""
    JOB = auto()
    """None: no call can succeed, and the run pauses with the word for a reason. No row has it."""
    JOB_BATCH = auto()
    """The same of batches."""


class ErrorType(StrEnum):
    """Why a document has no result; `retryable` where a rerun asks again, as the reason may have passed."""

    stage: Stage
    retryable: bool

    def __new__(cls, word: str, stage: Stage, retryable: bool = False) -> ErrorType:
        member = str.__new__(cls, word)
        member._value_, member.stage, member.retryable = word, stage, retryable
        return member

    ARCHIVED = "archived", Stage.SOURCE
    """An object that is in an archive: no outage, and no use to ask for it again before somebody restores it."""
    TOO_LARGE = "too_large", Stage.SOURCE
    UNSUPPORTED_KEY = "unsupported_key", Stage.SOURCE
    BAD_ROW = "bad_row", Stage.SOURCE
    BROKEN_OBJECT = "broken_object", Stage.OBJECT
    OBJECT_CHANGED = "object_changed", Stage.OBJECT
    OBJECT_GONE = "object_gone", Stage.OBJECT
    OBJECT_REFUSED = "object_refused", Stage.OBJECT
    SOURCE_CHANGED = "source_changed", Stage.SOURCE, True
    SOURCE_GONE = "source_gone", Stage.SOURCE, True
    SOURCE_REFUSED = "source_refused", Stage.SOURCE, True
    SOURCE_UNREACHABLE = "source_unreachable", Stage.SOURCE, True

    EMPTY = "empty", Stage.EXTRACTION
    UNREADABLE_TEXT = "unreadable_text", Stage.EXTRACTION
    NO_TEXT = "no_text", Stage.EXTRACTION
    MISSING_TEXT_PAGES = "missing_text_pages", Stage.EXTRACTION
    NOT_UTF8 = "not_utf8", Stage.EXTRACTION
    NOT_TEXT = "not_text", Stage.EXTRACTION
    UNSUPPORTED_FORMAT = "unsupported_format", Stage.EXTRACTION
    CORRUPT = "corrupt", Stage.EXTRACTION
    ENCRYPTED = "encrypted", Stage.EXTRACTION
    TOO_DEEP = "too_deep", Stage.EXTRACTION
    DECOMPRESSION_BOMB = "decompression_bomb", Stage.EXTRACTION
    TOO_MUCH_TEXT = "too_much_text", Stage.EXTRACTION
    EXTRACTION_TIMEOUT = "extraction_timeout", Stage.EXTRACTION
    EXTRACTION_MEMORY = "extraction_memory", Stage.EXTRACTION
    EXTRACTION_CRASHED = "extraction_crashed", Stage.EXTRACTION

    TOO_LONG = "too_long", Stage.PROMPT
    TEMPLATE = "template", Stage.PROMPT

    RATE_LIMITED = "rate_limited", Stage.CALL, True
    TIMEOUT = "timeout", Stage.CALL, True
    UNREACHABLE = "unreachable", Stage.CALL, True
    CONNECTION = "connection", Stage.CALL, True
    MALFORMED = "malformed", Stage.CALL, True
    OVERLOADED = "overloaded", Stage.CALL, True
    PROVIDER_ERROR = "provider_error", Stage.CALL, True
    UNFINISHED = "unfinished", Stage.CALL, True
    JSON_VALIDATE_FAILED = "json_validate_failed", Stage.CALL, True

    REQUEST_TOO_LARGE = "request_too_large", Stage.PROVIDER
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded", Stage.PROVIDER
    CONTENT_FILTER = "content_filter", Stage.PROVIDER
    BAD_REQUEST = "bad_request", Stage.PROVIDER, True
    PAYMENT_REQUIRED = "payment_required", Stage.PROVIDER, True
    QUOTA_EXCEEDED = "quota_exceeded", Stage.PROVIDER, True
    REDIRECTED = "redirected", Stage.PROVIDER, True
    UNAUTHORIZED = "unauthorized", Stage.PROVIDER, True
    FORBIDDEN = "forbidden", Stage.PROVIDER, True
    NOT_FOUND = "not_found", Stage.PROVIDER, True

    TRUNCATED = "truncated", Stage.ANSWER
    REFUSAL = "refusal", Stage.ANSWER
    EMPTY_ANSWER = "empty_answer", Stage.ANSWER, True
    TOOL_CALLS = "tool_calls", Stage.ANSWER, True
    PROMPT_TRUNCATED = "prompt_truncated", Stage.ANSWER, True
    ANSWER_TOO_LARGE = "answer_too_large", Stage.ANSWER

    INVALID_ANSWER = "invalid_answer", Stage.SCHEMA, True
    """Not retryable where rules combined it of answers about chunks: they do the same again."""
    BATCH_EXPIRED = "batch_expired", Stage.BATCH, True
    BATCH_LINE_FAILED = "batch_line_failed", Stage.BATCH, True
    PARTITION_FAILED = "partition_failed", Stage.PARTITION, True

    INSUFFICIENT_QUOTA = "insufficient_quota", Stage.JOB
    INVALID_API_KEY = "invalid_api_key", Stage.JOB
    PERMISSION_DENIED = "permission_denied", Stage.JOB
    MODEL_NOT_FOUND = "model_not_found", Stage.JOB
    UNEXPECTED_REDIRECT = "unexpected_redirect", Stage.JOB
    BATCH_REFUSED = "batch_refused", Stage.JOB_BATCH
    BATCH_MISSING = "batch_missing", Stage.JOB_BATCH


RETRYABLE = frozenset(word for word in ErrorType if word.retryable)


def words_of(*stages: Stage) -> tuple[ErrorType, ...]:
    """Returns the words of documents that stopped at one of these stages."""
    return tuple(word for word in ErrorType if word.stage in stages)
