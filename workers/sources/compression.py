"""Compressed bytes to bytes, as a stream in bounded pieces; what lies before a break comes out before the error."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator

from workers.sources.row import Broken

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdError
else:
    from backports.zstd import ZstdDecompressor, ZstdError

PIECE = 64 * 2**10
"""Compressed bytes that go in, and decompressed ones that come out, at once: a bomb unfolds a piece at a time, and of
what lies before a damaged place no more than this is lost."""
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


def gunzip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The bytes of all members of a gzip stream. Raises `Broken`."""
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
    """The bytes of all frames of a Zstandard stream. Raises `Broken`.

    A frame that wants a window of more than 128 MiB (`zstd --long=28` and more) is refused, as by the `zstd` command.
    """
    frame: ZstdDecompressor | None = None
    for fed in _pieces(chunks):
        data = fed
        while data or (frame is not None and not frame.needs_input):
            frame = frame or ZstdDecompressor()
            try:
                out = frame.decompress(data, PIECE)
            except ZstdError as error:
                raise Broken(f"its Zstandard stream is damaged: {error}") from None
            if out:
                yield out
            data = b""
            if frame.eof:
                data, frame = frame.unused_data, None
    if frame is not None:
        raise Broken("its Zstandard stream ends too early: the object is cut off")


def _pieces(chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        for at in range(0, len(chunk), PIECE):
            yield chunk[at : at + PIECE]
