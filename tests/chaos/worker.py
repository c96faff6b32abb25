"""A worker with a fault built in: `python -m tests.chaos.worker FAULT -- arguments of python -m workers`.

The faults live here and patch the worker from outside; production code has no hooks for tests.

    none              nothing; outage and probe times may still be shortened
    ledger-off        answers never reach the ledger
    die-after-commit  SIGKILLs itself right after the PUT of a result file, before the activity completes; the file
                      named by DOCBATCH_CHAOS_ONCE is created first, and where it exists already the worker lives on
    die-after-create  SIGKILLs itself right after the provider has created a batch, before its id is recorded; once,
                      as above
    freeze-at-create  SIGSTOPs itself when all is ready for the creation of a batch; once, as above
    fail-partitions   attempts at the partitions of DOCBATCH_CHAOS_PARTITIONS (comma separated) raise

DOCBATCH_CHAOS_OUTAGE_AFTER and DOCBATCH_CHAOS_SOURCE_OUTAGE_AFTER shorten what counts as an outage (seconds). Always
shortened are Temporal's wait for a dead worker's cached workflows, which otherwise is 10 s of each test that kills one,
and the pauses of batch mode.
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from temporalio.worker import Worker

import workers.batch_mode.partition_batches
import workers.batch_mode.rounds
import workers.llm.limits.stop
import workers.partition.reader
import workers.process.main
from workers.batch_mode.api import BatchApi
from workers.partition.asker import Online
from workers.partition.attempt import Attempt
from workers.partition.ledger import Ledger


def _ledger_off() -> None:
    def drop(self: Ledger, row: dict[str, Any]) -> None:
        del self, row

    Ledger.add = drop  # type: ignore[method-assign]


def _die_after_commit() -> None:
    count = Attempt._count

    def die(self: Attempt, *arguments: Any) -> None:
        once = Path(os.environ["DOCBATCH_CHAOS_ONCE"])
        try:
            once.touch(exist_ok=False)
        except FileExistsError:
            count(self, *arguments)
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    Attempt._count = die  # type: ignore[assignment, method-assign]


def _at_create(*, after: bool, number: signal.Signals) -> None:
    create = BatchApi.create

    async def ending(self: BatchApi, *arguments: Any) -> Any:
        try:
            os.close(os.open(os.environ["DOCBATCH_CHAOS_ONCE"], os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return await create(self, *arguments)
        created = await create(self, *arguments) if after else None
        os.kill(os.getpid(), number)
        return created or await create(self, *arguments)

    BatchApi.create = ending  # type: ignore[method-assign]


def _fail_partitions() -> None:
    doomed = {int(number) for number in os.environ["DOCBATCH_CHAOS_PARTITIONS"].split(",")}
    ask = Online.ask

    async def fail(self: Online, documents: Any) -> None:
        if self._work.task.partition in doomed:
            raise RuntimeError(f"partition {self._work.task.partition} is made to fail")
        await ask(self, documents)

    Online.ask = fail  # type: ignore[method-assign]


FAULTS = {
    "none": lambda: None,
    "ledger-off": _ledger_off,
    "die-after-commit": _die_after_commit,
    "die-after-create": partial(_at_create, after=True, number=signal.SIGKILL),
    "freeze-at-create": partial(_at_create, after=False, number=signal.SIGSTOP),
    "fail-partitions": _fail_partitions,
}


def _shorten() -> None:
    sticky = timedelta(seconds=2)
    vars(workers.process.main)["Worker"] = partial(Worker, sticky_queue_schedule_to_start_timeout=sticky)
    workers.batch_mode.rounds.QUEUE_FIRST = 0.5
    workers.batch_mode.partition_batches.POLL_FIRST, workers.batch_mode.partition_batches.FENCE_PAUSE = 0.2, 1.0
    if seconds := os.environ.get("DOCBATCH_CHAOS_OUTAGE_AFTER"):
        workers.llm.limits.stop.OUTAGE_AFTER = float(seconds)
    if seconds := os.environ.get("DOCBATCH_CHAOS_SOURCE_OUTAGE_AFTER"):
        workers.partition.reader.SOURCE_OUTAGE_AFTER = float(seconds)


if __name__ == "__main__":
    FAULTS[sys.argv[1]]()
    _shorten()
    workers.process.main.main(sys.argv[3:])
