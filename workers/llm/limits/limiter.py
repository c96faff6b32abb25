"""What lets a call to the model out: one limiter for each provider quota in a process, one lane in it for each run.

    call of a run -> its lane: concurrency of the run, share of the minute limits (pacer)
                  -> the quota: the provider asked for a pause? calls in flight that it bears (adaptive)
                  -> out, the run first that weighs most and had least

A call is let out at once when nothing is in its way; else it waits in its lane. The first call goes alone: its answer's
headers may say what the limits are. A pause that the provider asks for (`Retry-After`) holds all calls, and after it
they go out slowly, not all at once.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from workers.llm.limits.adaptive import Adaptive
from workers.llm.limits.pacer import Pacer

LOOK_EVERY = 0.25
"""Seconds between two looks at whether waiting calls are still wanted."""
RETRY_AFTER_MOST = 120.0
"""Seconds that a provider is waited for at its word."""
SLOWER, FASTER = 0.9, 0.01
"""Paces are cut by this when the provider says that its limit is reached all the same, and mend so much a second."""
SLOWEST = 0.1
TARGET = 0.99
"""Share of a limit that is aimed at: two clocks never agree, and a refusal costs more than this."""
SOONEST = 1e-3
SCOUTING = 5.0
"""Seconds after which the first call is waited for no longer."""
FORGIVEN_AFTER = 60.0
"""Seconds after which a provider with known minute limits is no longer taken to be overloaded, and without a call what
any provider was found to bear is found anew."""
MINUTE = 65.0
"""Seconds, and some for two clocks: a limit that is restored in more is not a minute's but a day's (Groq has one)."""
HEADERS_EVERY = 0.5
"""Seconds between two looks at the provider's headers."""


