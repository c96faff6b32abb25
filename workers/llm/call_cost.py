"""What a call will take and cost, before it is made: learnt from those that were made. And who pays for it."""

from __future__ import annotations

import math
from collections.abc import Callable

from workers.llm.limits.budget_client import Purse, Reservation
from workers.llm.prices import Pricer

BYTES_PER_TOKEN = 4.0
"""Of a request, until usage shows better."""
FIRST_COMPLETION = 1000
"""Tokens that an answer is taken for before the first one, where the job names no maximum."""
REMEMBERED = 1000
"""Calls that the means look back on, roughly: the older half fades."""


class Expected:
    """Means over the calls of one run in this process: tokens per byte of a request, and tokens of an answer.

    What is expected is the mean, not the most: over all calls in flight together, reserved is then close to used.
    """

    def __init__(self, most_completion: int | None) -> None:
        self._first_completion = most_completion or FIRST_COMPLETION
        self._calls = self._bytes = self._prompt = self._cached = self._completion = 0.0

    @property
    def is_guess(self) -> bool:
        """Tells whether no call has told yet."""
        return not self._calls

    def tokens(self, size: int) -> tuple[int, int, int]:
        """Prompt, cached among them, completion, for a request of `size` bytes."""
        if not self._calls:
            return math.ceil(size / BYTES_PER_TOKEN), 0, self._first_completion
        # By the means' ratio, or by the difference from their length: requests have parts that cost no tokens, so what
        # a long one takes must not be concluded from short ones alone. What is too much comes back when it settles.
        longer = (size - self._bytes / self._calls) / BYTES_PER_TOKEN
        prompt = max(size * self._prompt / self._bytes, self._prompt / self._calls + longer)
        cached = prompt * self._cached / self._prompt if self._prompt else 0.0
        return math.ceil(prompt), int(cached), math.ceil(self._completion / self._calls)

    def learn(self, size: int, prompt: int, cached: int, completion: int) -> None:
        """What a call with a body of so many bytes really took; a provider that counts nothing teaches nothing."""
        if prompt <= 0 or size <= 0:
            return
        if self._calls >= REMEMBERED:
            self._calls, self._bytes, self._prompt, self._cached, self._completion = (
                total / 2 for total in (self._calls, self._bytes, self._prompt, self._cached, self._completion)
            )
        self._calls += 1
        self._bytes += size
        self._prompt += prompt
        self._cached += cached
        self._completion += completion


class CallCost:
    """The price of calls of one run, before and after they are made."""

    def __init__(self, price: Pricer, expected: Expected) -> None:
        self._price, self._expected = price, expected

    def expected(self, size: int, others: float = 0.0) -> float:
        """US dollars, for a request of `size` bytes. `others`: what calls cost in other processes, 0: not known."""
        prompt, cached, completion = self._expected.tokens(size)
        if self._expected.is_guess and others:
            return max(others, self.of(prompt, 0, 0))
        return self.of(prompt, cached, completion)

    def of(self, prompt: int, cached: int, completion: int, written: int = 0) -> float:
        """US dollars for so many tokens. A run with a budget is refused where the price is not known."""
        return self._price(prompt, cached, completion, written) or 0.0


class CallBudget:
    """Pays a run's online calls out of its purse."""

    def __init__(self, purse: Purse, cost: CallCost) -> None:
        self._purse, self._cost = purse, cost

    async def reserve(self, size: int, stopped: Callable[[], bool]) -> Reservation | None:
        """Waits for the money for a request of `size` bytes; None when stopped before."""
        return await self._purse.reserve(lambda: self._cost.expected(size, self._purse.call_usd), stopped)

    def settle(self, reservation: Reservation, tokens: tuple[int, int, int, int], *, refused: bool) -> None:
        """`tokens`: prompt, cached among them, completion, written to a cache, by the provider; it may not have said.

        Then a call that it `refused`, or that was never made, cost nothing, and any other what was expected: sent and
        never answered, for example, since the provider may bill it.
        """
        if any(tokens):
            self._purse.settle(reservation, self._cost.of(*tokens))
        else:
            self._purse.settle(reservation, 0.0 if refused else reservation.usd, known=False)
