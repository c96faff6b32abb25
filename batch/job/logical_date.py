"""When a run is for: its nominal start, and what `{{ date }}` and `{{ scheduled_at }}` stand for in its job. Pure.

A scheduled run is for its slot, however late it begins and also when it is backfilled; a run started by hand is for
now, or for the day that `--date` names.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo

DATE_VARIABLES = frozenset({"date", "scheduled_at"})
"""What URIs may name, and prompts besides the document."""


@dataclass(frozen=True)
class Nominal:
    """A moment, in the time zone whose calendar says which day it belongs to."""

    at: datetime

    @classmethod
    def now(cls, time_zone: str = "UTC") -> Nominal:
        return cls(datetime.now(find_zone(time_zone)).replace(microsecond=0))

    @classmethod
    def of_day(cls, day: date) -> Nominal:
        """Returns the beginning of a day, UTC."""
        return cls(datetime.combine(day, time(), UTC))

    @classmethod
    def parse(cls, text: str, time_zone: str = "") -> Nominal:
        """From ISO 8601 with an offset; `time_zone` names the calendar, by default the offset is it.

        Raises `ValueError` for an unknown time zone.
        """
        at = datetime.fromisoformat(text)
        return cls(at.astimezone(find_zone(time_zone)) if time_zone else at)

    def __str__(self) -> str:
        return self.at.isoformat()

    @property
    def values(self) -> dict[str, str]:
        """`date`: 2026-11-22, in the time zone. `scheduled_at`: 20261122T010000Z, UTC, as ISO 8601 without colons.

        Colons in keys trouble Hadoop, Spark and Windows.
        """
        return {"date": self.at.date().isoformat(), "scheduled_at": f"{self.at.astimezone(UTC):%Y%m%dT%H%M%SZ}"}


def find_zone(name: str) -> ZoneInfo:
    """Raises `ValueError` that says how to write one."""
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        raise ValueError(f"unknown time zone {name!r}; write an IANA name such as UTC or Europe/Berlin") from None
