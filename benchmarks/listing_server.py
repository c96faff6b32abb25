"""A stand-in for S3 with millions of synthetic keys, for `benchmarks.planning`: in a process of its own.

    python -m benchmarks.listing_server KEYS [--latency SECONDS] [--duplicates SHARE]

Lists the bucket `corpus` by ListObjectsV2 (prefix, start-after, continuation-token, max-keys; neither delimiter nor
owner), in the form and order of AWS: a page of 1,000 keys is made by numpy from their numbers in half a millisecond, so
it is not what is measured. What is PUT anywhere is kept in a temporary folder for GET, by ranges too, and HEAD. Prints
its port. Signatures are not looked at.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import tempfile
from pathlib import Path
from urllib.parse import quote, quote_plus

import numpy as np
import numpy.typing as npt
import uvloop
from aiohttp import web

Numbers = npt.NDArray[np.uint64]
PREFIX = "documents/"
_KEY = PREFIX + "{folder:05d}/{number:09d}.txt"
_FOLDER = 10_000
"""Keys in a folder."""
_ENTRY = (
    "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;{etag}&quot;</ETag>"
    "<ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType><Size>2048</Size>"
    "<StorageClass>STANDARD</StorageClass></Contents>"
)
_PAGE = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    "<Name>corpus</Name><Prefix>{prefix}</Prefix><KeyCount>{count}</KeyCount><MaxKeys>{most}</MaxKeys>"
    "<EncodingType>url</EncodingType><IsTruncated>{truncated}</IsTruncated>{token}"
)


def key_of(number: int) -> str:
    return _KEY.format(folder=number // _FOLDER, number=number)


class Pages:
    """Bodies of listings. All entries are equally long, so digits are written into copies of one."""

    def __init__(self, keys: int, duplicates: float) -> None:
        self._keys, self._duplicates = keys, duplicates
        entry = _ENTRY.format(key=quote(key_of(0)), etag="x" * 32).encode()
        self._entry = np.frombuffer(entry, np.uint8)
        self._folder_at = entry.index(b"00000/")
        self._number_at = entry.index(b"000000000")
        self._etag_at = entry.index(b"x" * 32)

    def body(self, prefix: str, after: str, token: str, most: int) -> bytes:
        numbers = range(self._keys)
        first = max(bisect.bisect_right(numbers, after, key=key_of), bisect.bisect_left(numbers, prefix, key=key_of))
        start = int(token) if token else first
        end = bisect.bisect_right(numbers, prefix + "\U0010ffff", key=key_of)
        count = max(0, min(most, 1000, end - start))
        more = start + count < end
        following = f"<NextContinuationToken>{start + count}</NextContinuationToken>" if more else ""
        truncated = "true" if more else "false"
        head = _PAGE.format(prefix=quote_plus(prefix), count=count, most=most, truncated=truncated, token=following)
        return head.encode() + self._entries(start, count) + b"</ListBucketResult>"

    def _entries(self, start: int, count: int) -> bytes:
        entries = np.tile(self._entry, (count, 1))
        numbers = np.arange(start, start + count, dtype=np.uint64)
        _write_digits(entries, self._folder_at, 5, numbers // np.uint64(_FOLDER), 10)
        _write_digits(entries, self._number_at, 9, numbers, 10)
        contents = numbers.copy()
        copies = (_mix(numbers) % np.uint64(1000) < np.uint64(self._duplicates * 1000)) & (numbers > 0)
        contents[copies] = _mix(numbers[copies] ^ np.uint64(0x5EED)) % numbers[copies]
        _write_digits(entries, self._etag_at, 16, _mix(contents), 16)
        _write_digits(entries, self._etag_at + 16, 16, _mix(~contents), 16)
        return entries.tobytes()


def _mix(values: Numbers) -> Numbers:
    """SplitMix64's last step: numbers that look random, the same ones for the same values."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: Numbers = values ^ (values >> np.uint64(31))
    return mixed


def _write_digits(entries: npt.NDArray[np.uint8], at: int, count: int, values: Numbers, base: int) -> None:
    signs = np.frombuffer(b"0123456789abcdef", np.uint8)
    for place in range(at + count - 1, at - 1, -1):
        values, digit = np.divmod(values, np.uint64(base))
        entries[:, place] = signs[digit.astype(np.int64)]


class Server:
    """The routes."""

    def __init__(self, pages: Pages, latency: float, folder: Path) -> None:
        self._pages, self._latency, self._folder = pages, latency, folder
        self._headers = {"Server": "AmazonS3", "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("list-type") == "2":
            return await self._list(request)
        file = self._folder / quote(request.path, safe="")
        if request.method == "PUT":
            data = await request.read()
            if request.headers.get("If-None-Match") == "*" and file.exists():
                return web.Response(status=412, text="<Error><Code>PreconditionFailed</Code></Error>")
            file.write_bytes(data)
            return web.Response(headers={**self._headers, "ETag": '"stored"'})
        if request.path.count("/") == 1:  # of a bucket
            return web.Response(headers=self._headers)
        if not file.exists():
            return web.Response(status=404, text="<Error><Code>NoSuchKey</Code></Error>")
        return web.FileResponse(file, headers={"Server": "AmazonS3", "ETag": '"stored"'})

    async def _list(self, request: web.Request) -> web.Response:
        asked = request.query
        most = int(asked.get("max-keys", "1000"))
        body = self._pages.body(
            asked.get("prefix", ""), asked.get("start-after", ""), asked.get("continuation-token", ""), most
        )
        await asyncio.sleep(self._latency)
        return web.Response(body=body, content_type="application/xml", headers=self._headers)


async def _serve(options: argparse.Namespace, folder: Path) -> None:
    server = Server(Pages(options.keys, options.duplicates), options.latency, folder)
    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Serves until it is ended."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.listing_server", description=__doc__)
    parser.add_argument("keys", type=int)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each page (default: %(default)g)")
    parser.add_argument("--duplicates", type=float, default=0.0, help="share of the keys (default: %(default)g)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="docbatch-listing-") as folder:
        uvloop.run(_serve(options, Path(folder)))


if __name__ == "__main__":
    main()
