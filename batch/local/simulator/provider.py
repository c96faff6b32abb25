"""The simulated LLM provider: an OpenAI-compatible HTTP server that answers from the document's own text.

It stands in for a provider on a laptop, in tests and in benchmarks: it can be slow, limit, refuse and die on demand,
and it keeps the account that tests check a run against: which documents were paid, and how often. Its model names begin
with `simulated-`, so that nobody mistakes it for a model.
"""

import argparse
import asyncio
import math
import os
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, fields
from hashlib import blake2b, sha256
from pathlib import Path
from statistics import NormalDist
from typing import Any

import orjson
import uvloop
from aiohttp.web import BaseRequest, RequestPayloadError, Response, Server

from batch.local.simulator.account import Account, Journal
from batch.local.simulator.batches import Batches
from batch.local.simulator.completions import Asked, asked_of, complete, no_model
from batch.local.simulator.options import UNANSWERED, ProviderOptions
from batch.local.simulator.refusals import ERRORS, LARGEST_BODY, QUOTA, Refused, invalid
from batch.local.simulator.token_bucket import TokenBucket, duration
from batch.network.browsers import refusal

MODELS = ("simulated-small", "simulated-large")
MOST_CONNECTIONS = 16_384
# Seconds after which a request that is never to be answered is let go.
LONGEST_SILENCE = 600.0


