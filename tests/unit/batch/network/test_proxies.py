"""Which proxy of the environment leads where, for the model and for Temporal."""

from __future__ import annotations

import pytest

from batch.network.connection import TemporalUnreachable, connect_temporal
from batch.network.proxies import ProxyUnusable, grpc_proxy_for, is_direct, proxy_for

PROXY = "http://user:pass%40word@proxy.example:3128"


@pytest.mark.parametrize(
    ("environment", "url", "address"),
    [
        ({}, "https://api.example.com/v1", None),
        ({"HTTPS_PROXY": PROXY}, "https://api.example.com/v1", "proxy.example:3128"),
        ({"HTTPS_PROXY": PROXY}, "http://api.example.com/v1", None),
        ({"HTTP_PROXY": "proxy.example:8080"}, "http://api.example.com/v1", "proxy.example:8080"),
        ({"ALL_PROXY": PROXY}, "http://api.example.com/v1", "proxy.example:3128"),
        ({"ALL_PROXY": PROXY, "https_proxy": "http://other"}, "https://api.example.com/v1", "other:80"),
        ({"HTTPS_PROXY": PROXY, "https_proxy": ""}, "https://api.example.com/v1", None),
        ({"HTTPS_PROXY": PROXY, "no_proxy": "example.com"}, "https://api.example.com/v1", None),
        ({"HTTPS_PROXY": PROXY}, "https://127.0.0.1:8000/v1", None),
        ({"HTTPS_PROXY": PROXY}, "https://localhost/v1", None),
        ({"HTTPS_PROXY": "http://[::2]:3128"}, "https://api.example.com/v1", "[::2]:3128"),
    ],
)
def test_the_proxy_of_a_url(environment: dict[str, str], url: str, address: str | None) -> None:
    found = proxy_for(url, environment)
    assert (found.address if found else None) == address


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "direct"),
    [
        ("", "a.example", 443, False),
        ("*", "a.example", 443, True),
        ("example.com", "example.com", 443, True),
        ("example.com", "a.example.com", 443, True),
        (".example.com", "a.example.com", 443, True),
        ("*.example.com", "a.example.com", 443, True),
        ("example.com", "badexample.com", 443, False),
        ("EXAMPLE.com", "a.Example.COM.", 443, True),
        ("x, .svc,cluster.local", "minio.storage.svc", 9000, True),
        ("x .svc", "minio.storage.svc", 9000, True),
        ("example.com:8443", "example.com", 8443, True),
        ("example.com:8443", "example.com", 443, False),
        ("10.0.0.0/8", "10.1.2.3", 443, True),
        ("10.0.0.0/8", "11.1.2.3", 443, False),
        ("10.0.0.0/8", "ten.example", 443, False),
        ("10.1.2.3", "10.1.2.3", 443, True),
        ("0.1.2.3", "10.1.2.3", 443, False),
        ("fd00::/8", "fd00::1", 443, True),
        ("[fd00::1]:443", "fd00::1", 443, True),
        ("fd00::1", "fd00::1", 443, True),
        ("not/a/range", "10.1.2.3", 443, False),
        ("", "::1", 443, True),
        ("", "127.8.8.8", 443, True),
    ],
)
def test_what_no_proxy_names(no_proxy: str, host: str, port: int, direct: bool) -> None:
    assert is_direct(host, port, no_proxy) is direct


def test_a_proxy_shows_no_password_but_where_it_is_sent() -> None:
    found = proxy_for("https://api.example.com", {"HTTPS_PROXY": PROXY})
    assert found is not None
    assert found.auth == ("user", "pass@word")
    assert found.headers == {"Proxy-Authorization": "Basic dXNlcjpwYXNzQHdvcmQ="}
    assert "pass" not in repr(found) + found.url


@pytest.mark.parametrize("value", ["socks5://u:topsecret@proxy:1080", "http://u:topsecret@proxy:port", "http://"])
def test_a_proxy_that_cannot_be_used_is_refused_by_the_variables_name_alone(value: str) -> None:
    with pytest.raises(ProxyUnusable, match=r"^HTTPS_PROXY (names|is)") as error:
        proxy_for("https://api.example.com", {"HTTPS_PROXY": value})
    assert "topsecret" not in str(error.value)


def test_temporal_is_reached_by_any_of_them() -> None:
    for name in ("HTTPS_PROXY", "all_proxy", "HTTP_PROXY"):
        found = grpc_proxy_for("temporal.example", 7233, {name: PROXY})
        assert found is not None and (found.address, found.named_by) == ("proxy.example:3128", name)
    assert grpc_proxy_for("localhost", 7233, {"HTTPS_PROXY": PROXY}) is None
    assert grpc_proxy_for("temporal.example", 7233, {"HTTPS_PROXY": PROXY, "NO_PROXY": "temporal.example:7233"}) is None


@pytest.mark.parametrize("proxy", ["socks5://u:topsecret@nowhere.example", "https://u:topsecret@nowhere.example"])
async def test_a_proxy_that_temporals_client_does_not_speak_to_is_named(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    monkeypatch.setenv("TEMPORAL_ADDRESS", "temporal.example:7233")
    with pytest.raises(TemporalUnreachable, match="HTTPS_PROXY names") as error:
        await connect_temporal()
    assert "topsecret" not in str(error.value)
