"""The taxonomy: each status, code and 200-that-is-no-success, and what it means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workers.llm.errors import RULES, Kind, Rule, judge_finish, judge_status

PAGE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()


def body(code: str, message: str = "m") -> dict[str, Any]:
    return {"error": {"message": message, "type": "t", "param": None, "code": code}}


@pytest.mark.parametrize(
    ("status", "answer", "kind", "error_type"),
    [
        (429, body("rate_limit_exceeded"), Kind.TRANSIENT, "rate_limited"),
        (429, body("slow_down"), Kind.TRANSIENT, "rate_limited"),
        (429, body("rate_limit_exceeded", "Request too large for gpt"), Kind.DOCUMENT, "request_too_large"),
        (429, body("insufficient_quota"), Kind.JOB, "insufficient_quota"),
        (429, body("credit_balance_exhausted"), Kind.JOB, "insufficient_quota"),
        (429, body("monthly_spend_limit_exceeded"), Kind.JOB, "insufficient_quota"),
        (400, body("max_input_tokens_limit_exceeded"), Kind.DOCUMENT, "bad_request"),
        (503, body("server_limit_exceeded"), Kind.TRANSIENT, "http_503"),
        (403, body("content_filter"), Kind.DOCUMENT, "content_filter"),
        (301, None, Kind.JOB, "unexpected_redirect"),
        (500, {"error": {"code": "x", "innererror": "text"}}, Kind.TRANSIENT, "http_500"),
        (402, None, Kind.JOB, "insufficient_quota"),
        (401, body("invalid_api_key"), Kind.JOB, "invalid_api_key"),
        (403, body("permission_denied"), Kind.JOB, "permission_denied"),
        (404, body("model_not_found"), Kind.JOB, "model_not_found"),
        (500, body("server_error"), Kind.TRANSIENT, "http_500"),
        (503, None, Kind.TRANSIENT, "http_503"),
        (408, None, Kind.TRANSIENT, "http_408"),
        (409, None, Kind.TRANSIENT, "http_409"),
        (400, body("context_length_exceeded"), Kind.DOCUMENT, "context_length_exceeded"),
        (413, None, Kind.DOCUMENT, "context_length_exceeded"),
        (400, body("content_filter"), Kind.DOCUMENT, "content_filter"),
        (
            400,
            {"error": {"code": "x", "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
            Kind.DOCUMENT,
            "content_filter",
        ),
        (400, body("invalid_prompt"), Kind.DOCUMENT, "bad_request"),
        (422, "not an object", Kind.DOCUMENT, "bad_request"),
    ],
)
def test_statuses(status: int, answer: Any, kind: Kind, error_type: str) -> None:
    verdict = judge_status(status, answer)
    assert (verdict.kind, verdict.error_type) == (kind, error_type)
    assert str(status) in verdict.message


@pytest.mark.parametrize(
    ("finish", "refusal", "error_type"),
    [
        ("stop", None, None),
        ("length", None, "truncated"),
        ("content_filter", None, "content_filter"),
        ("stop", "I cannot", "refusal"),
    ],
)
def test_successes_that_are_none(finish: str, refusal: str | None, error_type: str | None) -> None:
    verdict = judge_finish(finish, refusal)
    assert (verdict.error_type if verdict else None) == error_type


def test_the_page_has_the_rules_line_by_line() -> None:
    def follows(rule: Rule) -> str:
        if rule.kind is Kind.DOCUMENT:
            return "error row, retryable" if rule.retryable else "error row, not retryable"
        return "repeated in place" if rule.kind is Kind.TRANSIENT else "the run pauses"

    for rule in RULES:
        assert (rule.kind is Kind.JOB) == bool(rule.alone), "what stops a job may be one document's"
        assert not rule.alone or (f"| {rule.answer} | " in PAGE and f"an error row: `{rule.alone}` |" in PAGE)

    lines = [f"| {rule.answer} | `{rule.error_type}` | {follows(rule)}" for rule in RULES]
    found = [next((at for at, text in enumerate(PAGE.splitlines()) if text.startswith(line)), None) for line in lines]
    assert None not in found, [line for line, at in zip(lines, found, strict=True) if at is None]
    assert found == list(range(found[0] or 0, (found[0] or 0) + len(RULES)))
