"""What a run of a job may use, and how its corpus is cut into partitions."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from batch.job.part import MAX_SIZE, Part, size


class Limits(Part):
    """What a run may use at most. `concurrency` counts requests in flight, per run within a worker process; the limits
    a minute are those of the provider's whole quota, whichever jobs and workers use it."""

    concurrency: int = Field(default=256, ge=1, le=10_000, strict=True)
    quota: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    requests_per_minute: int | None = Field(default=None, gt=0, strict=True)
    tokens_per_minute: int | None = Field(default=None, gt=0, strict=True)
    max_cost_usd: float | None = Field(default=None, gt=0, strict=True, allow_inf_nan=False)
    max_error_rate: float = Field(default=0.5, gt=0, le=1, strict=True)


BATCH_DOCUMENTS = 10_000
"""Documents of a partition in batch mode, unless the job says: a partition waits for hours in a worker's slot whatever
its size, and fewer batches are fewer uploads, polls and files."""


class Partitions(Part):
    """How the corpus is cut: at most `documents` and about `bytes` a partition, `in_flight` partitions at once.

    `documents` is `BATCH_DOCUMENTS` for a job in batch mode that does not say.
    """

    documents: int = Field(default=500, ge=1, le=10_000, strict=True)
    bytes: Annotated[int, Field(gt=0, le=MAX_SIZE, strict=True)] = 64 * 2**20
    in_flight: int = Field(default=1000, ge=1, le=20_000, strict=True)

    _parse_size = field_validator("bytes", mode="before")(size)
