"""How many calls at once a provider bears: found against servers of known capacity, by a clock of the test's own."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from statistics import median

import pytest

from workers.llm.limits.adaptive import Adaptive

Answers = list[tuple[float, float]]
"""When each answer came, and after how many seconds."""


@dataclass
class Server:
    """Takes `latency` seconds (lognormal with `sigma`) an answer, and serves `capacity` a second: more wait in line."""

    latency: float
    capacity: list[tuple[float, float]] = field(default_factory=lambda: [(0.0, 0.0)])
    """From when on, how many; 0: any number."""
    sigma: float = 0.0
    free_at: float = 0.0

    def answers_at(self, now: float, chance: random.Random) -> float:
        capacity = [number for since, number in self.capacity if since <= now][-1]
        if capacity:
            self.free_at = max(self.free_at, now) + 1 / capacity
        waits = max(0.0, self.free_at - now) if capacity else 0.0
        return now + waits + self.latency * chance.lognormvariate(0, self.sigma)


def run(server: Server, adaptive: Adaptive, seconds: float, *, concurrency: int, seed: int = 0) -> Answers:
    """Keeps as many calls in flight as the limit and the job allow."""
    chance = random.Random(seed)
    now, in_flight = 0.0, 0
    due: list[tuple[float, float]] = []
    answers: Answers = []
    while now < seconds:
        while in_flight + 1 <= min(adaptive.limit, concurrency):
            heapq.heappush(due, (server.answers_at(now, chance), now))
            in_flight += 1
        if in_flight < concurrency:
            adaptive.want()
        now, asked = heapq.heappop(due)
        in_flight -= 1
        answers.append((now, now - asked))
        adaptive.answered(now, now - asked)
    return answers


def between(answers: Answers, start: float, end: float) -> tuple[float, float]:
    """Answers a second, and their median latency."""
    found = [seconds for at, seconds in answers if start <= at < end]
    return len(found) / (end - start), median(found)


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_a_busy_server_is_used_to_the_full_with_a_short_queue(sigma: float) -> None:
    answers = run(Server(0.2, [(0.0, 200.0)], sigma), Adaptive(0.0), 180.0, concurrency=512)
    rate, latency = between(answers, 10.0, 180.0)
    assert rate >= 0.95 * 200
    assert latency <= 2 * 0.2
    assert max(seconds for at, seconds in answers if at > 10.0) < 3.0


def test_it_follows_a_capacity_that_is_halved_and_restored() -> None:
    answers = run(Server(0.2, [(0.0, 200.0), (60.0, 100.0), (150.0, 200.0)]), Adaptive(0.0), 240.0, concurrency=512)
    rate, latency = between(answers, 90.0, 150.0)
    assert rate >= 0.95 * 100
    assert latency <= 2 * 0.2
    rate, latency = between(answers, 180.0, 240.0)
    assert rate >= 0.95 * 200
    assert latency <= 2 * 0.2


@pytest.mark.parametrize("seed", range(5))
def test_a_server_without_a_queue_is_not_held_back_by_latencies_that_vary(seed: int) -> None:
    answers = run(Server(0.2, sigma=1.0), Adaptive(0.0), 60.0, concurrency=128, seed=seed)
    bare = run(Server(0.2, sigma=1.0), Adaptive(0.0, start=128), 60.0, concurrency=128, seed=seed)
    assert len(answers) >= 0.93 * len(bare)
    fixed = Adaptive(0.0)
    assert len(run(Server(0.2), fixed, 10.0, concurrency=128)) >= 0.95 * 640 * 10


def test_it_finds_down_from_a_guess_that_was_too_high() -> None:
    """A small server on a laptop: two answers a second at once, of a second each."""
    answers = run(Server(1.0, [(0.0, 2.0)]), Adaptive(0.0), 400.0, concurrency=256)
    rate, latency = between(answers, 250.0, 400.0)
    assert rate >= 0.9 * 2
    assert latency <= 3.0  # where the first guess made it 16


def test_longer_answers_are_no_queue() -> None:
    adaptive = Adaptive(0.0)
    server = Server(0.2)
    run(server, adaptive, 20.0, concurrency=100)
    before = adaptive.limit
    server.latency = 1.0
    chance, now = random.Random(0), 20.0
    due = [server.answers_at(now, chance)] * 64
    for _ in range(4000):
        now = heapq.heappop(due)
        adaptive.answered(now, 1.0)
        heapq.heappush(due, now + 1.0)
    assert adaptive.limit >= 0.6 * before
    assert adaptive.unloaded == pytest.approx(1.0)


def test_an_overload_counts_once_for_the_calls_that_were_in_flight_together() -> None:
    adaptive = Adaptive(0.0, start=100)
    for _ in range(50):
        adaptive.overloaded(5.0)
    assert adaptive.limit == pytest.approx(70)
    for _ in range(50):
        adaptive.overloaded(7.0)
    assert adaptive.limit == pytest.approx(49)


def test_answers_that_take_longer_are_no_reason_to_ask_less() -> None:
    adaptive = Adaptive(0.0)
    for each in range(100):
        adaptive.answered(each / 100, 0.005)
    for _ in range(30):
        adaptive.overloaded(2.0)
    run(Server(2.5), adaptive, 2.0, concurrency=64)
    answers = run(Server(2.5), adaptive, 60.0, concurrency=16)
    assert between(answers, 30.0, 60.0)[0] >= 0.95 * 16 / 2.5


def test_after_an_outage_it_is_soon_back() -> None:
    adaptive, server = Adaptive(0.0), Server(2.5)
    run(server, adaptive, 60.0, concurrency=64)
    before = adaptive.limit
    for second in range(60, 120):
        for _ in range(5):
            adaptive.overloaded(float(second))
    assert adaptive.limit == 1.0
    now, answered = 120.0, 0
    while adaptive.limit < 0.69 * before:
        now += 2.5 / adaptive.limit
        adaptive.want()
        adaptive.answered(now, 2.5)
        answered += 1
    assert now < 140.0


@pytest.mark.parametrize("share", [0.001, 0.01, 0.03])
def test_a_few_refusals_are_no_overload(share: float) -> None:
    adaptive, chance = Adaptive(0.0), random.Random(1)
    now, answered = 0.0, 0
    while now < 60.0:
        now += 0.2 / min(adaptive.limit, 128)
        if adaptive.limit < 128:
            adaptive.want()
        if chance.random() < share:
            adaptive.overloaded(now)
        else:
            adaptive.answered(now, 0.2)
            answered += 1
    assert answered >= 0.85 * 640 * 60


def test_after_a_pause_it_begins_slowly_and_is_soon_back() -> None:
    adaptive = Adaptive(0.0)
    server = Server(0.2)
    run(server, adaptive, 10.0, concurrency=200)
    limit = adaptive.limit
    adaptive.restart(10.0)
    adaptive.restart(10.0)
    assert adaptive.limit == pytest.approx(limit / 4)
    now = 10.0
    for _ in range(2000):
        now += 0.2 / adaptive.limit
        adaptive.want()
        adaptive.answered(now, 0.2)
    assert now < 16.0
    assert adaptive.limit >= limit


def test_the_limit_is_not_raised_for_calls_that_nobody_makes() -> None:
    adaptive = Adaptive(0.0)
    for each in range(2000):
        adaptive.answered(each / 100, 0.2)
    assert adaptive.limit == 32


def test_what_is_refused_again_on_the_way_after_a_rate_limit_is_too_much() -> None:
    limited, overloaded = Adaptive(0.0, start=16), Adaptive(0.0, start=16)
    for now in (1.0, 3.0, 5.0):
        limited.restart(now, limited=True)
        overloaded.restart(now)
    assert (limited.limit, overloaded.limit) == (1.0, 4.0)
