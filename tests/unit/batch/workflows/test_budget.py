"""The accounting of a run's maximum cost: never more than it, all of it, whoever dies, asks twice or resumes."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from temporalio.converter import DataConverter

from batch.workflows import budget as budget_module
from batch.workflows.budget import (
    CLOSED,
    EXHAUSTED,
    GRANTED,
    REPORT_GRACE,
    REPORT_LEAST,
    REPORT_MOST,
    WAIT,
    Budget,
    BudgetAnswer,
    BudgetRequest,
)


def first(account: str = "a", **more: float) -> BudgetRequest:
    return replace(BudgetRequest(account, 1, epoch=1, spent=0.0, keeps=0.0, call_usd=1.0), **more)  # type: ignore[arg-type]


# -- many worker processes at once, as a simulation


@dataclass
class Holder:
    """A worker process as `workers.llm.limits.budget_client` is one, in steps instead of seconds."""

    name: str
    account: str = ""
    number: int = 0
    limit: float = 0.0
    spent: float = 0.0
    calls: list[float] = field(default_factory=list)
    given_up: bool = False

    @property
    def used(self) -> float:
        return self.spent + sum(self.calls)


class Run:
    """A budget, its holders, and what the provider really was paid. All calls are expected to cost what they do."""

    def __init__(self, seed: int, holders: int, max_usd: float, overrun: float) -> None:
        self.random = random.Random(seed)
        self.budget = Budget(max_usd)
        self.now = 0.0
        self.overrun = overrun
        self.paid = self.over = self.lost = 0.0
        self.accounts = self.requests = 0
        self.holders = [self.new_holder() for _ in range(holders)]
        self.estimate = max_usd / self.random.choice([30, 300])

    def new_holder(self) -> Holder:
        self.accounts += 1
        return Holder(f"h{self.accounts}", account=f"a{self.accounts}")

    def cost(self) -> float:
        return self.estimate * self.random.uniform(0.5, 1.0)

    def ask(self, holder: Holder, *, waiting: float = 0.0, final: bool = False, answered: bool = True) -> BudgetAnswer:
        request = BudgetRequest(
            holder.account,
            holder.number + 1,
            self.budget.epoch,
            spent=holder.spent,
            keeps=holder.used,
            waiting=waiting,
            needed=min(waiting, self.estimate),
            wanted=self.random.uniform(0, 20) * self.estimate,
            rate=self.random.choice([0.0, self.estimate, 100 * self.estimate]),
            call_usd=self.estimate if holder.spent else 0.0,
            final=final,
        )
        self.requests += 1
        answer = self.budget.ask(request, self.now)
        if self.random.random() < 0.2 or not answered:  # it is sent again, since the answer was lost
            again = self.budget.ask(request, self.now)
            assert again.allowance == answer.allowance
        holder.number += 1
        holder.limit = answer.allowance
        if final or answer.verdict == CLOSED:
            self.accounts += 1
            holder.account, holder.number, holder.limit, holder.spent = f"a{self.accounts}", 0, 0.0, 0.0
        return answer

    def begin_calls(self, holder: Holder) -> None:
        while holder.limit - holder.used >= self.estimate and len(holder.calls) < 10:
            holder.calls.append(self.estimate)

    def end_call(self, holder: Holder) -> None:
        if holder.calls:
            holder.calls.pop()
            cost = self.cost() * (self.overrun if self.random.random() < 0.1 else 1.0)
            self.over += max(0.0, cost - self.estimate)
            self.paid += cost
            holder.spent += cost

    def kill(self, holder: Holder) -> None:
        """Its calls in flight are paid all the same; what it was allowed beyond is lost to the run."""
        while holder.calls:
            self.end_call(holder)
        self.lost += max(0.0, holder.limit - holder.spent)
        self.holders[self.holders.index(holder)] = self.new_holder()

    def check(self) -> None:
        assert self.paid <= self.budget.max_usd + self.over + 1e-9
        assert self.budget.charged_usd <= self.budget.max_usd + self.over + 1e-9

    def until_exhausted(self, kills: int) -> None:
        for _ in range(100_000):
            self.now += self.random.uniform(0.0, 0.5)
            holder = self.random.choice(self.holders)
            what = self.random.random()
            if what < 0.5:
                self.end_call(holder)
            elif what < 0.55 and kills:
                kills -= 1
                self.kill(holder)
            elif what < 0.57 and not holder.calls and holder.number:
                self.ask(holder, final=True)  # it has no partitions for a while
            else:
                self.begin_calls(holder)
                if len(holder.calls) < 10:
                    answer = self.ask(holder, waiting=self.estimate * (10 - len(holder.calls)))
                    self.begin_calls(holder)
                    if answer.verdict == EXHAUSTED:
                        return
            self.check()
        raise AssertionError("nobody was told that the budget is exhausted")


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    holders=st.integers(1, 6),
    max_usd=st.sampled_from([0.001, 1.0, 5000.0]),
    kills=st.integers(0, 3),
    overrun=st.sampled_from([1.0, 3.0]),
)
def test_never_more_than_the_maximum_and_all_of_it(
    seed: int, holders: int, max_usd: float, kills: int, overrun: float
) -> None:
    run = Run(seed, holders, max_usd, overrun)
    for generation in range(3):
        run.until_exhausted(kills)
        for holder in run.holders:
            while holder.calls:
                run.end_call(holder)
        run.check()
        # What nobody spent is less than one call, what dead ones took with them, and what those sit on who were not
        # heard of in time.
        silent = sum(max(0.0, holder.limit - holder.spent) for holder in run.holders)
        assert run.paid + run.lost + silent >= run.budget.max_usd - run.estimate - 1e-9
        if holders == 1:
            assert run.paid + run.lost >= run.budget.max_usd - 2 * run.estimate - 1e-9
        run.budget.max_usd *= 2
        run.budget.begin_epoch(generation + 2)
        for holder in run.holders:  # as the answer `closed` tells them
            unspent = max(0.0, holder.limit - holder.spent) if holder.number else 0.0
            run.lost += unspent
            holder.account, holder.number, holder.limit, holder.spent = f"{holder.account}/{generation}", 0, 0.0, 0.0
    assert len(run.budget.accounts) <= len(run.holders) + 3 * (kills + 1)


def test_the_number_of_requests_grows_with_the_logarithm_of_the_calls() -> None:
    """One process that asks for as much as it can get whenever half of what it got is spent; a call costs 1."""
    counts = []
    for calls in (1_000, 1_000_000):
        budget, spent, allowance = Budget(float(calls)), 0.0, 0.0
        for number in range(1, 1000):
            waiting = 1.0 if allowance - spent < 1 else 0.0
            keeps = spent if waiting else allowance
            answer = budget.ask(BudgetRequest("a", number, 1, spent, keeps, waiting, waiting, 1e9, 1.0, 1.0), 0.0)
            allowance = answer.allowance
            if answer.verdict == EXHAUSTED:
                break
            spent += max(1, (allowance - spent) // 2) if allowance - spent >= 1 else 0
        assert spent == calls
        counts.append(number)
    print(f"{counts} requests for 1,000 and 1,000,000 calls")
    assert counts[1] < 4 * counts[0] < 800


# -- one rule a test


def test_a_request_that_comes_twice_counts_once() -> None:
    budget = Budget(10.0)
    asked = first(waiting=2.0, needed=1.0, wanted=100.0)
    one, two = budget.ask(asked, 0.0), budget.ask(asked, 0.0)
    assert (one.verdict, one.allowance, two.allowance) == (GRANTED, 2.0, 2.0)
    assert budget.charged_usd == 2.0
    final = BudgetRequest("a", 2, 1, spent=1.5, keeps=1.5, final=True)
    assert {budget.ask(final, 0.0).verdict for _ in range(3)} == {CLOSED}
    assert (budget.charged_usd, budget.spent_usd, budget.accounts) == (1.5, 1.5, {})


def test_what_a_dead_process_was_allowed_counts_as_spent_after_the_resume_too() -> None:
    budget = Budget(10.0)
    budget.ask(first("dead", waiting=4.0, needed=1.0), 0.0)
    budget.begin_epoch(2)
    assert budget.charged_usd == budget.spent_usd == 4.0
    late = BudgetRequest("dead", 2, 1, spent=3.0, keeps=3.0)
    assert budget.ask(late, 0.0).verdict == CLOSED
    assert budget.charged_usd == 4.0


def test_others_are_waited_for_until_they_are_overdue() -> None:
    budget = Budget(10.0)
    budget.ask(first("other", waiting=9.5, needed=1.0), 0.0)
    waiting = first("a", waiting=1.0, needed=1.0)
    assert budget.ask(waiting, 1.0).verdict == WAIT
    again = replace(waiting, number=2)
    assert budget.ask(again, REPORT_LEAST + REPORT_GRACE + 1).verdict == EXHAUSTED
    # It lives after all, and gives back what it does not need.
    budget.ask(BudgetRequest("other", 2, 1, spent=2.0, keeps=2.0), 100.0)
    assert budget.ask(replace(waiting, number=3), 100.0).verdict == GRANTED


def test_its_own_calls_in_flight_are_waited_for() -> None:
    budget = Budget(1.0)
    assert budget.ask(first(waiting=1.0, needed=0.5), 0.0).allowance == 1.0
    asked = BudgetRequest("a", 2, 1, spent=0.2, keeps=1.0, waiting=0.5, needed=0.5)
    assert budget.ask(asked, 0.0).verdict == WAIT
    assert budget.ask(replace(asked, number=3, spent=0.4, keeps=0.4), 0.0).verdict == GRANTED


def test_a_paused_run_grants_nothing_and_takes_what_is_given_back() -> None:
    budget = Budget(10.0)
    budget.ask(first(waiting=4.0, needed=1.0), 0.0)
    back = BudgetRequest("a", 2, 1, spent=1.0, keeps=1.0, waiting=1.0, needed=1.0)
    answer = budget.ask(back, 0.0, may_grant=False)
    assert (answer.verdict, answer.allowance, budget.charged_usd) == (WAIT, 1.0, 1.0)


def test_while_nobody_knows_what_a_call_costs_nobody_gets_it_all() -> None:
    budget = Budget(16.0)
    guess = first(waiting=100.0, needed=2.0, call_usd=0.0)
    assert budget.ask(guess, 0.0).allowance == 2.0
    assert budget.ask(replace(guess, number=2, keeps=2.0), 0.0).verdict == WAIT
    assert budget.ask(replace(guess, account="b"), 0.0).allowance == 2.0
    known = replace(guess, number=3, spent=0.1, keeps=0.1, waiting=5.0, needed=0.1, call_usd=0.1)
    assert (budget.ask(known, 0.0).allowance, budget.call_usd) == (5.1, 0.1)
    assert budget.ask(replace(guess, account="c"), 0.0).call_usd == 0.1


def test_a_young_account_is_soon_overdue_and_an_old_one_reports_seldom() -> None:
    budget = Budget(1000.0)
    asked = first(waiting=1.0, needed=1.0, wanted=100.0, rate=0.001)
    assert budget.ask(asked, 0.0).report_within == REPORT_LEAST
    assert budget.ask(replace(asked, number=2), 60.0).report_within == 60.0
    assert budget.ask(replace(asked, number=3), 6000.0).report_within == REPORT_MOST


def test_the_number_of_accounts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_module, "MOST_ACCOUNTS", 3)
    budget = Budget(100.0)
    for number in range(10):
        budget.ask(first(f"a{number}", waiting=1.0, needed=1.0), float(number))
    assert sorted(budget.accounts) == ["a7", "a8", "a9"]
    assert budget.charged_usd == pytest.approx(10.0)


async def test_it_survives_continue_as_new_as_json() -> None:
    budget = Budget(10.0, 1.5, 3)
    budget.ask(replace(first(waiting=4.0, needed=1.0), epoch=3), 7.0)
    converter = DataConverter.default
    (read,) = await converter.decode(await converter.encode([budget]), [Budget])
    assert read == budget
