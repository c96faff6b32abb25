"""What lines of batches come to: rows, other rounds, pauses; how input files are cut; what failed batches say."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import orjson
import pytest
from openai.types import Batch

from batch.corpus.planning import PlannedDocument
from tests.unit.workers.llm.limits.lanes import open_lane
from tests.unit.workers.llm.scripted_answers import GOOD, MESSAGES, NO_FORMAT, WRONG, Scripted, job, said
from workers.batch_mode.api import AnsweredLine, judge_failure, read_line, read_lines, request_line, seconds_of
from workers.batch_mode.batch_answers import MOST_FAILURES, Asked, Next
from workers.batch_mode.spool import BYTES_A_TOKEN, Spool, SpoolWriter, fitting
from workers.llm.answers.errors import Kind
from workers.llm.chat import Chat
from workers.llm.limits.stop import Brakes
from workers.observe.metrics import Metrics


def chat() -> Chat:
    brakes = Brakes(max_error_rate=1.0, drain=asyncio.Event())
    return Chat(job(), Scripted(said(GOOD)), brakes, Metrics(), open_lane())  # type: ignore[arg-type]


def asked() -> Asked:
    return Asked(PlannedDocument("a", "s3://b/a", "e", 1), 0, "e")


def answered(status: int, body: Any) -> AnsweredLine:
    return AnsweredLine("d0", status, body)


def left_out(code: str) -> AnsweredLine:
    return AnsweredLine("d0", None, None, code, "why")


def take(one: Asked, *lines: AnsweredLine, by: Chat | None = None, reasks: int = 2) -> list[Next]:
    by = by or chat()
    return [one.take(line, by, reasks=reasks, latency=3.0) for line in lines]


def test_a_good_answer_is_a_row() -> None:
    one = asked()
    assert take(one, answered(200, said(GOOD))) == [Next.ROW]
    answer = one.answer
    assert (answer.error, answer.result, answer.attempts, answer.prompt_tokens) == (None, {"label": "bug"}, 1, 100)
    assert answer.latency_seconds == 3.0


def test_an_invalid_answer_goes_into_the_next_round_with_what_is_wrong_and_its_cost_stays() -> None:
    one, by = asked(), chat()
    payload = by.payload(MESSAGES)
    assert one.body(payload, by) == payload
    assert take(one, answered(200, said(WRONG)), by=by) == [Next.ROUND]
    messages = orjson.loads(one.body(payload, by))["messages"]
    assert messages[1] == {"role": "assistant", "content": WRONG}
    assert "does not fit" in messages[2]["content"]
    assert take(one, answered(200, said(GOOD)), by=by) == [Next.ROW]
    assert (one.answer.error, one.answer.attempts, one.answer.prompt_tokens) == (None, 2, 200)


def test_reasks_are_bounded() -> None:
    one = asked()
    assert take(one, *[answered(200, said(WRONG))] * 3) == [Next.ROUND, Next.ROUND, Next.ROW]
    assert one.answer.error is not None and one.answer.error.error_type == "invalid_answer"
    assert one.answer.completion_tokens == 30


@pytest.mark.parametrize(
    ("line", "error_type", "retryable"),
    [
        (answered(200, said("half", finish="length")), "truncated", False),
        (answered(200, said(None, refusal="no")), "refusal", False),
        (
            answered(400, {"error": {"code": "context_length_exceeded", "message": "m"}}),
            "context_length_exceeded",
            False,
        ),
        (answered(400, {"error": {"code": "content_filter", "message": "m"}}), "content_filter", False),
        (answered(400, {"error": {"code": "invalid_prompt", "message": "m"}}), "content_filter", False),
        (answered(400, {"error": {"code": "invalid_value", "message": "m"}}), "bad_request", True),
        (answered(200, {"error": {"code": 403, "message": "flagged by moderation"}}), "content_filter", False),
        (answered(200, said(" \u200b\n")), "empty_answer", True),
        (answered(200, {"choices": []}), "empty_answer", True),
        (answered(200, said("<think>hm")), "empty_answer", True),
    ],
)
def test_an_error_of_the_document_is_a_row_at_once(line: AnsweredLine, error_type: str, retryable: bool) -> None:
    one = asked()
    assert take(one, line) == [Next.ROW]
    assert one.answer.error is not None
    assert (one.answer.error.error_type, one.answer.error.retryable) == (error_type, retryable)


@pytest.mark.parametrize(
    ("line", "error_type"),
    [
        (answered(500, {"error": {"message": "m"}}), "http_500"),
        (answered(429, {"error": {"code": "rate_limit_exceeded"}}), "rate_limited"),
        (answered(200, "half a body"), "malformed"),
        (left_out("batch_expired"), "batch_expired"),
        (left_out("request_timeout"), "batch_line_failed"),
    ],
)
def test_what_may_pass_is_sent_again_a_few_times(line: AnsweredLine, error_type: str) -> None:
    one = asked()
    assert take(one, *[line] * MOST_FAILURES) == [Next.ROUND] * (MOST_FAILURES - 1) + [Next.ROW]
    assert one.answer.error is not None
    assert (one.answer.error.error_type, one.answer.error.retryable) == (error_type, True)


def test_a_cancelled_line_counts_for_nothing() -> None:
    assert take(asked(), *[left_out("batch_cancelled")] * 9) == [Next.ROUND] * 9


def test_a_line_that_tells_of_the_job_raises_doubts() -> None:
    one = asked()
    assert take(one, answered(429, {"error": {"code": "insufficient_quota"}})) == [Next.STOP]
    assert take(one, answered(200, said(GOOD))) == [Next.ROW]
    assert one.answer.error is None
    one = asked()
    unknown = answered(404, {"error": {"code": "model_not_found", "message": "not for batches"}})
    assert take(one, *[unknown] * MOST_FAILURES) == [Next.STOP] * (MOST_FAILURES - 1) + [Next.ROW]
    assert one.answer.error is not None and one.answer.error.error_type == "not_found"


def test_a_server_without_response_format_gets_the_schema_in_words() -> None:
    one, by = asked(), chat()
    payload = by.payload(MESSAGES)
    assert take(one, answered(400, NO_FORMAT), by=by) == [Next.ROUND]
    body = orjson.loads(one.body(payload, by))
    assert "response_format" not in body
    assert one.in_words
    assert take(one, answered(200, said(f"Here it is: {GOOD}")), by=by) == [Next.ROW]
    assert one.answer.result == {"label": "bug"}
    assert "response_format" not in orjson.loads(by.payload(MESSAGES)), "others of the run know it too"


def test_lines_are_read_whatever_stands_between_them() -> None:
    good = orjson.dumps(
        {"id": "1", "custom_id": "d1", "response": {"status_code": 200, "body": {"a": 1}}, "error": None}
    )
    lost = orjson.dumps({"custom_id": "d2", "response": None, "error": {"code": "batch_expired", "message": "late"}})
    none = orjson.dumps({"custom_id": "d3", "response": {"status_code": 0, "body": None}, "error": None})
    file = io.BytesIO(b"\n".join([good, b"", b"[1]", b"{", lost, none]))
    assert list(read_lines(file)) == [
        AnsweredLine("d1", 200, {"a": 1}),
        AnsweredLine("d2", None, None, "batch_expired", "late"),
        AnsweredLine("d3", None, None),
    ]
    assert read_line(b'{"custom_id": 3}') is None


def test_an_input_file_is_cut_at_its_bounds() -> None:
    line = request_line("d1", b'{"model":"m"}')
    assert orjson.loads(line) == {
        "custom_id": "d1",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "m"},
    }
    by_count = SpoolWriter(tokens=None, requests=3, size=10_000)
    for place in range(7):
        by_count.add(place, line, etag=None, in_words=place == 2)
    assert [spool.places for spool in by_count.spools] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [spool.in_words for spool in by_count.spools] == [[2], [], []]
    by_tokens = SpoolWriter(tokens=len(line), requests=1000)
    for place in range(9):
        by_tokens.add(place, line, etag="x", in_words=False)
    assert [len(spool.places) for spool in by_tokens.spools] == [4, 4, 1]
    file = by_tokens.spools[0].file
    file.seek(0)
    assert file.read() == line * 4
    assert by_tokens.spools[2].etags == {"8": "x"}


def failed(*errors: dict[str, Any]) -> Batch:
    data = {"object": "list", "data": list(errors)}
    return Batch.model_validate(
        {
            "id": "b",
            "object": "batch",
            "endpoint": "e",
            "input_file_id": "f",
            "completion_window": "24h",
            "status": "failed",
            "created_at": 1,
            "errors": data,
        }
    )


def test_what_a_failed_batch_says() -> None:
    full = "Enqueued token limit reached for m in organization o. Limit: 2,000,000 enqueued tokens. Please try again."
    found = judge_failure(failed({"code": "token_limit_exceeded", "message": full}))
    assert (found.verdict.kind, found.enqueued_limit) == (Kind.TRANSIENT, 2_000_000)
    found = judge_failure(failed({"code": "invalid_json_line", "message": "m", "line": 4}))
    assert (found.verdict.kind, list(found.lines)) == (Kind.DOCUMENT, [4])
    for code, reason in (("model_not_found", "model_not_found"), ("billing_hard_limit_reached", "insufficient_quota")):
        found = judge_failure(failed({"code": code, "message": "m", "line": 1}))
        assert (found.verdict.kind, found.verdict.error_type) == (Kind.JOB, reason)
    for unknown in (failed(), failed({"code": "something_new", "message": "m", "line": None})):
        found = judge_failure(unknown)
        assert (found.verdict.kind, found.lines) == (Kind.DOCUMENT, {})


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        ({"completed_at": 61}, 60.0),
        ({"expired_at": 86_401}, 86_400.0),
        ({"cancelled_at": 1}, 0.0),
        ({}, 0.0),
        ({"completed_at": "2026-01-01T00:00:00Z"}, 0.0),
        ({"completed_at": 61, "created_at": "2026-01-01T00:00:00Z"}, 0.0),
    ],
)
def test_how_long_a_batch_took(times: dict[str, Any], seconds: float) -> None:
    assert seconds_of(Batch.model_construct(**{"created_at": 1, "status": "completed", **times})) == seconds


@pytest.mark.parametrize(
    ("tokens", "limit", "tries", "piece"),
    [
        (1000, 500, 1, 400),  # it can never fit
        (450, 500, 1, 400),  # it may, if its tokens were known, and not estimated
        (300, 500, 1, None),
        (300, 500, 3, 150),
        (100, 500, 3, None),  # it is others that fill the queue
        (1000, None, 1, None),
        (1000, None, 3, 500),
        (60, None, 3, 50),  # of a file of 1000: it is cut into so many pieces and no more
        (50, None, 3, None),
    ],
)
def test_what_finds_no_room_is_cut_or_waits(tokens: int, limit: int | None, tries: int, piece: int | None) -> None:
    spool = Spool(size=tokens * BYTES_A_TOKEN)
    assert fitting(spool, limit=limit, tries=tries, largest=1000) == piece
