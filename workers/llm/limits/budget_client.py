"""A run's money in this process: calls reserve what they may cost before they begin, and settle what they did cost.

    reserve -> within the allowance: at once; else in line until there is more, or the run stops settle  -> what it cost
    takes the place of what was reserved one task speaks with the coordinator, which holds the run's budget (see
    `batch.workflows.budget`): it asks for more before the allowance runs out, reports from time to time, gives back
    what is not needed, and closes the account at the end

Whatever becomes of a request, no more is reserved than the coordinator has allowed: while one is not answered
(Temporal is away), calls go on within what it said would be kept, and then wait. Only runs with `limits.max_cost_usd`
have a purse.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from temporalio.client import Client
from temporalio.exceptions import TemporalError
from temporalio.service import RPCError, RPCStatusCode

from batch.workflows import contracts as c
from batch.workflows.budget import CLOSED, EXHAUSTED, GRANTED, BudgetAnswer, BudgetRequest
from workers.llm.limits.stop import Brakes
from workers.llm.limits.waiting import raise_if_cancelled, sleep_unless

LOOK_AHEAD = 2.0
"""Seconds of spending that are left when more is asked for, and kept until the answer comes."""
HORIZON = 300.0
"""Seconds of spending that are asked for: what a process that dies can take with it at most."""
LINGER = 1.0
"""Seconds without partitions of the run after which its account is closed."""
CLOSE_WITHIN = 5.0
"""Seconds that the end of a partition waits for the account's last report, where the run stops here."""
ASK_EVERY = 0.15
"""Seconds at least between two requests: near the end of the money they would be many."""
ASK_AGAIN_FIRST, ASK_AGAIN_MOST = 0.3, 3.0
"""Seconds between two requests while others may still give money back."""
REPEAT_FIRST, REPEAT_MOST = 0.5, 10.0
"""Seconds between two attempts to reach the coordinator."""
LOOK_EVERY = 0.25
"""Seconds between two looks at what has no event: the run's brakes, and the clock."""

Ask = Callable[[BudgetRequest], Awaitable[BudgetAnswer]]
"""Asks the coordinator. Raises `TemporalError` (of which `RPCError` is one)."""

log = logging.getLogger(__name__)


def coordinator_of(temporal: Client, run_id: str) -> Ask:
    """Asks whichever execution holds the run's workflow id; a request that is sent again counts once."""

    async def ask(request: BudgetRequest) -> BudgetAnswer:
        answer: BudgetAnswer = await temporal.get_workflow_handle(run_id).execute_update(
            c.RESERVE_BUDGET,
            request,
            id=f"{request.account}-{request.number}",
            result_type=BudgetAnswer,
            rpc_timeout=timedelta(seconds=10),
        )
        return answer

    return ask


@dataclass(slots=True)
class _Account:
    """What this process may spend until the coordinator closes the account; US dollars, cumulative."""

    token: str
    epoch: int
    number: int = 0
    limit: float = 0.0
    """The allowance, or while a request is out, what it said would be kept."""
    spent: float = 0.0
    reserved: float = 0.0
    calls: int = 0
    low: float = 0.0
    """How little may be left before more is asked for."""
    report_at: float = math.inf
    handed_back: bool = False
    """Whether what is not needed was given back since the run stopped here."""

    @property
    def used(self) -> float:
        return self.spent + self.reserved

    @property
    def left(self) -> float:
        return self.limit - self.used


@dataclass(frozen=True, slots=True)
class Reservation:
    """Money set aside for a call, or for a batch of them; `Purse.settle` ends it."""

    usd: float
    calls: int
    account: _Account


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """One in line."""

    future: asyncio.Future[Reservation]
    expected: Callable[[], float]
    calls: int


