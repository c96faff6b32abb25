"""What a provider's answer to a question says: its text, thinking apart, how it ended, what it used, and any error.

Pure, and raises for no JSON whatever. Servers that call themselves OpenAI-compatible differ in all of this; each
reading below names who does it so. What it means, `workers.llm.answers.errors` says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import orjson

from workers.llm.answers.failure import Failure, find_failure
from workers.llm.answers.json_text import written

MOST_TOKENS = 2**31
"""More than any call takes, and less than a column of them can hold."""

MOST_BLOCKS = 20
"""Blocks of thoughts that are taken off an answer's beginning."""

_THINKING = "(?:[a-z]{1,20}[:_])?(?:think|thinking|thoughts?|reasoning)|antthinking"
"""Names of tags: with the prefixes of Seed-OSS (`seed:`), LongCat (`longcat_`) and others."""
_QUOTES = "`'\"\u201c\u201d\u2018\u2019\u00ab\u00bb"
_OPENS = re.compile(
    rf"\s*(?:<(?P<tag>{_THINKING})(?:\s[^<>]{{0,200}})?>|(?P<mistral>\[THINK\])|(?P<kimi>◁think▷)|(?P<cohere><\|START_THINKING\|>)"
    r"|(?P<harmony>(?:<\|start\|>assistant)?<\|channel\|>(?:analysis|commentary)[^<]*<\|message\|>)"
    r"|(?P<gemma><\|channel>thought)|(?P<medgemma><unused94>thought)|(?P<apertus><\|inner_prefix\|>)"
    r"|(?P<sky><\|begin_of_thought\|>)|(?P<webui><details type=\"reasoning\"[^<>]{0,200}>))",
    re.IGNORECASE,
)
"""How thoughts begin: DeepSeek, Qwen, GLM and more (<think>), Seed-OSS, Magistral, Kimi, Cohere, gpt-oss, Gemma,
MedGemma, Apertus, Sky-T1 and OpenThinker, Open WebUI."""
_CLOSES = {
    "mistral": "[/THINK]",
    "kimi": "◁/think▷",
    "cohere": "<|END_THINKING|>",
    "harmony": "<|end|>",
    "gemma": "<channel|>",
    "medgemma": "<unused95>",
    "apertus": "<|inner_suffix|>",
    "sky": "<|end_of_thought|>",
    "webui": "</details>",
}
_CLOSED_ALONE = re.compile(
    rf"(?<![{_QUOTES}])(?:</(?:[a-z]{{1,20}}[:_])?(?:think|thinking)>|\[/THINK\]|◁/think▷|<\|END_THINKING\|>)"
    rf"(?![{_QUOTES}])",
    re.IGNORECASE,
)
"""The end of thoughts that the chat template began, not the model (DeepSeek-R1, QwQ). In quotes, an answer speaks of
it."""
_FINAL = re.compile(
    r"\s*(?:(?:<\|start\|>assistant)?<\|channel\|>final[^<]*<\|message\|>|<\|START_RESPONSE\|>"
    r"|<\|begin_of_solution\|>)",
    re.IGNORECASE,
)
_FINAL_ENDS = re.compile(r"(?:<\|return\|>|<\|end\|>|<\|END_RESPONSE\|>|<\|end_of_solution\|>)\s*$", re.IGNORECASE)
_BARE = re.compile(r"\s*analysis(?=[A-Z\s]).*assistantfinal", re.DOTALL)
"""gpt-oss, by a server that leaves its marks out."""
_MARK = re.compile(r"think|thought|reasoning|channel\||inner_prefix|assistantfinal", re.IGNORECASE)


@dataclass(slots=True)
class Usage:
    """Tokens of one call. `prompt` holds `cached` and `cache_write` too, `completion` holds `reasoning`."""

    prompt: int = 0
    cached: int = 0
    cache_write: int = 0
    completion: int = 0
    reasoning: int = 0


@dataclass(slots=True)
class Completion:
    """What one answer says. `usage` is None where it says nothing of it, `failure` where it tells of no error."""

    text: str | None = None
    refusal: str | None = None
    finish: str | None = None
    model: str | None = None
    usage: Usage | None = None
    failure: Failure | None = None
    blocked: str = ""
    """Why the provider gave no candidate at all: Gemini's `promptFeedback`, Azure's `prompt_filter_results`."""
    has_choices: bool = False
    """Whether it is shaped like an answer, be the list of choices empty or what is in it without a message."""
    has_choice: bool = False
    """Whether there is a message."""
    shown: str = ""
    """The beginning of JSON that is shaped like no answer."""
    thought: bool = False
    tools: list[str] = field(default_factory=list)
    """Names of the tools that it would rather call."""


