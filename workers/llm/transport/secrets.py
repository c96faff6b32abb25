"""What must never leave this process by a provider's own words: its keys, and whatever the same key looks like.

Providers, gateways and proxies echo what they were sent. Their words stand in rows, histories, logs and metrics, so
they are cleaned where they arrive, before anybody reads them.
"""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any
from urllib.parse import quote, quote_plus

LEAST = 8
"""Characters of a secret: shorter ones are words such as `none` that servers without keys are given, and that answers
hold too."""
WORDS = frozenset({"lm-studio", "no-key-required", "sk-no-key-required", "not-needed", "not-required", "placeholder"})
"""Keys that the documentation of LM Studio, llama.cpp and LangChain gives to everybody; answers may speak of them."""
SHOWN = "[key]"
"""Stands in place of a secret."""
_BASE64 = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/_-=")
_ESCAPES = (b"\\u00", b"\\/")
"""By which JSON may write a key so that it is no run of its own bytes."""


class Secrets:
    """The secrets of this process, current and former ones: none is ever forgotten."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._traces: list[tuple[bytes, bool]] = []
        """What gives a secret away, and whether it stands within base64, the whole of which is taken out then."""

    def add(self, secret: str) -> None:
        """Notes a secret. Partly masked ones (`sk-ab***yz`) are no secrets and stay as they are."""
        if len(secret) < LEAST or secret in WORDS or secret in self._known:
            return
        self._known.add(secret)
        forms = {secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1], secret.encode().hex()}
        forms |= {form.lower() for form in (quote(secret, safe=""), quote_plus(secret)) if "%" in form}
        self._traces += [(form.encode(), False) for form in sorted(forms, key=len, reverse=True)]
        self._traces += [(core, True) for core in sorted(_base64_cores(secret.encode()))]

    def clean_bytes(self, raw: bytes) -> bytes:
        """Takes the secrets out of a body."""
        for trace, encoded in self._traces:
            if trace in raw:
                raw = _without_runs(raw, trace) if encoded else raw.replace(trace, SHOWN.encode())
        return raw

    def clean(self, text: str) -> str:
        """Takes the secrets out of a text."""
        raw = text.encode(errors="surrogatepass")
        cleaned = self.clean_bytes(raw)
        return text if cleaned is raw else cleaned.decode(errors="surrogatepass")

    def clean_json(self, raw: bytes, value: Any) -> Any:
        """Takes the secrets out of `value`, which was read from the clean body `raw`: those that escapes hid there.

        None for what nests too deep to be looked through.
        """
        if self._traces and any(escape in raw for escape in _ESCAPES):
            try:
                return self._walked(value)
            except RecursionError:
                return None
        return value

    def _walked(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.clean(value)
        if isinstance(value, list):
            return [self._walked(each) for each in value]
        if isinstance(value, dict):
            return {self.clean(name): self._walked(each) for name, each in value.items()}
        return value


def _without_runs(raw: bytes, core: bytes) -> bytes:
    """Returns the body without those runs of base64 that hold `core`."""
    parts, done = [], 0
    while (at := raw.find(core, done)) >= 0:
        start, end = at, at + len(core)
        while start > done and raw[start - 1] in _BASE64:
            start -= 1
        while end < len(raw) and raw[end] in _BASE64:
            end += 1
        parts += [raw[done:start], SHOWN.encode()]
        done = end
    return b"".join([*parts, raw[done:]])


def _base64_cores(secret: bytes) -> set[bytes]:
    """Returns what base64 makes of the secret wherever it begins within a group of three bytes, as in `user:SECRET`.

    Without the characters that its neighbours have a part in; in the alphabet of URLs too.
    """
    cores = set()
    for before in range(3):
        encoded = b64encode(b"\0" * before + secret)
        first = (before * 8 + 5) // 6
        last = (before + len(secret)) * 8 // 6
        core = encoded[first:last]
        cores |= {core, core.replace(b"+", b"-").replace(b"/", b"_")}
    return cores
