"""What an answer costs, by the prices that genai-prices carries; no network."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from batch.local import SIMULATED_PREFIX

Pricer = Callable[[int, int, int], float | None]
"""(prompt tokens, cached among them, completion tokens) -> US dollars, None where the price is not known."""


def pricer(model: str) -> Pricer:
    """The price function of a model. Simulated models cost nothing; a model without a known price gives None."""
    if model.startswith(SIMULATED_PREFIX):
        return lambda prompt, cached, completion: 0.0
    from genai_prices import Usage, calc_price

    try:
        price = calc_price(Usage(input_tokens=1, output_tokens=1), model_ref=model).model_price
    except LookupError:
        return lambda prompt, cached, completion: None
    flat = (price.input_mtok, price.cache_read_mtok or price.input_mtok, price.output_mtok)
    if all(isinstance(part, Decimal) for part in flat):
        per_token = [float(part) / 1e6 for part in flat if isinstance(part, Decimal)]
        return lambda prompt, cached, completion: (
            (prompt - cached) * per_token[0] + cached * per_token[1] + completion * per_token[2]
        )

    def tiered(prompt: int, cached: int, completion: int) -> float | None:
        usage = Usage(input_tokens=prompt, cache_read_tokens=cached, output_tokens=completion)
        return float(calc_price(usage, model_ref=model).total_price)

    return tiered
