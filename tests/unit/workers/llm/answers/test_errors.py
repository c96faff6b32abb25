"""The taxonomy: each status, code and 200-that-is-no-success, and what it means."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from batch.schema.error_types import RETRYABLE
from workers.llm.answers.completion import read_completion
from workers.llm.answers.errors import ALONE, DAY_WAIT, RULES, Kind, Rule, judge_answer, judge_status

PAGE = (Path(__file__).parents[5] / "docs" / "errors.md").read_text()


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
        (400, body("max_input_images_limit_exceeded"), Kind.DOCUMENT, "bad_request"),
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
        (400, body("invalid_value"), Kind.DOCUMENT, "bad_request"),
        (422, "not an object", Kind.DOCUMENT, "bad_request"),
    ],
)
def test_statuses(status: int, answer: Any, kind: Kind, error_type: str) -> None:
    verdict = judge_status(status, answer)
    assert (verdict.kind, verdict.error_type) == (kind, error_type)
    assert str(status) in verdict.message


WORDS = [json.loads(line) for line in Path(__file__).with_name("provider_errors.jsonl").read_text().splitlines()]
"""Errors of servers, as their code, their documentation or bug reports about them have them."""


@pytest.mark.parametrize("case", WORDS, ids=lambda case: f"{case['provider']}-{case['error_type']}")
def test_words_and_codes_of_servers(case: dict[str, Any]) -> None:
    status, answer, error_type = case["status"], case["answer"], case["error_type"]
    if status == 200:
        verdict = judge_answer(status, read_completion(answer))
        assert verdict is not None
    else:
        verdict = judge_status(status, answer)
    assert verdict.error_type == error_type, verdict
    final = ("context_length_exceeded", "content_filter", "request_too_large")
    assert verdict.retryable is (verdict.kind is not Kind.JOB and error_type not in final)


@pytest.mark.parametrize(
    ("answer", "text", "shown"),
    [
        (
            [{"error": {"code": 400, "message": "Unable to process alpha", "status": "INVALID_ARGUMENT"}}],
            "",
            "process alpha",
        ),
        ({"object": "error", "message": "bad beta", "type": "BadRequestError", "code": 400}, "", "bad beta"),
        ({"error": "json: cannot unmarshal gamma"}, "", "unmarshal gamma"),
        (
            {"detail": [{"type": "missing", "loc": ["body", "x"], "msg": "Field required delta"}]},
            "",
            "Field required delta",
        ),
        ({"detail": "Not allowed epsilon"}, "", "epsilon"),
        ({"detail": {"error": {"description": "zeta"}}}, "", "zeta"),
        ({"message": {"detail": [{"msg": "eta"}]}}, "", "eta"),
        ({"error": {"message": {"text": "theta"}}}, "", "theta"),
        ({"errors": ["iota", {"message": "kappa"}]}, "", "iota; kappa"),
        ({"error": {"message": "Provider returned error", "metadata": {"raw": "lambda"}}}, "", "lambda"),
        ({"fault": {"faultstring": "mu"}}, "", "mu"),
        ({"error_code": 336003, "error_msg": "nu"}, "", "336003: nu"),
        ("xi", "", "xi"),
        (
            None,
            "<html><head><title>403 Forbidden</title></head><body><p>omicron</body></html>",
            "403 Forbidden omicron",
        ),
        (None, "upstream connect error\n pi", "upstream connect error pi"),
        ({"error": {"message": "x" * 5000}}, "", "x" * 300),
        ({"error": {"message": "\x1b[31mrho"}}, "", "rho"),
        (None, "", "no error message"),
        ({}, "", "no error message"),
        ([[[[[]]]]], "", "no error message"),
    ],
)
def test_what_was_said_is_shown_in_whatever_shape(answer: Any, text: str, shown: str) -> None:
    for status in (400, 401, 500):
        verdict = judge_status(status, answer, text)
        assert shown in verdict.message and len(verdict.message) < 700
        assert verdict.message.isprintable()


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Rate limit reached for m on tokens per day (TPD): Limit 100000. Please try again in 7m12.5s.", 432.5),
        ("Rate limit reached on requests per min. Please try again in 120ms.", 0.12),
        ("Please retry in 20.5s.", 20.5),
        ("Please retry after 500 milliseconds.", 0.5),
        ("Rate limit exceeded: free-models-per-day. Add 10 credits to unlock", DAY_WAIT),
        ("Limit of 14400 requests per day reached", DAY_WAIT),
        ("Rate limit exceeded", None),
    ],
)
def test_how_long_a_limit_says_to_wait(message: str, seconds: float | None) -> None:
    verdict = judge_status(429, {"error": {"message": message}})
    assert (verdict.error_type, verdict.wait) == ("rate_limited", seconds)


def test_the_page_has_the_rules_line_by_line() -> None:
    def follows(rule: Rule) -> str:
        if rule.kind is Kind.DOCUMENT:
            return "error row, retryable" if rule.error_type in RETRYABLE else "error row, not retryable"
        return "repeated in place" if rule.kind is Kind.TRANSIENT else "the run pauses"

    for rule in RULES:
        assert (rule.kind is Kind.JOB) == (rule.error_type in ALONE), "what stops a job may be one document's"
    assert not [word for word in (*ALONE.values(), "quota_exceeded") if f"`{word}`" not in PAGE]

    lines = [f"| {rule.answer} | `{rule.error_type}` | {follows(rule)}" for rule in RULES]
    found = [next((at for at, text in enumerate(PAGE.splitlines()) if text.startswith(line)), None) for line in lines]
    assert None not in found, [line for line, at in zip(lines, found, strict=True) if at is None]
    assert found == list(range(found[0] or 0, (found[0] or 0) + len(RULES)))


@pytest.mark.parametrize(
    "part", ["<", "<script ", "<!--", "<a ", "model ", "per day limit ", "try again 1", "context length "]
)
def test_hostile_words_take_no_time(part: str) -> None:
    started = time.process_time()
    for text in (part * 20_000, f"<html>{part * 20_000}"):
        judge_status(429, None, text)
        judge_status(400, {"error": {"message": text}})
    assert time.process_time() - started < 1
