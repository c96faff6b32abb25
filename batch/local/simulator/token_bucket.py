"""The simulated provider's limits a minute, and how its headers tell of them."""

import math
import time


def duration(seconds: float) -> str:
    """Writes a duration as OpenAI's x-ratelimit-reset headers write it: `12ms`, `1s`, `6m0s`."""
    milliseconds = math.ceil(max(0.0, seconds) * 1000)
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{rest / 1000:g}s"


class TokenBucket:
    """A limit per minute, refilled continuously. What asks for more than a full bucket gets it on credit."""

    def __init__(self, per_minute: float, burst_seconds: float) -> None:
        self.limit, self.rate = per_minute, per_minute / 60
        self.level = self.full = max(1.0, self.rate * burst_seconds)
        self._at = time.monotonic()

    def wait(self, amount: float) -> float:
        """Returns seconds until an amount could be had; 0 for now."""
        now = time.monotonic()
        self.level = min(self.full, self.level + (now - self._at) * self.rate)
        self._at = now
        return max(0.0, (min(amount, self.full) - self.level) / self.rate)

    def headers(self, what: str) -> dict[str, str]:
        return {
            f"x-ratelimit-limit-{what}": f"{self.limit:.0f}",
            f"x-ratelimit-remaining-{what}": str(max(0, int(self.level))),
            f"x-ratelimit-reset-{what}": duration((self.full - self.level) / self.rate),
        }
