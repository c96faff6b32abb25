"""The one result file of a partition: what stands there before an attempt, and the attempt's commit."""

from __future__ import annotations

import logging
from contextlib import suppress

from batch.files import result_file
from batch.files.kept_text import packed
from batch.files.result_file import NotOurs, ResultFooter
from batch.storage.store import ObjectMissing, PreconditionFailed, Storage, StorageUnreachable
from batch.workflows import contracts as c
from workers.documents.rows import Row
from workers.llm.limits.waiting import sleep_unless
from workers.partition.attempt_stop import AttemptStop
from workers.partition.runs import ActiveRun

log = logging.getLogger(__name__)


class PartitionResult:
    """The file as one attempt finds it and writes it. `settled`: the generation of the file that was found with an
    answer for every document; 0 if there was none."""

    def __init__(self, storage: Storage, run: ActiveRun, task: c.PartitionInput, token: str) -> None:
        """`token`: the attempt's own, by which it knows its commit again."""
        self._storage, self._run, self._task, self._token = storage, run, task, token
        self._bucket, self._key = run.layout.output.bucket, run.layout.result(task.shard, task.partition)
        self._replaces: str | None = None
        self.settled = 0

    async def found(self) -> tuple[ResultFooter, list[Row]] | None:
        """What stands before the attempt: its footer, and an earlier generation's rows; None where there is none."""
        found = await self._read()
        if found is None:
            return None
        footer, data = found
        self.settled = footer.generation if footer.settles else 0
        rows = [] if self.is_of_now(footer) else result_file.decode(data)[0].to_pylist()
        return footer, [packed(row) for row in rows]

    def is_of_now(self, footer: ResultFooter) -> bool:
        """Whether nothing is left to be done for this generation."""
        return footer.generation >= self._task.generation

    async def standing(self) -> ResultFooter | None:
        """The footer of what stands for this generation by now."""
        found = await self._read()
        return found[0] if found is not None and self.is_of_now(found[0]) else None

    async def _read(self) -> tuple[ResultFooter, bytes] | None:
        """The file, if it is ours; notes the etag of what stands, which a commit replaces."""
        found = await self._storage.get_entry(self._bucket, self._key)
        self._replaces = found[1].etag if found else None
        if found is None:
            return None
        try:
            return result_file.read_footer(found[0]), found[0]
        except NotOurs as error:
            log.warning("replacing %s: %s", self._run.layout.uri(self._key), error)
            return None

    async def commit(self, rows: list[Row], stop: AttemptStop) -> ResultFooter | None:
        """One conditional PUT. Whoever lost it, or does not know, believes what the stored file says: its footer.

        A stop ends the tries (None), but not before the first: the ledger holds the rows, another attempt commits them.
        """
        task = self._task
        totals = result_file.totals_of(rows, task.run.run_id)
        footer = ResultFooter(task.run.run_id, task.shard, task.partition, task.generation, self._token, totals)
        data = await result_file.encode_in_thread(rows, self._run.file.schema, footer)
        pause = 0.2
        while True:
            try:
                if self._replaces is None:
                    await self._storage.create(self._bucket, self._key, data)
                else:
                    await self._storage.replace(self._bucket, self._key, data, etag=self._replaces)
                return footer
            except (PreconditionFailed, ObjectMissing, StorageUnreachable) as error:
                log.info("commit of partition %d undecided, reading what stands: %s", task.partition, error)
            with suppress(StorageUnreachable):
                stored = await self.standing()
                if stored is not None:
                    return stored
            if await sleep_unless(stop.must, pause):
                return None
            pause = min(pause * 2, 5.0)
