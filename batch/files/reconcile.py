"""Plan against results: does each planned document have exactly one row, in files that are what they claim to be?

Used by the finisher at the end of a run and by `verify` at any later time. Streams partition by partition, so memory
does not grow with the corpus (but for the list of files, some 200 bytes a partition).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.parquet as pq

from batch.corpus.planning import PlanFooter
from batch.files import result_file
from batch.files.manifest import Manifest, ResultEntry
from batch.files.plan_file import read_footer
from batch.files.result_file import NotOurs
from batch.schema.error_types import ErrorType
from batch.storage.layout import RunLayout, place_of_result
from batch.storage.store import Storage
from batch.workflows.contracts import Totals
from batch.workflows.states import State

MOST_PROBLEMS = 100
PROBLEM = 1000
"""Characters of a problem's text, which names ids that may be long."""
AT_ONCE = 16

Settle = Callable[[int, int, int, bytes | None], Awaitable[bytes | None]]
"""(shard, partition, row group, its result file or None) -> the file that stands now; it may have been written."""

Take = Callable[[PlanFooter, int, pa.Table], Awaitable[None]]
"""(plan of the shard, partition, rows of its result file)"""


@dataclass
class Account:
    """What a reconciliation found. `problems` names partitions, at most `MOST_PROBLEMS` of them."""

    totals: Totals = field(default_factory=Totals)
    planned_documents: int = 0
    planned_partitions: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """Of an incremental run: planned documents by the reason why they were asked about, or not."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Keys of the source that are no documents, by the rule (`batch.corpus.hidden`)."""
    deleted: int = 0
    listed_to_end: bool = False
    """Whether the plan goes to the end of the listing."""
    problems: list[str] = field(default_factory=list)
    problem_count: int = 0
    missing: int = 0
    """Partitions of the plan without a result file."""
    partial: int = 0
    """Partitions whose result file is of a cancelled run, and may lack documents that were not answered."""
    files: list[ResultEntry] = field(default_factory=list)
    settled: dict[int, int] = field(default_factory=dict)
    """Partition -> generation of the result file that holds all its rows: older ledgers are not needed any more."""

    def problem(self, text: str) -> None:
        self.problem_count += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(text[:PROBLEM])


async def verify(
    storage: Storage, layout: RunLayout, manifest: Manifest, *, on_progress: Callable[[Account], None] | None = None
) -> Account:
    """Holds a run that has ended against its manifest: plan, rows, files, checksums and totals."""
    expected = {entry.partition: entry for entry in manifest.files}
    cancelled = manifest.state == State.CANCELLED
    reconciler = Reconciler(storage, layout, expected=expected, on_progress=on_progress, may_lack=cancelled)
    account = await reconciler.run(plan_complete=not cancelled)
    for name in ("documents", "ok", "errors"):
        counted, written = getattr(account.totals, name), getattr(manifest.totals, name)
        if counted != written:
            account.problem(f"the manifest says {written} {name}, the files hold {counted}")
    return account


