"""What the planner of a shard knows of the run's earlier shards: kept from one shard to the next, or read from plans.

Kept for one shard at a time, by the process that planned the last one; any other process reads the run's plan files,
three columns of them. Nothing of it is needed to resume: what is planned stands in S3.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

import pyarrow.parquet as pq

from batch.corpus.duplicates import COLUMNS, Duplicates
from batch.storage.layout import RunLayout
from batch.storage.store import Storage

KEPT = 2
"""Runs whose documents stay in memory between two shards: 12 bytes each."""
KEPT_SECONDS = 900.0
"""How long a run's stay there while no shard of it is planned."""


class KnownDuplicates:
    """One for the process's planner."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._kept: OrderedDict[str, Duplicates] = OrderedDict()

    async def take(self, layout: RunLayout, shard: int) -> Duplicates:
        """What is known before this shard. It is the caller's alone until it is given back."""
        found = self._kept.pop(layout.root, None)
        if found is None or found.shards > shard:
            found = Duplicates()
        for earlier in range(found.shards, shard):
            await asyncio.to_thread(self._read, found, layout, earlier)
        return found

    def give_back(self, layout: RunLayout, duplicates: Duplicates) -> None:
        """With another shard, whose plan stands."""
        self._kept[layout.root] = duplicates
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        asyncio.get_running_loop().call_later(KEPT_SECONDS, self._drop, layout.root, duplicates.shards)

    def _drop(self, root: str, shards: int) -> None:
        kept = self._kept.get(root)
        if kept is not None and kept.shards == shards:
            del self._kept[root]

    def _read(self, found: Duplicates, layout: RunLayout, shard: int) -> None:
        with self._storage.reading(layout.output.bucket, layout.plan(shard)) as file:
            found.read(pq.ParquetFile(file).read(columns=COLUMNS))
