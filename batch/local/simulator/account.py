"""The account of the simulated provider, which tests check a run against: what was asked, answered and paid."""

import asyncio
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

JOURNAL_INTERVAL = 0.1
"""Seconds between two writes of the journal."""


def document_key(user_message: str) -> str:
    """Returns the name under which a document (the text of its user message) is accounted for."""
    return sha256(user_message.encode()).hexdigest()[:32]


class Account:
    """What was asked, answered and paid since the start or the last reset. Documents are the 16 bytes of their key."""

    def __init__(self) -> None:
        self.requests = self.accepted = self.answered = self.abandoned = self.paid_more_than_once = 0
        self.prompt_tokens = self.completion_tokens = self.max_in_flight = 0
        self.errors: Counter[str] = Counter()
        self.odd_answers: Counter[str] = Counter()
        self.first_answer_at: float | None = None
        self.last_answer_at: float | None = None
        self.paid: dict[bytes, int] = {}
        self.failed: dict[bytes, int] = {}
        self.faulted: dict[bytes, int] = {}

    def fail(self, name: str, key: bytes | None) -> None:
        self.errors[name] += 1
        if key is not None:
            self.failed[key] = self.failed.get(key, 0) + 1

    def pay(self, key: bytes, usage: dict[str, Any]) -> None:
        times = self.paid[key] = self.paid.get(key, 0) + 1
        self.accepted += 1
        self.paid_more_than_once += times == 2
        self.prompt_tokens += usage["prompt_tokens"]
        self.completion_tokens += usage["completion_tokens"]

    def answer(self, *, gone: bool) -> None:
        if gone:
            self.abandoned += 1
            return
        self.answered += 1
        self.last_answer_at = time.time()
        self.first_answer_at = self.first_answer_at or self.last_answer_at

    def stats(self, *, documents: bool) -> dict[str, Any]:
        found = {key: value for key, value in vars(self).items() if key not in ("paid", "failed", "faulted")}
        found |= {"paid": self.accepted, "distinct": len(self.paid)}
        if documents:
            found["documents"] = {key.hex(): times for key, times in self.paid.items()}
            found["failed"] = {key.hex(): times for key, times in self.failed.items()}
        return found


class Journal:
    """One JSON line per accepted request and per answer, appended to a file every JOURNAL_INTERVAL seconds.

    `by` is the caller's `OpenAI-Organization` header (`OPENAI_ORG_ID` sets it): whose request it was.
    """

    def __init__(self, path: Path | None) -> None:
        self._file = path.open("ab", buffering=0) if path else None
        self._lines: list[str] = []

    def note(self, key: bytes, event: str, by: str) -> None:
        if self._file:
            name = orjson.dumps(by.encode(errors="replace").decode()).decode()
            self._lines.append(f'{{"time":{time.time():.6f},"key":"{key.hex()}","event":"{event}","by":{name}}}\n')

    def flush(self) -> None:
        if self._file and self._lines:
            lines, self._lines = self._lines, []
            self._file.write("".join(lines).encode())

    async def keep_flushing(self) -> None:
        while True:
            await asyncio.sleep(JOURNAL_INTERVAL)
            self.flush()