class Purse:
    """One run's money in this process, shared by its partitions."""

    def __init__(self, ask: Ask, brakes: Brakes, *, name: str) -> None:
        self._ask, self._brakes, self._name = ask, brakes, name
        self._account: _Account | None = None
        self._line: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._speaker: asyncio.Task[None] | None = None
        self._idle_since: float | None = None
        self._spent = 0.0
        """Of all accounts: what the rate is measured by."""
        self._measured = (time.monotonic(), 0.0)
        self._rate = 0.0
        self._mean = 0.0
        self.call_usd = 0.0
        """What a call of the run costs, by other processes too; 0 while nobody knows."""

    async def reserve(
        self, expected: Callable[[], float], stopped: Callable[[], bool], *, calls: int = 1
    ) -> Reservation | None:
        """Sets money aside, first come first served; None if the caller was stopped before there was enough.

        `expected`: US dollars for so many calls together; asked again while it waits, since other calls may tell more.
        """
        account = self._opened()
        usd = expected()
        if not self._line and account.left >= usd:
            return self._take(account, usd, calls)
        future: asyncio.Future[Reservation] = asyncio.get_running_loop().create_future()
        entry = _Waiting(future, expected, calls)
        self._line.append(entry)
        self._wake.set()
        try:
            while not (future.done() or stopped()):
                self._opened()
                await asyncio.wait([future], timeout=LOOK_EVERY)
        except asyncio.CancelledError:
            if future.done():
                self.settle(future.result(), 0.0)
            raise
        finally:
            if not future.done():
                future.cancel()
                self._line.remove(entry)
                self._serve()
        if future.cancelled():
            return None
        if stopped():
            self.settle(future.result(), 0.0)
            return None
        return future.result()

    def settle(self, reservation: Reservation, usd: float, *, known: bool = True) -> None:
        """What the reservation's calls have cost; 0 if there were none. `known`: by what the provider says."""
        account = reservation.account
        account.calls -= 1
        account.reserved = account.reserved - reservation.usd if account.calls else 0.0
        account.spent += usd
        self._spent += usd
        if usd and known:
            mean = usd / reservation.calls
            first = not self._mean
            self._mean = self.call_usd = mean if first else self._mean + (mean - self._mean) / 50
            if first:
                account.report_at = 0.0  # what was reserved so far was guessed, and others still guess
                self._wake.set()
        if self._line:
            self._serve()
        elif not account.calls and self._idle_since is not None:
            self._wake.set()

    async def put_away(self) -> None:
        """There are no partitions of the run here now. If the run stops, waits until the coordinator knows it all."""
        if self._speaker is None or self._speaker.done():
            return
        self._idle_since = time.monotonic()
        self._wake.set()
        if self._brakes.stopped():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._speaker), CLOSE_WITHIN)

    def _opened(self) -> _Account:
        self._idle_since = None
        if self._account is None:
            self._account = _Account(secrets.token_hex(6), self._brakes.epoch)
        if self._speaker is not None and self._speaker.done() and not self._speaker.cancelled():
            self._speaker.result()  # raises what is a mistake of ours: nobody may wait for ever because of it
            self._speaker = None
        if self._speaker is None:
            self._speaker = asyncio.create_task(self._speak(), name=f"purse-{self._name}")
        return self._account

    def _take(self, account: _Account, usd: float, calls: int) -> Reservation:
        account.reserved += usd
        account.calls += 1
        if account.left < account.low:
            self._wake.set()
        return Reservation(usd, calls, account)

    def _serve(self) -> None:
        """Lets those go on for whom there is enough, in their order."""
        account = self._account
        while account is not None and self._line and account.left >= (usd := self._line[0].expected()):
            waiting = self._line.popleft()
            waiting.future.set_result(self._take(account, usd, waiting.calls))

    # -- the coordinator -----------------------------------------------------------------------------------------------

    async def _speak(self) -> None:
        """Asks and reports for as long as there is an account."""
        pause = ASK_AGAIN_FIRST
        while (account := self._account) is not None:
            while not self._has_to_say(account):
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), LOOK_EVERY)
            request = self._request(account)
            account.handed_back = self._is_held()
            if request.final:
                self._account = None  # whoever comes from here on opens another
            if request.final and request.number == 1:
                continue  # the coordinator has never heard of it
            account.number, account.limit = request.number, request.keeps
            answer = await self._exchange(request)
            if request.final:
                continue
            if answer.verdict == CLOSED:
                # By a resume, as if all of it had been spent; the calls in flight have their money.
                self._account = _Account(secrets.token_hex(6), self._brakes.epoch)
            else:
                self._take_over(account, answer)
            if answer.verdict == EXHAUSTED and account.epoch == self._brakes.epoch:
                self._brakes.out_of_money(
                    f"${answer.charged_usd:.6g} of limits.max_cost_usd ${answer.max_usd:.6g} are spent, and another "
                    f"call would cost about ${request.needed:.2g}: docbatch resume {self._name} --max-cost-usd X"
                )
            if answer.verdict == GRANTED:
                pause = ASK_AGAIN_FIRST
                await asyncio.sleep(ASK_EVERY)
            else:
                await sleep_unless(self._is_held, pause * random.uniform(0.7, 1.3))
                pause = min(ASK_AGAIN_MOST, pause * 2)

    def _take_over(self, account: _Account, answer: BudgetAnswer) -> None:
        account.limit = max(account.limit, answer.allowance)
        self.call_usd = self._mean or answer.call_usd
        account.report_at = time.monotonic() + answer.report_within * random.uniform(0.8, 1.0)
        self._serve()
        account.low = min(account.left / 2, self._rate * LOOK_AHEAD) if self._rate else account.left / 2

    def _has_to_say(self, account: _Account) -> bool:
        if self._is_over(account):
            return True
        if self._is_held():
            return account.number > 0 and account.left > 0 and not account.handed_back
        return bool(self._line) or account.left < account.low or time.monotonic() >= account.report_at

    def _is_held(self) -> bool:
        """Tells whether there are no further calls here for now; a drain still lets re-asks end, and they are paid."""
        return self._brakes.stopped() and not self._brakes.only_draining()

    def _is_over(self, account: _Account) -> bool:
        if self._idle_since is None or account.calls or self._line:
            return False
        return self._brakes.stopped() or time.monotonic() - self._idle_since >= LINGER

    def _request(self, account: _Account) -> BudgetRequest:
        self._measure()
        used, held = account.used, self._is_held()
        waiting = 0.0 if held else sum(each.expected() for each in self._line)
        ahead = 0.0 if held or waiting else min(account.left, self._rate * LOOK_AHEAD)
        return BudgetRequest(
            account=account.token,
            number=account.number + 1,
            epoch=account.epoch,
            spent=account.spent,
            keeps=used + max(0.0, ahead),
            waiting=waiting,
            needed=self._line[0].expected() if waiting else 0.0,
            wanted=0.0 if held else max(self._rate * HORIZON, account.reserved + waiting),
            rate=self._rate,
            call_usd=self._mean,
            final=self._is_over(account),
        )

    def _measure(self) -> None:
        now = time.monotonic()
        at, spent = self._measured
        if now - at < 0.5:
            return
        rate = (self._spent - spent) / (now - at)
        self._rate = (self._rate + rate) / 2 if self._rate else rate
        self._measured = now, self._spent

    async def _exchange(self, request: BudgetRequest) -> BudgetAnswer:
        """Returns the coordinator's answer, however long it takes to reach it."""
        pause = REPEAT_FIRST
        while True:
            try:
                return await self._ask(request)
            except TemporalError as error:
                raise_if_cancelled()
                if request.final and isinstance(error, RPCError) and error.status == RPCStatusCode.NOT_FOUND:
                    return BudgetAnswer(CLOSED, request.spent, 0.0, 0.0, 0.0, 0.0)  # the run is over
                log.warning(
                    "the coordinator of %s was not reached for its budget, calls beyond $%.6g wait: %s",
                    self._name,
                    request.keeps,
                    error,
                )
            await asyncio.sleep(pause * random.uniform(0.7, 1.3))
            pause = min(REPEAT_MOST, pause * 2)
