"""What the parts of a job have in common: known keys alone, sizes and durations as people write them, mistakes told."""

from __future__ import annotations

import difflib
import re
from typing import get_args

from pydantic import BaseModel, ConfigDict, ValidationError

MAX_SIZE = 2**50
"""Largest size that a job may name, in bytes."""


class JobError(ValueError):
    """The job cannot run as it is written. The message says what, where in the job, and what to do."""


class Part(BaseModel):
    """A part of a job: none but the keys that it knows, and no change once it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


def size(value: object) -> object:
    """Reads bytes from `64MiB`, `20MB`, `1000`."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]i?)?B?\s*", value, re.IGNORECASE)
    if not match:
        raise ValueError(f"{value!r} is no size; write for example 64MiB, 20MB or a number of bytes")
    if len(match[1]) > 20:
        raise ValueError(f"a size of {len(match[1])} digits is too large")
    factors = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
    return int(float(match[1]) * factors[(match[2] or "").lower()])


def duration(value: object) -> object:
    """Reads seconds from `6h`, `90m`, `30s`, `1.5`."""
    if not isinstance(value, str):
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([smhd]?)\s*", value)
    if not match:
        raise ValueError(f"{value!r} is no duration; write for example 6h, 90m or a number of seconds")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}[match[2]]


def explain(error: ValidationError, whole: type[BaseModel]) -> list[str]:
    """Tells each mistake in a line: the key's path in `whole`, what is wrong, the nearest known key."""
    lines = []
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            known = _known_keys(whole, item["loc"][:-1])
            lines.append(f"{path}: unknown key{nearest(str(item['loc'][-1]), known)}; known are {', '.join(known)}")
        elif item["type"] == "missing":
            lines.append(f"{path}: this key is required")
        elif item["type"] == "value_error":
            message = str(item["ctx"]["error"])
            root = path.split(".", maxsplit=1)[0]
            lines.append(message if not path or message.startswith(root) else f"{path}: {message}")
        else:
            given = repr(item["input"])
            given = given if len(given) <= 60 else given[:57] + "..."
            lines.append(f"{path}: {item['msg'][0].lower()}{item['msg'][1:]}, not {given}")
    return lines


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        annotation = model.model_fields[str(part)].annotation
        parts = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
        found = next((kind for kind in parts if issubclass(kind, BaseModel)), None)
        if found is None:
            return []
        model = found
    return [field.alias or name for name, field in model.model_fields.items()]


def nearest(name: str, known: frozenset[str] | list[str]) -> str:
    """Asks whether a known name was meant; empty where none is like it."""
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""
