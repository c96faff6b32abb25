"""The simulated provider's journal, read while it is written: who asked what when, and what a kill made pay again."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import orjson

from batch.local.simulator.account import document_key

RATE_OVER = 5.0
"""Seconds before a kill over which a worker's rate of answers is taken."""
AFTERWARDS = 1.5
"""Seconds of its answers that a killed worker may lose beyond what it had in flight (issue: promise 2)."""
PROBE = document_key("Answer with the word ok.")
"""The very short question by which a worker finds out whether the provider answers; no document."""


@dataclass(frozen=True, slots=True)
class Event:
    """`by` is an incarnation of a worker (`worker-0.2`); `kind` is accepted, answered or abandoned."""

    at: float
    key: str
    kind: str
    by: str


class Journal:
    """The events of one test: those after the journal's end at construction."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self.events: list[Event] = []
        self._flying: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._answers: Counter[str] = Counter()

    def refresh(self) -> Journal:
        """Takes in what was written since; the provider writes every 0.1 s."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        data = data[: data.rfind(b"\n") + 1]
        self._offset += len(data)
        for line in data.splitlines():
            found = orjson.loads(line)
            if found["key"] == PROBE:
                continue
            event = Event(found["time"], found["key"], found["event"], found["by"])
            self.events.append(event)
            self._answers[event.by] += event.kind == "answered"
            self._flying[event.by][event.key] += 1 if event.kind == "accepted" else -1
        return self

    def in_flight(self, by: str) -> int:
        """Requests of an incarnation that were accepted and not answered, at the last refresh."""
        return sum(count for count in self._flying[by].values() if count > 0)

    def answers(self, by: str) -> int:
        """Answers that an incarnation was sent, at the last refresh."""
        return self._answers[by]

    def accepted(self) -> int:
        return sum(event.kind == "accepted" for event in self.events)

    def paid(self) -> Counter[str]:
        """How often each document was paid."""
        return Counter(event.key for event in self.events if event.kind == "accepted")

    def paid_again(self) -> Counter[str]:
        """Incarnation -> documents that were paid again although its request for them had been accepted before."""
        last: dict[str, str] = {}
        lost: Counter[str] = Counter()
        for event in self.events:
            if event.kind == "accepted":
                if event.key in last:
                    lost[last[event.key]] += 1
                last[event.key] = event.by
        return lost

    def loss(self, by: str, at: float, *, underway: float = 1.0) -> Loss:
        """What the end of an incarnation at a time (Unix seconds) cost, and what it may cost.

        Requests that the provider accepted up to `underway` seconds later had left the worker before its end; 0 for one
        that did not end.
        """
        flying: Counter[str] = Counter()
        first = at
        answered_lately = answered_last = 0
        for event in self.events:
            if event.by != by:
                continue
            first = min(first, event.at)
            if event.kind == "accepted":
                flying[event.key] += event.at <= at + underway
            elif event.at <= at:
                flying[event.key] -= 1
                answered_lately += event.kind == "answered" and event.at > at - RATE_OVER
                answered_last += event.kind == "answered" and event.at > at - AFTERWARDS
        # Its rate over some seconds, or that of the very last ones: it may have begun, or come back, just before.
        rate = max(answered_lately / max(0.5, min(RATE_OVER, at - first)), answered_last / AFTERWARDS)
        return Loss(by, at, sum(count for count in flying.values() if count > 0), rate, self.paid_again()[by])


@dataclass(frozen=True, slots=True)
class Loss:
    """One end of an incarnation: requests in flight then, its answers a second, documents paid again because of it."""

    by: str
    at: float
    in_flight: int
    rate: float
    paid_again: int

    @property
    def bound(self) -> float:
        return self.in_flight + AFTERWARDS * self.rate

    def __str__(self) -> str:
        return (
            f"{self.by}: {self.in_flight} in flight, {self.rate:.0f} answers/s, paid again {self.paid_again} "
            f"(bound {self.bound:.0f})"
        )
