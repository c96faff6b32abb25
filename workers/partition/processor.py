"""Activity: one partition. Around its attempt: heartbeats, the run that it belongs to, how it is stopped."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping

from temporalio import activity

from batch.files.run_file import RunMissing
from batch.storage.store import Storage, StorageError, StorageUnreachable
from batch.workflows import contracts as c
from batch.workflows.states import Outcome, Reason
from workers.observe.metrics import Metrics
from workers.partition.asker import AskerMaker
from workers.partition.attempt import Attempt
from workers.partition.heartbeat import Pulse
from workers.partition.runs import Runs

log = logging.getLogger(__name__)


class Processor:
    """The activity's home: holds what partitions share."""

    def __init__(self, storage: Storage, runs: Runs, metrics: Metrics, askers: Mapping[str, AskerMaker]) -> None:
        """`askers`: what asks about the documents of an attempt, for each `model.mode`."""
        self._storage, self._runs, self._metrics, self._askers = storage, runs, metrics, askers

    @activity.defn(name=c.PROCESS_PARTITION)
    async def process_partition(self, task: c.PartitionInput) -> c.PartitionOutcome:
        """Ends with a commit, a yield (drain, pause, outage) or by giving the partition up."""
        try:
            return await self._process(task)
        except (StorageError, RunMissing) as error:
            # Of `run.json`, or of something of ours that is gone: an outage or a person's affair, never an attempt
            # without progress that would count towards giving the partition up.
            reason = Reason.STORAGE_UNREACHABLE if isinstance(error, StorageUnreachable) else Reason.STORAGE_REFUSED
            log.warning("partition %d yields, %s: %s", task.partition, reason, error)
            return c.PartitionOutcome(
                task.partition, Outcome.YIELDED, reason=reason, message=str(error)[:500], epoch=task.epoch
            )

    async def _process(self, task: c.PartitionInput) -> c.PartitionOutcome:
        started = time.monotonic()
        async with Pulse() as pulse, self._runs.use(task.run, task.epoch) as run:
            number, asker = activity.info().attempt, self._askers[run.file.job.model.mode]
            attempt = Attempt(task, number, run, storage=self._storage, metrics=self._metrics, pulse=pulse, asker=asker)
            work = asyncio.create_task(attempt.run())
            try:
                outcome = await asyncio.shield(work)
            except asyncio.CancelledError:
                details = activity.cancellation_details()
                draining = details is not None and details.worker_shutdown
                if draining:  # the grace period is over: calls in flight end here, answers become durable
                    attempt.cut()
                else:  # cancelled, or another attempt took over: keep what is in flight, make it durable, then say so
                    attempt.stop_soon()
                await asyncio.wait([work])
                if not draining and not (details is not None and details.cancel_requested):
                    raise
                outcome = work.result()
            job_name = run.file.job.name
            self._metrics.partitions.labels(job_name, outcome.outcome).inc()
            self._metrics.partition_seconds.labels(job_name).observe(time.monotonic() - started)
            return outcome
