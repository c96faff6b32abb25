"""Text from outside as a terminal may have it: keys, answers, names and errors of others give it no commands.

A terminal obeys control characters (C0, C1, ESC and all that begins with it), shows text in another order after bidi
controls, and nothing at all of zero-width ones (https://www.unicode.org/reports/tr36/, CVE-2021-42574). They are shown
as Python writes them, `\\x1b`, `\\u202e`. JSON has escapes of its own for them, and says exactly what there is.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from datetime import date, time
from typing import Any

# Cc; Zl and Zp; surrogates, which no stream can encode; and what Unicode has as default ignorable (that is, invisible),
# but for the variation selectors FE00 to FE0F of everyday emoji.
_OTHERS = (
    "\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff"
    "\uffa0\ufff0-\ufffb\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_OF_A_LINE = re.compile(f"[\x00-\x1f{_OTHERS}]")
_OF_LINES = re.compile(f"[\x00-\x08\x0b-\x1f{_OTHERS}]")


def printable(text: str, *, lines: bool = False) -> str:
    """Escapes what a terminal would obey or hide. With `lines`, line breaks and tabs are left as they are."""
    if lines:
        return _OF_LINES.sub(_escaped, text.replace("\r\n", "\n"))
    return _OF_A_LINE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]


def json_line(value: object, default: Callable[[Any], Any] | None = None) -> str:
    """Writes a value as one line of JSON that a terminal can be shown; parsed, it is the value exactly."""
    text = json.dumps(value, ensure_ascii=False, default=default or plain_value)
    return _OF_A_LINE.sub(lambda found: json.dumps(found[0])[1:-1], text)


def plain_value(value: Any) -> Any:
    """Gives JSON what it has no type for: moments in ISO 8601, all else as `str` has it."""
    return value.isoformat() if isinstance(value, (date, time)) else str(value)


class LineFormatter(logging.Formatter):
    """Formats log records whose messages stay on their line; tracebacks keep theirs."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return printable(super().formatException(ei), lines=True)

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        return printable(super().formatStack(stack_info), lines=True)
