"""`/metrics` and `/healthz` of a worker process, on one port, from a thread of its own.

`/metrics` answers also while the event loop is blocked; `/healthz` asks the loop, so it says 503 when the loop does not
answer, or the worker is draining.
"""

from __future__ import annotations

import asyncio
import re
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from batch.network.browsers import refusal

LOOP_ANSWERS_WITHIN = 5.0
SCRAPE_HEADER = "X-Prometheus-Scrape-Timeout-Seconds"
"""Sent by Prometheus and those who scrape as it does, not by people."""


class PortTaken(Exception):
    """`/metrics` cannot be served there. The message names the address and the option that sets it."""


class Exposition:
    """Serves docbatch's registry and, behind it, Temporal's SDK metrics from their loopback port."""

    def __init__(self, registry: CollectorRegistry, sdk_port: int, loop: asyncio.AbstractEventLoop) -> None:
        self._registry, self._sdk_port, self._loop = registry, sdk_port, loop
        self._server: ThreadingHTTPServer | None = None
        self._first = FirstScrape()
        self.ready = False

    def serve(self, host: str, port: int) -> None:
        """Raises `PortTaken`."""
        exposition = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if reason := refusal(self.headers, bound_to=host):
                    self._answer(403, f"{reason}\n".encode(), "text/plain")
                    return
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    text = exposition.text(scraped=SCRAPE_HEADER in self.headers)
                    self._answer(200, text.encode(), CONTENT_TYPE_PLAIN_0_0_4)
                elif path == "/healthz":
                    healthy = exposition.healthy()
                    self._answer(200 if healthy else 503, b"ok\n" if healthy else b"not ready\n", "text/plain")
                else:
                    self._answer(404, b"see /metrics and /healthz\n", "text/plain")

            def _answer(self, status: int, body: bytes, content_type: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Scrapes are not worth a line."""

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise PortTaken(
                f"/metrics cannot be served on {host}:{port}: {error}; choose another --metrics-port (0: none), or "
                "--metrics-host"
            ) from None
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    def text(self, *, scraped: bool) -> str:
        """Both expositions as one; ours alone while the SDK's does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._sdk_port}/metrics", timeout=2) as answer:
                sdk = answer.read().decode()
        except OSError:
            sdk = ""
        text = merged(self._registry, sdk)
        return self._first.zeroed(text) if scraped else text

    def healthy(self) -> bool:
        async def answer() -> bool:
            return self.ready

        try:
            return asyncio.run_coroutine_threadsafe(answer(), self._loop).result(LOOP_ANSWERS_WITHIN)
        except (TimeoutError, RuntimeError):
            return False

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


class FirstScrape:
    """Makes the first sample of every counter a 0.

    Prometheus counts a rate from the first sample that it sees: what happened before is lost, for a run's plan, or
    a single failure, all of it. So a counter (or a histogram's part) that is scraped for the very first time in this
    process' life is shown as 0, and as it is from the next scrape on.
    """

    def __init__(self) -> None:
        self._shown: set[str] = set()
        self._lock = threading.Lock()

    def zeroed(self, text: str) -> str:
        """Returns the exposition with new counters at 0."""
        lines = []
        counts = False
        with self._lock:
            for line in text.split("\n"):
                if line.startswith("# TYPE "):
                    counts = line.endswith((" counter", " histogram"))
                elif counts and line and not line.startswith("#"):
                    series = line.rpartition(" ")[0]
                    if series not in self._shown:
                        self._shown.add(series)
                        line = f"{series} 0"  # noqa: PLW2901
                lines.append(line)
        return "\n".join(lines)


def merged(registry: CollectorRegistry, sdk: str) -> str:
    """Ours, then the SDK's with its label `namespace` as `temporal_namespace`: Kubernetes has its own."""
    return generate_latest(registry).decode() + re.sub(r'([{,])namespace="', r'\1temporal_namespace="', sdk)
