"""Chat completions of the simulated provider: what a request must be, and the answer to one that is well formed."""

import time
from dataclasses import dataclass
from typing import Any

import orjson

from batch.local.simulator.answers import answer_for
from batch.local.simulator.document_text import Text
from batch.local.simulator.refusals import Refused, SchemaError, invalid


def _tokens(text: str) -> int:
    return max(1, ((len(text) if text.isascii() else len(text.encode())) + 3) // 4)


@dataclass(frozen=True, slots=True)
class Asked:
    """A chat completion request that is well formed."""

    model: str
    prompt_tokens: int
    user: str
    most_tokens: int | None
    response_format: dict[str, Any]


def _text(message: Any) -> str:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise invalid("Each of 'messages' must be an object with a role.", "messages", "invalid_type")
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(
            part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    return content if isinstance(content, str) else ""


def asked_of(body: bytes) -> Asked:
    try:
        request = orjson.loads(body)
    except ValueError:
        request = None
    if not isinstance(request, dict):
        raise invalid("We could not parse the JSON body of your request.")
    for name, expected in (("model", str), ("messages", list)):
        if not request.get(name):
            raise invalid(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
        if not isinstance(request[name], expected):
            raise invalid(f"Invalid type for '{name}'.", name, "invalid_type")
    model, messages = request["model"], request["messages"]
    if not model.startswith("simulated-"):
        raise no_model(model)
    if request.get("stream") or request.get("n") not in (None, 1):
        raise invalid("The simulated provider gives one answer, unstreamed.", "stream", "unsupported_value")
    param = "max_completion_tokens" if request.get("max_completion_tokens") is not None else "max_tokens"
    most = request.get(param)
    if most is not None and (not isinstance(most, int) or most < 1):
        raise invalid(f"Invalid '{param}': integer of at least 1 expected.", param, "integer_below_min_value")
    texts = [_text(message) for message in messages]
    # The first user message is the document; later ones talk about its answer.
    user = next((each for each in range(len(texts)) if messages[each]["role"] == "user"), -1)
    shape = request.get("response_format") or {"type": "text"}
    kind = shape.get("type") if isinstance(shape, dict) else None
    if kind not in ("text", "json_object", "json_schema"):
        raise invalid("Invalid value for 'response_format.type'.", "response_format.type", "invalid_value")
    wanted = shape.get("json_schema")
    if kind == "json_schema" and not (isinstance(wanted, dict) and isinstance(wanted.get("name"), str)):
        parameter = "response_format.json_schema" + (".name" if isinstance(wanted, dict) else "")
        raise invalid(f"Missing required parameter: '{parameter}'.", parameter, "missing_required_parameter")
    return Asked(model, sum(map(_tokens, texts)), texts[user], most, shape)


def no_model(model: str) -> Refused:
    return Refused("model_not_found", message=f"The model `{model}` does not exist or you do not have access to it.")


_ANY_OBJECT = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "summary": {"type": "string"},
        "keywords": {"type": "array", "items": {"type": "string"}},
    },
}


def _content(asked: Asked, digest: bytes) -> str:
    text, shape = Text(asked.user, digest), asked.response_format
    if shape["type"] == "text":
        return f"[simulated] {text.summary}"
    wanted = shape.get("json_schema") or {"name": "any", "schema": _ANY_OBJECT}
    try:
        return orjson.dumps(answer_for(text, wanted.get("schema", {}))).decode()
    except SchemaError as error:
        message = f"Invalid schema for response_format '{wanted['name']}': {error}."
        raise invalid(message, "response_format") from error


def complete(asked: Asked, digest: bytes, identifier: str, fault: str | None = None) -> dict[str, Any]:
    """The chat completion for a request: the same content for the same user message (`digest` is its SHA-256)."""
    content: str | None = _content(asked, digest)
    assert content is not None
    reason, refusal, used = "stop", None, _tokens(content)
    most = asked.most_tokens if fault != "truncated" else min(asked.most_tokens or used, max(1, used // 2))
    if fault == "truncated" or (most is not None and most < used):
        content, reason, used = content.encode()[: 4 * (most or 1)].decode(errors="ignore"), "length", most or 1
    elif fault == "refusal":
        content, refusal = None, "I'm sorry, but I can't assist with that request."
        used = _tokens(refusal)
    elif fault == "content_filter":
        content, reason, used = "", "content_filter", 1
    elif fault == "invalid":
        content, used = "[]", 1
    return {
        "id": f"chatcmpl-{identifier}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": asked.model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, "refusal": refusal},
                "logprobs": None,
                "finish_reason": reason,
            }
        ],
        "usage": {
            "prompt_tokens": asked.prompt_tokens,
            "completion_tokens": used,
            "total_tokens": asked.prompt_tokens + used,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
        "system_fingerprint": "simulated",
    }
