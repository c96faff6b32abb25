"""`model.parameters`: further fields of a request, which go out as they stand."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import yaml

MOST_BYTES = 16 * 1024
"""Of the fields as JSON: each request carries them."""
DEEPEST = 32
INTEGERS = range(-(2**63), 2**64)
"""What JSON writers of 64 bits write."""

OWN = {
    "model": "write model.name",
    "messages": "write prompt",
    "stream": "an answer comes in one piece",
    "stream_options": "an answer comes in one piece",
    "n": "a document has one answer",
    "response_format": "write output.schema",
    "max_completion_tokens": "write model.max_output_tokens",
}
"""Fields that docbatch alone sets, and what to do about it."""
OWN_WHERE_SAID = {"max_tokens": "max_output_tokens", "temperature": "temperature"}
"""Those that it sets where the job has the key of `model` that stands beside them."""


_ONLY_YAML = re.compile(r"[-+]?0[0-9xXbBoO_]|.*[:_]")
"""Numbers as YAML 1.1 alone knows them."""


def check_parameters(parameters: dict[str, Any], said: set[str]) -> None:
    """Checks what a job says; `said`: the keys of `model` that have a value. Raises `ValueError`."""
    for name in parameters:
        if name in OWN:
            raise ValueError(f"model.parameters.{name}: docbatch sets this field itself; take it out ({OWN[name]})")
        if OWN_WHERE_SAID.get(name) in said:
            key = OWN_WHERE_SAID[name]
            raise ValueError(f"model.parameters.{name}: model.{key} sets this field; take one of the two out")
    _check("model.parameters", parameters, DEEPEST)
    if len(json.dumps(parameters)) > MOST_BYTES:
        raise ValueError(f"model.parameters is larger than {MOST_BYTES // 1024} KiB as JSON")


def _check(where: str, value: object, deepest: int) -> None:
    """Raises `ValueError` for what is no JSON, naming its place."""
    if deepest == 0:
        raise ValueError(f"model.parameters nests deeper than {DEEPEST} levels")
    match value:
        case None | bool():
            pass
        case str():
            if not value.isascii():
                try:
                    value.encode()
                except UnicodeEncodeError:
                    raise ValueError(f"{where} holds half a character (a lone surrogate)") from None
        case int():
            if value not in INTEGERS:
                raise ValueError(f"{where} is an integer of more than 64 bits")
        case float():
            if not math.isfinite(value):
                raise ValueError(f"{where} is {value}, which JSON cannot say")
        case list():
            for index, each in enumerate(value):
                _check(f"{where}.{index}", each, deepest - 1)
        case dict():
            for name, each in value.items():
                if not isinstance(name, str):
                    hint = "; YAML reads yes, no, on and off as true and false" if isinstance(name, bool) else ""
                    raise ValueError(f"{where}: the key {name!r} is no text; put it in quotes{hint}")
                _check(f"{where}.{name}", each, deepest - 1)
        case _:
            raise ValueError(f"{where} is a {type(value).__name__}, which JSON cannot say; write it as text")


def check_yaml(document: yaml.Node | None) -> None:
    """Refuses what YAML 1.1 reads as something else than the reader sees: `off` is false, `010` is 8, `1:30` is 90.

    Raises `ValueError` that names the line.
    """
    _check_scalars(_child(_child(document, "model"), "parameters"))


def _child(node: yaml.Node | None, name: str) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value == name:
                return value  # type: ignore[no-any-return]
    return None


def _check_scalars(node: yaml.Node | None) -> None:
    if isinstance(node, yaml.MappingNode):
        for _, value in node.value:
            _check_scalars(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_scalars(value)
    elif isinstance(node, yaml.ScalarNode) and _misread(node.tag.rpartition(":")[2], node.value):
        raise ValueError(
            f"line {node.start_mark.line + 1}: model.parameters has {node.value}, which YAML reads as "
            f"{yaml.safe_load(node.value)!r}; write that as JSON does, or put the text in quotes"
        )


def _misread(kind: str, text: str) -> bool:
    if kind == "bool":
        return text.lower() not in ("true", "false")
    return kind in ("int", "float") and bool(_ONLY_YAML.match(text))
