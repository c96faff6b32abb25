"""What an answer costs: by the job's own prices, else by those that genai-prices carries; no network.

Published prices are those of a provider at its own address. What a server of one's own costs, which may well give the
name of a hosted model to what it serves, nobody has published: its answers have no known price.
"""

from __future__ import annotations

import logging
import os
import re
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Protocol

from batch.job.job import Job
from batch.job.model import SIMULATED_PREFIX, Model

if TYPE_CHECKING:
    from workers.llm.answer import Answer


class Pricer(Protocol):
    """Prices tokens in US dollars, None where the price is not known.

    `prompt` holds `cached`, those read from a cache, and `written`, those written to one.
    """

    def __call__(self, prompt: int, cached: int, completion: int, written: int = 0, /) -> float | None: ...


BATCH_FACTOR = 0.5
"""What an answer of a provider's Batch API costs, of its online price: https://platform.openai.com/docs/guides/batch"""

OPENAI = "https://api.openai.com/v1"
"""Where the openai SDK asks unless `OPENAI_BASE_URL` says otherwise."""
_OF_A_REGION = re.compile(r"^https://[a-z]+\.api\.openai\.com(?=/|$)")
"""https://developers.openai.com/api/docs/guides/your-data"""

log = logging.getLogger(__name__)


def pricer(model: Model, *, batch: bool = False) -> Pricer:
    """Returns the price function of a model, online or for answers of the provider's Batch API.

    Simulated models cost nothing unless the job says a price; a model without a known price gives None, and so does one
    of an endpoint (`OPENAI_BASE_URL`) that is no known provider's.
    """
    factor = BATCH_FACTOR if batch else 1.0
    if model.prices is not None:
        prices = model.prices
        cached_input = prices.input if prices.cached_input is None else prices.cached_input
        return _flat(prices.input * factor, cached_input * factor, prices.output * factor)
    if model.name.startswith(SIMULATED_PREFIX):
        return _flat(0.0, 0.0, 0.0)
    from genai_prices import Usage, calc_price

    endpoint = _OF_A_REGION.sub("https://api.openai.com", os.environ.get("OPENAI_BASE_URL") or OPENAI)
    try:
        usage = Usage(input_tokens=1, output_tokens=1)
        price = calc_price(usage, model_ref=model.name, provider_api_url=endpoint).model_price
    except LookupError:
        _say_once(model.name, endpoint)
        return _unknown
    write = price.cache_write_mtok or price.input_mtok
    flat = (price.input_mtok, price.cache_read_mtok or price.input_mtok, price.output_mtok, write)
    if all(isinstance(part, Decimal) for part in flat):
        return _flat(*(float(part) * factor for part in flat if isinstance(part, Decimal)))

    def tiered(prompt: int, cached: int, completion: int, written: int = 0, /) -> float | None:
        usage = Usage(
            input_tokens=prompt, cache_read_tokens=cached, cache_write_tokens=written, output_tokens=completion
        )
        return float(calc_price(usage, model_ref=model.name, provider_api_url=endpoint).total_price) * factor

    return tiered


@cache
def _say_once(model: str, endpoint: str) -> None:
    log.warning(
        "the price of %s at %s is not known: cost_usd stays empty; model.prices of the job says it", model, endpoint
    )


def unpriced_budget(job: Job) -> str:
    """What is wrong with a job that has a maximum cost and a model whose price is not known; empty if nothing is."""
    if job.limits.max_cost_usd is None or pricer(job.model)(1, 0, 1) is not None:
        return ""
    return (
        f"limits.max_cost_usd: the price of {job.model.name!r} is not known at the worker's endpoint, so nobody could "
        "say when it is reached; give model.prices (US dollars a million tokens: input, output, cached_input), or "
        "leave out the limit"
    )


def cost_of(answer: Answer, price: Pricer) -> float | None:
    """US dollars that an answer cost, None where its price is not known, or what it used."""
    if answer.uncounted:
        return None
    return price(answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens, answer.cache_write_tokens)


def _unknown(prompt: int, cached: int, completion: int, written: int = 0, /) -> float | None:
    return None


def _flat(input_mtok: float, cached_mtok: float, output_mtok: float, write_mtok: float | None = None) -> Pricer:
    """Of prices in US dollars a million tokens; what is written to a cache is input, unless it has a price."""
    fresh, cached_each, output = input_mtok / 1e6, cached_mtok / 1e6, output_mtok / 1e6
    dearer = 0.0 if write_mtok is None else write_mtok / 1e6 - fresh

    def flat(prompt: int, cached: int, completion: int, written: int = 0, /) -> float:
        return (prompt - cached) * fresh + cached * cached_each + completion * output + written * dearer

    return flat