class _Silenced(Exception):
    """No answer at all: `timeout`, `reset` or `drop`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.key: bytes | None = None


def caller(request: BaseRequest) -> str:
    """Whose request it is."""
    return request.headers.get("OpenAI-Organization", "")


async def _body(request: BaseRequest) -> bytes:
    """The body, decompressed; one that is too large is read to its end, so that the client gets to see the answer."""
    parts, size = [], 0
    while part := await request.content.readany():
        size += len(part)
        if size <= LARGEST_BODY:
            parts.append(part)
    if size > LARGEST_BODY:
        raise Refused("too_large")
    return b"".join(parts)


class Provider:
    """The server's behaviour: options, limits and account, and a handler for each route."""

    def __init__(self, options: ProviderOptions, journal: Path | None = None) -> None:
        self.account = Account()
        self.journal = Journal(journal)
        self.in_flight = 0
        self._identifiers = f"{os.getpid():06x}{time.time_ns() & 0xFFFFFFFF:08x}"
        self._count = 0
        self.options = options
        self._free_at = 0.0  # when the last in line for the capacity has had its turn, by the monotonic clock
        self._behave(options)
        self.batches = Batches(
            lambda: self.options, self._answer_line, lambda body: asked_of(orjson.dumps(body)).prompt_tokens
        )
        self._routes: dict[tuple[str, str], Callable[[BaseRequest], Awaitable[Response]]] = {
            ("POST", "/v1/chat/completions"): self._chat,
            ("GET", "/v1/models"): self._models,
            ("GET", "/stats"): self._stats,
            ("POST", "/stats/reset"): self._reset,
            ("GET", "/control"): self._control,
            ("POST", "/control"): self._control,
            ("GET", "/healthz"): self._healthz,
        }

    def _behave(self, options: ProviderOptions) -> None:
        """Take options over. Limits begin anew with full buckets."""
        if options.capacity != self.options.capacity:
            self._free_at = 0.0
        self.options = options
        per_minute = {"requests": options.requests_per_minute, "tokens": options.tokens_per_minute}
        self._buckets = {what: TokenBucket(limit, options.burst_seconds) for what, limit in per_minute.items() if limit}
        self._rates = [(name, rate) for name, rate in options.rates().items() if rate]

    async def handle(self, request: BaseRequest) -> Response:
        """Answer any request; the account is kept whether or not the client waits for the answer."""
        path = request.path
        handler = self._routes.get((request.method, path))
        if handler is None and path.startswith(("/v1/files", "/v1/batches")):
            handler = self._batch_api
        if handler is None and request.method == "GET" and path.startswith("/v1/models/"):
            handler = self._models
        try:
            if handler is None:
                raise Refused("not_found", message=f"Invalid URL ({request.method} {path})")
            return await handler(request)
        except Refused as refused:
            return self._error(refused)

    def _identifier(self) -> str:
        self._count += 1
        return f"{self._identifiers}{self._count:010x}"

    def _json(self, body: bytes, status: int = 200, more: dict[str, str] | None = None) -> Response:
        headers = {"Content-Type": "application/json", "x-request-id": f"req_{self._identifier()}"}
        return Response(body=body, status=status, headers=headers | more if more else headers)

    def _error(self, refused: Refused) -> Response:
        headers = self._limit_headers()
        if refused.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(refused.retry_after)))
            headers["retry-after-ms"] = str(math.ceil(refused.retry_after * 1000))
        return self._json(refused.body, refused.status, headers)

    def _limit_headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        if self.options.ratelimit_headers:
            for what, bucket in self._buckets.items():
                headers |= bucket.headers(what)
        return headers

    def _check_key(self, request: BaseRequest) -> None:
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer" or not token.strip():
            raise Refused("invalid_api_key", message="You didn't provide an API key.")
        if self.options.api_key not in (None, token.strip()):
            raise Refused("invalid_api_key")

    def _failure(self, name: str) -> Refused | _Silenced:
        if name not in ERRORS:
            return _Silenced(name)
        return Refused(name, retry_after=self.options.retry_after if name in ("429", "503") else None)

    async def _chat(self, request: BaseRequest) -> Response:
        account, arrived = self.account, time.monotonic()
        account.requests += 1
        self.in_flight += 1
        account.max_in_flight = max(account.max_in_flight, self.in_flight)
        try:
            body = await _body(request)
            self._check_key(request)
            key, answer = self._accept(asked_of(body), account)
            self.journal.note(key, "accepted", caller(request))
            response = self._json(answer, more=self._limit_headers() if self._buckets else None)
            delay = self._delay(key, account, arrived)
            if delay > 0:
                await asyncio.sleep(delay)
            gone = request.transport is None or request.transport.is_closing()
            account.answer(gone=gone)
            self.journal.note(key, "abandoned" if gone else "answered", caller(request))
            return response
        except Refused as refused:
            account.fail(refused.name, refused.key)
            return self._error(refused)
        except _Silenced as silenced:
            account.fail(silenced.name, silenced.key)
            return await self._silence(request, silenced.name)
        except RequestPayloadError as error:
            account.fail("invalid_request", None)
            response = self._error(invalid(f"We could not read the body of your request: {error}"))
            response.force_close()
            return response
        except ConnectionError:  # the client went away before its request was complete
            account.fail("disconnected", None)
            return Response()
        finally:
            self.in_flight -= 1

    def _answer_line(self, body: Any, by: str) -> tuple[int, Any] | None:
        """Status and body of the answer to one line of a batch; None where there is none. No limit a minute counts."""
        account = self.account
        account.requests += 1
        try:
            key, answer = self._accept(asked_of(orjson.dumps(body)), account, limited=False)
        except (Refused, _Silenced) as failure:
            account.fail(failure.name, failure.key)
            return (failure.status, orjson.loads(failure.body)) if isinstance(failure, Refused) else None
        for event in ("accepted", "answered"):
            self.journal.note(key, event, by)
        account.answer(gone=False)
        try:
            return 200, orjson.loads(answer)
        except ValueError:
            return 200, answer.decode(errors="replace")

    def _accept(self, asked: Asked, account: Account, *, limited: bool = True) -> tuple[bytes, bytes]:
        """Returns the key and the body of an answer that is now paid for, or one of the exceptions above."""
        digest = sha256(asked.user.encode()).digest()
        key = digest[:16]
        try:
            if self.options.fail_all:
                raise self._failure(self.options.fail_all)
            if self.options.poison_marker and self.options.poison_marker in asked.user:
                raise Refused("invalid_request", param="messages")
            if limited:
                self._limit("requests", 1, asked.model)
            fault = self._fault(key, account) if self._rates else None
            answer = complete(asked, digest, self._identifier(), fault)
            usage = answer["usage"]
            charge = usage["total_tokens"]
            if self.options.token_charge == "reserved" and asked.most_tokens:
                charge = asked.prompt_tokens + asked.most_tokens
            if limited:
                self._charge(charge, asked.model)
            if fault in UNANSWERED:
                account.faulted[key] = account.faulted.get(key, 0) + 1
                raise self._failure(fault)
        except (Refused, _Silenced) as failure:
            failure.key = key
            raise
        account.pay(key, usage)
        body = orjson.dumps(answer)
        if fault:
            account.odd_answers[fault] += 1
        return key, body[: len(body) // 2] if fault == "malformed" else body

    def _charge(self, tokens: int, model: str) -> None:
        """Takes a request and its tokens from what may be used a minute."""
        self._limit("tokens", tokens, model)
        for what, amount in (("requests", 1), ("tokens", tokens)):
            if what in self._buckets:
                self._buckets[what].level -= amount

    def _limit(self, what: str, amount: float, model: str) -> None:
        bucket = self._buckets.get(what)
        if bucket is None:
            return
        wait = bucket.wait(amount)
        limit = f"{what} per min ({what[0].upper()}PM): Limit {bucket.limit:.0f}, Requested {amount:.0f}."
        if amount > bucket.limit:
            message = f"Request too large for {model} on {limit} The input or output tokens must be reduced."
            raise Refused("rate_limit_exceeded", like="429", type=what, message=message)
        if wait > 0:
            message = f"Rate limit reached for {model} on {limit} Please try again in {duration(wait)}."
            raise Refused("rate_limit_exceeded", like="429", retry_after=wait, type=what, message=message)

    def _draw(self, key: bytes, account: Account, purpose: bytes) -> float:
        """A number between 0 and 1 that depends on the seed, the document and how often it was paid or hit before."""
        seen = account.paid.get(key, 0) + account.faulted.get(key, 0)
        drawn = blake2b(b"%d/%d/%b/%b" % (self.options.seed, seen, purpose, key), digest_size=8).digest()
        return (int.from_bytes(drawn, "big") + 0.5) / 2**64

    def _fault(self, key: bytes, account: Account) -> str | None:
        draw = self._draw(key, account, b"fault")
        for name, rate in self._rates:
            draw -= rate
            if draw < 0:
                return name
        return None

    def _delay(self, key: bytes, account: Account, arrived: float) -> float:
        """Seconds until an accepted request is answered: its place in the line, then what is left of its latency."""
        options = self.options
        delay = options.latency
        if options.latency_median:
            spread = NormalDist().inv_cdf(self._draw(key, account, b"latency")) if options.latency_sigma else 0.0
            delay += options.latency_median * math.exp(options.latency_sigma * spread)
        now = time.monotonic()
        delay = max(0.0, delay - (now - arrived))
        if options.capacity:
            self._free_at = max(now, self._free_at) + 1 / options.capacity
            delay += self._free_at - now
        return delay

    async def _silence(self, request: BaseRequest, name: str) -> Response:
        """End a request without an answer: `timeout` waits for the client to go first."""
        until = time.monotonic() + (LONGEST_SILENCE if name == "timeout" else 0)
        # aiohttp has no event that tells a handler which goes on that its client is gone.
        while (transport := request.transport) and not transport.is_closing() and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        if transport:
            if name == "reset":  # lingering for no time makes the close a reset
                connection = transport.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        return Response()  # goes nowhere: the transport is closed

    async def _batch_api(self, request: BaseRequest) -> Response:
        self._check_key(request)
        failing = self.options.fail_all
        if failing == "drop":
            return await self._silence(request, failing)
        if failing and failing != "context_length_exceeded":
            raise self._failure(failing)
        return self._json(await self.batches.handle(request, caller(request)))

    async def _models(self, request: BaseRequest) -> Response:
        self._check_key(request)
        name = request.path.removeprefix("/v1/models").lstrip("/")
        failing = self.options.fail_all
        if failing == "drop":
            return await self._silence(request, failing)
        if failing and failing not in (QUOTA, "context_length_exceeded") and (name or failing != "model_not_found"):
            raise self._failure(failing)
        if name and not name.startswith("simulated-"):
            raise no_model(name)
        models = [
            {"id": each, "object": "model", "created": 1_700_000_000, "owned_by": "simulated"}
            for each in ([name] if name else MODELS)
        ]
        return self._json(orjson.dumps(models[0] if name else {"object": "list", "data": models}))

    async def _stats(self, request: BaseRequest) -> Response:
        stats = self.account.stats(documents=request.query.get("documents") == "1")
        return self._json(orjson.dumps(stats | self.batches.stats() | {"in_flight": self.in_flight}))

    async def _reset(self, _: BaseRequest) -> Response:
        self.account = Account()
        self.account.max_in_flight = self.in_flight
        self.batches.reset_stats()
        return self._json(b"{}")

    async def _control(self, request: BaseRequest) -> Response:
        if request.method == "POST":
            try:
                self._behave(self.options.changed(orjson.loads(await _body(request))))
            except ValueError as error:
                raise invalid(str(error)) from error
        return self._json(orjson.dumps(asdict(self.options)))

    async def _healthz(self, _: BaseRequest) -> Response:
        return self._json(b'{"status":"ok"}')


async def _serve(options: ProviderOptions, host: str, port: int, port_file: Path | None, journal: Path | None) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    provider = Provider(options, journal)

    async def handle(request: BaseRequest) -> Response:
        reason = refusal(request.headers, bound_to=host)
        if reason is None and request.path == "/control" and request.method == "POST":
            reason = None if request.content_type == "application/json" else "POST it as application/json"
        return await provider.handle(request) if reason is None else Response(status=403, text=f"{reason}\n")

    server = Server(handle, access_log=None)
    listener = await loop.create_server(server, host, port, backlog=4096)
    flushing = asyncio.create_task(provider.journal.keep_flushing())
    port = listener.sockets[0].getsockname()[1]
    if port_file:
        unfinished = port_file.with_name(f"{port_file.name}.{os.getpid()}")
        unfinished.write_text(f"{port}\n")
        unfinished.replace(port_file)
    sys.stdout.write(f"simulated provider listening on http://{host}:{port}/v1\n")
    sys.stdout.flush()
    await stopped.wait()
    listener.close()
    flushing.cancel()
    await server.shutdown(timeout=0.2)
    provider.batches.close()
    provider.journal.flush()


def run(
    options: ProviderOptions,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    port_file: Path | None = None,
    journal: Path | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        options: how to behave.
        host: address to listen on.
        port: 0 for a free one.
        port_file: file that the port is written to, atomically, once it is open.
        journal: file that one JSON line per accepted request and per answer is appended to.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft not in (hard, resource.RLIM_INFINITY) and soft < MOST_CONNECTIONS:
        wanted = MOST_CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, MOST_CONNECTIONS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(options, host, port, port_file, journal))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs command line: `python -m batch.local.simulator.provider --port 0 --latency 0.05`."""
    parser = argparse.ArgumentParser(
        prog="docbatch simulate-provider", description="A simulated OpenAI-compatible API."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: a free one)")
    parser.add_argument("--port-file", type=Path, help="file to write the port to once it is open")
    parser.add_argument("--journal", type=Path, help="file to append accepted requests and answers to, as JSON lines")
    for option in fields(ProviderOptions):
        flag, text = "--" + option.name.replace("_", "-"), option.metadata["help"] + " (default: %(default)s)"
        if option.type is bool:
            parser.add_argument(flag, default=option.default, help=text, action=argparse.BooleanOptionalAction)
        else:
            kind = option.type if option.type in (int, float) else str
            parser.add_argument(flag, default=option.default, help=text, type=kind, choices=option.metadata["choices"])
    given = vars(parser.parse_args(argv))
    place = {name: given.pop(name) for name in ("host", "port", "port_file", "journal")}
    try:
        options = ProviderOptions(**given)
    except ValueError as error:
        parser.error(str(error))
    run(options, **place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
