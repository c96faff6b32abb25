"""When a schedule starts its job, and in Temporal's terms: cron or interval, time zone, overlap, jitter, catch-up."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from temporalio import client as t

from batch.job.logical_date import find_zone


class ScheduleError(Exception):
    """The schedule cannot be made or used like this. The message says what is wrong, and what to do."""


class Overlap(StrEnum):
    """What happens when a slot is due and the schedule's last run is still going.

    There is no policy to terminate the other run: it would leave shards at work that nobody holds.
    """

    SKIP = "skip"
    BUFFER_ONE = "buffer-one"
    BUFFER_ALL = "buffer-all"
    CANCEL_OTHER = "cancel-other"
    ALLOW_ALL = "allow-all"

    @property
    def policy(self) -> t.ScheduleOverlapPolicy:
        return t.ScheduleOverlapPolicy[self.name]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """When a schedule starts its job: by `cron` or `every` so often. Raises `ScheduleError`.

    Attributes:
        cron: Five fields (minute, hour, day, month, day of week), with a year as a sixth, with seconds first of seven.
        every: At least a second, counted from 1970-01-01 UTC; `offset` moves it.
        time_zone: Whose clock `cron` means, and whose calendar `{{ date }}`. An IANA name.
        overlap: See `Overlap`.
        jitter: Each start is late by a random part of this, never its nominal time.
        catch_up: How late a slot that was missed (Temporal was away) is still run.
    """

    cron: str | None = None
    every: timedelta | None = None
    offset: timedelta = timedelta()
    time_zone: str = "UTC"
    overlap: Overlap = Overlap.SKIP
    jitter: timedelta = timedelta()
    catch_up: timedelta = timedelta(hours=6)

    def __post_init__(self) -> None:
        if (self.cron is None) == (self.every is None):
            raise ScheduleError("a schedule has either cron or every: say when, and only one way")
        if self.cron is not None and self.cron.strip().startswith("@every"):
            raise ScheduleError(f"cron {self.cron!r}: an interval is no cron expression; say every (--every)")
        if self.every is not None and self.every < timedelta(seconds=1):
            raise ScheduleError("every is at least one second")
        if self.offset and self.every is None:
            raise ScheduleError("offset goes with every")
        if self.jitter < timedelta() or self.offset < timedelta():
            raise ScheduleError("jitter and offset are not negative")
        if self.catch_up < timedelta(seconds=10):
            raise ScheduleError("catch_up is at least 10 seconds")
        try:
            find_zone(self.time_zone)
        except ValueError as error:
            raise ScheduleError(str(error)) from None

    def to_spec(self) -> t.ScheduleSpec:
        # The server takes a cron expression apart and keeps only its comment: from there it comes back as written.
        return t.ScheduleSpec(
            cron_expressions=[f"{self.cron} # {self.cron}"] if self.cron is not None else [],
            intervals=[t.ScheduleIntervalSpec(self.every, self.offset or None)] if self.every is not None else [],
            jitter=self.jitter or None,
            time_zone_name=self.time_zone,
        )

    @classmethod
    def of(cls, schedule: t.Schedule) -> Timing:
        """Returns what was given to `to_spec`."""
        spec, policy = schedule.spec, schedule.policy
        interval = spec.intervals[0] if spec.intervals else None
        return cls(
            cron=None if interval else (spec.calendars[0].comment or "(not made by docbatch)"),
            every=interval.every if interval else None,
            offset=(interval.offset if interval else None) or timedelta(),
            time_zone=spec.time_zone_name or "UTC",
            overlap=Overlap(policy.overlap.name.lower().replace("_", "-")),
            jitter=spec.jitter or timedelta(),
            catch_up=policy.catchup_window or timedelta(days=365),
        )
