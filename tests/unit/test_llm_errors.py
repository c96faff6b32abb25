"""The taxonomy: each status, code and 200-that-is-no-success, and what it means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workers.llm.completion import read_completion
from workers.llm.errors import DAY_WAIT, RULES, Kind, Rule, judge_answer, judge_status

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


CONTEXT, FILTER, MODEL, KEY = "context_length_exceeded", "content_filter", "model_not_found", "invalid_api_key"
QUOTA, LIMITED, CAPACITY = "insufficient_quota", "rate_limited", "overloaded"


@pytest.mark.parametrize(
    ("provider", "status", "answer", "error_type"),
    [
        # The context's length
        ("vLLM 0.6", 400, {"object": "error", "message": "This model's maximum context length is 4096 tokens. However, you "
         "requested 9000 tokens (8900 in the messages, 100 in the completion).", "type": "BadRequestError", "code": 400}, CONTEXT),
        ("vLLM 0.10", 400, {"error": {"message": "You passed 4097 input tokens and requested 0 output tokens. However, the "
         "model's context length is only 4096 tokens", "type": "BadRequestError", "param": "input_tokens", "code": 400}}, CONTEXT),
        ("vLLM", 400, {"error": {"message": "The decoder prompt (length 10127) is longer than the maximum model length of "
         "8192. Make sure that `max_model_len` is no smaller", "code": 400}}, CONTEXT),
        ("vLLM", 400, {"error": {"message": "max_tokens must be at least 1, got -4000.", "code": 400}}, CONTEXT),
        ("SGLang", 400, {"object": "error", "message": "The input (61709 tokens) is longer than the model's context length "
         "(40960 tokens).", "code": 400}, CONTEXT),
        ("SGLang", 400, {"error": "Input length (160062 tokens) exceeds the maximum allowed length (59862 tokens)."}, CONTEXT),
        ("llama.cpp", 400, {"error": {"code": 400, "message": "the request exceeds the available context size, try increasing "
         "it", "type": "exceed_context_size_error", "n_prompt_tokens": 1407, "n_ctx": 256}}, CONTEXT),
        ("llama.cpp of early 2025", 500, {"error": {"code": 500, "message": "the request exceeds the available context size. "
         "try increasing the context size or enable context shift", "type": "server_error"}}, CONTEXT),
        ("llama.cpp behind a gateway", 200, {"error": {"code": 400, "message": "the request exceeds the available context "
         "size", "type": "exceed_context_size_error"}}, CONTEXT),
        ("llama-cpp-python", 500, {"error": {"message": "Requested tokens (5000) exceed context window of 2048"}}, CONTEXT),
        ("TGI", 422, {"error": "Input validation error: `inputs` must have less than 1024 tokens. Given: 2000",
         "error_type": "validation"}, CONTEXT),
        ("TGI, Together", 422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097. Given: "
         "5000 `inputs` tokens and 100 `max_new_tokens`"}, CONTEXT),
        ("Ollama", 400, {"error": "input length exceeds maximum context length"}, CONTEXT),
        ("Ollama", 500, {"error": {"message": "the input length exceeds the context length", "type": "api_error"}}, CONTEXT),
        ("LM Studio", 400, {"error": "Trying to keep the first 111490 tokens when context the overflows. However, the model is "
         "loaded with context length of only 32768 tokens, which is not enough."}, CONTEXT),
        ("LM Studio", 400, {"error": "The number of tokens to keep from the initial prompt is greater than the context "
         "length."}, CONTEXT),
        ("Azure", 400, {"error": {"message": "This model's maximum context length is 8192 tokens, however you requested 9000",
         "type": "invalid_request_error", "code": None}}, CONTEXT),
        ("Gemini", 400, [{"error": {"code": 400, "message": "The input token count (1200000) exceeds the maximum number of "
         "tokens allowed (1048576).", "status": "INVALID_ARGUMENT"}}], CONTEXT),
        ("Anthropic", 400, {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 209303 "
         "tokens > 200000 maximum"}}, CONTEXT),
        ("Anthropic", 400, {"error": {"message": "input length and `max_tokens` exceed context limit: 174167 + 64000 > 200000, "
         "decrease input length or `max_tokens` and try again"}}, CONTEXT),
        ("Mistral", 400, {"object": "error", "message": "Prompt contains 40000 tokens and 0 draft tokens, too large for model "
         "with 32768 maximum context length", "type": "invalid_request_prompt", "code": "3051"}, CONTEXT),
        ("Groq", 400, {"error": {"message": "Please reduce the length of the messages or completion.", "type":
         "invalid_request_error", "code": "context_length_exceeded"}}, CONTEXT),
        ("Bedrock", 400, {"message": "Input is too long for requested model."}, CONTEXT),
        ("LiteLLM of Bedrock", 400, {"error": {"message": "litellm.BadRequestError: BedrockException - {\"message\":\"Input is "
         "too long for requested model.\"}", "type": None, "param": None, "code": "400"}}, CONTEXT),
        ("LiteLLM of Anthropic", 400, {"error": {"message": "litellm.ContextWindowExceededError: AnthropicError - prompt is too "
         "long: 209303 tokens > 200000 maximum", "code": "400"}}, CONTEXT),
        ("OpenRouter", 400, {"error": {"message": "This endpoint's maximum context length is 16384 tokens. However, you "
         "requested about 94307 tokens", "code": 400, "metadata": {"provider_name": None}}}, CONTEXT),
        ("xAI", 400, {"code": "Client specified an invalid argument", "error": "This model's maximum prompt length is 131072 but "
         "the request contains 137000 tokens."}, CONTEXT),
        ("DashScope", 400, {"error": {"code": "invalid_parameter_error", "message": "Range of input length should be "
         "[1, 30720]"}}, CONTEXT),
        ("Moonshot", 400, {"error": {"message": "Invalid request: Your request exceeded model token limit: 8192"}}, CONTEXT),
        ("GitHub Models", 413, {"error": {"code": "tokens_limit_reached", "message": "Request body too large for gpt-4o model. "
         "Max size: 8000 tokens."}}, CONTEXT),
        ("Cohere", 400, {"message": "too many tokens: total number of tokens in the prompt cannot exceed 4081"}, CONTEXT),
        ("a numeric code", 400, {"error": {"message": "m", "code": 400, "type": "context_length_exceeded"}}, CONTEXT),
        # What is too much at once, but not for the context
        ("Groq", 413, {"error": {"message": "Request too large for model `x` in organization `o` on tokens per minute (TPM): "
         "Limit 6000, Requested 9000, please reduce your message size and try again.", "type": "tokens", "code":
         "rate_limit_exceeded"}}, "request_too_large"),
        ("OpenAI", 400, {"error": {"message": "max_tokens is too large: 50000. This model supports at most 16384 completion "
         "tokens", "code": "invalid_value"}}, "bad_request"),
        # Moderation
        ("OpenAI", 400, {"error": {"message": "Invalid prompt: your prompt was flagged as potentially violating our usage "
         "policy.", "code": "invalid_prompt"}}, FILTER),
        ("Azure", 400, {"error": {"message": "The response was filtered", "code": "content_filter", "innererror": {"code":
         "ResponsibleAIPolicyViolation"}}}, FILTER),
        ("Azure, numeric", 400, {"error": {"message": "The response was filtered", "code": 400, "type": "content_filter"}}, FILTER),
        ("OpenRouter", 403, {"error": {"message": "Your input was flagged", "code": 403, "metadata": {"reasons": ["x"]}}}, FILTER),
        ("xAI", 403, {"code": "The caller does not have permission", "error": "Content violates usage guidelines. Failed check: "
         "SAFETY_CHECK_TYPE_BIO"}, FILTER),
        ("DeepSeek", 400, {"error": {"message": "Content Exists Risk", "type": "invalid_request_error", "code":
         "invalid_request_error"}}, FILTER),
        ("DashScope", 400, {"error": {"code": "data_inspection_failed", "message": "Input data may contain inappropriate "
         "content."}}, FILTER),
        ("Zhipu", 400, {"error": {"code": "1301", "message": "x"}}, FILTER),
        ("Moonshot", 400, {"error": {"message": "The request was rejected because it was considered high risk", "type":
         "content_filter"}}, FILTER),
        ("Anthropic", 400, {"error": {"type": "invalid_request_error", "message": "Output blocked by content filtering policy"}},
         FILTER),
        # Keys that are wrong, with another status than 401
        ("Gemini", 400, [{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key.", "status":
         "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}}], KEY),
        ("Gemini", 400, [{"error": {"code": 400, "message": "API key expired. Please renew the API key."}}], KEY),
        ("xAI", 400, {"code": "x", "error": "Incorrect API key provided: xx***."}, KEY),
        ("a framework", 401, {"detail": {"error": {"description": "token lambda was revoked"}}}, KEY),
        # Models that are not there
        ("Ollama", 404, {"error": "model 'x' not found"}, MODEL),
        ("OpenRouter", 400, {"error": {"message": "zz-large is not a valid model ID", "code": 400}}, MODEL),
        ("OpenRouter", 404, {"error": {"message": "No endpoints found for x/y.", "code": 404}}, MODEL),
        ("DeepSeek", 400, {"error": {"message": "Model Not Exist", "type": "invalid_request_error"}}, MODEL),
        ("Mistral", 400, {"object": "error", "message": "Invalid model: zz", "type": "invalid_model", "code": "1500"}, MODEL),
        ("LiteLLM", 400, {"error": {"message": "Invalid model name passed in model=zz. Call `/v1/models` to view"}}, MODEL),
        ("Groq", 400, {"error": {"message": "The model `x` has been decommissioned", "code": "model_decommissioned"}}, MODEL),
        ("LM Studio", 400, {"error": "No models loaded. Please load a model in the developer page"}, MODEL),
        # Empty accounts
        ("Anthropic", 400, {"error": {"message": "Your credit balance is too low to access the Anthropic API."}}, QUOTA),
        ("Zhipu", 429, {"error": {"code": "1113", "message": "Insufficient balance or no resource package. Please recharge."}},
         QUOTA),
        ("DeepSeek", 402, {"error": {"message": "Insufficient Balance"}}, QUOTA),
        ("LiteLLM", 400, {"error": {"message": "Budget has been exceeded! Current cost: 1, Max budget: 1", "type":
         "budget_exceeded"}}, QUOTA),
        # Limits that pass
        ("DashScope", 429, {"error": {"code": "insufficient_quota", "message": "Allocated quota exceeded, please increase your "
         "quota limit. For details, see the rate limits page."}}, LIMITED),
        ("a limit of calls at once", 429, {"error": {"code": "concurrency_limit_exceeded", "message": "Too many"}}, LIMITED),
        ("a limit of tokens", 429, {"error": {"code": "input_tokens_limit_exceeded", "message": "x"}}, LIMITED),
        ("Gemini", 429, [{"error": {"code": 429, "message": "You exceeded your current quota, please check your plan and "
         "billing details.", "status": "RESOURCE_EXHAUSTED"}}], LIMITED),
        ("Bedrock", 400, {"__type": "ThrottlingException", "message": "Too many tokens, please wait before trying again."},
         LIMITED),
        ("OpenRouter", 200, {"error": {"code": 429, "message": "Rate limit exceeded: free-models-per-min"}}, LIMITED),
        # Capacity
        ("Groq", 498, {"error": {"message": "Flex tier capacity exceeded", "code": "capacity_exceeded"}}, CAPACITY),
        ("Anthropic behind a gateway", 400, {"error": {"type": "overloaded_error", "message": "Overloaded"}}, CAPACITY),
        ("Cloudflare", 400, {"success": False, "errors": [{"code": 3040, "message": "Capacity temporarily exceeded"}]}, CAPACITY),
        ("Hugging Face", 503, {"error": "Model x is currently loading", "estimated_time": 20.0}, "http_503"),
        # The model's JSON
        ("Groq", 400, {"error": {"message": "Failed to generate JSON. Please adjust your prompt.", "code":
         "json_validate_failed", "failed_generation": "{"}}, "json_validate_failed"),
        # Nothing of all that
        ("OpenAI", 400, {"error": {"message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
         "'max_completion_tokens' instead.", "code": "unsupported_parameter"}}, "bad_request"),
        ("OpenAI", 400, {"error": {"message": "Invalid schema for response_format 'answer'", "code": None}}, "bad_request"),
        ("OpenAI", 400, {"error": {"message": "Invalid parameter: 'response_format' of type 'json_schema' is not supported with "
         "this model."}}, "bad_request"),
        ("FastAPI, which quotes the prompt", 422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "top_k"], "msg":
         "Extra inputs are not permitted", "input": "maximum context length, flagged by moderation, model not found"}]},
         "bad_request"),
        ("a firewall", 403, None, "permission_denied"),
        ("vLLM", 500, {"error": {"message": "CUDA error: device-side assert triggered"}}, "http_500"),
    ],
)  # fmt: skip
def test_words_and_codes_of_servers(provider: str, status: int, answer: Any, error_type: str) -> None:
    if status == 200:
        verdict = judge_answer(status, read_completion(answer))
        assert verdict is not None
    else:
        verdict = judge_status(status, answer)
    assert verdict.error_type == error_type, (provider, verdict)
    final = (CONTEXT, FILTER, "request_too_large")
    assert verdict.retryable is (verdict.kind is not Kind.JOB and error_type not in final)


@pytest.mark.parametrize(
    ("answer", "text", "shown"),
    [
        ([{"error": {"code": 400, "message": "Unable to process alpha", "status": "INVALID_ARGUMENT"}}], "", "process alpha"),
        ({"object": "error", "message": "bad beta", "type": "BadRequestError", "code": 400}, "", "bad beta"),
        ({"error": "json: cannot unmarshal gamma"}, "", "unmarshal gamma"),
        ({"detail": [{"type": "missing", "loc": ["body", "x"], "msg": "Field required delta"}]}, "", "Field required delta"),
        ({"detail": "Not allowed epsilon"}, "", "epsilon"),
        ({"detail": {"error": {"description": "zeta"}}}, "", "zeta"),
        ({"message": {"detail": [{"msg": "eta"}]}}, "", "eta"),
        ({"error": {"message": {"text": "theta"}}}, "", "theta"),
        ({"errors": ["iota", {"message": "kappa"}]}, "", "iota; kappa"),
        ({"error": {"message": "Provider returned error", "metadata": {"raw": "lambda"}}}, "", "lambda"),
        ({"fault": {"faultstring": "mu"}}, "", "mu"),
        ({"error_code": 336003, "error_msg": "nu"}, "", "336003: nu"),
        ("xi", "", "xi"),
        (None, "<html><head><title>403 Forbidden</title><style>p{}</style></head><body><p>omicron</body></html>", "403 Forbidden omicron"),
        (None, "upstream connect error\n pi", "upstream connect error pi"),
        ({"error": {"message": "x" * 5000}}, "", "x" * 300),
        ({"error": {"message": "\x1b[31mrho"}}, "", "rho"),
        (None, "", "no error message"),
        ({}, "", "no error message"),
        ([[[[[]]]]], "", "no error message"),
    ],
)  # fmt: skip
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
            return "error row, retryable" if rule.retryable else "error row, not retryable"
        return "repeated in place" if rule.kind is Kind.TRANSIENT else "the run pauses"

    lines = [f"| {rule.answer} | `{rule.error_type}` | {follows(rule)}" for rule in RULES]
    found = [next((at for at, text in enumerate(PAGE.splitlines()) if text.startswith(line)), None) for line in lines]
    assert None not in found, [line for line, at in zip(lines, found, strict=True) if at is None]
    assert found == list(range(found[0] or 0, (found[0] or 0) + len(RULES)))
