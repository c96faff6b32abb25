"""Bare loops of requests, each in a process of its own: what nobody can be faster than, and what a script would do.

    python -m benchmarks.loops KIND COUNT CONCURRENCY

Asks the provider of the environment the very questions that docbatch asks, with texts from memory, nothing stored, and
prints the process's CPU and wall seconds of the loop as JSON. KIND: `openai` (`AsyncOpenAI.chat.completions.create`),
`aiohttp` (aiohttp and orjson), `raw` (prepared bytes on bare connections: hardly any CPU, to load a server), or
`pipeline`: `aiohttp` with the texts from S3 (obstore) and the answers to it, one Parquet file at the very end; no
ledger, no retries, no limits, and whoever kills it pays for everything again.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import cast
from urllib.parse import urlsplit

import aiohttp
import obstore
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import uvloop
from obstore.store import S3Store
from openai import AsyncOpenAI
from openai.types.shared_params import ResponseFormatJSONSchema

from benchmarks.lab import CORPUS, DOCUMENT_BYTES, FOLDER, MODEL, PROMPT, RESULTS, SCHEMA
from benchmarks.synthetic import synthetic_documents
from workers.llm.response_format import response_format

Send = Callable[[str], Awaitable[None]]
BURST = 32
"""Objects that the pipeline reads at one go, as docbatch does."""
_FORMAT = cast(ResponseFormatJSONSchema, response_format(SCHEMA))


@dataclass(frozen=True)
class Loop:
    """What one loop took, by its own process's clock."""

    requests: int
    wall_seconds: float
    cpu_seconds: float

    @property
    def cpu_ms(self) -> float:
        """Milliseconds of CPU a request."""
        return 1e3 * self.cpu_seconds / self.requests


def run(kind: str, count: int, concurrency: int) -> Loop:
    """Runs a loop in a process of its own, against the provider of this process's environment."""
    command = [sys.executable, "-m", "benchmarks.loops", kind, str(count), str(concurrency)]
    done = subprocess.run(command, env=os.environ, stdout=subprocess.PIPE, check=True, timeout=1200)
    return Loop(**json.loads(done.stdout))


def _prompts(count: int) -> list[str]:
    return [PROMPT + text.decode() for _, text in synthetic_documents(count, DOCUMENT_BYTES)]


def _body(prompt: str) -> bytes:
    question = {"messages": [{"role": "user", "content": prompt}], "model": MODEL, "response_format": _FORMAT}
    return orjson.dumps(question)


async def _at_once(prompts: Iterator[str], concurrency: int, send: Send) -> None:
    async def lane() -> None:
        for prompt in prompts:
            await send(prompt)

    async with asyncio.TaskGroup() as lanes:
        for _ in range(concurrency):
            lanes.create_task(lane())


async def _openai(prompts: Iterator[str], concurrency: int) -> None:
    async with AsyncOpenAI(max_retries=0) as client:

        async def send(prompt: str) -> None:
            answer = await client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": prompt}],
                response_format=_FORMAT,
            )
            orjson.loads(answer.choices[0].message.content or "")

        await _at_once(prompts, concurrency, send)


def _session() -> aiohttp.ClientSession:
    headers = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}", "Content-Type": "application/json"}
    return aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0))


async def _answer(session: aiohttp.ClientSession, prompt: str) -> dict[str, str]:
    async with session.post(os.environ["OPENAI_BASE_URL"] + "/chat/completions", data=_body(prompt)) as answer:
        answer.raise_for_status()
        content = orjson.loads(await answer.read())["choices"][0]["message"]["content"]
        return cast(dict[str, str], orjson.loads(content))


async def _aiohttp(prompts: Iterator[str], concurrency: int) -> None:
    async with _session() as session:

        async def send(prompt: str) -> None:
            await _answer(session, prompt)

        await _at_once(prompts, concurrency, send)


def _texts(found: list[obstore.GetResult]) -> list[str]:
    return [bytes(each.bytes()).decode() for each in found]


async def _pipeline(count: int, concurrency: int) -> None:
    source, results = (
        S3Store(bucket, endpoint=os.environ["AWS_ENDPOINT_URL_S3"], client_options={"allow_http": True})
        for bucket in (CORPUS, RESULTS)
    )
    keys = [meta["path"] async for page in obstore.list(source, FOLDER) for meta in page][:count]
    ahead: asyncio.Queue[tuple[str, str] | None] = asyncio.Queue(concurrency)
    rows: list[dict[str, str]] = []

    async def read() -> None:
        for start in range(0, len(keys), BURST):
            burst = keys[start : start + BURST]
            found = await asyncio.gather(*(obstore.get_async(source, key) for key in burst))
            for document in zip(burst, await asyncio.to_thread(_texts, found), strict=True):
                await ahead.put(document)
        for _ in range(concurrency):
            await ahead.put(None)

    async with _session() as session:

        async def ask() -> None:
            while (document := await ahead.get()) is not None:
                key, text = document
                rows.append({"document_id": key, **await _answer(session, PROMPT + text)})

        await asyncio.gather(read(), *(ask() for _ in range(concurrency)))
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    await obstore.put_async(results, "pipeline.parquet", file.getvalue())


class _Connection(asyncio.Protocol):
    """Sends the next request as soon as the last one is answered, and looks at no answer but its length."""

    def __init__(self, requests: Iterator[bytes], ended: asyncio.Future[None]) -> None:
        self._requests, self._ended = requests, ended
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self._next()

    def _next(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self._transport.close()
        else:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if found and len(body) >= int(head.lower().partition(b"content-length:")[2].split(None, 1)[0]):
            if head.startswith(b"HTTP/1.1 200"):
                self._answer = b""
                self._next()
            else:
                self._ended.set_exception(ConnectionError(self._answer.decode(errors="replace")))
                self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_result(None)


async def _raw(prompts: Iterator[str], concurrency: int) -> None:
    where = urlsplit(os.environ["OPENAI_BASE_URL"])
    assert where.hostname and where.port
    head = (
        f"POST {where.path}/chat/completions HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {os.environ['OPENAI_API_KEY']}\r\nContent-Length: "
    ).encode()
    loop = asyncio.get_running_loop()
    requests = (b"%b%d\r\n\r\n%b" % (head, len(body), body) for body in map(_body, prompts))
    ends: list[asyncio.Future[None]] = [loop.create_future() for _ in range(concurrency)]
    for end in ends:
        await loop.create_connection(partial(_Connection, requests, end), where.hostname, where.port)
    await asyncio.gather(*ends)


_KINDS = {"openai": _openai, "aiohttp": _aiohttp, "raw": _raw}


def main() -> None:
    """The process of one loop."""
    kind, count, concurrency = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    loop = _pipeline(count, concurrency) if kind == "pipeline" else _KINDS[kind](iter(_prompts(count)), concurrency)
    began, cpu = time.monotonic(), time.process_time()
    uvloop.run(loop)
    took = {"requests": count, "wall_seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu}
    sys.stdout.write(json.dumps(took))


if __name__ == "__main__":
    main()
