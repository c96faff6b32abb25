"""Compressed bytes to bytes, as a stream in bounded pieces; what lies before a break comes out before the error."""

from __future__ import annotations

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator

from workers.sources.row import Broken

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdError
else:
    from backports.zstd import ZstdDecompressor, ZstdError

PIECE = 64 * 2**10
"""Compressed bytes that go in, and decompressed ones that come out, at once: a bomb unfolds a piece at a time, and of
what lies before a damaged place no more than this is lost."""
LZMA_MEMORY = 256 * 2**20
"""Bytes that an xz stream may ask for to be unpacked: `xz -9` asks for 65 MiB."""


def unpacked(first: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yields what a stream holds whose first bytes, by `PACKINGS`, are those of a compression. Raises `Broken`."""
    return next(unpack for magic, unpack in _BY_MAGIC.items() if first.startswith(magic))(chunks)


def refused_packing(first: bytes) -> str | None:
    """Returns the name of a packing that these first bytes belong to, and that is not read; None for all others."""
    return next((name for magic, name in _REFUSED.items() if first.startswith(magic)), None)


def gunzip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yields the bytes of all members of a gzip stream. Raises `Broken`."""
    member: zlib._Decompress | None = None
    for fed in _pieces(chunks):
        data, has_more = fed, False
        while data or has_more:
            if member is None:
                data = data.lstrip(b"\0")  # padding after a member
                if not data:
                    break
                member = zlib.decompressobj(wbits=31)
            try:
                out = member.decompress(data, PIECE)
            except zlib.error as error:
                raise Broken(f"its gzip stream is damaged: {error}") from None
            if out:
                yield out
            data, has_more = member.unconsumed_tail, len(out) == PIECE
            if member.eof:
                data, has_more, member = member.unused_data, False, None
    if member is not None:
        raise Broken("its gzip stream ends too early: the object is cut off")


def unzstd(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yields the bytes of all frames of a Zstandard stream. Raises `Broken`.

    A frame that wants a window of more than 128 MiB (`zstd --long=28` and more) is refused, as by the `zstd` command.
    """
    return _streams(chunks, "Zstandard", ZstdDecompressor, ZstdError)


def bunzip2(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yields the bytes of all streams of bzip2 data. Raises `Broken`."""
    return _streams(chunks, "bzip2", bz2.BZ2Decompressor, OSError)


def unxz(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yields the bytes of all streams of xz data, with the zeros that may pad them. Raises `Broken`."""
    return _streams(chunks, "xz", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, LZMA_MEMORY), lzma.LZMAError)


_Decompressor = ZstdDecompressor | bz2.BZ2Decompressor | lzma.LZMADecompressor


def _streams(
    chunks: Iterator[bytes],
    name: str,
    begin: Callable[[], _Decompressor],
    damage: type[Exception],
) -> Iterator[bytes]:
    stream: _Decompressor | None = None
    for fed in _pieces(chunks):
        data = fed
        while data or (stream is not None and not stream.needs_input):
            if stream is None:
                data = data if name == "Zstandard" else data.lstrip(b"\0")
                if not data:
                    break
                stream = begin()
            try:
                out = stream.decompress(data, PIECE)
            except damage as error:
                raise Broken(f"its {name} stream is damaged: {error}") from None
            if out:
                yield out
            data = b""
            if stream.eof:
                data, stream = stream.unused_data, None
    if stream is not None:
        raise Broken(f"its {name} stream ends too early: the object is cut off")


def _pieces(chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        for at in range(0, len(chunk), PIECE):
            yield chunk[at : at + PIECE]


_BY_MAGIC: dict[bytes, Callable[[Iterator[bytes]], Iterator[bytes]]] = {
    b"\x1f\x8b": gunzip,
    b"\x28\xb5\x2f\xfd": unzstd,
    b"BZh": bunzip2,
    b"\xfd7zXZ\0": unxz,
}
PACKINGS = tuple(_BY_MAGIC)
_REFUSED = {
    b"\x04\x22\x4d\x18": "LZ4 data",
    b"\xff\x06\x00\x00sNaPpY": "Snappy data",
    b"PK\x03\x04": "a ZIP archive",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"PAR1": "a Parquet file",
    b"PARE": "an encrypted Parquet file",
    b"ORC": "an ORC file",
    b"Obj\x01": "an Avro file",
    b"%PDF-": "a PDF",
    b"SQLite format 3": "a SQLite database",
}
