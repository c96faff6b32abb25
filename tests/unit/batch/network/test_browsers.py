"""Requests that a web page may have made: refused by all that answers HTTP on a laptop."""

import asyncio
import http.client
from collections.abc import Iterator

import pytest
from multidict import CIMultiDict
from prometheus_client import CollectorRegistry

from batch.local.ports import LOOPBACK, choose_ports
from batch.network.browsers import refusal
from workers.process.exposition import Exposition

PAGE_HEADERS = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:8000"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "same-origin"},
    {"Host": "evil.example"},
    {"Host": "evil.example:80"},
    {"Host": "localhost.evil.example:80"},
    {"Host": "127.0.0.1.nip.io"},
    {"Host": "evil.example@[::1"},
    {"Host": "192.168.1.7:8000"},
    {"Host": "[::]:80"},
]
OWN_HEADERS: list[dict[str, str]] = [
    {},
    {"Host": "127.0.0.1:9464"},
    {"Host": "LOCALHOST:9464"},
    {"Host": "[::1]:9464"},
    {"Host": "127.0.0.1", "Sec-Fetch-Site": "none"},
]


@pytest.mark.parametrize("headers", PAGE_HEADERS)
def test_pages(headers: dict[str, str]) -> None:
    assert refusal(CIMultiDict({name.lower(): value for name, value in headers.items()}), bound_to="127.0.0.1")


@pytest.mark.parametrize("headers", OWN_HEADERS)
def test_clients_of_ones_own(headers: dict[str, str]) -> None:
    assert refusal(CIMultiDict(headers), bound_to="127.0.0.1") is None


def test_in_a_cluster_any_name_is_right_and_no_page_is() -> None:
    assert refusal(CIMultiDict({"Host": "10.1.2.3:9464"}), bound_to="0.0.0.0") is None
    assert refusal(CIMultiDict({"Origin": "http://evil.example"}), bound_to="0.0.0.0")


@pytest.fixture
def metrics_port() -> Iterator[int]:
    loop = asyncio.new_event_loop()
    exposition = Exposition(CollectorRegistry(), 1, loop)
    port = choose_ports(["metrics"])["metrics"]
    exposition.serve(LOOPBACK, port)
    yield port
    exposition.close()
    loop.close()


def test_metrics_are_for_no_page(metrics_port: int) -> None:
    for headers, status in [*((each, 403) for each in PAGE_HEADERS), *((each, 200) for each in OWN_HEADERS)]:
        connection = http.client.HTTPConnection(LOOPBACK, metrics_port, timeout=10)
        connection.request("GET", "/metrics", headers=headers)
        assert connection.getresponse().status == status, headers
        connection.close()


def test_moto_is_for_no_page() -> None:
    from werkzeug.test import Client

    from batch.local.moto_server import Guarded

    client = Client(Guarded())
    for headers, refused in [*((each, True) for each in PAGE_HEADERS), *((each, False) for each in OWN_HEADERS)]:
        answer = client.get("/", headers={"Host": "127.0.0.1", **headers})
        assert (answer.status_code == 403) == refused, (headers, answer.text)
    assert "Access-Control-Allow-Origin" not in client.get("/", headers={"Origin": "null"}).headers
