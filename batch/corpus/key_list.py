"""`source.manifest`: a Parquet file that names the keys to process, in place of a listing. Read by batches.

The columns of an S3 inventory do: `key`, `size`, `e_tag`, and `is_latest` and `is_delete_marker`, by which older
versions and marks of what was deleted are left out. The file has a listing's order, so that a cursor is a key as ever:
sorted by the bytes of `key`, no key twice. What breaks that pauses a run, as soon as it is met. Blocking: for threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import IO, Any, NamedTuple, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from batch.corpus.spread import evenly
from batch.job.prefixes import Prefixes
from batch.storage.errors import ObjectMissing, PreconditionFailed, StorageError
from batch.storage.layout import object_uri
from batch.storage.listing import ObjectEntry
from batch.storage.ranged_file import RangedFile
from batch.storage.store import Storage

BATCH_ROWS = 1000
BUFFER = 2**20
"""Bytes of a column that are fetched at once."""
GROUPS_SAMPLED = 16
LONGEST_KEY = 1024
"""Bytes of the longest key that S3 has."""
ETAG, ALSO_ETAG = "etag", "e_tag"
IS_LATEST, IS_DELETE_MARKER = "is_latest", "is_delete_marker"
HOW_TO_SORT = "write the file sorted by the bytes of key, each key once (ORDER BY key)"


class ManifestBroken(ValueError):
    """The manifest cannot be used. The message names it, says where it is broken, and what to do."""


class ManifestGone(ManifestBroken):
    """There is no such file (yet)."""


class NamedKey(NamedTuple):
    """A row of the manifest. `size` in bytes, `etag` with its quotes; None: it does not say."""

    key: str
    size: int | None
    etag: str | None


class SourceManifest:
    """One version of the file, `entry`: once another one lies there, reading raises `ManifestBroken`."""

    def __init__(self, storage: Storage, bucket: str, entry: ObjectEntry, prefixes: Prefixes) -> None:
        self._uri, self._prefixes = object_uri(bucket, entry.key), prefixes
        self.etag = entry.etag
        read = partial(_read, storage, bucket, entry)
        self._file = RangedFile(entry.size, read)
        self._opened: tuple[pq.ParquetFile, list[str]] | None = None

    def pages(self, *, after: str = "", including: bool = False) -> Iterator[list[NamedKey]]:
        """Yields the keys after the key `after`, in order; `including` that one itself.

        Raises `ManifestBroken`, `StorageError`.
        """
        with self._explained():
            file, names = self._open()
            yield from self._pages(file, names, range(file.num_row_groups), after, including)

    def sample_pages(self, most: int) -> Iterator[list[NamedKey]]:
        """About `most` keys: the first ones of row groups from all over the file. Raises as `pages` does."""
        with self._explained():
            file, names = self._open()
            groups = evenly(range(file.num_row_groups), GROUPS_SAMPLED)
            for group in groups:
                left = most // len(groups)
                for page in self._pages(file, names, [group], "", False):
                    yield page
                    left -= len(page)
                    if left <= 0:
                        break

    def rows(self) -> int:
        """Keys that it names. Raises as `pages` does."""
        with self._explained():
            return int(self._open()[0].metadata.num_rows)

    def _open(self) -> tuple[pq.ParquetFile, list[str]]:
        if self._opened is None:
            if not self._file.seek(0, 2):
                raise self._broken("it is empty, no Parquet file")
            file = pq.ParquetFile(cast(IO[bytes], self._file), buffer_size=BUFFER, pre_buffer=False)
            self._opened = file, self._columns(file.schema_arrow)
        return self._opened

    def _columns(self, schema: pa.Schema) -> list[str]:
        """Returns those that are read: `key`, and the others that are there."""
        names = []
        etag = ETAG if ETAG in schema.names or ALSO_ETAG not in schema.names else ALSO_ETAG
        for name, kind, fits in (
            ("key", "text", _is_text),
            ("size", "integers", pt.is_integer),
            (etag, "text", _is_text),
            (IS_LATEST, "true or false", pt.is_boolean),
            (IS_DELETE_MARKER, "true or false", pt.is_boolean),
        ):
            places = schema.get_all_field_indices(name)
            if not places and name != "key":
                continue
            if len(places) != 1:
                number = "more than one column" if places else "no column"
                raise self._broken(f"it has {number} {name!r}; its columns are {', '.join(schema.names)[:300]}")
            found = schema.field(places[0]).type
            if not fits(found.value_type if pt.is_dictionary(found) else found):
                raise self._broken(f"its column {name!r} holds {found}, not {kind}")
            names.append(name)
        return names

    def _pages(
        self, file: pq.ParquetFile, names: list[str], groups: Sequence[int], after: str, including: bool
    ) -> Iterator[list[NamedKey]]:
        row = sum(file.metadata.row_group(group).num_rows for group in range(groups[0])) if groups else 0
        last: str | None = None
        begun = False
        for group in groups:
            metadata = file.metadata.row_group(group)
            # Only before the row of `after`, up to which the file was found to be sorted when that was planned.
            begun = begun or not _ends_before(metadata, after)
            if not begun:
                row += metadata.num_rows
                continue
            for read in file.iter_batches(BATCH_ROWS, [group], columns=names, use_threads=False):
                batch = read
                numbers: Sequence[int] = range(row + 1, row + 1 + batch.num_rows)
                row += batch.num_rows
                if (current := _is_current(batch)) is not None:
                    numbers = [number for number, taken in zip(numbers, current.to_pylist(), strict=True) if taken]
                    batch = batch.filter(current)
                if not batch.num_rows:
                    continue
                keys = batch.column(names.index("key")).cast(pa.large_string())
                self._check_order(keys, last, numbers)
                last = keys[-1].as_py()
                if last > after or (including and last == after):
                    page = self._page(batch, names, keys, numbers)
                    yield [each for each in page if each.key > after or (including and each.key == after)]

    def _check_order(self, keys: pa.Array[Any], last: str | None, numbers: Sequence[int]) -> None:
        """`last` comes before these keys, which stand in the rows `numbers`."""
        if keys.null_count or keys[0].as_py() == "":
            at = pc.index(keys.is_null(), True).as_py() if keys.null_count else 0
            raise self._broken(f"row {numbers[at]:,} has no key")
        before, here, number = last or "", cast(str, keys[0].as_py()), numbers[0]
        if before < here:
            at = pc.index(pc.less(keys[:-1], keys[1:]), False).as_py()
            if at < 0:
                return
            before, here, number = keys[at].as_py(), keys[at + 1].as_py(), numbers[at + 1]
        what = "is there twice" if before == here else f"comes after {_shown(before)}"
        raise self._broken(f"row {number:,}: the key {_shown(here)} {what}; {HOW_TO_SORT}")

    def _page(
        self, batch: pa.RecordBatch, names: list[str], found: pa.Array[Any], numbers: Sequence[int]
    ) -> list[NamedKey]:
        columns = dict(zip(names, batch.columns, strict=True))
        untold = [None] * batch.num_rows
        sizes = columns["size"].to_pylist() if "size" in columns else untold
        said = columns.get(ETAG, columns.get(ALSO_ETAG))
        etags = said.to_pylist() if said is not None else untold
        keys = cast(list[str], found.to_pylist())
        page = []
        for number, key, size, etag in zip(numbers, keys, sizes, etags, strict=True):
            if self._prefixes.prefix_of(key) is None:
                raise self._broken(
                    f"row {number:,}: the key {_shown(key)} does not lie under source.uri {self._prefixes}"
                )
            if "\0" in key or len(key.encode()) > LONGEST_KEY:
                raise self._broken(f"row {number:,}: the key {_shown(key)} is none of S3: a NUL, or over 1,024 bytes")
            if size is not None and not 0 <= size < 2**63:
                raise self._broken(f"row {number:,}: the size of {_shown(key)} is {size}")
            page.append(NamedKey(key, size, _quoted(etag)))
        return page

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raises what stands behind an error of Arrow's."""
        try:
            yield
        except ManifestBroken:
            raise
        except (StorageError, pa.ArrowException, OSError, ValueError, OverflowError) as error:
            failure = self._file.failure or error
            if isinstance(failure, ObjectMissing):
                raise gone(self._uri) from None
            if isinstance(failure, PreconditionFailed):
                raise changed(self._uri) from None
            if isinstance(failure, StorageError):
                raise failure from None
            why = " ".join(str(error).split())[:300]
            raise self._broken(f"it is no Parquet file that can be read{self._hint()}: {why}") from None

    def _hint(self) -> str:
        """Tells what it is instead, where its first bytes tell."""
        self._file.seek(0)
        head = self._file.read(16)
        found = next((what for begins, what in _OTHERS.items() if head.startswith(begins)), None)
        return f" ({found}: docs/sources.md tells how to make one of it)" if found else ""

    def _broken(self, what: str) -> ManifestBroken:
        return ManifestBroken(f"source.manifest: {self._uri}: {what}")


