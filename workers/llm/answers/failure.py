"""What an error of any shape says: its codes, its words, and the HTTP status that it names itself.

    {"error": {"message", "code", "type", "param", "innererror", "details", ...}}   OpenAI, Azure, OpenRouter
    [{"error": {...}}]                                                      Gemini
    {"error": "text"}                                                       Ollama, LM Studio, TGI
    {"object": "error", "message", "type", "code"}                          vLLM, SGLang, Mistral
    {"detail": "text" | [{"loc", "msg"}] | {...}}                           FastAPI and what is built with it
    {"message"}, {"errors": [...]}, {"base_resp": {"status_code", "status_msg"}}, {"error_code", "error_msg"}, {"fault"}
                                                              AWS, Cloudflare, MiniMax, Baidu, Apigee
    HTML pages and plain text                                               proxies and gateways

Pure; raises for nothing.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from workers.llm.answers.json_text import written

SHOWN = 500
"""Characters of what was said that are shown at most."""
DEEPEST, MOST_PARTS = 8, 200
NO_ERROR = frozenset({"0", "200", "ok", "OK", "success", "Success"})
"""Codes of an `error` that tells that there is none."""
NOTHING = ("None", "none", "null", "false", "False")

_WORDS = ("message", "msg", "error_message", "error_msg", "errorMessage", "errormessage", "status_msg", "detail",
          "details", "description", "error_description", "faultstring", "reason", "title", "raw", "text", "error",
          "errors", "Message", "info", "cause")  # fmt: skip
_CODES = ("code", "type", "status", "reason", "error_code", "errorCode", "error_type", "status_code", "statusCode",
          "err_code", "errcode", "__type", "Code")  # fmt: skip
_WITHIN = ("error", "errors", "detail", "details", "innererror", "inner_error", "metadata", "base_resp", "fault",
           "cause", "message", "body", "data", "Error")  # fmt: skip
_LOOSE = ("message", "msg", "error_msg", "errorMessage", "Message", "detail", "title", "fault", "error_code")
_SKIPPED = re.compile(r"(?is)<(script|style|svg)\b.*?(?:</\1\s*>|\Z)|<!--.*?(?:-->|\Z)|<!DOCTYPE[^<>]*>")
_TAG = re.compile(r"<[^<>]{0,2000}>")


@dataclass(frozen=True, slots=True)
class Failure:
    """`message`: the provider's words in one line, at most `SHOWN` characters, empty if there are none."""

    codes: tuple[str, ...]
    message: str
    status: int | None = None
    """The HTTP status that it names itself."""


def find_failure(body: Any, *, answered: bool) -> Failure | None:
    """Returns the error in a body that came with a success, None if there is none.

    `answered`: there is an answer in it, so only what calls itself an error is one.
    """
    if not isinstance(body, dict):
        return None
    if answered and "error" not in body and "errors" not in body and "base_resp" not in body:
        return None
    found: list[Any] = []
    for name in ("error", "errors", "Error"):
        said = body.get(name)
        if isinstance(said, (bool, int, float)) and said:  # `"error": true`: its words stand beside it
            said = {**body, "error": {"message": f"error: {written(said)}", "code": said}}
        if said and said not in NOTHING:
            found.append(said)
    resp = body.get("base_resp")
    if isinstance(resp, dict) and resp.get("status_code") not in (0, "0", None):
        found.append(resp)
    if not answered and not found:
        loose = any(body.get(name) for name in _LOOSE)
        if loose or body.get("object") == "error" or body.get("success") is False:
            found.append(body)
    failure = read_failure(found if len(found) != 1 else found[0]) if found else None
    if failure is None or (not failure.message and not set(failure.codes) - NO_ERROR):
        return None
    return None if failure.codes and not set(failure.codes) - NO_ERROR and answered else failure


def read_failure(body: Any, text: str = "") -> Failure:
    """Returns what a body says that is an error; `text` is its beginning where it is no JSON."""
    codes: list[str] = []
    words: list[str] = []
    if isinstance(body, str):
        words.append(body)
    elif body is None:
        words.append(text)
    else:
        for name, value in _parts(body):
            if name in _CODES and isinstance(value, (str, int)) and not isinstance(value, bool) and value != "":
                codes.append(str(value)[:100])
            if name in _WORDS and isinstance(value, str) and value.strip():
                words.append(value)
    said: list[str] = []
    for each in map(one_line, words):
        if each and not any(each in other for other in said) and each not in codes:
            said.append(each)
    codes = list(dict.fromkeys(codes))
    status = next((int(code) for code in codes if re.fullmatch(r"[45]\d\d", code)), None)
    return Failure(tuple(codes), "; ".join(said)[:SHOWN], status)


def _parts(body: Any) -> Iterator[tuple[str, Any]]:
    """Names and values in it, the outer first."""
    waiting: list[tuple[str, Any, int]] = [("error", body, 0)]
    for _ in range(MOST_PARTS):
        if not waiting:
            return
        name, value, depth = waiting.pop(0)
        yield name, value
        if depth == DEEPEST:
            continue
        if isinstance(value, dict):
            # What a server quotes of the request (`input`, `loc`, ...) is not its own word.
            inner = [(str(key), value[key]) for key in value if key in _WORDS or key in _CODES or key in _WITHIN]
            where = value.get("loc")
            waiting += [(key, each, depth + 1) for key, each in inner]
            if isinstance(where, list) and where:
                waiting.append(("detail", ".".join(map(str, where[:10])), depth + 1))
        elif isinstance(value, list):
            waiting += [(name if isinstance(each, str) else "", each, depth + 1) for each in value[:20]]


def one_line(text: str) -> str:
    """Says a text in one line, without tags if it is a page, at most `SHOWN` characters."""
    text = text[:20_000]
    if re.match(r"\s*<(?:!doctype|html|head|body|\?xml)", text, re.IGNORECASE):
        text = html.unescape(_TAG.sub(" ", _SKIPPED.sub(" ", text)))
    text = " ".join(part for part in text.split())
    return "".join(char if char.isprintable() else " " for char in text[:SHOWN]).strip()