class Reconciler:
    """Reads the plan files in order, and each partition's result file beside them.

    Args:
        settle: what looks at each partition's result file first, and at what is not in it yet. A partition that has
            none after that is missing.
        expected: the files of the manifest by partition; their checksums are held against what is there.
        take: what gets the rows of each result file, in the plan's order.
        may_lack: whether files, and documents in them, may lack: those that a cancelled run had not answered.
    """

    def __init__(
        self,
        storage: Storage,
        layout: RunLayout,
        *,
        settle: Settle | None = None,
        expected: dict[int, ResultEntry] | None = None,
        on_progress: Callable[[Account], None] | None = None,
        take: Take | None = None,
        may_lack: bool = False,
    ) -> None:
        self._storage, self._layout = storage, layout
        self._settle, self._expected, self._on_progress, self._take = settle, expected, on_progress, take
        self._may_lack = may_lack
        self._planned: dict[int, range] = {}
        """Shard -> its partitions."""
        self._bucket = layout.output.bucket

    async def run(self, *, plan_complete: bool = True) -> Account:
        account = Account()
        shard, partition, cursor, last = 0, 0, "", False
        async for footer, key in self._plans():
            name = f"shard {footer.shard}"
            if footer.shard != shard:
                account.problem(f"plan of shard {shard} is missing; found {name}")
            if footer.first_partition != partition:
                account.problem(f"{name} begins at partition {footer.first_partition}, expected {partition}")
            if footer.start_cursor != cursor:
                account.problem(f"{name} begins after key {footer.start_cursor!r}, the one before ended at {cursor!r}")
            shard, partition, cursor, last = (
                footer.shard + 1,
                footer.first_partition + footer.partitions,
                footer.end_cursor,
                footer.last,
            )
            self._planned[footer.shard] = range(footer.first_partition, partition)
            account.reasons.update(footer.reasons)
            account.deleted += footer.deleted
            account.left_out.update(footer.left_out)
            await self._shard(account, footer, key)
        account.listed_to_end = last
        if plan_complete and shard and not last:
            account.problem(f"the plan ends with shard {shard - 1}, which is not marked as the last")
        await self._strays(account)
        return account

    async def _plans(self) -> AsyncIterator[tuple[PlanFooter, str]]:
        async for page in self._storage.pages(self._bucket, self._layout.plans):
            for entry in page:
                yield await asyncio.to_thread(read_footer, self._storage, self._bucket, entry.key), entry.key

    def _planned_ids(self, key: str, groups: range) -> list[list[str]]:
        with self._storage.reading(self._bucket, key) as file:
            plan = pq.ParquetFile(file)
            tables = [plan.read_row_group(group, columns=["document_id"]) for group in groups]
        return [[str(value) for value in table.column(0).to_pylist()] for table in tables]

    async def _shard(self, account: Account, footer: PlanFooter, key: str) -> None:
        for start in range(0, footer.partitions, AT_ONCE):
            groups = range(start, min(start + AT_ONCE, footer.partitions))
            planned = await asyncio.to_thread(self._planned_ids, key, groups)
            files = await asyncio.gather(
                *(self._result(footer.shard, footer.first_partition + group, group) for group in groups)
            )
            for group, ids, data in zip(groups, planned, files, strict=True):
                partition = footer.first_partition + group
                table = await asyncio.to_thread(self._partition, account, footer.shard, partition, ids, data)
                if table is not None and self._take is not None:
                    await self._take(footer, partition, table)
            if self._on_progress:
                self._on_progress(account)

    async def _result(self, shard: int, partition: int, row_group: int) -> bytes | None:
        found = await self._storage.get_entry(self._bucket, self._layout.result(shard, partition))
        data = found[0] if found is not None else None
        return await self._settle(shard, partition, row_group, data) if self._settle else data

    def _partition(
        self, account: Account, shard: int, partition: int, planned: list[str], data: bytes | None
    ) -> pa.Table | None:
        account.planned_documents += len(planned)
        account.planned_partitions += 1
        name = f"partition {partition}"
        if data is None:
            account.missing += 1
            if not self._may_lack or partition in (self._expected or {}):
                account.problem(f"{name}: its result file {self._layout.result(shard, partition)} is missing")
            return None
        digest = hashlib.sha256(data).hexdigest()
        expected = self._expected.get(partition) if self._expected is not None else None
        if self._expected is not None and expected is None:
            account.problem(f"{name}: its result file {self._layout.result(shard, partition)} is not in the manifest")
        if expected is not None and expected.sha256 != digest:
            account.problem(f"{name}: the result file is not the one of the manifest (checksum differs)")
        try:
            table, footer = result_file.decode(data)
        except NotOurs as error:
            account.problem(f"{name}: {error}")
            return None
        if (footer.run_id, footer.shard, footer.partition) != (self._layout.run_id, shard, partition):
            account.problem(f"{name}: the file is of run {footer.run_id}, partition {footer.partition}")
        account.partial += footer.partial
        self._rows(account, name, planned, table, may_lack=footer.partial and self._may_lack)
        tokens = ["prompt_tokens", "cached_tokens", "completion_tokens"]
        narrow = ["status", "error_type", "retryable", *tokens, "cost_usd", "run_id"]
        totals = result_file.totals_of(table.select(narrow).to_pylist(), self._layout.run_id)
        if ErrorType.PARTITION_FAILED in totals.errors_by_type:
            totals = replace(totals, partitions_failed=1)
        elif not footer.partial:
            account.settled[partition] = footer.generation
        if replace(footer.totals, partitions_failed=totals.partitions_failed, cost_usd=0.0) != replace(
            totals, cost_usd=0.0
        ):
            account.problem(f"{name}: the rows do not add up to the totals of the file's footer")
        account.totals += totals
        account.files.append(ResultEntry(shard, partition, table.num_rows, len(data), digest))
        return table

    @staticmethod
    def _rows(account: Account, name: str, planned: list[str], table: pa.Table, *, may_lack: bool) -> None:
        """Each planned document once, and no other."""
        want, have = Counter(planned), Counter(str(value) for value in table.column("document_id").to_pylist())
        for what, ids in (("lacks", want - have), ("has one too many of", have - want)):
            if ids and not (may_lack and what == "lacks"):
                example = next(iter(ids))
                account.problem(f"{name}: {what} {sum(ids.values())} document(s), for example {example!r}")

    async def _strays(self, account: Account) -> None:
        """Whatever lies in `results/` besides the plan's files: who reads all of the folder reads it too."""
        async for page in self._storage.pages(self._bucket, self._layout.results):
            for entry in page:
                if not (self._is_planned(entry.key) or _is_read_by_none(entry.key)):
                    account.problem(f"{entry.key} is no file of the plan, but lies in results/ and is read with it")

    def _is_planned(self, key: str) -> bool:
        place = place_of_result(key)
        if place is None or key != self._layout.result(*place):
            return False
        shard, partition = place
        return partition in self._planned.get(shard, range(0))


def _is_read_by_none(key: str) -> bool:
    """Folder markers, and what Spark, Hadoop and others leave beside a dataset (`_SUCCESS`, `.crc`): no reader of one
    takes it for a part of it. One that is called Parquet is read by its ending, whatever it begins with."""
    name = key.rpartition("/")[2]
    return not name or (name[0] in "_." and not name.lower().endswith(".parquet"))
