"""Which model a job asks, how, and at what price."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from batch.job.parameters import check_parameters
from batch.job.part import Part, duration

SIMULATED_PREFIX = "simulated-"
"""Every model name of the simulated provider begins so; it must never be mistaken for a model."""


class Prices(Part):
    """US dollars a million tokens, in place of the published ones; `cached_input` is `input` unless said."""

    input: float = Field(ge=0, le=1e6, strict=True, allow_inf_nan=False)
    output: float = Field(ge=0, le=1e6, strict=True, allow_inf_nan=False)
    cached_input: float | None = Field(default=None, ge=0, le=1e6, strict=True, allow_inf_nan=False)


class Model(Part):
    """The model and how it is asked. The endpoint and the key come from the worker's environment alone."""

    name: str = Field(min_length=1)
    mode: Literal["online", "batch"] = "online"
    batch_deadline: float | None = Field(default=None, gt=0, le=30 * 86_400, strict=True)
    """Seconds, `90m`, `6h`: so long after a partition's first batch, what is not answered yet is asked online."""
    temperature: float | None = Field(default=None, ge=0, le=2, strict=True)
    max_output_tokens: int | None = Field(default=None, gt=0, le=2**31, strict=True)
    timeout_seconds: float = Field(default=120, gt=0, le=3600, strict=True)
    reasks: int = Field(default=2, ge=0, le=2, strict=True)
    """Times at most that an answer which does not fit the schema is asked for again. Not part of the fingerprint: it
    decides whether there is an answer, as `timeout_seconds` does, and makes no valid answer another one."""
    prices: Prices | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Further fields of each request, which go out as they stand; none of those that docbatch sets itself."""

    @field_validator("parameters", mode="before")
    @classmethod
    def _take_parameters(cls, parameters: object) -> object:
        return {} if parameters is None else parameters

    @model_validator(mode="after")
    def _check_parameters(self) -> Model:
        said = {name for name in ("temperature", "max_output_tokens") if getattr(self, name) is not None}
        check_parameters(self.parameters, said)
        return self

    @property
    def most_output_tokens(self) -> int | None:
        """Tells how long an answer may be at most, by whichever key says it."""
        found = self.max_output_tokens or self.parameters.get("max_tokens")
        return found if isinstance(found, int) and found > 0 else None

    _parse_deadline = field_validator("batch_deadline", mode="before")(duration)
