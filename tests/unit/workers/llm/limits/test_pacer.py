"""Requests and tokens a minute, spread evenly: by a clock of the test's own."""

from __future__ import annotations

import random

import pytest

from workers.llm.limits.pacer import BURST_SECONDS, Bucket, Pacer


def sent(pacer: Pacer, seconds: float, tokens: float = 1.0, *, late: float = 0.0) -> list[float]:
    """When requests go out if somebody always waits, and timers are up to `late` seconds late."""
    chance = random.Random(1)
    now, times = 0.0, []
    while now < seconds:
        wait = pacer.wait(now)
        if wait <= 0:
            pacer.take(tokens)
            times.append(now)
        else:
            now += wait + chance.uniform(0.0, late)
    return times


def most_within(times: list[float], window: float) -> int:
    return max(sum(start <= time < start + window for time in times) for start in times)


@pytest.mark.parametrize("late", [0.0, 0.05])
def test_requests_go_out_evenly_and_none_is_lost_to_late_timers(late: float) -> None:
    pacer = Pacer()
    pacer.set_rates(3000, None, 0.0)
    times = sent(pacer, 60.0, late=late)
    assert 2990 <= len(times) <= 3000 + 50 * BURST_SECONDS + 1
    assert most_within(times, 1.0) <= 50 + 50 * BURST_SECONDS + 2


def test_tokens_are_reserved_and_settled() -> None:
    pacer = Pacer()
    pacer.set_rates(None, 60_000, 0.0)
    now, used = 0.0, 0.0
    while now < 60.0:
        if (wait := pacer.wait(now)) > 0:
            now += wait
            continue
        pacer.take(500)
        pacer.settle(500, 300)
        used += 300
    assert used == pytest.approx(60_000, rel=0.03)


def test_one_request_larger_than_the_limit_goes_out_and_is_paid_off() -> None:
    pacer = Pacer()
    pacer.set_rates(None, 60, 0.0)
    assert pacer.wait(0.0) == 0
    pacer.take(120)
    assert pacer.wait(0.0) == pytest.approx(120.0)


def test_both_limits_hold() -> None:
    pacer = Pacer()
    pacer.set_rates(600, 6000, 0.0)
    assert len(sent(pacer, 60.0, tokens=100)) == pytest.approx(60, abs=3)
    pacer.set_rates(None, None, 60.0)
    pacer.take(1e9)
    assert pacer.wait(60.0) == 0


def test_a_new_rate_holds_from_now_on() -> None:
    bucket = Bucket(60, 0.0)
    bucket.take(3)
    bucket.set_rate(600, 1.0)
    assert bucket.wait(1.0) == pytest.approx(0.2)
    bucket.set_rate(0, 1.0)
    assert bucket.wait(100.0) == float("inf")


def test_credit_that_the_provider_denies_is_forgotten() -> None:
    pacer = Pacer()
    pacer.set_rates(6000, None, 0.0)
    pacer.forget_credit(10.0)
    pacer.take(1)
    assert pacer.wait(10.0) > 0
