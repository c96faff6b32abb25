"""An S3 server in memory that misbehaves as other people's servers do, by bucket and by object. For tests alone.

    with FaultyS3() as server:
        server.bucket("corpus", Faults(region="eu-central-1", page=100))
        server.put("corpus", "a.txt", b"words", Quirks(etag="constant"))
        ... AWS_ENDPOINT_URL_S3 = server.url

It speaks HTTP by hand, so that headers may hold any bytes and bodies may end too early. `asked` has all requests.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qs, quote, unquote

Etag = Literal[
    "md5", "constant", "constant-md5", "empty", "weak", "unquoted", "other-in-listing", "of-the-key", "of-another"
]  # fmt: skip
"""`of-another`: the MD5 of `ANOTHER`, whatever the object holds."""
ANOTHER = b"The words of just one of all objects."


@dataclass
class Faults:
    """Of a bucket. Without any it is as S3 is."""

    region: str = ""
    region_status: int = 301
    server: str = "Faulty"
    requester_pays: bool = False
    path_style_refused: bool = False
    conditional_put: Literal["works", "ignored", "not implemented", "create only"] = "works"
    no_bulk_delete: bool = False
    page: int = 1000
    listing: Literal[
        "works",
        "no token",
        "same token",
        "says no more",
        "version 1",
        "no start",
        "stands still",
        "empty pages",
        "none",
    ] = "works"
    inclusive: bool = False
    """Whether a listing begins with the key that it is to start after."""
    no_ranges: bool = False
    no_if_match: bool = False
    chunked: bool = False
    away: bool = False
    etag: Etag = "md5"
    flaky: float = 0.0
    """Share of requests that end in a 503, a closed connection or half a body."""


@dataclass
class Quirks:
    """Of an object, beside those of its bucket."""

    etag: Etag | None = None
    header: bytes = b""
    """A whole line, any bytes."""
    chunked: bool = False
    archived: bool = False
    forbidden: bool = False
    away: bool = False
    listed_size: int | None = None
    becomes: bytes | None = None
    """What it is from its first GET on; the listing still has it as it was."""


@dataclass
class _Stored:
    data: bytes
    quirks: Quirks = field(default_factory=Quirks)


@dataclass
class _Request:
    method: str
    bucket: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


class Answer(Exception):
    """What is sent: raised where it is known."""

    def __init__(self, status: int, body: bytes = b"", *headers: bytes) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, list(headers)


def _error(status: int, code: str, *headers: bytes, more: str = "") -> Answer:
    text = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{code}</Message>{more}</Error>'
    return Answer(status, text.encode(), b"Content-Type: application/xml", *headers)


class FaultyS3:
    """Runs on a thread of its own."""

    def __init__(self, seed: int = 0) -> None:
        self.faults: dict[str, Faults] = {}
        self.objects: dict[str, dict[str, _Stored]] = {}
        self.asked: list[_Request] = []
        self.url = ""
        self._dice = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faulty-s3", daemon=True)
        self._server: asyncio.Server | None = None

    def __enter__(self) -> FaultyS3:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**26)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def bucket(self, name: str, faults: Faults | None = None) -> Faults:
        self.faults[name] = faults or Faults()
        self.objects.setdefault(name, {})
        return self.faults[name]

    def put(self, bucket: str, key: str, data: bytes, quirks: Quirks | None = None) -> None:
        self.objects[bucket][key] = _Stored(data, quirks or Quirks())

    def counted(self, method: str, bucket: str, wanted: Callable[[_Request], bool] = lambda _: True) -> int:
        return sum(each.method == method and each.bucket == bucket and wanted(each) for each in list(self.asked))

    # -- HTTP

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").split("\r\n")
                method, target, _ = first.split(" ", 2)
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length") or 0))
                path, _, query = target.partition("?")
                bucket, _, key = path.lstrip("/").partition("/")
                asked = {name: values[0] for name, values in parse_qs(query, keep_blank_values=True).items()}
                request = _Request(method, unquote(bucket), unquote(key), asked, headers, body)
                self.asked.append(request)
                try:
                    self._answer(request)
                except Answer as answer:
                    if not await self._send(request, answer, writer):
                        break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _send(self, request: _Request, answer: Answer, writer: asyncio.StreamWriter) -> bool:
        faults = self.faults.get(request.bucket, Faults())
        stored = self.objects.get(request.bucket, {}).get(request.key)
        chunked = request.method == "GET" and request.key != "" and answer.status in (200, 206)
        chunked = chunked and (faults.chunked or (stored is not None and stored.quirks.chunked))
        lines = [f"HTTP/1.1 {answer.status} X".encode(), f"Server: {faults.server}".encode(), *answer.headers]
        length = next((line for line in answer.headers if line.lower().startswith(b"content-length")), None)
        if chunked:
            lines.append(b"Transfer-Encoding: chunked")
        elif length is None:
            lines.append(b"Content-Length: %d" % len(answer.body))
        body = b"" if request.method == "HEAD" else answer.body
        if chunked:
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
        half = answer.status == 200 and len(body) > 1 and request.method == "GET" and self._breaks(faults)
        writer.write(b"\r\n".join([*lines, b"", b""]) + (body[: len(body) // 2] if half else body))
        await writer.drain()
        return not half

    def _breaks(self, faults: Faults) -> bool:
        return faults.flaky > 0 and self._dice.random() < faults.flaky / 2

    # -- S3

    def _answer(self, request: _Request) -> None:
        faults = self.faults.get(request.bucket)
        if faults is None:
            raise _error(404, "NoSuchBucket")
        region = b"x-amz-bucket-region: " + (faults.region or "us-east-1").encode()
        signed = re.search(r"Credential=[^/]+/\d+/([^/]+)/s3", request.headers.get("authorization", ""))
        if faults.path_style_refused:
            raise _error(403, "SecondLevelDomainForbidden")
        if faults.region and signed and signed[1] != faults.region:
            code = "PermanentRedirect" if faults.region_status == 301 else "AuthorizationHeaderMalformed"
            raise _error(faults.region_status, code, region, more=f"<Region>{faults.region}</Region>")
        if faults.requester_pays and request.headers.get("x-amz-request-payer") != "requester":
            raise _error(403, "AccessDenied")
        if faults.flaky and self._dice.random() < faults.flaky / 2:
            raise _error(503, "SlowDown")
        if request.key:
            self._of_object(request, faults)
        if request.method == "HEAD":
            raise Answer(200, b"", region)
        if request.method == "POST" and "delete" in request.query:
            self._bulk_delete(request, faults)
        if request.method == "GET":
            self._list(request, faults)
        raise _error(501, "NotImplemented")

    def _bulk_delete(self, request: _Request, faults: Faults) -> None:
        if faults.no_bulk_delete:
            raise _error(501, "NotImplemented")
        keys = [_plain(key) for key in re.findall(r"<Key>([^<]*)</Key>", request.body.decode())]
        for key in keys:
            self.objects[request.bucket].pop(key, None)
        said = "".join(f"<Deleted><Key>{_escaped(key)}</Key></Deleted>" for key in keys)
        raise Answer(200, f"<DeleteResult>{said}</DeleteResult>".encode(), b"Content-Type: application/xml")

    def _of_object(self, request: _Request, faults: Faults) -> None:
        objects, key = self.objects[request.bucket], request.key
        if request.method == "PUT":
            self._write(request, faults)
        if request.method == "DELETE":
            objects.pop(key, None)
            raise Answer(204)
        stored = objects.get(key)
        if stored is None:
            raise _error(404, "NoSuchKey")
        if faults.away or stored.quirks.away:
            raise _error(503, "SlowDown")
        if stored.quirks.forbidden and request.method == "GET":
            raise _error(403, "AccessDenied")
        if stored.quirks.archived and request.method == "GET":
            raise _error(403, "InvalidObjectState")
        self._read(request, faults, stored)

    def _write(self, request: _Request, faults: Faults) -> None:
        objects, key = self.objects[request.bucket], request.key
        old, headers = objects.get(key), request.headers
        conditional = "if-none-match" in headers or "if-match" in headers
        if conditional and faults.conditional_put == "not implemented":
            raise _error(501, "NotImplemented")
        if conditional and faults.conditional_put != "ignored":
            if "if-none-match" in headers and old is not None:
                raise _error(412, "PreconditionFailed")
            if "if-match" in headers and faults.conditional_put != "create only":
                if old is None:
                    raise _error(404, "NoSuchKey")
                if headers["if-match"] != _etag(faults, old, key, old.data):
                    raise _error(412, "PreconditionFailed")
        objects[key] = _Stored(request.body)
        raise Answer(200, b"", b"ETag: " + _etag(faults, objects[key], key, request.body).encode())

    def _read(self, request: _Request, faults: Faults, stored: _Stored) -> None:
        data, headers = stored.data if stored.quirks.becomes is None else stored.quirks.becomes, request.headers
        etag = _etag(faults, stored, request.key, data)
        if headers.get("if-match") and not faults.no_if_match and headers["if-match"] not in (etag, "*"):
            raise _error(412, "PreconditionFailed")
        lines = [b"Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT"]
        if etag:
            lines.append(b"ETag: " + etag.encode())
        if stored.quirks.header:
            lines.append(stored.quirks.header)
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", headers.get("range", ""))
        if found and not faults.no_ranges:
            start = int(found[1]) if found[1] else max(0, len(data) - int(found[2]))
            end = min(int(found[2]), len(data) - 1) if found[1] and found[2] else len(data) - 1
            if start >= len(data):
                raise _error(416, "InvalidRange")
            lines.append(b"Content-Range: bytes %d-%d/%d" % (start, end, len(data)))
            raise Answer(206, data[start : end + 1], *lines)
        if request.method == "HEAD":
            lines.append(b"Content-Length: %d" % len(data))
        raise Answer(200, data, *lines)

    def _list(self, request: _Request, faults: Faults) -> None:
        query, objects = request.query, self.objects[request.bucket]
        prefix, page = query.get("prefix", ""), min(int(query.get("max-keys") or 1000), faults.page)
        after = query.get("start-after", "")
        one = faults.listing == "version 1"
        if one or faults.listing == "no start":
            after = query.get("marker", "") if one else ""
        if (token := query.get("continuation-token")) and not one and faults.listing != "empty pages":
            after = base64.urlsafe_b64decode(token).decode()
        if faults.listing == "same token":
            after = ""
        if faults.listing == "none":
            raise Answer(200, b"")
        keys = sorted(key for key in objects if key.startswith(prefix))
        left = [key for key in keys if key >= after] if faults.inclusive else [key for key in keys if key > after]
        shown, more = left[:page], len(left) > page
        rows = "".join(self._row(faults, key, objects[key]) for key in shown)
        said = faults.listing != "says no more" and (more or faults.listing in ("same token", "stands still"))
        following = ""
        if faults.listing == "empty pages":
            rows, said, following = "", True, f"<NextContinuationToken>{len(self.asked)}</NextContinuationToken>"
        elif said and shown and faults.listing not in ("no token", "version 1", "stands still"):
            ends = "" if faults.listing == "same token" else shown[-1]
            token = base64.urlsafe_b64encode(ends.encode() or b"-").decode()
            following = f"<NextContinuationToken>{token}</NextContinuationToken>"
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Name>{request.bucket}</Name>'
            f"<Prefix>{quote(prefix)}</Prefix><KeyCount>{len(shown)}</KeyCount><MaxKeys>{page}</MaxKeys>"
            f"<EncodingType>url</EncodingType><IsTruncated>{str(said).lower()}</IsTruncated>{following}{rows}"
            "</ListBucketResult>"
        )
        if query.get("encoding-type") != "url":
            body = body.replace("<EncodingType>url</EncodingType>", "")
            body = re.sub(r"<Key>([^<]*)</Key>", lambda key: f"<Key>{_escaped(unquote(key[1]))}</Key>", body)
        raise Answer(200, body.encode(), b"Content-Type: application/xml")

    def _row(self, faults: Faults, key: str, stored: _Stored) -> str:
        size = len(stored.data) if stored.quirks.listed_size is None else stored.quirks.listed_size
        return (
            f"<Contents><Key>{quote(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>{_escaped(_etag(faults, stored, key, stored.data, listing=True))}</ETag><Size>{size}</Size>"
            f"<StorageClass>{'GLACIER' if stored.quirks.archived else 'STANDARD'}</StorageClass></Contents>"
        )


def _etag(faults: Faults, stored: _Stored, key: str, data: bytes, *, listing: bool = False) -> str:
    kind, md5 = stored.quirks.etag or faults.etag, hashlib.md5(data).hexdigest()
    if kind == "unquoted":
        return md5 if listing else f'"{md5}"'
    if kind == "other-in-listing":
        return f'"0x8D{md5[:12].upper()}"' if listing else f'"{md5}"'
    return {
        "md5": f'"{md5}"',
        "constant": f'"{"0" * 32}-1"',
        "constant-md5": f'"{hashlib.md5(b"").hexdigest()}"',
        "empty": "",
        "weak": f'W/"{md5}"',
        "of-another": f'"{hashlib.md5(ANOTHER).hexdigest()}"',
        "of-the-key": f'"{hashlib.md5(key.encode()).hexdigest()}"',
    }[kind]


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def _plain(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")