def read_completion(body: Any) -> Completion:
    """Returns what a decoded body of any shape says."""
    said = _read(body)
    if not said.has_choices and body is not None:
        said.shown = written(body)[:2000]
    return said


def _read(body: Any) -> Completion:
    said = Completion()
    if isinstance(body, list) and len(body) == 1:
        body = body[0]  # Gemini's endpoint wraps what it says in a list
    if not isinstance(body, dict):
        return said
    said.model = _text(body.get("model"))
    said.usage = read_usage(body.get("usage"))
    choices = body.get("choices")
    said.has_choices = "choices" in body and not choices
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
    if choice is not None:
        _read_choice(choice, said)
    else:
        said.blocked = _blocked(body)
    said.failure = find_failure(body, answered=said.has_choice)
    for part in (choice, choice.get("message")) if choice is not None else ():
        if said.failure is None and isinstance(part, dict) and "error" in part:
            said.failure = find_failure(part, answered=True)
    if said.usage is not None and not said.usage.completion and said.text:
        said.usage = None  # a server that does not count says 0
    return said


def _read_choice(choice: dict[str, Any], said: Completion) -> None:
    said.finish = _finish(choice)
    said.has_choices = said.finish is not None
    message = choice.get("message")
    if not isinstance(message, dict):
        # Completions of text, which some servers answer chats with.
        message = {"content": choice["text"]} if isinstance(choice.get("text"), str) else None
    if message is None:
        return
    if not isinstance(message.get("content"), (str, list, dict, type(None))):
        said.has_choices = False
        return
    said.has_choices = said.has_choice = True
    said.refusal = _text(message.get("refusal"))
    said.thought = any(
        message.get(name) for name in ("reasoning", "reasoning_content", "thinking", "reasoning_details")
    )
    calls = message.get("tool_calls") or message.get("function_call") or []
    for call in calls if isinstance(calls, list) else [calls]:
        function = call.get("function", call) if isinstance(call, dict) else {}
        function = function if isinstance(function, dict) else {}
        if not isinstance(call, dict) or function.get("name") or function.get("arguments"):  # One API sends empty ones
            said.tools.append(str(function.get("name") or "?"))
    text = _content(message.get("content"), said)
    if text is not None and _MARK.search(text) and not _is_json(text):
        rest = without_thoughts(text)
        said.thought = said.thought or rest != text
        text = rest
    said.text = text


def _finish(choice: dict[str, Any]) -> str | None:
    """Tells how it ended: the first that says so. Of an object (SGLang, OpenAI's `finish_details`) it is the type."""
    for name in ("finish_reason", "finishReason", "finish_details", "native_finish_reason", "stop_reason"):
        said = choice.get(name)
        if isinstance(said, dict):
            said = said.get("type") or said.get("reason") or said
        if said is not None and said != "":
            return said if isinstance(said, str) else written(said) or "?"
    return None


def _content(content: Any, said: Completion) -> str | None:
    """Returns the text of a message's content: a text, or parts of it (Mistral, Anthropic's shape, Databricks)."""
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, dict) and "type" not in content:
        return written(content)  # the JSON that was asked for, as JSON
    if not isinstance(content, (list, dict)):
        return None
    texts: list[str] = []
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict):
            kind, text = str(part.get("type") or "text"), part.get("text")
            if kind == "refusal":
                said.refusal = said.refusal or _text(part.get("refusal")) or "no reason is given"
            elif re.search("think|thought|reason", kind) or part.get("thought") is True:
                said.thought = True
            elif kind in ("text", "output_text") and isinstance(text, str):
                texts.append(text)
    return "".join(texts) if texts else None


def without_thoughts(text: str) -> str:
    """Returns the answer without the thoughts before it; empty if there is nothing after them, or they have no end."""
    rest = text
    for _ in range(MOST_BLOCKS):
        opened = _OPENS.match(rest)
        if opened is not None:
            name = next(name for name, value in opened.groupdict().items() if value)
            closing = _CLOSES.get(name) or f"</{opened['tag']}>"
            closed = re.compile(re.escape(closing), re.IGNORECASE).search(rest, opened.end())
            if closed is None:
                return ""
            rest = rest[closed.end() :].lstrip()
        elif (final := _FINAL.match(rest)) is not None:
            rest = _FINAL_ENDS.sub("", rest[final.end() :]).strip()
        elif (alone := _CLOSED_ALONE.search(rest)) is not None and not _mentioned(rest, alone.start()):
            rest = rest[alone.end() :].lstrip()
        elif (bare := _BARE.match(rest)) is not None:
            rest = rest[bare.end() :].lstrip()
        else:
            break
    return rest


