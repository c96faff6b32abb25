"""What a call will cost, learnt from those that were made, and online calls that pay for themselves out of a purse."""

from __future__ import annotations

import math
from collections.abc import Callable

from workers.llm.prices import Pricer
from workers.purse import Purse, Reservation

BYTES_PER_TOKEN = 4.0
"""Of a request, until usage shows better."""
FIRST_COMPLETION = 1000
"""Tokens that an answer is taken for before the first one, where the job names no maximum."""
REMEMBERED = 1000
"""Calls that the means look back on, roughly: the older half fades."""


class CallCost:
    """Means over the calls of one run in this process: tokens per byte of a request, and tokens of an answer.

    What is expected is the mean, not the most: over all calls in flight together, reserved is then close to spent.
    """

    def __init__(self, price: Pricer, max_output_tokens: int | None) -> None:
        self._price = price
        self._first_completion = max_output_tokens or FIRST_COMPLETION
        self._calls = self._bytes = self._prompt = self._cached = self._completion = 0.0

    def expected(self, size: int, others: float = 0.0) -> float:
        """US dollars, for a request of `size` bytes. `others`: what calls cost in other processes, 0: not known."""
        if not self._calls:
            prompt = math.ceil(size / BYTES_PER_TOKEN)
            return max(others, self.of(prompt, 0, 0)) if others else self.of(prompt, 0, self._first_completion)
        # By the means' ratio, or by the difference from their length: requests have parts that cost no tokens, so what
        # a long one costs must not be concluded from short ones alone. What is too much comes back when it settles.
        longer = (size - self._bytes / self._calls) / BYTES_PER_TOKEN
        tokens = max(size * self._prompt / self._bytes, self._prompt / self._calls + longer)
        cached = tokens * self._cached / self._prompt if self._prompt else 0.0
        return self.of(math.ceil(tokens), int(cached), math.ceil(self._completion / self._calls))

    def of(self, prompt: int, cached: int, completion: int) -> float:
        """US dollars for so many tokens. A run with a budget is refused where the price is not known."""
        return self._price(prompt, cached, completion) or 0.0

    def learn(self, size: int, prompt: int, cached: int, completion: int) -> None:
        if self._calls >= REMEMBERED:
            self._calls, self._bytes, self._prompt, self._cached, self._completion = (
                total / 2 for total in (self._calls, self._bytes, self._prompt, self._cached, self._completion)
            )
        self._calls += 1
        self._bytes += size
        self._prompt += prompt
        self._cached += cached
        self._completion += completion


class CallBudget:
    """Pays a run's online calls out of its purse."""

    def __init__(self, purse: Purse, cost: CallCost) -> None:
        self._purse, self._cost = purse, cost

    async def reserve(self, size: int, stopped: Callable[[], bool]) -> Reservation | None:
        """Waits for the money for a request of `size` bytes; None when stopped before."""
        return await self._purse.reserve(lambda: self._cost.expected(size, self._purse.call_usd), stopped)

    def settle(self, reservation: Reservation, size: int, tokens: tuple[int, int, int], *, refused: bool) -> None:
        """`tokens`: prompt, cached among them, completion, as the provider counts them; it may not have said.

        Then a call that it `refused` cost nothing, and any other what was expected: sent and never answered, for
        example, since the provider may bill it.
        """
        if any(tokens):
            self._cost.learn(size, *tokens)
            self._purse.settle(reservation, self._cost.of(*tokens))
        else:
            self._purse.settle(reservation, 0.0 if refused else reservation.usd, known=False)
