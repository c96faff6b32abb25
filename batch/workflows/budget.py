"""A run's `max_cost_usd`: how much each worker process may still spend. Pure accounting, held by the coordinator.

Without state or clock of its own: it passes through the workflow sandbox (`workers/process/sandbox.py`).

    worker process                                       coordinator
    a call: reserve what it may cost
            settle what it did cost    -- request -->    spent so far, what it keeps, what it wants
                                       <-- answer --     the new allowance, or wait, or exhausted

A process opens an account and draws allowances on it ahead of its calls, so that they seldom wait for the round trip.
All amounts are cumulative within an account and requests are numbered, so a request that comes twice counts once. What
is charged to the run never passes the maximum: it is what accounts that are closed have spent, and of each open one its
whole allowance, spent or not. So a process that dies takes with it what it was allowed and has not spent, but never
more; the shares that are handed out shrink with what is left, and with them what can be lost.

Each request gives back what its process does not need before the answer comes. So when nobody may begin another call,
nobody sits on money either, and `exhausted` is said to the first that asks once no other can still give some back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

GRANTED = "granted"
"""There is at least enough for one of the calls that wait."""
WAIT = "wait"
"""Others, or calls in flight of its own, may still give some back: ask again."""
EXHAUSTED = "exhausted"
"""No further call fits into the maximum."""
CLOSED = "closed"
"""The account is of an epoch that is over, or is not known: open another."""

SHARES = 4
"""What is left is handed out in this many shares for each open account."""
LEAST_ACCOUNTS = 4
"""Accounts that a share is reckoned for at least: the first process to ask is seldom the only one."""
MOST_ACCOUNTS = 256
"""Open accounts at most. One that was due longest ago is closed for another, as if it had spent all it was allowed."""
REPORT_LEAST, REPORT_MOST = 10.0, 300.0
"""Seconds within which an account has to be heard of again."""
REPORT_GRACE = 2.5
"""Seconds that a report may be late before nobody waits for what it might give back."""


@dataclass(frozen=True)
class BudgetRequest:
    """An account's word to the coordinator. US dollars; `spent` and `keeps` are cumulative."""

    account: str
    number: int
    """1, 2, ...: one at a time, repeated until it is answered."""
    epoch: int
    spent: float
    """What calls have cost that are settled."""
    keeps: float
    """Spent, reserved for calls in flight, and what may be reserved until the answer comes; the rest is given back."""
    waiting: float = 0.0
    """What the calls would cost that wait for money."""
    needed: float = 0.0
    """What the cheapest of them would cost."""
    wanted: float = 0.0
    """What it would like to have beyond `keeps`."""
    rate: float = 0.0
    """What it spends a second."""
    call_usd: float = 0.0
    """The mean cost of its calls so far; 0: it has none yet, and what it asks for is a guess."""
    final: bool = False
    """Nothing is in flight any more: what is spent counts, and the account is closed."""


@dataclass(frozen=True)
class BudgetAnswer:
    """`allowance`: what the account may spend, cumulative. The next report is due within `report_within` seconds."""

    verdict: str
    allowance: float
    report_within: float
    max_usd: float
    charged_usd: float
    call_usd: float
    """What a call of the run costs, by the last process that knew; 0: none has answered yet."""


@dataclass(frozen=True)
class Account:
    """What one worker process may spend in one epoch, as of its last request."""

    number: int
    allowance: float
    spent: float
    opened_at: float
    due_at: float
    """Seconds of the workflow's clock after which it counts as dead, until it is heard of again."""

    @property
    def charged(self) -> float:
        return max(self.allowance, self.spent)


