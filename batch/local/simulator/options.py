"""How the simulated provider behaves: options that are flags, and change while it runs."""

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from batch.local.simulator.refusals import ERRORS

# What can hit a single request, in the order in which one draw is spent on the rates. Only the second kind is paid.
UNANSWERED = ("500", "503", "429", "timeout", "reset")
ODD_ANSWERS = ("malformed", "truncated", "refusal", "content_filter", "invalid")
FAIL_ALL = (*list(ERRORS)[:8], "drop")


def _option(default: Any, text: str, choices: tuple[str, ...] | None = None) -> Any:
    return field(default=default, metadata={"help": text, "choices": choices})


def _rate(what: str) -> Any:
    return _option(0.0, f"share of requests (0 to 1) that {what}")


@dataclass(frozen=True, kw_only=True)
class ProviderOptions:
    """How the provider behaves; each is a flag of the same name, and changes while it runs by `POST /control`."""

    latency: float = _option(0.0, "seconds that every answer takes, from its request's arrival on")
    latency_median: float = _option(0.0, "median of a lognormal latency in seconds, on top of the fixed one")
    latency_sigma: float = _option(0.0, "sigma of the lognormal latency")
    capacity: float = _option(0.0, "answers a second of the whole service; more wait in line (0: no limit)")
    requests_per_minute: float = _option(0.0, "limit beyond which requests get a 429 (0: none)")
    tokens_per_minute: float = _option(0.0, "limit of tokens beyond which requests get a 429 (0: none)")
    burst_seconds: float = _option(1.0, "seconds of a limit that may be used at once")
    token_charge: str = _option(
        "actual",
        "what counts against the token limit: prompt and answer, or prompt and the requested max_tokens",
        ("actual", "reserved"),
    )
    ratelimit_headers: bool = _option(True, "send x-ratelimit-* headers while there are limits")
    retry_after: float = _option(1.0, "seconds that Retry-After names on failures that are not due to a limit")
    rate_500: float = _rate("get a 500")
    rate_503: float = _rate("get a 503")
    rate_429: float = _rate("get a 429")
    rate_timeout: float = _rate("are never answered")
    rate_reset: float = _rate("have their TCP connection reset")
    rate_malformed: float = _rate("get a 200 whose body is no JSON")
    rate_truncated: float = _rate("get half an answer with finish_reason length")
    rate_refusal: float = _rate("get a refusal")
    rate_content_filter: float = _rate("get an empty answer with finish_reason content_filter")
    rate_invalid: float = _rate("get JSON that does not obey the schema")
    seed: int = _option(0, "which requests the rates hit; the same seed hits the same ones")
    poison_marker: str | None = _option(None, "text that makes any user message that contains it an invalid request")
    fail_all: str | None = _option(None, "fail every request in this way", FAIL_ALL)
    api_key: str | None = _option(None, "the only bearer token accepted (default: any)")
    batch_seconds: float = _option(3.0, "seconds that a batch takes to be answered")
    batch_validation_seconds: float = _option(0.2, "seconds that the validation, or cancellation, of a batch takes")
    batch_expire_share: float = _option(0.0, "share of its requests at which a batch expires (0: none does)")
    batch_enqueued_tokens: float = _option(0.0, "limit of prompt tokens in batches that are under way (0: none)")
    batch_fail_code: str | None = _option(None, "code with which every batch fails its validation")
    batch_fail_lines: int = _option(0, "with --batch-fail-code: its errors name so many lines, from the first one")

    def __post_init__(self) -> None:
        for option in fields(self):
            value, choices = getattr(self, option.name), option.metadata["choices"]
            kinds = (int, float) if option.type is float else option.type
            if not isinstance(value, kinds) or (isinstance(value, bool) and option.type is not bool):  # type: ignore[arg-type]
                raise ValueError(f"{option.name} cannot be {value!r}")
            if choices and value is not None and value not in choices:
                raise ValueError(f"{option.name} is {value!r}, not one of {', '.join(choices)}")
            if option.type is float and not 0 <= value < math.inf:
                raise ValueError(f"{option.name} is {value!r}; it must be a number from 0 up")
        if sum(self.rates().values()) > 1 + 1e-9:
            raise ValueError("the rates of faults add up to more than 1")

    def rates(self) -> dict[str, float]:
        """Returns the rate of each fault, in the order in which a draw is spent on them."""
        return {name: getattr(self, f"rate_{name}") for name in (*UNANSWERED, *ODD_ANSWERS)}

    def changed(self, changes: object) -> Self:
        """These options with some replaced; ValueError names what is unknown or out of bounds."""
        known = {option.name for option in fields(self)}
        if not isinstance(changes, dict) or (unknown := changes.keys() - known):
            what = ", ".join(sorted(unknown)) if isinstance(changes, dict) else "no object"
            raise ValueError(f"unknown options: {what}; known are {', '.join(sorted(known))}")
        return replace(self, **changes)
