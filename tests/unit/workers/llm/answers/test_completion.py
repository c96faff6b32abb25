"""What answers of many servers say, in whatever shape, and which of them are whole."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.llm.answers.completion import Usage, read_completion, read_usage, without_thoughts
from workers.llm.answers.errors import WHOLE, Kind, judge_answer
from workers.llm.answers.json_text import decoded


def body(content: Any = "bug", finish: Any = "stop", **message: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": content, **message}, "finish_reason": finish}]}


def with_choice(**said: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": "half"}, "finish_reason": None, **said}]}


def judged(found: Any, text: str = "") -> str:
    verdict = judge_answer(200, read_completion(found), text)
    return "ok" if verdict is None else verdict.error_type


@pytest.mark.parametrize(
    "finish", [*WHOLE, "STOP", "EOS", "FinishReason.STOP", "FINISH_REASON_STOP", {"type": "stop"}, None, ""]
)
def test_words_of_a_whole_answer_and_none_at_all(finish: Any) -> None:
    assert judged(body(finish=finish)) == "ok"


@pytest.mark.parametrize(
    ("found", "error_type"),
    [
        (body(""), "empty_answer"),
        (body(None), "empty_answer"),
        (body(" \n\t\u00a0"), "empty_answer"),
        (body("\u200b\ufeff\x00"), "empty_answer"),
        (body([]), "empty_answer"),
        (body("", reasoning_content="hm, hm"), "empty_answer"),
        (body("<think>hm, hm"), "empty_answer"),
        (body("<think>hm</think>\n\n"), "empty_answer"),
        (body([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]), "empty_answer"),
        ({"choices": []}, "empty_answer"),
        ({"choices": None, "usage": {"prompt_tokens": 40}}, "empty_answer"),
        ({"choices": [{"finish_reason": "stop", "index": 0}]}, "empty_answer"),  # Gemini
        ({"choices": [], "promptFeedback": {"blockReason": "SAFETY"}}, "content_filter"),
        (body("half", "length"), "truncated"),
        (body("half", "MAX_TOKENS"), "truncated"),
        (body("half", "model_length"), "truncated"),
        (body("<think>half", "length"), "truncated"),
        (body("", "content_filter"), "content_filter"),
        ({"choices": [{"finish_reason": "content_filter: PROHIBITED_CONTENT"}]}, "content_filter"),
        (body("half", "SAFETY"), "content_filter"),
        (body("half", "sensitive"), "content_filter"),
        (body(None, refusal="I cannot"), "refusal"),
        (body([{"type": "refusal", "refusal": "I cannot"}]), "refusal"),
        (body("half", "abort"), "unfinished"),
        (body("half", "error"), "unfinished"),
        (body("half", "insufficient_system_resource"), "unfinished"),
        (body("half", 2), "unfinished"),
        (body("half", ["length"]), "unfinished"),
        (body("half", {}), "unfinished"),
        (body("half", {"type": "length", "length": 16}), "truncated"),  # SGLang
        (body("half", "FinishReason.MAX_TOKENS"), "truncated"),
        (body("half", "max-tokens"), "truncated"),
        (with_choice(finish_details={"type": "max_tokens"}), "truncated"),  # OpenAI's first model of images
        (with_choice(native_finish_reason="MAX_TOKENS"), "truncated"),  # OpenRouter
        (with_choice(stop_reason="max_tokens"), "truncated"),
        (body(function_call={"name": "", "arguments": ""}), "ok"),  # One API
        (body("", function_call={"name": "look", "arguments": "{}"}), "tool_calls"),
        ({**body("half"), "error": True, "message": "backend down"}, "provider_error"),
        ({**body("half"), "error": 503}, "http_503"),
        ({**body(), "error": "None"}, "ok"),
        (body("half", error={"message": "x", "code": 502}), "http_502"),
        (body("whole?", "a word that nobody knows"), "unfinished"),
        (body(None, "tool_calls", tool_calls=[{"function": {"name": "search"}}]), "tool_calls"),
        (body("", "stop", tool_calls=[{"function": {"name": "search"}}]), "tool_calls"),
        (body("", "function_call", function_call={"name": "search"}), "tool_calls"),
        (body("bug", tool_calls=[]), "ok"),
        (body("", tool_calls=True), "tool_calls"),
        (body("", tool_calls=[None, {"function": 5}]), "tool_calls"),
        (body("bug", tool_calls=None, refusal=None, reasoning=None), "ok"),
        ({**body("half"), "error": {"code": 502, "message": "Upstream"}}, "http_502"),
        ({**body("half"), "error": "upstream went away"}, "provider_error"),
        ({"choices": [{"message": {"content": "half"}, "error": {"code": 429, "message": "slow"}}]}, "rate_limited"),
        ({"error": {"code": "429", "message": "x"}}, "rate_limited"),
        ({"error": {"code": "rate_limit_exceeded", "message": "x"}}, "rate_limited"),
        ({"error": {"code": 401, "message": "No auth credentials found"}}, "invalid_api_key"),
        ({"error": ["llama runner process has terminated"]}, "provider_error"),
        ({"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}, "insufficient_quota"),
        ({"base_resp": {"status_code": 0, "status_msg": ""}, **body()}, "ok"),
        ({"detail": "Not authenticated: invalid api key"}, "invalid_api_key"),
        (
            {"object": "error", "message": "This model's maximum context length is 9", "code": 400},
            "context_length_exceeded",
        ),
        ([{"error": {"code": 503, "message": "The model is overloaded", "status": "UNAVAILABLE"}}], "http_503"),
        ({**body(), "error": None}, "ok"),
        ({**body(), "error": {}}, "ok"),
        ({**body(), "error": ""}, "ok"),
        ({**body(), "error": {"message": "", "code": None}}, "ok"),
        ({**body(), "error": {"code": 0, "message": "success"}}, "ok"),
        ({**body(), "detail": "of no concern"}, "ok"),
        (body(3), "malformed"),
        ({"choices": [[]]}, "malformed"),
        ({"choices": [{"delta": {"content": "b"}}]}, "malformed"),
        ({"requestId": "8f", "status": "pending-evaluation"}, "malformed"),
        ({}, "malformed"),
        ([], "malformed"),
        ("text", "malformed"),
        (None, "malformed"),
        ({"choices": [{"text": "bug", "finish_reason": "stop"}]}, "ok"),
    ],
)
def test_what_is_an_answer(found: Any, error_type: str) -> None:
    assert judged(found) == error_type


def test_what_is_no_answer_is_shown_and_asked_again_only_a_few_times() -> None:
    page = "<!DOCTYPE html><html><head><title>Sign in to Contoso</title></head><body><p>Please</p></body></html>"
    for text, shown in [(page, "Sign in to Contoso"), ("data: {}\n\n", "stream"), ("upstream reset", "upstream reset")]:
        verdict = judge_answer(200, read_completion(None), text)
        assert verdict is not None and verdict.few and verdict.kind is Kind.TRANSIENT
        assert shown in verdict.message and "<" not in verdict.message
    verdict = judge_answer(202, read_completion({"status": "pending"}))
    assert verdict is not None and verdict.message == 'HTTP 202 with no answer of the chat API: {"status":"pending"}'
    verdict = judge_answer(200, read_completion({"error": {"code": 429, "message": "try again in 7.5s"}}))
    assert verdict is not None and not verdict.few and verdict.wait == 7.5


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>\nlet me see {a}\n</think>\n\nThe label is bug.", "The label is bug."),
        ("<THINK>a</think>b", "b"),
        ("hm, hm\n</think>\n\nbug", "bug"),  # the template wrote the opening one
        ("<think>a</think><think>b</think>bug", "bug"),
        ("<think>it says </think> there</think>bug", "bug"),
        ("<thinking>a</thinking>\nbug", "bug"),
        ("[THINK]a[/THINK]bug", "bug"),
        ("◁think▷a◁/think▷bug", "bug"),
        ("<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>bug<|END_RESPONSE|>", "bug"),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>bug<|return|>", "bug"),
        ("<seed:think>a</seed:think>bug", "bug"),
        ("<longcat_think>a</longcat_think>bug", "bug"),
        ('<think time="3">a', ""),
        ("<|begin_of_thought|>a<|end_of_thought|><|begin_of_solution|>bug<|end_of_solution|>", "bug"),
        ("<unused94>thought\na<unused95>bug", "bug"),
        ("<|inner_prefix|>a<|inner_suffix|>bug", "bug"),
        ('<details type="reasoning" done="true">a</details>bug', "bug"),
        ("analysisThe user asks.assistantfinalbug", "bug"),
        ("analysis of the market", "analysis of the market"),
        ("A model ends its thoughts by `</think>`.", "A model ends its thoughts by `</think>`."),
        ("<think>no end", ""),
        ("I think <think> is a tag, </think> closes it.", "I think <think> is a tag, </think> closes it."),
        ("<analysis>asked for</analysis>", "<analysis>asked for</analysis>"),
        ("I think so.", "I think so."),
    ],
)
def test_thoughts_are_no_part_of_the_answer(text: str, answer: str) -> None:
    assert without_thoughts(text) == answer
    assert (read_completion(body(text)).text or "") == answer


@pytest.mark.parametrize(
    "part", ["<think></think>", "<think>", "</think>", "[", "<|channel|>final<|message|>", "a </think>"]
)
def test_thoughts_are_taken_off_in_no_time(part: str) -> None:
    started = time.process_time()
    without_thoughts(part * (2**21 // len(part)))
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "bug"}], "bug"),
        (
            [
                {"type": "text", "text": "b"},
                {"type": "reference", "reference_ids": [1]},
                {"type": "text", "text": "ug"},
            ],
            "bug",
        ),
        ([{"type": "reasoning", "summary": []}, {"type": "output_text", "text": "bug"}], "bug"),
        ([{"text": "hm", "thought": True}, {"text": "bug"}], "bug"),
        (["b", "ug"], "bug"),
        ({"type": "text", "text": "bug"}, "bug"),
        ({"label": "bug"}, '{"label":"bug"}'),
    ],
)
def test_content_in_parts(content: Any, text: str) -> None:
    assert read_completion(body(content)).text == text


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (None, None),
        ({}, None),
        ([1], None),
        ({"prompt_tokens": "n/a"}, None),
        ({"prompt_tokens": 20, "completion_tokens": 3, "total_tokens": 23}, Usage(20, 0, 0, 3)),
        ({"prompt_tokens": 20, "total_tokens": 20}, Usage(20)),
        ({"prompt_tokens": "20", "completion_tokens": 3.0}, Usage(20, 0, 0, 3)),
        # OpenAI: reasoning is part of the completion
        (
            {
                "prompt_tokens": 32,
                "completion_tokens": 103,
                "total_tokens": 135,
                "completion_tokens_details": {"reasoning_tokens": 94},
            },
            Usage(32, 0, 0, 103, 94),
        ),
        # xAI: it is beside
        (
            {
                "prompt_tokens": 32,
                "completion_tokens": 9,
                "total_tokens": 135,
                "completion_tokens_details": {"reasoning_tokens": 94},
            },
            Usage(32, 0, 0, 103, 94),
        ),
        (
            {"prompt_tokens": 32, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 94}},
            Usage(32, 0, 0, 103, 94),
        ),
        # Gemini: the total alone tells
        ({"prompt_tokens": 40, "completion_tokens": 9, "total_tokens": 249}, Usage(40, 0, 0, 209)),
        ({"prompt_tokens": 40, "total_tokens": 249}, Usage(40, 0, 0, 209)),
        ({"total_tokens": 249}, Usage(0, 0, 0, 249)),
        # DeepSeek, Moonshot
        ({"prompt_tokens": 40, "completion_tokens": 1, "prompt_cache_hit_tokens": 30}, Usage(40, 30, 0, 1)),
        ({"prompt_tokens": 40, "completion_tokens": 1, "cached_tokens": 30}, Usage(40, 30, 0, 1)),
        # OpenRouter and LiteLLM: written to the cache
        (
            {
                "prompt_tokens": 40,
                "completion_tokens": 1,
                "prompt_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 20},
            },
            Usage(40, 10, 20, 1),
        ),
        (
            {
                "prompt_tokens": 40,
                "completion_tokens": 1,
                "total_tokens": 41,
                "cache_creation_input_tokens": 20,
                "cache_read_input_tokens": 10,
            },
            Usage(40, 10, 20, 1),
        ),
        # Anthropic's own accounting: what the cache gave or took is beside the input
        (
            {"input_tokens": 10, "output_tokens": 1, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 30},
            Usage(60, 30, 20, 1),
        ),
        ({"prompt_tokens": 10, "completion_tokens": 1, "cache_creation_input_tokens": 20}, Usage(30, 0, 20, 1)),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 1,
                "total_tokens": 41,
                "prompt_tokens_details": {"cached_tokens": 30},
            },
            Usage(40, 30, 0, 1),
        ),
        # No sense
        (
            {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 99}},
            Usage(10, 10, 0, 2),
        ),
        ({"prompt_tokens": -5, "completion_tokens": float("inf")}, Usage(0)),
        ({"prompt_tokens": 10, "completion_tokens": 2**70}, Usage(10, 0, 0, 2**31)),
    ],
)
def test_usage(found: Any, expected: Usage | None) -> None:
    assert read_usage(found) == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "message",
                    "content",
                    "error",
                    "usage",
                    "finish_reason",
                    "code",
                    "detail",
                    "tool_calls",
                    "type",
                    "text",
                    "refusal",
                    "prompt_tokens",
                    "total_tokens",
                    "completion_tokens_details",
                    "base_resp",
                    "errors",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)


@given(JSON, st.text(max_size=50))
def test_no_json_whatever_raises(found: Any, text: str) -> None:
    said = read_completion(found)
    verdict = judge_answer(200, said, text)
    assert verdict is not None or (said.text or "").strip()


def test_marks_of_thoughts_in_json_are_its_own() -> None:
    text = '{"label": "the tag </think> in a text"}'
    assert read_completion(body(text)).text == text


def test_a_server_that_counts_nothing_for_a_text_does_not_count() -> None:
    for usage in ({"prompt_tokens": 0, "completion_tokens": 0}, {"prompt_tokens": 20}, {"completion_tokens": -1}):
        assert read_completion({**body(), "usage": usage}).usage is None
    assert read_completion({**body(""), "usage": {"prompt_tokens": 20}}).usage == Usage(20)


def test_broken_json_of_servers_is_mended_and_nothing_else() -> None:
    assert decoded(b'{"a": "ok \\ud83d"}') == {"a": "ok \ufffd"}
    assert decoded(b'{"a": "\\ude00\\ud83d\\ude00"}') == {"a": "\ufffd\U0001f600"}
    assert decoded(b'{"a": "\\\\ud83d"}') == {"a": "\\ud83d"}
    assert decoded(b'{"a": "x\ny\tz\x01"}') == {"a": "x\ny\tz\x01"}
    assert decoded(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}
    assert decoded('{"a": "ü"}'.encode("latin-1")) == {"a": "\ufffd"}
    assert decoded('{"a": "ü"}'.encode("latin-1"), "iso-8859-1") == {"a": "ü"}
    assert decoded('{"a": "ü"}'.encode("latin-1"), "no such") == {"a": "\ufffd"}
    assert decoded('{"a": "ü"}'.encode("utf-16"), "utf-16") == {"a": "ü"}
    assert decoded(b'\xef\xbb\xbf{"a": 1}', "utf-8") == {"a": 1}
    for broken in (b'{"a": NaN}', b'{"a": 1', b'{"a": 1e999}', b"", b" ", b"<html>", b"data: {}", b"[" * 5000):
        assert decoded(broken) is None
