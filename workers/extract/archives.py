"""The zip archives that DOCX, PPTX, XLSX and EPUB are: looked through before anything in them is parsed.

What an archive unpacks to is bounded by what its directory declares, and that is held against what comes out: an entry
is never read beyond its declared size, and one that has more fails its checksum.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import Literal

from workers.extract.unreadable import Unreadable

MOST_ENTRIES = 10_000
MOST_UNPACKED = 512 * 2**20
MOST_RATIO, RATIO_FROM = 200, 16 * 2**20
"""Times its packed size that an entry of so many bytes may unpack to; XML of spreadsheets comes to 10 to 50."""

Format = Literal["docx", "pptx", "xlsx", "epub"]
_PARTS: dict[str, Format] = {"word/document.xml": "docx", "ppt/presentation.xml": "pptx", "xl/workbook.xml": "xlsx"}
_EPUB = b"application/epub+zip"


class Archive:
    """A zip archive that is no bomb. Raises `Unreadable`, here and when an entry is read."""

    def __init__(self, data: bytes) -> None:
        try:
            self._file = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError) as error:
            raise Unreadable("corrupt", f"the archive is damaged or truncated: {error}") from None
        entries = self._file.infolist()
        if len(entries) > MOST_ENTRIES:
            raise Unreadable(
                "decompression_bomb", f"the archive has {len(entries):,} entries; the limit is {MOST_ENTRIES:,}"
            )
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > MOST_UNPACKED:
            raise Unreadable(
                "decompression_bomb", f"the archive unpacks to {unpacked:,} bytes; the limit is {MOST_UNPACKED:,}"
            )
        for entry in entries:
            if entry.file_size > max(RATIO_FROM, entry.compress_size * MOST_RATIO):
                raise Unreadable(
                    "decompression_bomb",
                    f"{entry.filename[:100]!r} unpacks from {entry.compress_size:,} to {entry.file_size:,} bytes",
                )
        if any(entry.flag_bits & 1 for entry in entries):
            raise Unreadable("encrypted", "the archive is encrypted")
        self.names = {entry.filename for entry in entries}

    def read(self, name: str) -> bytes:
        """An entry, of its declared size at most."""
        try:
            return self._file.read(name)
        except KeyError:
            raise Unreadable("corrupt", f"the archive lacks {name[:100]!r}") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, OSError) as error:
            raise Unreadable("corrupt", f"{name[:100]!r} in the archive is damaged: {error}") from None

    def check(self, suffixes: tuple[str, ...]) -> None:
        """Reads all entries that are called so: none is larger than it says."""
        for name in self.names:
            if name.endswith(suffixes):
                self.read(name)

    def format(self) -> Format:
        """Which of the four it is, by its entries. Raises `Unreadable` for any other archive."""
        if "mimetype" in self.names:
            kind = self.read("mimetype").strip()
            if kind == _EPUB:
                return "epub"
            raise Unreadable(
                "unsupported_format", f"the document is an archive of the type {kind[:80].decode('latin-1')}"
            )
        for part, kind_of_part in _PARTS.items():
            if part in self.names:
                return kind_of_part
        if "META-INF/container.xml" in self.names:
            return "epub"
        if "[Content_Types].xml" in self.names:
            raise Unreadable("corrupt", "the Office document lacks its main part")
        raise Unreadable("unsupported_format", "the document is a zip archive, but no DOCX, PPTX, XLSX or EPUB")
