"""One version of an object of the source, read by ranges and never whole. Blocking: for threads."""

from __future__ import annotations

import io
from collections.abc import Iterator

from batch.layout import object_uri
from batch.listing import ObjectEntry
from batch.store import Storage, StorageError

CHUNK = 8 * 2**20
"""Bytes of one ranged GET. Not one stream of the whole: its body would have to arrive within one request's timeout."""


class SourceObject:
    """An object as it was listed. Each read raises `PreconditionFailed` once another version lies there."""

    def __init__(self, storage: Storage, bucket: str, entry: ObjectEntry) -> None:
        self.key, self.size, self.etag = entry.key, entry.size, entry.etag
        self.uri = object_uri(bucket, entry.key)
        self._storage, self._bucket = storage, bucket

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` up to `end`, which is past `start` and not past the object."""
        return self._storage.read_range(self._bucket, self.key, start, end, etag=self.etag)

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        """All bytes from `start` on, in order."""
        for at in range(start, self.size, CHUNK):
            yield self.read(at, min(self.size, at + CHUNK))

    def file(self) -> ObjectFile:
        """The object as a seekable file."""
        return ObjectFile(self)


class ObjectFile(io.RawIOBase):
    """For readers that seek: each read is one ranged GET. `failure` is what the last one that failed failed of."""

    def __init__(self, source: SourceObject) -> None:
        super().__init__()
        self._source, self._at = source, 0
        self.failure: StorageError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._source.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._source.size if size < 0 else min(self._source.size, self._at + size)
        if end <= self._at:
            return b""
        try:
            data = self._source.read(self._at, end)
        except StorageError as error:
            self.failure = error
            raise
        self._at += len(data)
        return data
