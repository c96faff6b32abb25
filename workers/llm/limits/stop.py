"""What stops a run's calls in this process: a drain, the run's control, an outage, an error of the job, the error rate.

The coordinator alone holds the run's state. Here it is only followed (`control.json`, read every few seconds, which is
quicker and cheaper than heartbeats) and, when a call shows that no further call can succeed, asked for by yielding.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from dataclasses import dataclass

from batch.workflows import contracts as c
from batch.workflows.states import Reason, State
from workers.llm.answers.errors import Verdict
from workers.llm.limits.waiting import sleep_unless

OUTAGE_AFTER = 60.0
"""Seconds of nothing but transient failures that make an outage."""
ERROR_WINDOW = 200
"""Documents since the last resume that `max_error_rate` looks back on, at least and at most."""
TYPES_TOLD = 6
"""Types of errors that the message of such a pause counts, the most frequent ones."""


@dataclass(frozen=True)
class Stop:
    """Why there may be no more calls; what a partition's attempt yields with."""

    reason: str
    message: str
    epoch: int


class Brakes:
    """One run's brakes in this process, shared by its partitions."""

    def __init__(self, *, max_error_rate: float, drain: asyncio.Event, outage_after: float | None = None) -> None:
        self._max_error_rate = max_error_rate
        self._outage_after = OUTAGE_AFTER if outage_after is None else outage_after
        self._drain = drain
        self._control = c.Control(epoch=0)
        self._stop: Stop | None = None
        self._failing_since: float | None = None
        self._last_success = 0.0
        self._recent: deque[str] = deque(maxlen=ERROR_WINDOW)
        """Of each document its type of error, "" for an answer."""

    @property
    def epoch(self) -> int:
        return self._control.epoch

    def follow(self, control: c.Control) -> None:
        """Takes the coordinator's word, by `control.json` or with a task; an older one is ignored."""
        if control.epoch < self._control.epoch or control == self._control:
            return
        if control.epoch > self._control.epoch:
            self._stop = None
            self._failing_since = None
            self._recent.clear()
        elif control.state == State.RUNNING:
            return  # within an epoch the way leads from running to paused only
        self._control = control

    def stop(self) -> Stop | None:
        """Tells why to stop, None to go on."""
        if self._drain.is_set():
            return Stop(Reason.DRAIN, "the worker is shutting down", self.epoch)
        if self._control.state != State.RUNNING:
            return Stop(Reason.BY_USER, self._control.message, self.epoch)
        return self._stop

    def stopped(self) -> bool:
        return self.stop() is not None

    def only_draining(self) -> bool:
        """Tells whether the shutdown of this worker is all that stops the run here."""
        return self._drain.is_set() and self._control.state == State.RUNNING and self._stop is None

    async def wait_stopped(self, seconds: float) -> bool:
        """Sleeps, but at most until there is a stop; tells which."""
        return await sleep_unless(self.stopped, seconds)

    def succeeded(self) -> None:
        """The provider gave an answer, be it an error of the document."""
        self._failing_since = None
        self._last_success = time.monotonic()

    def last_success(self) -> float:
        return self._last_success

    def transient(self) -> bool:
        """A call failed in a way that may pass. Tells whether nothing else has happened for a while: then it is an
        outage, unless a probe is answered."""
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        return now - self._failing_since > self._outage_after

    def outage(self, message: str) -> None:
        """The provider answers nobody."""
        self._brake(Reason.PROVIDER_UNREACHABLE, message)

    def stop_job(self, verdict: Verdict) -> None:
        """No call can succeed until somebody acts."""
        self._brake(verdict.error_type, verdict.message)

    def out_of_money(self, message: str) -> None:
        """No further call fits into the run's budget."""
        self._brake(Reason.MAX_COST, message)

    def document(self, error_type: str | None) -> None:
        """One document ended, with an answer (None) or an error, for the rolling error rate."""
        self._recent.append(error_type or "")
        if len(self._recent) == ERROR_WINDOW:
            types = Counter(filter(None, self._recent))
            rate = types.total() / ERROR_WINDOW
            if rate > self._max_error_rate:
                what = ", ".join(f"{kind} {count}" for kind, count in types.most_common(TYPES_TOLD))
                self._brake(
                    Reason.ERROR_RATE,
                    f"{rate:.0%} of the last {ERROR_WINDOW} documents failed ({what}); limits.max_error_rate is "
                    f"{self._max_error_rate:.0%}",
                )

    def _brake(self, reason: str, message: str) -> None:
        if self._stop is None:
            self._stop = Stop(reason, message, self.epoch)
