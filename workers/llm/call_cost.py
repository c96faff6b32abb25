"""What a call will cost, and online calls that pay for themselves out of a purse."""

from __future__ import annotations

from collections.abc import Callable

from workers.llm.expected import Expected
from workers.llm.limits.budget_client import Purse, Reservation
from workers.llm.prices import Pricer


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