def _is_json(text: str) -> bool:
    """Tells whether an answer is JSON as a whole: marks are part of its strings then."""
    if text.lstrip()[:1] not in ("{", "["):
        return False
    try:
        orjson.loads(text)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        return False
    return True


def _mentioned(text: str, end: int) -> bool:
    """Tells whether a closing mark has its opening one before it, in the midst of the text: the answer speaks of it."""
    return (
        re.search(
            rf"<(?:{_THINKING})(?:\s[^<>]{{0,200}})?>|\[THINK\]|◁think▷|<\|START_THINKING\|>", text[:end], re.IGNORECASE
        )
        is not None
    )


def read_usage(found: Any) -> Usage | None:
    """Returns the tokens that an answer says it used, None where it says nothing.

    - Reasoning tokens outside `completion_tokens` (xAI, Perplexity), or told by the total alone (Gemini), are of the
      completion: they are billed as such.
    - `input_tokens` and `output_tokens` are Anthropic's names, which some gateways pass on; with them, tokens that were
      read from a cache or written to it are not in the input, and are added; so they are where the numbers say so.
    """
    if not isinstance(found, dict):
        return None
    prompt_said, completion_said = _count(found.get("prompt_tokens")), _count(found.get("completion_tokens"))
    outside = prompt_said is None and _count(found.get("input_tokens")) is not None
    prompt = prompt_said if prompt_said is not None else _count(found.get("input_tokens"))
    completion = completion_said if completion_said is not None else _count(found.get("output_tokens"))
    total = _count(found.get("total_tokens"))
    if prompt is None and completion is None and total is None:
        return None
    of_prompt = _dict(found.get("prompt_tokens_details")) or _dict(found.get("input_tokens_details"))
    of_completion = _dict(found.get("completion_tokens_details")) or _dict(found.get("output_tokens_details"))
    cached = _first(
        of_prompt.get("cached_tokens"),
        found.get("prompt_cache_hit_tokens"),  # DeepSeek
        found.get("cache_read_input_tokens"),  # Anthropic, by LiteLLM
        found.get("cached_tokens"),  # Moonshot
    )
    written = _first(
        of_prompt.get("cache_write_tokens"),  # OpenRouter
        of_prompt.get("cache_creation_tokens"),  # LiteLLM
        found.get("cache_creation_input_tokens"),  # Anthropic
    )
    reasoning = _first(of_completion.get("reasoning_tokens"), found.get("reasoning_tokens"))
    if prompt_said is not None and (cached or written):
        anthropic = sum(_count(found.get(f"cache_{name}_input_tokens")) or 0 for name in ("read", "creation"))
        outside = anthropic > prompt_said or total == prompt_said + (completion or 0) + cached + written
    if prompt is None:
        # Of the total alone it is not known which part is dearer. Completion is: nothing is booked too low.
        prompt = max(0, total - completion) if total is not None and completion is not None else 0
    elif outside:
        prompt += cached + written
    if completion is None:
        completion = max(0, (total or 0) - prompt)
    elif total is not None and total > prompt + completion:
        completion = total - prompt
    if reasoning > completion:
        completion += reasoning
    cached = min(cached, prompt)
    return Usage(prompt, cached, min(written, prompt - cached), completion, min(reasoning, completion))


def _blocked(body: dict[str, Any]) -> str:
    feedback = _dict(body.get("promptFeedback")) or _dict(body.get("prompt_feedback"))
    reason = feedback.get("blockReason") or feedback.get("block_reason")
    if reason:
        return str(reason)[:100]
    results = body.get("prompt_filter_results")
    for result in results if isinstance(results, list) else []:
        for name, verdict in _dict(_dict(result).get("content_filter_results")).items():
            if _dict(verdict).get("filtered") is True:
                return str(name)[:100]
    return ""


def _count(value: Any) -> int | None:
    """Returns tokens as a provider reports them, None for what is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return max(0, min(int(float(value)) if isinstance(value, str) else int(value), MOST_TOKENS))
    except (ValueError, OverflowError):
        return None


def _first(*values: Any) -> int:
    """Returns the first that is a count above 0."""
    return next((count for count in map(_count, values) if count), 0)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
