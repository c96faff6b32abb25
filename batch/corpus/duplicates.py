"""Which documents of a run are the same bytes as an earlier one: found while they are planned, in bounded memory.

Remembers 12 bytes a document: a part of its etag, and the partition where these bytes came first. The plan then
says of a later one `SHARD/PARTITION`: there, a document with its etag is asked about. 64 bits of two may be the same by
chance, so who shares an answer compares the etags themselves.
"""

from __future__ import annotations

import logging
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

MOST = 20_000_000
"""Documents that are remembered, at most: 240 MB."""
COLUMNS = ["etag", "size", "partition", "same_as"]
"""Of a plan file, that `Duplicates.read` needs."""
_CONTENT_HASH = r'^"?[0-9a-f]{32}"?$'
"""Etags that seem to be a hash of the content: its MD5, or the hash of a row. Whether it is shows when it is read."""
_SPREAD, _ALL = 0x9E3779B97F4A7C15, 2**64 - 1
"""Spreads sizes over 64 bits: the golden ratio's, by Knuth."""
_BUCKETS = 16
"""A power of two: what is added to one is copied with it, so a sixteenth of all is in memory twice for a moment."""
_EDGES = np.arange(1, _BUCKETS, dtype=np.uint64) << np.uint64(64 - _BUCKETS.bit_length() + 1)

Numbers = npt.NDArray[np.uint64]
Partitions = npt.NDArray[np.uint32]
N = TypeVar("N", np.uint64, np.uint32)
log = logging.getLogger(__name__)


class Duplicates:
    """What is known of the shards before the one that is being planned, and of that one so far."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._hashes = [np.empty(0, np.uint64)] * _BUCKETS
        """In ascending order, by their highest bits: what is added moves no more than a part of all."""
        self._partitions = [np.empty(0, np.uint32)] * _BUCKETS
        """Where each came first."""
        self._new: dict[int, int] = {}
        """The same of the shard that is being planned."""
        self._remembered = 0
        self._begins = [0]
        """The first partition of each shard that is known, and of the next one: they are numbered through."""
        self._end = 0
        """The partition after the last one that was seen."""

    @property
    def shards(self) -> int:
        """Tells how many shards are known, from the first on."""
        return len(self._begins) - 1

    def mark(self, contents: Iterable[tuple[str, int]], shard: int, partition: int) -> list[str | None]:
        """For each document of a partition, by etag and size, the place of the earlier one with the same bytes; notes
        those that are new.

        Within the partition too: the place is then the partition itself.
        """
        self._end = partition + 1
        hashes = [_hash(etag, size) if size else None for etag, size in contents]
        marks: list[str | None] = []
        for key, known in zip(hashes, self._look_up(hashes), strict=True):
            if known is not None:
                marks.append(reference(bisect_right(self._begins, known) - 1, known))
                continue
            place = self._new.get(key) if key is not None else None
            if place is None and key is not None and self._remembered + len(self._new) < self._most:
                self._new[key] = partition
            marks.append(None if place is None else reference(shard, place))
        return marks

    def _look_up(self, hashes: Sequence[int | None]) -> list[int | None]:
        """Returns the partitions of those that are known from shards before."""
        found: list[int | None] = [None] * len(hashes)
        wanted = np.array([key or 0 for key in hashes], np.uint64)
        order = np.argsort(wanted)  # neighbours lie in the same lines of the cache
        ordered = wanted[order]
        for bucket, part in enumerate(_by_bucket(ordered)):
            keys, some = self._hashes[bucket], ordered[part]
            if not len(keys) or not len(some):
                continue
            at = np.minimum(np.searchsorted(keys, some), len(keys) - 1)
            for hit in np.flatnonzero(keys[at] == some):
                index = int(order[part.start + hit])
                if hashes[index] is not None:
                    found[index] = int(self._partitions[bucket][at[hit]])
        return found

    def keep(self) -> None:
        """The shard's plan stands: its documents are earlier ones from here on."""
        keys = np.fromiter(self._new.keys(), np.uint64, len(self._new))
        partitions = np.fromiter(self._new.values(), np.uint32, len(self._new))
        self._new = {}
        order = np.argsort(keys)
        self._add(keys[order], partitions[order])

    def read(self, table: pa.Table) -> None:
        """Takes over the next shard from its plan: a table with `COLUMNS`."""
        if table.num_rows:
            self._end = pc.max(table.column("partition")).as_py() + 1
        table = table.filter(
            pc.match_substring_regex(pc.field("etag"), _CONTENT_HASH)
            & pc.field("same_as").is_null()
            & (pc.field("size") > 0)  # what is empty is never asked about
        )
        quoted = pc.starts_with(table.column("etag"), '"').to_numpy()
        sizes = table.column("size").to_numpy().astype(np.uint64) * np.uint64(_SPREAD)
        keys = _hashes(table.column("etag")) ^ np.where(quoted, sizes, np.uint64(0))
        keys, first = np.unique(keys, return_index=True)
        room = max(0, self._most - self._remembered)
        self._add(keys[:room], table.column("partition").to_numpy().astype(np.uint32)[first][:room])

    def _add(self, keys: Numbers, partitions: Partitions) -> None:
        """Those of one more shard, in ascending order."""
        self._begins.append(self._end)
        self._remembered += len(keys)
        if len(keys) and self._remembered >= self._most:
            log.warning("duplicates of documents after the first %d are not looked for", self._remembered)
        for bucket, part in enumerate(_by_bucket(keys)):
            at = np.searchsorted(self._hashes[bucket], keys[part], side="right")
            self._hashes[bucket] = _kept(np.insert(self._hashes[bucket], at, keys[part]))
            self._partitions[bucket] = _kept(np.insert(self._partitions[bucket], at, partitions[part]))


