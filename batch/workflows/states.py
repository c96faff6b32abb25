"""The words for where a run stands, how an attempt at a partition ended, and why a run is paused.

They go as they are into S3, metrics and payloads. A reader takes any text: a newer version may have other words.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a run stands, as every face shows it."""

    WAITING = "waiting"
    """No worker has taken it up yet."""
    PLANNING = "planning"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    COMPLETED_WITH_FAILURES = "completed_with_failures"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    FAILED = "failed"
    RERUNNING = "rerunning"


ENDED = frozenset({State.COMPLETED, State.COMPLETED_WITH_FAILURES, State.CANCELLED, State.FAILED})


class Outcome(StrEnum):
    """How an attempt at a partition ended, seen from its shard."""

    COMMITTED = "committed"
    YIELDED = "yielded"
    GIVEN_UP = "given_up"


class Reason(StrEnum):
    """Why an attempt yielded, or a run is paused; errors of the job are further reasons, by their own words."""

    DRAIN = "drain"
    BY_USER = "by_user"
    PROVIDER_UNREACHABLE = "provider_unreachable"
    STORAGE_UNREACHABLE = "storage_unreachable"
    STORAGE_REFUSED = "storage_refused"
    PLANNING_FAILED = "planning_failed"
    SOURCE_REFUSED = "source_refused"
    ERROR_RATE = "max_error_rate"
    MAX_COST = "max_cost_usd"
    AWAITS_ANSWERS = "awaits_answers"
    """Its documents share answers of a partition not committed yet. It comes again after the others."""


YIELDS = frozenset({Reason.DRAIN, Reason.AWAITS_ANSWERS})
"""Reasons of a yield only."""
PROBED = frozenset({Reason.PROVIDER_UNREACHABLE, Reason.STORAGE_UNREACHABLE})
"""Pauses that end by themselves once a probe succeeds."""