@dataclass
class Budget:
    """The budget of a run, in US dollars. `closed_usd` is what was spent before, and by accounts that are closed."""

    max_usd: float
    closed_usd: float = 0.0
    epoch: int = 1
    call_usd: float = 0.0
    accounts: dict[str, Account] = field(default_factory=dict)

    @property
    def charged_usd(self) -> float:
        """Spent, or allowed to somebody who may be spending it: what counts against the maximum."""
        return self.closed_usd + sum(account.charged for account in self.accounts.values())

    @property
    def spent_usd(self) -> float:
        """What is known to be spent."""
        return self.closed_usd + sum(account.spent for account in self.accounts.values())

    def begin_epoch(self, epoch: int) -> None:
        """Closes all accounts: what they were allowed and never reported counts as spent."""
        self.closed_usd = self.charged_usd
        self.accounts.clear()
        self.epoch = epoch

    def ask(self, request: BudgetRequest, now: float, *, may_grant: bool = True) -> BudgetAnswer:
        """Takes a report and answers it. `may_grant`: whether the run may call the model at all just now."""
        account = self.accounts.get(request.account)
        if request.epoch != self.epoch or (account is None and request.number != 1):
            return self._answer(CLOSED, request.spent)
        if account is not None and request.number <= account.number:
            return self._answer(WAIT, account.allowance)  # it came twice, and has counted
        self.accounts.pop(request.account, None)
        if request.final:
            self.closed_usd += request.spent
            return self._answer(CLOSED, request.spent)
        self._make_room()
        self.call_usd = request.call_usd or self.call_usd
        left = max(0.0, self.max_usd - self.charged_usd - request.keeps)
        granted = self._grant(request, left) if may_grant else 0.0
        allowance = request.keeps + granted
        opened_at = account.opened_at if account is not None else now
        term = _term(request, allowance, now - opened_at)
        self.accounts[request.account] = Account(
            request.number, allowance, request.spent, opened_at, now + term + REPORT_GRACE
        )
        if not request.waiting or granted >= request.needed:
            verdict = GRANTED
        elif may_grant and not self._may_come_back(request, now):
            verdict = EXHAUSTED
        else:
            verdict = WAIT
        return self._answer(verdict, allowance, term)

    def awaits(self, now: float) -> bool:
        """Whether there is an open account of which a report is still to be expected."""
        return any(account.due_at >= now for account in self.accounts.values())

    def _grant(self, request: BudgetRequest, left: float) -> float:
        """A share of what is left, which shrinks with it; but calls that wait get what they need while it lasts."""
        if left < request.needed:
            return 0.0
        share = left / (SHARES * max(len(self.accounts) + 1, LEAST_ACCOUNTS))
        if (
            not self.call_usd
        ):  # the first answers will tell: until then nobody may take it all for calls of unknown cost
            return min(left, max(0.0, max(request.needed, share) - (request.keeps - request.spent)))
        return min(left, max(request.waiting, min(request.wanted, share)))

    def _may_come_back(self, request: BudgetRequest, now: float) -> bool:
        """Whether anybody still has money that is not spent: calls in flight, mostly, that may turn out cheaper."""
        least = 1e-9 * self.max_usd
        if request.keeps - request.spent > least:
            return True
        return any(
            account.allowance - account.spent > least and account.due_at >= now
            for name, account in self.accounts.items()
            if name != request.account
        )

    def _make_room(self) -> None:
        while len(self.accounts) >= MOST_ACCOUNTS:
            oldest = min(self.accounts, key=lambda name: (self.accounts[name].due_at, name))
            self.closed_usd += self.accounts.pop(oldest).charged

    def _answer(self, verdict: str, allowance: float, report_within: float = REPORT_LEAST) -> BudgetAnswer:
        return BudgetAnswer(verdict, allowance, report_within, self.max_usd, self.charged_usd, self.call_usd)


def _term(request: BudgetRequest, allowance: float, age: float) -> float:
    """Twice the time in which the allowance will be used up, but no longer than the account has been open."""
    if request.rate <= 0:
        return REPORT_LEAST
    return min(REPORT_MOST, max(REPORT_LEAST, min(age, 2 * (allowance - request.spent) / request.rate)))


@dataclass(frozen=True)
class BudgetView:
    """What a run's budget looks like from outside, in US dollars."""

    max_usd: float
    charged_usd: float
    """Spent, or set aside for worker processes that are spending it."""
    spent_usd: float

    @classmethod
    def of(cls, budget: Budget | None) -> BudgetView | None:
        return cls(budget.max_usd, budget.charged_usd, budget.spent_usd) if budget is not None else None
