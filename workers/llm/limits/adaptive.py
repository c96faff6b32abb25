"""How many calls at once a provider bears that does not say: grows while latency holds, backs off when it climbs.

A server with a queue answers no sooner for being asked more, only later. So the limit is held where the queue is short:
a little above `rate x unloaded latency` (Little's law). Both are found by looking at windows of answers, and, when
latency has climbed, by halving the limit until fewer calls mean fewer answers: there the server has no queue any more.
After TCP's slow start and BBR (https://dl.acm.org/doi/10.1145/3012426.3022184), which look for the same point in a
network. Pure: whoever reports says what time it is.
"""

from __future__ import annotations

from enum import Enum, auto
from statistics import median

START = 32
"""Calls at once before anything is known."""
SAMPLES, MOST_SAMPLES = 32, 2048
"""Answers of a window: about this many or as many as the limit allows, and at most the second."""
FEW_SAMPLES, SLOW_WINDOW = 8, 10.0
"""Answers that do for a small limit, or where a window of them already took so many seconds."""
WINDOW = 1.0
"""Seconds of a window at least, once the first guess is over."""
HOLDS, CLIMBS = 1.4, 1.8
"""Latency in multiples of the unloaded one: up to the first the limit grows, from the second on it is sought anew."""
QUEUE = 1.4
"""The limit that is found, in multiples of what keeps the server just busy."""
STEP = 1.25
OVERLOADED = 0.7
FEW_REFUSALS, REFUSED = 3, 0.1
"""Refusals of a window at least, and their share of its answers, that make an overload: a few are anybody's fault."""
SAME_RATE, SAME_LATENCY = 0.9, 0.8
LOOK_AGAIN_AFTER = 60.0
"""Seconds after which the unloaded latency of a busy server is looked for anew."""


class _Phase(Enum):
    GUESS = auto()  # one more for each answer, up to what was known to be borne
    KEEP = auto()  # a step at a time
    LOOK = auto()  # half as many each time, until there is no queue


class Adaptive:
    """The limit of calls in flight to one provider. Times and latencies in seconds."""

    def __init__(self, now: float, *, start: int = START) -> None:
        self.limit = float(start)
        self.unloaded: float | None = None
        """The median latency of a server without a queue, as far as known."""
        self._phase = _Phase.GUESS
        self._reach = float("inf")
        self._wanted = False
        self._looked_at = now
        self._best_rate = self._looked_from = 0.0
        self.overloaded_at = float("-inf")
        self._open(now)

    def want(self) -> None:
        """A call waits for this limit and nothing else: only then does it make sense to raise it."""
        self._wanted = True

    def answered(self, now: float, seconds: float) -> None:
        """A call that took `seconds` was answered."""
        self._answers += 1
        if self._answers == 1:
            self._first_at = now
        if now - seconds >= self._began and len(self._latencies) < MOST_SAMPLES:
            self._latencies.append(seconds)
        if self._phase is _Phase.GUESS and self._wanted and self._is_short(seconds):
            self.limit += 1
            if self.limit >= self._reach:
                self._phase = _Phase.KEEP
        if self._is_over(now):
            self._judge(now, median(self._latencies), (self._answers - 1) / max(1e-9, now - self._first_at))
            self._wanted = False
            self._open(now)

    def overloaded(self, now: float) -> None:
        """The provider refused a call for being overloaded, or left it without an answer.

        Many of them cut the limit, once for all calls that were in flight together.
        """
        self._refused += 1
        if self._refused < max(FEW_REFUSALS, REFUSED * (self._answers + self._refused)):
            return
        if now - self.overloaded_at >= max(1.0, self.unloaded or 0.0):
            self.overloaded_at = now
            if self._phase is not _Phase.GUESS or self._reach == float("inf"):
                self._reach = max(1.0, self.limit * OVERLOADED)
            self.limit = max(1.0, self.limit * OVERLOADED)
            self._phase = _Phase.GUESS  # what follows an outage is soon back where the first cut led
            self._open(now)

    def restart(self, now: float, *, limited: bool = False) -> None:
        """After a pause that the provider asked for: begins with a quarter, and grows quickly to where it was.

        `limited`: because of a rate, so what was refused again on the way there is too much.
        """
        if limited or self._phase is not _Phase.GUESS or self._reach == float("inf"):
            self._reach = self.limit
        self.limit = max(1.0, self._reach / 4)
        self._phase = _Phase.GUESS
        self._open(now)

    def _is_short(self, seconds: float) -> bool:
        return self.unloaded is None or seconds <= self.unloaded * CLIMBS

    def _is_over(self, now: float) -> bool:
        took, samples = now - self._began, len(self._latencies)
        if took >= SLOW_WINDOW and samples >= FEW_SAMPLES:
            return True
        if self._phase is _Phase.GUESS:
            return samples >= SAMPLES
        enough = max(FEW_SAMPLES, min(SAMPLES, 2 * self.limit), self.limit)
        return took >= WINDOW and samples >= min(enough, MOST_SAMPLES)

    def _open(self, now: float) -> None:
        self._began = now
        self._answers = self._refused = 0
        self._first_at = now
        self._latencies: list[float] = []

    def _judge(self, now: float, latency: float, rate: float) -> None:
        """One window's median latency, and its answers a second."""
        if self._phase is _Phase.LOOK:
            self._look(now, latency, rate)
            return
        if self.unloaded is None:
            self.unloaded, self._looked_at = latency, now
        elif latency < self.unloaded:  # by steps: a median of a few answers is easily low by chance
            self.unloaded += 0.25 * (latency - self.unloaded)
        climbed = latency / self.unloaded
        if climbed <= HOLDS:
            if self._phase is _Phase.KEEP and self._wanted:
                self.limit = max(self.limit + 1, self.limit * STEP)
        elif climbed >= CLIMBS or (self._wanted and now - self._looked_at >= LOOK_AGAIN_AFTER):
            self._phase, self._best_rate, self._looked_from = _Phase.LOOK, rate, latency
            self.limit = max(1.0, self.limit / 2)

    def _look(self, now: float, latency: float, rate: float) -> None:
        if rate >= SAME_RATE * self._best_rate and self.limit > 1:
            self._best_rate = max(rate, self._best_rate)
            self.limit = max(1.0, self.limit / 2)
            return
        self.unloaded, self._looked_at = latency, now
        self.limit = max(1.0, self._best_rate * latency * QUEUE)
        # Was it no quicker with half as many, there was no queue: answers take longer than they did.
        self._phase = _Phase.GUESS if latency > SAME_LATENCY * self._looked_from else _Phase.KEEP
