"""The numbers of a run that is going: what its coordinator was told, what its shards know since, what partitions beat.

Each partition counts once: by its result file when that is committed; before that by its last heartbeat, while it is
worked on; else by what it had answered when it yielded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.workflow.v1 import PendingActivityInfo

from batch.workflows import contracts as c


class LiveCounts:
    """Begins with the coordinator's numbers; takes those of open shards one by one."""

    def __init__(self, progress: c.Progress) -> None:
        self.committed = progress.totals
        self.answered = replace(progress.answered, partitions=0)
        """Of partitions that are not committed."""
        self.failing: list[int] = []
        """A few of those that have errors and are not committed."""
        self.beating = False
        """Whether a worker process works on a partition."""
        # A coordinator of an older version says nothing of what is answered.
        answered = progress.shards_answered or [c.Totals()] * len(progress.shards_open)
        reported = zip(progress.shards_reported, answered, strict=True)
        self._reported = dict(zip(progress.shards_open, reported, strict=True))
        self._in_flight: dict[str, tuple[datetime, int]] = {}

    @property
    def in_flight(self) -> int:
        """Calls that are waited for: of each process, what it said last."""
        return sum(calls for _, calls in self._in_flight.values())

    @property
    def all(self) -> c.Totals:
        """Returns what is answered, committed or not; partitions are those that are committed."""
        return self.committed + self.answered

    def add_shard(self, report: c.ShardReport, beats: Sequence[tuple[PendingActivityInfo, c.Beat]]) -> None:
        """Puts a shard's own numbers in the place of those that it had reported.

        Args:
            report: its answer to a query.
            beats: its pending activities that have beaten, with what they said last.
        """
        totals, answered = self._reported[report.shard]
        self.committed += report.totals - totals
        beaten = {beat.partition: beat.answered for _, beat in beats}
        at_work = {held.partition: held.answered for held in report.held} | beaten
        self.answered += c.Totals.sum([report.answered, *at_work.values()]) - answered
        self.failing += [partition for partition, each in at_work.items() if each.errors]
        self.failing = [*self.failing, *report.failing][: c.FAILING_TOLD]
        for pending, beat in beats:
            self._add_beat(pending, beat)

    def _add_beat(self, pending: PendingActivityInfo, beat: c.Beat) -> None:
        """What an attempt said that is over says nothing of calls: its retry has not beaten yet, or not begun."""
        beaten_at = pending.last_heartbeat_time.ToDatetime()
        if (
            pending.state == PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED
            or beaten_at < pending.last_started_time.ToDatetime()
        ):
            return
        self.beating = True
        known = self._in_flight.get(beat.process)
        if known is None or known[0] < beaten_at:
            self._in_flight[beat.process] = beaten_at, beat.in_flight
