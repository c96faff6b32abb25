"""The error taxonomy: what each answer of a provider that is no success means for document, call and run.

    document   this document cannot be answered: an error row, retryable by a rerun or not; the partition goes on
    transient  the same call may succeed soon: repeated in place, with the provider's own Retry-After
    job        no call of this run can succeed until somebody acts: the run pauses with the reason, unless a short
               question is answered meanwhile: then it is the document's alone (`workers.llm.short_question`)

Statuses and codes: https://platform.openai.com/docs/guides/error-codes
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Kind(Enum):
    DOCUMENT = "document"
    TRANSIENT = "transient"
    JOB = "job"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`error_type` is the word that stands in rows, metrics and pause reasons; `retryable` is for a rerun.

    Of one of the job, `alone` is the word of the row that it is while others are answered, and `passes` says that it
    may be a limit a minute, whatever its words: it is waited for as long as others are answered.
    """

    kind: Kind
    error_type: str
    message: str
    retryable: bool = False
    alone: str = ""
    passes: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """What an HTTP answer other than 200 means. It fits if all fit that are given; the first of `RULES` counts."""

    kind: Kind
    error_type: str
    answer: str
    """As docs/errors.md names it."""
    status: Container[int] = range(1000)
    code: str = ""
    """A regular expression of the error's whole `code` (its `type` where it has none) or Azure's inner code."""
    says: str = ""
    """What the message contains, in lower case."""
    retryable: bool = False
    hint: str = ""
    alone: str = ""
    passes: bool = False

    def fits(self, status: int, codes: tuple[str, ...], message: str) -> bool:
        return (
            status in self.status
            and (not self.code or any(re.fullmatch(self.code, code) for code in codes))
            and self.says in message.lower()
        )


_QUOTA = "insufficient_quota|billing_hard_limit_reached|billing_not_active|credit_balance_exhausted"
_SPENT = "(?!(rate|requests|tokens)_limit_exceeded).*_limit_exceeded"
"""Limits of spend, whatever their name; those of rate pass by waiting."""
_CONTENT = "content_filter|content_policy_violation|ResponsibleAIPolicyViolation"
_ENDPOINT = "OPENAI_BASE_URL must name the endpoint itself"
_MONEY = "insufficient_quota"
_SPENDING: Any = {"alone": "quota_exceeded", "passes": True}
"""Alibaba, for one, says `insufficient_quota` of a limit a minute: https://help.aliyun.com/zh/model-studio/error-code"""

RULES = (
    Rule(Kind.JOB, _MONEY, "402", status=(402,), alone="payment_required"),
    Rule(Kind.JOB, _MONEY, "`insufficient_quota`, `credit_balance_exhausted`, `billing_*`", code=_QUOTA, **_SPENDING),
    Rule(Kind.JOB, _MONEY, "429 of a limit of spend: `*_limit_exceeded`", status=(429,), code=_SPENT, **_SPENDING),
    Rule(Kind.DOCUMENT, "content_filter", "a content filter's code, also Azure's", code=_CONTENT),
    Rule(Kind.JOB, "unexpected_redirect", "a redirect (3xx)", status=range(400), hint=_ENDPOINT, alone="redirected"),
    Rule(Kind.JOB, "invalid_api_key", "401", status=(401,), alone="unauthorized"),
    Rule(Kind.JOB, "permission_denied", "403", status=(403,), alone="forbidden"),
    Rule(Kind.JOB, "model_not_found", "404", status=(404,), alone="not_found"),
    Rule(Kind.DOCUMENT, "request_too_large", '429 that says "request too large"', (429,), says="request too large"),
    Rule(Kind.TRANSIENT, "rate_limited", "any other 429: `rate_limit_exceeded`, `slow_down`", (429,), retryable=True),
    Rule(Kind.TRANSIENT, "http_{status}", "408, 409, 425", status=(408, 409, 425), retryable=True),
    Rule(Kind.TRANSIENT, "http_{status}", "5xx", status=range(500, 1000), retryable=True),
    Rule(Kind.DOCUMENT, "context_length_exceeded", "`context_length_exceeded`", code="context_length_exceeded"),
    Rule(Kind.DOCUMENT, "context_length_exceeded", "413", status=(413,)),
    # The reason is not known to be the document's own: a person who removed it may ask again by a rerun.
    Rule(Kind.DOCUMENT, "bad_request", "any other 4xx", retryable=True),
)


def judge_status(status: int, body: Any) -> Verdict:
    """The verdict on an HTTP answer other than 200. `body` is its decoded JSON, or None."""
    error = body.get("error") if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {}
    code = str(error.get("code") or error.get("type") or "")
    inner = error.get("innererror")
    codes = (code, str(inner.get("code"))) if isinstance(inner, dict) else (code,)
    message = f"HTTP {status}{f' {code}' if code else ''}: {str(error.get('message') or 'no error message')[:300]}"
    rule = next(rule for rule in RULES if rule.fits(status, codes, message))
    hint = f"; {rule.hint}" if rule.hint else ""
    error_type = rule.error_type.format(status=status)
    return Verdict(rule.kind, error_type, message + hint, rule.retryable, rule.alone, rule.passes)


def alone(verdict: Verdict) -> Verdict:
    """What a verdict on the job is of the document alone, as others are answered: whoever mends the cause, or has it
    pass, may ask again."""
    return Verdict(Kind.DOCUMENT, verdict.alone, verdict.message, retryable=True)


def judge_finish(finish_reason: str | None, refusal: str | None) -> Verdict | None:
    """The verdict on a 200 that is no success; None when it is one."""
    if refusal:
        return Verdict(Kind.DOCUMENT, "refusal", f"the model refused: {refusal[:300]}")
    if finish_reason == "length":
        return Verdict(Kind.DOCUMENT, "truncated", "the answer reached its token limit; raise model.max_output_tokens")
    if finish_reason == "content_filter":
        return Verdict(Kind.DOCUMENT, "content_filter", "the provider's content filter stopped the answer")
    return None
