"""How many requests and tokens a minute may go out, spread evenly. Pure: whoever asks says what time it is.

A bucket fills continuously and may go into debt by one taking, so a request of any size goes out in the end, and what
goes out in `t` seconds is at most `t` seconds' worth, a short burst and one request.
"""

from __future__ import annotations

BURST_SECONDS = 0.25
"""Seconds' worth that may go out at once after a lull: late timers lose nothing, and no provider calls it a burst."""
ROUNDING = 1e-6
"""Of a unit."""


class Bucket:
    """One limit, in units a minute. Times are monotonic seconds."""

    def __init__(self, per_minute: float, now: float) -> None:
        self._rate = per_minute / 60
        self._level = 0.0
        self._at = now

    def set_rate(self, per_minute: float, now: float) -> None:
        """From now on; what was earned until now stays."""
        self._fill(now)
        self._rate = per_minute / 60
        self._level = min(self._level, self._rate * BURST_SECONDS)

    def wait(self, now: float) -> float:
        """Returns seconds until something may be taken; infinite while nothing flows."""
        self._fill(now)
        if self._rate <= 0:
            return float("inf")
        return -self._level / self._rate if self._level <= -ROUNDING else 0.0

    def take(self, amount: float) -> None:
        """May leave a debt. A negative amount gives back."""
        self._level = min(self._level - amount, self._rate * BURST_SECONDS)

    def forget_credit(self, now: float) -> None:
        """Nothing was earned until now, whatever the count says."""
        self._fill(now)
        self._level = min(self._level, 0.0)

    def _fill(self, now: float) -> None:
        if now > self._at:
            self._level = min(self._level + (now - self._at) * self._rate, self._rate * BURST_SECONDS)
            self._at = now


class Pacer:
    """Requests and tokens a minute of one lane; no limit until one is set."""

    def __init__(self) -> None:
        self._requests: Bucket | None = None
        self._tokens: Bucket | None = None

    def set_rates(self, requests: float | None, tokens: float | None, now: float) -> None:
        """In units a minute; None: no limit."""
        self._requests = _with_rate(self._requests, requests, now)
        self._tokens = _with_rate(self._tokens, tokens, now)

    def wait(self, now: float) -> float:
        """Returns seconds until a request may go out."""
        requests = self._requests.wait(now) if self._requests is not None else 0.0
        tokens = self._tokens.wait(now) if self._tokens is not None else 0.0
        return max(requests, tokens)

    def take(self, tokens: float) -> None:
        """Reserves one request and the tokens that it is expected to use."""
        if self._requests is not None:
            self._requests.take(1)
        if self._tokens is not None:
            self._tokens.take(tokens)

    def settle(self, reserved: float, used: float) -> None:
        """Puts the tokens that a request used in the place of those reserved for it."""
        if self._tokens is not None:
            self._tokens.take(used - reserved)

    def forget_credit(self, now: float) -> None:
        """The provider says that nothing is left right now."""
        for bucket in (self._requests, self._tokens):
            if bucket is not None:
                bucket.forget_credit(now)


def _with_rate(bucket: Bucket | None, per_minute: float | None, now: float) -> Bucket | None:
    if per_minute is None:
        return None
    if bucket is None:
        return Bucket(per_minute, now)
    bucket.set_rate(per_minute, now)
    return bucket
