"""Which documents of a run are the same bytes as an earlier one: found while they are planned, in bounded memory.

Remembers 16 bytes a document: a hash of etag and size, and the partition where these bytes came first. The plan then
says of a later one `SHARD/PARTITION`: there, a document with its etag is asked about. Hashes of 64 bits may meet by
chance, so who shares an answer compares the etags themselves.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from batch.planning import PlannedDocument

MOST = 20_000_000
"""Documents that are remembered, at most: 320 MB."""
COLUMNS = ["etag", "size", "partition", "same_as"]
"""Of a plan file, that `Duplicates.read` needs."""
_CONTENT_HASH = r'^"?[0-9a-f]{32,128}(-[0-9]{1,5})?"?$'
"""Etags that seem to be a hash of the content: MD5, that of a multipart upload, or the hash of a row."""
_LARGEST_MERGE = 2_500_000
"""Entries of the runs that are merged: a merge takes some 40 bytes an entry besides."""
_PARTITION_BITS = 40
_ODD = 0x9E3779B97F4A7C15

Numbers = npt.NDArray[np.uint64]
log = logging.getLogger(__name__)


class Duplicates:
    """What is known of the shards before the one that is being planned, and of that one so far."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._runs: list[tuple[Numbers, Numbers]] = []
        """Hashes in ascending order, and where each came first: few runs, larger ones first."""
        self._new: dict[int, int] = {}
        self._remembered = 0
        self.shards = 0
        """How many shards are known, from the first on."""

    def mark(self, documents: Sequence[PlannedDocument], shard: int, partition: int) -> list[str | None]:
        """For each document of a partition the place of the earlier one with the same bytes; notes those that are new.

        Within the partition too: the place is then the partition itself.
        """
        hashes = [_hash(document.etag, document.size) if document.size else None for document in documents]
        found = self._look_up(hashes)
        here = _packed(shard, partition)
        marks: list[str | None] = []
        for key, known in zip(hashes, found, strict=True):
            place = known
            if place is None and key is not None:
                place = self._new.get(key)
                if place is None and self._remembered + len(self._new) < self._most:
                    self._new[key] = here
            marks.append(None if place is None else reference(*_unpacked(place)))
        return marks

    def _look_up(self, hashes: Sequence[int | None]) -> list[int | None]:
        found: list[int | None] = [None] * len(hashes)
        wanted = np.array([key or 0 for key in hashes], np.uint64)
        order = np.argsort(wanted)  # neighbours lie in the same lines of the cache
        ordered = wanted[order]
        for keys, places in self._runs:
            at = np.minimum(np.searchsorted(keys, ordered), len(keys) - 1)
            for hit in np.flatnonzero(keys[at] == ordered):
                index = int(order[hit])
                if hashes[index] is not None:
                    found[index] = int(places[at[hit]])
        return found

    def keep(self) -> None:
        """The shard's plan stands: its documents are earlier ones from here on."""
        keys = np.fromiter(self._new.keys(), np.uint64, len(self._new))
        places = np.fromiter(self._new.values(), np.uint64, len(self._new))
        self._new = {}
        self._add(keys, places)

    def read(self, table: pa.Table, shard: int) -> None:
        """Takes over the next shard from its plan: a table with `COLUMNS`."""
        table = table.filter(
            pc.match_substring_regex(pc.field("etag"), _CONTENT_HASH)
            & pc.field("same_as").is_null()
            & (pc.field("size") > 0)  # what is empty is never asked about
        )
        keys = _hashes(table.column("etag"), table.column("size").to_numpy())
        partitions = table.column("partition").to_numpy().astype(np.uint64)
        keys, first = np.unique(keys, return_index=True)
        room = max(0, self._most - self._remembered)
        self._add(keys[:room], (np.uint64(shard << _PARTITION_BITS) | partitions[first])[:room])

    def _add(self, keys: Numbers, places: Numbers) -> None:
        self.shards += 1
        if len(keys):
            order = np.argsort(keys)
            self._runs.append((keys[order], places[order]))
            self._remembered += len(keys)
            if self._remembered >= self._most:
                log.warning("duplicates of documents after the first %d are not looked for", self._remembered)
        while len(self._runs) > 1 and len(self._runs[-2][0]) < 2 * len(self._runs[-1][0]):
            if len(self._runs[-2][0]) + len(self._runs[-1][0]) > _LARGEST_MERGE:
                break
            keys, places = (np.concatenate(parts) for parts in zip(self._runs.pop(-2), self._runs.pop(), strict=True))
            order = np.argsort(keys, kind="stable")
            self._runs.append((keys[order], places[order]))


def reference(shard: int, partition: int) -> str:
    """Where the document lies whose answer another one shares, as the plan's `same_as` has it."""
    return f"{shard}/{partition}"


def parse_reference(text: str) -> tuple[int, int]:
    """Shard and partition. Raises `ValueError`."""
    shard, partition = text.split("/")
    return int(shard), int(partition)


def _packed(shard: int, partition: int) -> int:
    return shard << _PARTITION_BITS | partition


def _unpacked(place: int) -> tuple[int, int]:
    return place >> _PARTITION_BITS, place & ((1 << _PARTITION_BITS) - 1)


_is_content_hash = re.compile(_CONTENT_HASH).match


def _hash(etag: str, size: int) -> int | None:
    """None where the etag says nothing of the content."""
    if not _is_content_hash(etag):
        return None
    return int(etag.strip('"')[:16], 16) ^ (size * _ODD & 0xFFFFFFFFFFFFFFFF)


def _hashes(etags: pa.ChunkedArray[Any], sizes: npt.NDArray[np.int64]) -> Numbers:
    """`_hash` of many at once, all of them content hashes."""
    if not len(etags):
        return np.empty(0, np.uint64)
    plain = pc.utf8_slice_codeunits(pc.utf8_trim(etags, '"'), 0, 16)
    signs = np.frombuffer("".join(map(str, plain.to_pylist())).encode(), np.uint8).reshape(-1, 16)
    digits = np.where(signs >= ord("a"), signs - (ord("a") - 10), signs - ord("0")).astype(np.uint64)
    keys = np.zeros(len(digits), np.uint64)
    for place in range(16):
        keys = keys << np.uint64(4) | digits[:, place]
    with np.errstate(over="ignore"):
        mixed: Numbers = keys ^ (sizes.astype(np.uint64) * np.uint64(_ODD))
    return mixed