def _kept(values: npt.NDArray[N]) -> npt.NDArray[N]:
    """A copy in pages of its own. What grows bit by bit on the heap leaves holes there, as large as all of it."""
    if not len(values):
        return values
    pages = mmap(-1, values.nbytes, flags=MAP_PRIVATE | MAP_ANONYMOUS)
    copy = np.frombuffer(pages, values.dtype)
    copy[:] = values
    return copy


def _by_bucket(keys: Numbers) -> list[slice]:
    """Tells where in ascending keys those of each bucket lie."""
    edges = [0, *map(int, np.searchsorted(keys, _EDGES)), len(keys)]
    return [slice(*edge) for edge in pairwise(edges)]


def reference(shard: int, partition: int) -> str:
    """Tells where the document lies whose answer another one shares, as the plan's `same_as` has it."""
    return f"{shard}/{partition}"


def parse_reference(text: str) -> tuple[int, int]:
    """Shard and partition. Raises `ValueError`."""
    shard, partition = text.split("/")
    return int(shard), int(partition)


is_content_hash = re.compile(_CONTENT_HASH).match
"""Whether documents of an etag have the same content, for all that one can tell."""


def _hash(etag: str, size: int) -> int | None:
    """Of etag and size: one etag of many sizes is no hash. None where the etag says nothing of the content.

    The hash of a row, which has no quotes, stands for itself: its size counts fields too that nobody is asked about.
    """
    if not is_content_hash(etag):
        return None
    part = int(etag.strip('"')[:16], 16)
    return part ^ (size * _SPREAD & _ALL) if etag.startswith('"') else part


def _hashes(etags: pa.ChunkedArray[Any]) -> Numbers:
    """Returns the etags' part of `_hash` of many at once, all of them content hashes."""
    if not len(etags):
        return np.empty(0, np.uint64)
    plain = pc.utf8_slice_codeunits(pc.utf8_trim(etags, '"'), 0, 16)
    signs = np.frombuffer("".join(map(str, plain.to_pylist())).encode(), np.uint8).reshape(-1, 16)
    digits = np.where(signs >= ord("a"), signs - (ord("a") - 10), signs - ord("0")).astype(np.uint64)
    keys = np.zeros(len(digits), np.uint64)
    for place in range(16):
        keys = keys << np.uint64(4) | digits[:, place]
    return keys
