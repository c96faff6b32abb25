"""A proxy in front of the S3 server that can be told to answer 503 or 403, to refuse connections and to be slow.

It passes bytes on unchanged, the Host header too, so that signatures hold. Each change of mode cuts the connections
that are open: requests under way end without an answer, as they do when a real server goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

Mode = Literal["pass", "503", "403", "refuse", "slow"]
T = TypeVar("T")

_HEAD = "HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
_BODY = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'


def _error(status: str, code: str, message: str) -> bytes:
    body = _BODY.format(code=code, message=message)
    return (_HEAD.format(status=status, length=len(body)) + body).encode()


_ERRORS = {
    "503": _error("503 Slow Down", "SlowDown", "Please reduce your request rate."),
    "403": _error("403 Forbidden", "AccessDenied", "Access Denied."),
}
CHUNK = 1 << 16


class S3Proxy:
    """Runs on an event loop and a thread of its own, so that a busy test does not slow it down.

    Attributes:
        url: the endpoint for `AWS_ENDPOINT_URL_S3`; the same for the proxy's whole life.
        refused: requests that were answered 503 or 403.
        slow_seconds: what each chunk of an answer waits in mode `slow`.
    """

    def __init__(self, endpoint: str, port: int) -> None:
        target = urlsplit(endpoint)
        self._target = (target.hostname or "127.0.0.1", target.port or 80)
        self._port = port
        self.url = f"http://127.0.0.1:{port}"
        self.refused = 0
        self.slow_seconds = 1.0
        self._mode: Mode = "pass"
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="s3-proxy", daemon=True)

    def __enter__(self) -> S3Proxy:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    @property
    def mode(self) -> Mode:
        return self._mode

    def set(self, mode: Mode) -> None:
        """From now on; connections that are open are cut."""
        self._call(self._change(mode))

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _change(self, mode: Mode) -> None:
        self._mode = mode
        if mode == "refuse":
            await self._close()
        else:
            await self._listen()
        for writer in list(self._open):
            writer.transport.abort()

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, limit=CHUNK)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                if self._mode in _ERRORS:
                    await self._refuse(reader, writer, _ERRORS[self._mode])
                else:
                    await self._forward(reader, writer)
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if b"100-continue" not in head.lower():
            await reader.readexactly(int(length[1]) if length else 0)
        writer.write(answer)
        await writer.drain()
        writer.write_eof()
        self.refused += 1
        await asyncio.sleep(0.05)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._target, limit=CHUNK)
        except OSError:
            return
        self._open.add(up_writer)
        try:
            await _first(self._pump(reader, up_writer, lambda: 0.0), self._pump(up_reader, writer, self._delay))
        finally:
            self._open.discard(up_writer)
            up_writer.transport.abort()

    def _delay(self) -> float:
        return self.slow_seconds if self._mode == "slow" else 0.0

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: Callable[[], float]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if (seconds := delay()) > 0:
                    await asyncio.sleep(seconds)
                writer.write(data)
                await writer.drain()


async def _first(*pumps: Coroutine[Any, Any, None]) -> None:
    """Until either side closes."""
    tasks = [asyncio.create_task(pump) for pump in pumps]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