_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s|d|$)")
_DURATION = re.compile(rf"(?:{_AMOUNT.pattern})+")
_UNITS = {"ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


@dataclass(slots=True)
class _Waiter:
    future: asyncio.Future[bool]
    tokens: float
    stopped: Callable[[], bool]


class Lane:
    """One run's calls to one quota, in this process. Calls go out while it is open."""

    def __init__(self, limiter: Limiter, *, concurrency: int, weight: float) -> None:
        self.limiter = limiter
        self.concurrency = concurrency
        self.weight = weight
        self.share = 1.0
        """Its part (0 to 1) of the quota's minute limits."""
        self.in_flight = 0
        self.pacer = Pacer()
        self.waiting: deque[_Waiter] = deque()
        self.had = 0.0
        """Calls let out, each counted by what the lane weighs: who had least comes next."""
        self.requests_out = 0
        self.tokens_out = 0.0
        self.paced_seconds = 0.0
        """Time in which calls waited for nothing but the pace."""
        self._paced_since: float | None = None

    async def enter(self, tokens: float, stopped: Callable[[], bool]) -> bool:
        """Waits until a call that is expected to use so many tokens may go out; False if it was stopped before.

        Whoever was let out calls `leave`.
        """
        return await self.limiter.enter(self, tokens, stopped)

    def leave(self, reserved: float, used: float) -> None:
        """The call has ended; `used`: tokens that it really took."""
        self.limiter.leave(self, reserved, used)

    def note_paced(self, now: float, *, paced: bool) -> None:
        """Counts the time in which the pace alone holds its calls back."""
        if self._paced_since is None and not paced:
            return
        if self._paced_since is not None:
            self.paced_seconds += now - self._paced_since
        self._paced_since = now if paced else None


class Limiter:
    """All calls of this process to one quota."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, limits_seen: Callable[[], None] | None = None
    ) -> None:
        self._clock = clock
        self._limits_seen = limits_seen
        self.lanes: list[Lane] = []
        self.adaptive = Adaptive(clock())
        self.in_flight = 0
        self.waited_seconds = 0.0
        """Time in which calls waited for minute limits, or for a pause that the provider asked for."""
        self._waits_since: float | None = None
        self.seen_requests_per_minute: int | None = None
        self.seen_tokens_per_minute: int | None = None
        """The limits that the provider's headers name."""
        self._limits: tuple[int | None, int | None] = (None, None)
        self._names_days = False
        """Whether the headers name a day's limit: then they do not say all that holds for a minute."""
        self._headers_at: float | None = None
        """When the provider last said something; until then one call at a time scouts."""
        self._pace, self._pace_at = 1.0, clock()
        self._held_until = 0.0
        self._virtual = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        """When the timer goes off. (The handles of uvloop do not always tell.)"""
        self._swept_at = float("-inf")
        self._scouting_until = 0.0
        self._closed_at = clock()

    def open(self, lane: Lane) -> None:
        """Lets the lane's calls out from now on; it begins level with the others."""
        now = self._clock()
        if not self.lanes and now - self._closed_at > FORGIVEN_AFTER:
            self.adaptive = Adaptive(now)
        lane.had = max(lane.had, self._virtual)
        self.lanes.append(lane)
        self._set_paces(now)

    def close(self, lane: Lane) -> None:
        """Of a run that has no more partitions here."""
        self.lanes.remove(lane)
        self._closed_at = self._clock()
        lane.note_paced(self._closed_at, paced=False)
        while lane.waiting:
            _tell(lane.waiting.popleft(), False)

    def set_limits(self, requests: int | None, tokens: int | None) -> None:
        """The quota's limits, a minute; each lane uses its share of them."""
        self._limits = (requests, tokens)
        self._set_paces(self._clock())
        self.look()

    async def enter(self, lane: Lane, tokens: float, stopped: Callable[[], bool]) -> bool:
        """See `Lane.enter`."""
        now = self._clock()
        if not lane.waiting and not self._is_held_back(lane, now):
            self._let_out(lane, tokens)
            return True
        waiter = _Waiter(asyncio.get_running_loop().create_future(), tokens, stopped)
        lane.waiting.append(waiter)
        if len(lane.waiting) == 1:  # else somebody before it waits already, and a timer runs
            lane.had = max(lane.had, self._virtual)
            self.look()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled() and waiter.future.result():
                self.leave(lane, tokens, 0.0)
            raise

    def leave(self, lane: Lane, reserved: float, used: float) -> None:
        """See `Lane.leave`."""
        self.in_flight -= 1
        lane.in_flight -= 1
        lane.tokens_out += used - reserved
        lane.pacer.settle(reserved, used)
        self.look()

    # -- what calls tell ----------------------------------------------------------------------------------------------

    def answered(self, seconds: float) -> None:
        """A call was answered after so many seconds."""
        self.adaptive.answered(self._clock(), seconds)

    def limited(self, retry_after: float | None) -> None:
        """The provider refused a call because of a minute limit, and says how many seconds to wait, or does not."""
        now = self._clock()
        if self._is_paced():
            pace = self._current_pace(now)
            if now - self._pace_at >= 1.0 or self._pace == 1.0:  # once for all calls that were in flight together
                self._pace, self._pace_at = max(SLOWEST, pace * SLOWER), now
                self._set_paces(now)
        else:
            self.adaptive.overloaded(now)
        self._hold(now, retry_after, limited=True)

    def overloaded(self, retry_after: float | None) -> None:
        """The provider refused a call for being overloaded."""
        now = self._clock()
        self.adaptive.overloaded(now)
        self._hold(now, retry_after)

    def said(self, headers: Mapping[str, str]) -> None:
        """What the provider's `x-ratelimit-*` headers say, looked at now and then. Limits hold from here on.

        https://platform.openai.com/docs/guides/rate-limits
        """
        now = self._clock()
        if self._headers_at is not None and now - self._headers_at < HEADERS_EVERY:
            return
        self._headers_at = now
        self.seen_requests_per_minute = self._limit_of_minute(headers, "requests", self.seen_requests_per_minute)
        self.seen_tokens_per_minute = self._limit_of_minute(headers, "tokens", self.seen_tokens_per_minute)
        if self._limits == (None, None) and (self.seen_requests_per_minute or self.seen_tokens_per_minute):
            self.set_limits(self.seen_requests_per_minute, self.seen_tokens_per_minute)
            if self._limits_seen is not None:
                self._limits_seen()
        if "0" in (headers.get("x-ratelimit-remaining-requests"), headers.get("x-ratelimit-remaining-tokens")):
            for lane in self.lanes:
                lane.pacer.forget_credit(now)

    def look(self) -> None:
        """Lets out what may go."""
        now = self._clock()
        while (lane := self._next(now)) is not None:
            waiter = lane.waiting.popleft()
            if waiter.future.done():
                continue
            if waiter.stopped():
                _tell(waiter, False)
                continue
            self._let_out(lane, waiter.tokens)
            _tell(waiter, True)
        self._note_obstacles(now)

    def _limit_of_minute(self, headers: Mapping[str, str], unit: str, seen: int | None) -> int | None:
        """The limit that the headers name; None for one of a day, which is forgotten if it was taken for a minute's."""
        limit = _number(headers, f"x-ratelimit-limit-{unit}")
        if limit is None:
            return seen
        if (seconds_of(headers.get(f"x-ratelimit-reset-{unit}") or "") or 0.0) <= MINUTE:
            return limit
        self._names_days = True
        requests, tokens = self._limits
        if unit == "requests" and requests == limit:
            self.set_limits(None, tokens)
        elif unit == "tokens" and tokens == limit:
            self.set_limits(requests, None)
        return None

    # -- inside --------------------------------------------------------------------------------------------------------

    def _is_paced(self) -> bool:
        """Tells whether the minute's limits are known, and keeping to them is enough."""
        return self._limits != (None, None) and not self._names_days

    def _next(self, now: float) -> Lane | None:
        """Of the lanes with a waiting call that nothing keeps back, the one that had least."""
        found = None
        for lane in self.lanes:
            if lane.waiting and (found is None or lane.had < found.had) and not self._is_held_back(lane, now):
                found = lane
        return found

    def _is_held_back(self, lane: Lane, now: float) -> bool:
        """Tells whether anything keeps the lane's next call back."""
        return (
            lane.in_flight >= lane.concurrency
            or self._is_full(now)
            or now < self._held_until
            or lane.pacer.wait(now) > 0
        )

    def _is_full(self, now: float) -> bool:
        """Whether the provider bears no further call. One with known minute limits does, until it says otherwise."""
        if self._headers_at is None and self.in_flight > 0 and now < self._scouting_until:
            return True
        if self._is_paced() and now - self.adaptive.overloaded_at > FORGIVEN_AFTER:
            return False
        return self.in_flight + 1 > self.adaptive.limit

    def _let_out(self, lane: Lane, tokens: float) -> None:
        if self._headers_at is None and not self.in_flight:
            self._scouting_until = self._clock() + SCOUTING
        lane.in_flight += 1
        self.in_flight += 1
        self._virtual = max(self._virtual, lane.had)
        lane.had += 1 / lane.weight
        lane.requests_out += 1
        lane.tokens_out += tokens
        lane.pacer.take(tokens)

    def _note_obstacles(self, now: float) -> None:
        """What waiting calls wait for, and when to look again."""
        held = self._held_until - now
        wake = now + LOOK_EVERY
        waiting, waits = False, False
        for lane in self.lanes:
            if not lane.waiting:
                lane.note_paced(now, paced=False)
                continue
            waiting, waits = True, waits or held > 0
            paced = False
            if lane.in_flight < lane.concurrency:
                full, pace = self._is_full(now), lane.pacer.wait(now)
                if not full:
                    paced = held <= 0 < pace
                    wake = min(wake, now + max(held, pace))
                elif held <= 0 and pace <= 0:
                    self.adaptive.want()
            lane.note_paced(now, paced=paced)
            waits = waits or paced
        self._note_wait(now, waits=waits)
        if waiting:
            self._wake_at(wake)

    def _note_wait(self, now: float, *, waits: bool) -> None:
        if self._waits_since is not None:
            self.waited_seconds += now - self._waits_since
        self._waits_since = now if waits else None

    def _wake_at(self, when: float) -> None:
        if self._timer is not None:
            if self._due <= when:
                return
            self._timer.cancel()
        self._due = when
        self._timer = asyncio.get_running_loop().call_later(max(SOONEST, when - self._clock()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = self._clock()
        if now - self._swept_at >= LOOK_EVERY:
            self._swept_at = now
            for lane in self.lanes:
                for waiter in lane.waiting:
                    if not waiter.future.done() and waiter.stopped():
                        _tell(waiter, False)
                while lane.waiting and lane.waiting[0].future.done():
                    lane.waiting.popleft()
        self.look()

    def _hold(self, now: float, seconds: float | None, *, limited: bool = False) -> None:
        """Holds all calls for as long as the provider asks, and begins slowly after that."""
        if not seconds or seconds <= 0:
            return
        until = now + min(RETRY_AFTER_MOST, seconds) * random.uniform(1.0, 1.1)
        if until <= self._held_until:
            return
        if now >= self._held_until and not self._is_paced():
            self.adaptive.restart(now, limited=limited)
        for lane in self.lanes:
            lane.pacer.forget_credit(until)
        self._held_until = until

    def _current_pace(self, now: float) -> float:
        """Returns what share of the known limits may be used: less after the provider said that they were reached."""
        return min(1.0, self._pace + FASTER * (now - self._pace_at))

    def _set_paces(self, now: float) -> None:
        pace = self._current_pace(now) * TARGET
        requests, tokens = self._limits
        for lane in self.lanes:
            lane.pacer.set_rates(
                None if requests is None else requests * lane.share * pace,
                None if tokens is None else tokens * lane.share * pace,
                now,
            )


def _tell(waiter: _Waiter, out: bool) -> None:
    if not waiter.future.done():
        waiter.future.set_result(out)


def seconds_of(text: str) -> float | None:
    """Seconds of `2m59.56s`, `7.66ms` or `59`, as `x-ratelimit-reset-*` have them; None for a date or anything else."""
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(amount) * _UNITS[unit] for amount, unit in _AMOUNT.findall(text))


def _number(headers: Mapping[str, str], name: str) -> int | None:
    """Returns a positive whole number in a header."""
    found = headers.get(name)
    try:
        return int(found) if found is not None and int(found) > 0 else None
    except ValueError:
        return None