def gone(uri: str) -> ManifestGone:
    """Returns what is said where there is no such file."""
    return ManifestGone(f"source.manifest: there is no object {uri}. Write it, or mend source.manifest")


def changed(uri: str) -> ManifestBroken:
    """Returns what is said where another version lies there than the one that a run began with."""
    return ManifestBroken(
        f"source.manifest: {uri} changed while a run was planned by it. What was planned stands; start a new run for "
        "what the file names now, and write each run's file under a name of its own"
    )


_OTHERS = {
    b"{": "it is JSON, as the manifest.json of an S3 inventory, which names the files of keys",
    b"\x1f\x8b": "it is gzip data, as an S3 inventory in CSV",
    b"ORC": "it is an ORC file, as an S3 inventory may be",
    b'"': "it is text, as an S3 inventory in CSV",
}


def _is_current(batch: pa.RecordBatch) -> Any:
    """Which rows, as an array, are no older versions and no marks of deletion; None: all, as far as the file says."""
    found: Any = None
    for name, past in ((IS_LATEST, False), (IS_DELETE_MARKER, True)):
        if name in batch.schema.names:
            taken: Any = pc.not_equal(batch.column(name), pa.scalar(past)).fill_null(True)
            found = taken if found is None else pc.and_(found, taken)
    return found


def _read(storage: Storage, bucket: str, entry: ObjectEntry, start: int, end: int) -> bytes:
    return storage.read_range(bucket, entry.key, start, end, version=entry)


def _ends_before(metadata: Any, after: str) -> bool:
    """Whether all keys of a row group are known to come before `after`. They are a bound: it may be known too late."""
    for index in range(metadata.num_columns):
        column = metadata.column(index)
        if column.path_in_schema == "key":
            statistics = column.statistics
            most = statistics.max if statistics is not None and statistics.has_min_max else None
            return isinstance(most, str) and most < after
    return False


def _is_text(kind: pa.DataType) -> bool:
    return pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind)


def _quoted(etag: str | None) -> str | None:
    """As S3 gives it; its own inventories leave the quotes out. An empty one says nothing."""
    return etag if not etag or '"' in etag else f'"{etag}"'


def _shown(key: str) -> str:
    return repr(key if len(key) <= 200 else f"{key[:200]}...")
