"""One S3 address in front of two servers: a bucket of one, all others of the other. Bytes pass unchanged.

So a run can read from a server that cannot be its output. The Host header passes too, so that signatures hold; each
connection serves one request, for the next one may be another server's.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Coroutine
from typing import Any

LOOPBACK = "127.0.0.1"
CHUNK = 1 << 16


class BucketRouter:
    """Runs on an event loop and a thread of its own.

    Attributes:
        url: the endpoint for `AWS_ENDPOINT_URL_S3`.
        ports: the server of each bucket, by its port on loopback.
        other: the server of all other buckets.
    """

    def __init__(self, port: int, ports: dict[str, int], other: int) -> None:
        self.url = f"http://{LOOPBACK}:{port}"
        self.ports, self.other = ports, other
        self._port = port
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bucket-router", daemon=True)

    def __enter__(self) -> BucketRouter:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, LOOPBACK, self._port, limit=CHUNK)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                head = await reader.readuntil(b"\r\n\r\n")
                line, _, headers = head.partition(b"\r\n")
                headers = re.sub(rb"(?im)^connection:[^\n]*\n", b"", headers)  # nobody signs it
                asked = re.match(rb"\w+ /([^/? ]*)", line)
                port = self.ports.get(asked[1].decode() if asked else "", self.other)
                await self._forward(b"".join((line, b"\r\nConnection: close\r\n", headers)), port, reader, writer)
        finally:
            writer.close()

    async def _forward(
        self, head: bytes, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        up_reader, up_writer = await asyncio.open_connection(LOOPBACK, port, limit=CHUNK)
        up_writer.write(head)
        asked = asyncio.create_task(_pump(reader, up_writer))
        try:
            await _pump(up_reader, writer)
        finally:
            asked.cancel()
            up_writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
