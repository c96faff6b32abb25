"""JSON as servers and models really write it: mended where it is broken in ways that lose nothing, dug out of prose.

Pure. What is strict stays strict: NaN, infinities and anything cut off are no JSON here either.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any, NoReturn

import orjson

MOST_STARTS = 1_000
"""Braces at which JSON is looked for in one answer."""
MOST_LOOKED_AT = 8 * 2**20
"""Characters that are looked at for it in all: braces in braces would take for ever."""

_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_BROKEN = re.compile(
    r"[\x00-\x1f\ud800-\udfff]"
    r"|\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[dD][89a-fA-F][0-9a-fA-F]{2}|.)",
    re.DOTALL,
)


def decoded(raw: bytes, charset: str | None = None) -> Any:
    """Returns the value of a body of JSON, mended if need be; None for what is no JSON.

    `charset`: what its sender says that it is written in. What no reading makes text of becomes U+FFFD.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        pass
    if raw[:1] == b"<" or not raw.strip():
        return None
    try:
        return orjson.loads(mended(_text(raw, charset)))
    except ValueError:
        return None


def _text(raw: bytes, charset: str | None) -> str:
    if charset is not None and not charset.lower().startswith("utf"):
        with suppress(LookupError, UnicodeError):
            return raw.decode(charset)
    return raw.decode(json.detect_encoding(raw), "replace")


def written(value: Any) -> str:
    """Returns the JSON of a value that a server sent; empty for what nests deeper than is written here."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return ""


def mended(text: str) -> str:
    """JSON whose strings hold half a surrogate pair (U+FFFD stands for it) or raw control characters, as valid JSON."""
    return _STRING.sub(_mend_string, text)


def _mend_string(found: re.Match[str]) -> str:
    return _BROKEN.sub(_mend, found[0])


def _mend(found: re.Match[str]) -> str:
    broken = found[0]
    if len(broken) == 1:
        return f"\\u{ord(broken):04x}" if broken < " " else "\ufffd"
    return "\\ufffd" if len(broken) == 6 else broken


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def dug_out(text: str) -> str:
    """Returns the one JSON object in an answer, without the prose and fences around it.

    Of several different objects nobody knows which counts, nor whether one does that stands within something broken or
    before something that was cut off. Then, and where there is none, it is the text as it is: whoever reads it says
    what is wrong with it.
    """
    try:
        orjson.loads(text)
        return text  # JSON as a whole: fitting or not, there is nothing around it
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        pass
    mend = mended(text)
    found: dict[str, str] = {}
    looked_at = done = 0
    place = mend.find("{")
    for _ in range(MOST_STARTS):
        if place < 0 or looked_at > MOST_LOOKED_AT:
            break
        try:
            value, end = _DECODER.raw_decode(mend, place)
        except json.JSONDecodeError as error:
            if error.msg.startswith("Unterminated") or error.pos >= len(mend.rstrip()):
                return text
            looked_at += error.pos - place
            end = place + 1
        except (ValueError, RecursionError):
            looked_at += 2_000
            end = place + 1
        else:
            around = mend[done:place].rstrip("{")  # doubled braces are a template's
            if around.count("{") > around.count("}"):
                return text
            done = end
            if value:
                found[json.dumps(value, sort_keys=True)] = mend[place:end]
        place = mend.find("{", end)
    return next(iter(found.values())) if len(found) == 1 else text
