"""Why an attempt at a partition makes no more calls: what stops its run here, and what ends the attempt alone."""

from __future__ import annotations

from batch.storage.store import StorageError, StorageRefused
from batch.workflows.states import Reason
from workers.llm.limits.stop import Brakes, Stop
from workers.partition.heartbeat import Pulse
from workers.partition.ledger import Ledger


class Stopped(Exception):
    """There may be no more calls."""


def reason_of(error: StorageError) -> str:
    """What a partition yields for when storage fails it."""
    return Reason.STORAGE_REFUSED if isinstance(error, StorageRefused) else Reason.STORAGE_UNREACHABLE


class AttemptStop:
    """One attempt's stop signal, which its reads, calls, waits and commit go by. Its own stop is for good."""

    def __init__(self, brakes: Brakes, pulse: Pulse, ledger: Ledger) -> None:
        self._brakes, self._pulse, self._ledger = brakes, pulse, ledger
        self._own: Stop | None = None

    def soon(self) -> None:
        """Lets no new calls begin from here on; the attempt yields."""
        self.because(Reason.DRAIN, "the attempt was superseded or cancelled")

    def because(self, reason: str, message: str) -> None:
        """Stops the attempt for a reason of its own; the first one counts."""
        self._own = self._own or self.of(reason, message)

    def of(self, reason: str, message: str) -> Stop:
        """A stop in the run's present epoch."""
        return Stop(reason, message, self._brakes.epoch)

    def why(self) -> Stop | None:
        """Why to stop, None to go on."""
        if self._own is None and (self.is_superseded() or self._ledger.has_failed()):
            self.soon()
        if self._own is None and self._ledger.refused is not None:
            self.because(Reason.STORAGE_REFUSED, str(self._ledger.refused))
        return self._own or self._brakes.stop()

    def must(self) -> bool:
        return self.why() is not None

    def abandons(self) -> bool:
        """Whether not even a document whose invalid answers are paid is asked on; a drain has a grace period for it."""
        return self.must() and not (self._own is None and self._brakes.only_draining())

    def is_superseded(self) -> bool:
        """Whether another attempt may be at work on the partition."""
        return self._pulse.superseded()
