"""What lets calls out: concurrency, paces, pauses that the provider asks for, and whose turn it is."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

import pytest
import uvloop

from workers.llm.limits.limiter import Lane, Limiter, seconds_of


def never() -> bool:
    return False


def known() -> Limiter:
    """A limiter whose provider has said something, but no limits."""
    limiter = Limiter()
    limiter.said({})
    return limiter


def lane(limiter: Limiter, *, concurrency: int = 1000, weight: float = 1.0, share: float = 1.0) -> Lane:
    opened = Lane(limiter, concurrency=concurrency, weight=weight)
    opened.share = share
    limiter.open(opened)
    return opened


async def call(through: Lane, log: list[float], seconds: float = 0.0, stopped: Callable[[], bool] = never) -> bool:
    out = await through.enter(1.0, stopped)
    if out:
        log.append(time.monotonic())
        await asyncio.sleep(seconds)
        through.leave(1.0, 1.0)
    return out


async def test_a_lane_lets_no_more_out_than_its_run_may_have() -> None:
    limiter = known()
    narrow, log = lane(limiter, concurrency=3), list[float]()
    calls = [asyncio.create_task(call(narrow, log, 0.02)) for _ in range(12)]
    most = 0
    while not all(each.done() for each in calls):
        most = max(most, narrow.in_flight)
        await asyncio.sleep(0.001)
    assert (most, len(log), limiter.in_flight) == (3, 12, 0)


async def test_all_lanes_together_keep_to_what_the_provider_bears() -> None:
    limiter = known()
    limiter.adaptive.limit = 4.0
    lanes = [lane(limiter), lane(limiter)]
    for each in lanes:
        for _ in range(10):
            asyncio.ensure_future(call(each, [], 1.0))
    await asyncio.sleep(0.01)
    assert limiter.in_flight == sum(each.in_flight for each in lanes) == 4


@pytest.mark.parametrize(("weights", "least"), [((1.0, 1.0), 0.48), ((3.0, 1.0), 0.71), ((256.0, 1.0), 0.95)])
async def test_turns_go_by_weight(weights: tuple[float, float], least: float) -> None:
    limiter = known()
    limiter.adaptive.limit = 2.0
    out = Counter[int]()

    async def ask_on(number: int, through: Lane) -> None:
        while sum(out.values()) < 200:
            assert await through.enter(1.0, never)
            out[number] += 1
            await asyncio.sleep(0)
            through.leave(1.0, 1.0)

    lanes = [lane(limiter, weight=weight) for weight in weights]
    await asyncio.gather(*(ask_on(number, each) for number, each in enumerate(lanes) for _ in range(8)))
    assert out[0] / sum(out.values()) >= least
    assert out[1] > 0


async def test_a_lane_that_was_idle_saves_up_no_turns() -> None:
    limiter = known()
    limiter.adaptive.limit = 1.0
    busy, idle = lane(limiter), lane(limiter)
    for _ in range(500):
        assert await busy.enter(1.0, never)
        busy.leave(1.0, 1.0)
    first = [asyncio.create_task(call(each, [], 0.001)) for _ in range(50) for each in (idle, busy)]
    await asyncio.sleep(0.04)
    assert sum(each.done() for each in first[1::2]) >= 3
    await asyncio.gather(*first)


async def test_the_pace_is_kept_and_waiting_for_it_is_counted() -> None:
    limiter = known()
    paced, log = lane(limiter, share=0.5), list[float]()
    limiter.set_limits(12_000, None)
    began = time.monotonic()
    await asyncio.gather(*(call(paced, log) for _ in range(60)))
    took = time.monotonic() - began
    assert 60 / took == pytest.approx(100, rel=0.15)
    assert limiter.waited_seconds == pytest.approx(took, abs=0.1)
    assert paced.paced_seconds == pytest.approx(took, abs=0.1)


async def test_without_a_share_nothing_goes_out() -> None:
    limiter = known()
    paced, log = lane(limiter, share=0.0), list[float]()
    limiter.set_limits(6000, None)
    waiting = [asyncio.create_task(call(paced, log)) for _ in range(5)]
    await asyncio.sleep(0.1)
    assert len(log) <= 1
    paced.share = 1.0
    limiter.set_limits(6000, None)
    await asyncio.gather(*waiting)
    assert len(log) == 5


async def test_a_pause_that_the_provider_asks_for_holds_all_and_ends_without_a_herd() -> None:
    limiter = known()
    limiter.adaptive.limit = 40.0
    lanes, log = [lane(limiter), lane(limiter)], list[float]()
    limiter.limited(0.2)
    began = time.monotonic()
    calls = [asyncio.create_task(call(each, log, 0.05)) for each in lanes for _ in range(40)]
    await asyncio.gather(*calls)
    assert min(log) - began >= 0.2
    assert sum(at < min(log) + 0.04 for at in log) <= 40 / 4 + 1
    assert limiter.waited_seconds >= 0.2


async def test_refusals_slow_the_pace_down_for_a_while() -> None:
    limiter = known()
    paced = lane(limiter)
    limiter.set_limits(6000, None)
    for _ in range(20):
        limiter.limited(None)
    log: list[float] = []
    began = time.monotonic()
    await asyncio.gather(*(call(paced, log) for _ in range(45)))
    assert 45 / (time.monotonic() - began) == pytest.approx(90, rel=0.15)
    assert limiter.adaptive.limit == 32


async def test_waiting_calls_end_when_they_are_stopped_or_cancelled() -> None:
    limiter = known()
    narrow, log = lane(limiter, concurrency=1), list[float]()
    stop = asyncio.Event()
    running = asyncio.create_task(call(narrow, log, 60.0))
    waiting = [asyncio.create_task(call(narrow, log, 0.0, stop.is_set)) for _ in range(3)]
    cancelled = asyncio.create_task(call(narrow, log))
    await asyncio.sleep(0.01)
    cancelled.cancel()
    stop.set()
    assert await asyncio.wait_for(asyncio.gather(*waiting), 1.0) == [False] * 3
    running.cancel()
    await asyncio.wait([running, cancelled])
    assert len(log) == 1


async def test_a_call_that_is_cancelled_as_it_is_let_out_gives_its_place_back() -> None:
    limiter = known()
    narrow = lane(limiter, concurrency=1)
    assert await narrow.enter(1.0, never)
    waiting = asyncio.create_task(narrow.enter(1.0, never))
    await asyncio.sleep(0)
    narrow.leave(1.0, 1.0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (narrow.in_flight, limiter.in_flight) == (0, 0)


async def test_a_closed_lane_leaves_nobody_waiting() -> None:
    limiter = known()
    narrow = lane(limiter, concurrency=1)
    assert await narrow.enter(1.0, never)
    waiting = asyncio.create_task(narrow.enter(1.0, never))
    await asyncio.sleep(0)
    limiter.close(narrow)
    assert await waiting is False


async def test_limits_are_read_from_the_providers_headers() -> None:
    now = 0.0
    limiter = Limiter(lambda: now)
    limiter.said({"x-ratelimit-limit-requests": "3000", "x-ratelimit-limit-tokens": "oops"})
    assert (limiter.seen_requests_per_minute, limiter.seen_tokens_per_minute) == (3000, None)
    limiter.said({"x-ratelimit-limit-requests": "1"})
    assert limiter.seen_requests_per_minute == 3000
    now = 1.0
    limiter.said({"x-ratelimit-limit-requests": "100", "x-ratelimit-limit-tokens": "-3"})
    assert (limiter.seen_requests_per_minute, limiter.seen_tokens_per_minute) == (100, None)
    now = 2.0
    limiter.said({})
    assert limiter.seen_requests_per_minute == 100


async def test_a_limit_of_a_day_is_none_of_a_minute() -> None:
    now = 0.0
    limiter = Limiter(lambda: now)
    groq = {"x-ratelimit-limit-requests": "14400", "x-ratelimit-limit-tokens": "6000"}
    limiter.said({**groq, "x-ratelimit-reset-requests": "6s", "x-ratelimit-reset-tokens": "7.66ms"})
    assert (limiter.seen_requests_per_minute, limiter.seen_tokens_per_minute) == (14400, 6000)
    now = 1.0
    limiter.said({**groq, "x-ratelimit-reset-requests": "2m59.56s", "x-ratelimit-reset-tokens": "1m0s"})
    assert (limiter.seen_requests_per_minute, limiter.seen_tokens_per_minute) == (None, 6000)
    assert limiter._limits == (None, 6000) and not limiter._is_paced(), "what a minute bears in requests nobody said"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2m59.56s", 179.56),
        ("7.66ms", 0.00766),
        ("59", 59.0),
        ("1h2m3s", 3723.0),
        ("1d", 86400.0),
        ("", None),
        ("soon", None),
    ],
)
def test_durations_in_headers(text: str, seconds: float | None) -> None:
    assert seconds_of(text) == (None if seconds is None else pytest.approx(seconds))


async def test_the_first_call_goes_alone_until_the_provider_has_said_something() -> None:
    limiter = Limiter()
    wide, log = lane(limiter), list[float]()
    calls = [asyncio.create_task(call(wide, log, 0.05)) for _ in range(10)]
    await asyncio.sleep(0.02)
    assert limiter.in_flight == 1
    limiter.said({})
    limiter.look()
    assert limiter.in_flight == 10
    await asyncio.gather(*calls)


def test_it_runs_on_the_event_loop_of_workers() -> None:
    """uvloop's timers of less than half a millisecond are handles without a time."""

    async def asked() -> int:
        limiter = known()
        paced = lane(limiter)
        limiter.set_limits(60_000, None)
        over = asyncio.Event()
        count = 0

        async def ask_on() -> None:
            nonlocal count
            while not over.is_set() and await paced.enter(1.0, over.is_set):
                count += 1
                await asyncio.sleep(0.001)
                paced.leave(1.0, 1.0)

        asking = [asyncio.create_task(ask_on()) for _ in range(100)]
        await asyncio.sleep(1.0)
        over.set()
        await asyncio.gather(*asking)
        assert (limiter.in_flight, paced.in_flight) == (0, 0)
        return count

    assert uvloop.run(asked()) == pytest.approx(1000, rel=0.3)


async def test_a_lane_that_is_opened_again_obeys_the_limits_of_now() -> None:
    limiter = known()
    paced, log = lane(limiter, share=0.0), list[float]()
    limiter.set_limits(6000, None)
    limiter.close(paced)
    limiter.set_limits(None, None)
    limiter.open(paced)
    assert await asyncio.wait_for(call(paced, log), 1.0)


async def test_time_without_waiting_calls_is_no_time_of_waiting() -> None:
    limiter = known()
    paced = lane(limiter)
    limiter.set_limits(12_000, None)
    await asyncio.gather(*(call(paced, []) for _ in range(70)))
    await asyncio.sleep(0.3)
    before = paced.paced_seconds
    await asyncio.gather(*(call(paced, []) for _ in range(70)))
    assert paced.paced_seconds - before < 0.28


async def test_known_minute_limits_stand_in_for_what_a_provider_bears() -> None:
    limiter = known()
    wide, log = lane(limiter), list[float]()
    limiter.set_limits(1_000_000, None)
    calls = [asyncio.create_task(call(wide, log, 0.2)) for _ in range(100)]
    await asyncio.sleep(0.1)
    assert limiter.in_flight == 100
    await asyncio.gather(*calls)
