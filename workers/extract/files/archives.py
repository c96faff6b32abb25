"""The zip archives that DOCX, PPTX, XLSX and EPUB are: looked through before anything in them is parsed.

What an archive unpacks to is bounded by what its directory declares, and that is held against what comes out: an entry
is never read beyond its declared size, and one that has more fails its checksum.
"""

from __future__ import annotations

import io
import zipfile
import zlib

from batch.schema.error_types import ErrorType
from workers.extract.files.extracted import Unreadable

MOST_ENTRIES = 10_000
MOST_UNPACKED = 512 * 2**20
MOST_RATIO, RATIO_FROM = 200, 16 * 2**20
"""Times its packed size that an entry of so many bytes may unpack to; XML of spreadsheets comes to 10 to 50."""


class Archive:
    """A zip archive that is no bomb. Raises `Unreadable`, here and when an entry is read.

    `names` are those of its entries as they should be: with slashes, where some that were made on Windows have
    backslashes, and none at the beginning.
    """

    def __init__(self, data: bytes) -> None:
        try:
            self._file = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError) as error:
            raise Unreadable(ErrorType.CORRUPT, f"the archive is damaged or truncated: {error}") from None
        entries = self._file.infolist()
        if len(entries) > MOST_ENTRIES:
            message = f"the archive has {len(entries):,} entries; the limit is {MOST_ENTRIES:,}"
            raise Unreadable(ErrorType.DECOMPRESSION_BOMB, message)
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > MOST_UNPACKED:
            message = f"the archive unpacks to {unpacked:,} bytes; the limit is {MOST_UNPACKED:,}"
            raise Unreadable(ErrorType.DECOMPRESSION_BOMB, message)
        for entry in entries:
            if entry.file_size > max(RATIO_FROM, entry.compress_size * MOST_RATIO):
                message = f"{entry.filename[:100]!r} unpacks from {entry.compress_size:,} to {entry.file_size:,} bytes"
                raise Unreadable(ErrorType.DECOMPRESSION_BOMB, message)
        if any(entry.flag_bits & 1 for entry in entries):
            raise Unreadable(ErrorType.ENCRYPTED, "the archive is encrypted")
        self._entries = {entry.orig_filename.replace("\\", "/").lstrip("/"): entry for entry in entries}
        self.names = set(self._entries)
        self.is_named_well = all(name == entry.orig_filename for name, entry in self._entries.items())

    def read(self, name: str) -> bytes:
        """Returns an entry, of its declared size at most."""
        if name not in self._entries:
            raise Unreadable(ErrorType.CORRUPT, f"the archive lacks {name[:100]!r}")
        try:
            return self._file.read(self._entries[name])
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, OSError) as error:
            raise Unreadable(ErrorType.CORRUPT, f"{name[:100]!r} in the archive is damaged: {error}") from None
