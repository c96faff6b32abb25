"""The error taxonomy: what each answer of a provider that is no success means for document, call and run.

    document   this document cannot be answered: an error row, retryable by a rerun or not; the partition goes on
    transient  the same call may succeed soon: repeated in place, with the provider's own Retry-After
    job        no call of this run can succeed until somebody acts: the run pauses with the reason

Statuses and codes: https://platform.openai.com/docs/guides/error-codes
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any


class Kind(Enum):
    DOCUMENT = "document"
    TRANSIENT = "transient"
    JOB = "job"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`error_type` is the word that stands in rows, metrics and pause reasons; `retryable` is for a rerun."""

    kind: Kind
    error_type: str
    message: str
    retryable: bool = False


QUOTA_CODES = frozenset(
    {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "credit_balance_exhausted"}
)
"""429s (or 402s) that no waiting mends; any code that ends in `_limit_exceeded` but the rate limit's is one too."""

RATE_CODES = frozenset({"rate_limit_exceeded", "slow_down", "requests_limit_exceeded", "tokens_limit_exceeded"})
CONTENT_CODES = frozenset({"content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation"})


def judge_status(status: int, body: Any) -> Verdict:
    """The verdict on an HTTP answer other than 200. `body` is its decoded JSON, or None."""
    error = body.get("error") if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {}
    code = str(error.get("code") or error.get("type") or "")
    message = f"HTTP {status}{f' {code}' if code else ''}: {str(error.get('message') or 'no error message')[:300]}"

    spent = status == 429 and code.endswith("_limit_exceeded") and code not in RATE_CODES
    if code in QUOTA_CODES or status == 402 or spent:
        return Verdict(Kind.JOB, "insufficient_quota", message)
    inner = error.get("innererror")
    if code in CONTENT_CODES or (isinstance(inner, dict) and str(inner.get("code")) in CONTENT_CODES):
        return Verdict(Kind.DOCUMENT, "content_filter", message)
    if status < 400:
        return Verdict(Kind.JOB, "unexpected_redirect", f"{message}; OPENAI_BASE_URL must name the endpoint itself")
    if status == 401:
        return Verdict(Kind.JOB, "invalid_api_key", message)
    if status == 403:
        return Verdict(Kind.JOB, "permission_denied", message)
    if status == 404:
        return Verdict(Kind.JOB, "model_not_found", message)
    if status == 429:
        if "request too large" in message.lower():
            return Verdict(Kind.DOCUMENT, "request_too_large", message)
        return Verdict(Kind.TRANSIENT, "rate_limited", message, retryable=True)
    if status in (408, 409, 425) or status >= 500:
        return Verdict(Kind.TRANSIENT, f"http_{status}", message, retryable=True)
    if code == "context_length_exceeded" or status == 413:
        return Verdict(Kind.DOCUMENT, "context_length_exceeded", message)
    # The reason is not known to be the document's own: a person who removed it may ask again by a rerun.
    return Verdict(Kind.DOCUMENT, "bad_request", message, retryable=True)


def judge_finish(finish_reason: str | None, refusal: str | None) -> Verdict | None:
    """The verdict on a 200 that is no success; None when it is one."""
    if refusal:
        return Verdict(Kind.DOCUMENT, "refusal", f"the model refused: {refusal[:300]}")
    if finish_reason == "length":
        return Verdict(Kind.DOCUMENT, "truncated", "the answer reached its token limit; raise model.max_output_tokens")
    if finish_reason == "content_filter":
        return Verdict(Kind.DOCUMENT, "content_filter", "the provider's content filter stopped the answer")
    return None
