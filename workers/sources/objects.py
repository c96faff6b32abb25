"""One version of an object of the source, read by ranges and never whole. Blocking: for threads."""

from __future__ import annotations

from collections.abc import Iterator

from batch.storage.etags import tells_versions
from batch.storage.layout import object_uri
from batch.storage.listing import ObjectEntry
from batch.storage.ranged_file import RangedFile
from batch.storage.store import Storage

CHUNK = 8 * 2**20
"""Bytes of one ranged GET. Not one stream of the whole: its body would have to arrive within one request's timeout."""


class SourceObject:
    """An object as a HEAD described it. Each read raises `PreconditionFailed` once another version lies there."""

    def __init__(self, storage: Storage, bucket: str, entry: ObjectEntry) -> None:
        self.key, self.size, self.etag = entry.key, entry.size, entry.etag
        self.version = version_of(entry)
        self._entry = entry
        self.uri = object_uri(bucket, entry.key)
        self._storage, self._bucket = storage, bucket

    def read(self, start: int, end: int) -> bytes:
        """Returns the bytes from `start` up to `end`, which is past `start` and not past the object."""
        return self._storage.read_range(self._bucket, self.key, start, end, version=self._entry)

    def read_any(self, start: int, end: int) -> bytes:
        """As `read`, of whichever version is there: for a look at an object of which only a listing is known."""
        return self._storage.read_range(self._bucket, self.key, start, end)

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        """Yields all bytes from `start` on, in order."""
        for at in range(start, self.size, CHUNK):
            yield self.read(at, min(self.size, at + CHUNK))

    def file(self) -> RangedFile:
        """Returns the object as a seekable file."""
        return RangedFile(self.size, self.read)


def version_of(entry: ObjectEntry) -> str:
    """Returns what tells a version from others: the etag, with size and time where that may be the same for all."""
    return entry.etag if tells_versions(entry.etag) else f"{entry.etag}|{entry.size}|{entry.modified}"
