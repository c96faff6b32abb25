"""The connection to Temporal, by Temporal's own environment settings and profiles, and by the environment's proxies."""

from __future__ import annotations

import asyncio
import os
from urllib.parse import urlsplit

from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime
from temporalio.service import HttpConnectProxyConfig

from batch.network.failures import DATA_CONVERTER
from batch.network.proxies import ProxyUnusable, grpc_proxy_for
from batch.network.telemetry import shared_runtime

CONNECT_WITHIN = 10.0


class TemporalUnreachable(Exception):
    """No Temporal server answers; the message names the address and what sets it."""


async def connect_temporal(*, runtime: Runtime | None = None) -> Client:
    """Connects as `TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`, `TEMPORAL_API_KEY`, `TEMPORAL_PROFILE` say.

    The SDK knows no proxy but one that it is given: `HTTPS_PROXY`, `ALL_PROXY` or `HTTP_PROXY`, unless `NO_PROXY` names
    the server. Raises `TemporalUnreachable`.
    """
    try:
        config = ClientConfig.load_client_connect_config(override_env_vars=dict(os.environ))
    except (RuntimeError, ValueError, OSError) as error:
        raise TemporalUnreachable(
            f"Temporal's settings cannot be read (TEMPORAL_*, TEMPORAL_CONFIG_FILE): {error}"
        ) from None
    config.setdefault("target_host", "localhost:7233")
    address = config["target_host"]
    try:
        proxy = _proxy_for(address)
    except ProxyUnusable as error:
        raise TemporalUnreachable(f"cannot reach Temporal at {address}: {error}") from None
    try:
        return await asyncio.wait_for(
            Client.connect(
                **config,
                runtime=runtime or shared_runtime(),
                data_converter=DATA_CONVERTER,
                http_connect_proxy_config=proxy,
            ),
            CONNECT_WITHIN,
        )
    except (RuntimeError, TimeoutError, OSError) as error:
        if proxy is not None:
            address = f"{address}, by the environment's proxy {proxy.target_host}"
        reason = f": {str(error)[:300]}" if str(error) else f" within {CONNECT_WITHIN:g} s"
        set_by = "TEMPORAL_ADDRESS" if "TEMPORAL_ADDRESS" in os.environ else "TEMPORAL_ADDRESS sets it; `docbatch up`"
        hint = set_by if set_by == "TEMPORAL_ADDRESS" else f"{set_by} starts one on this machine"
        raise TemporalUnreachable(f"cannot reach Temporal at {address} ({hint}){reason}") from None


def _proxy_for(address: str) -> HttpConnectProxyConfig | None:
    """Of a server's `host:port`. Raises `ProxyUnusable`."""
    where = urlsplit(address if "://" in address else f"grpc://{address}")
    try:
        proxy = grpc_proxy_for(where.hostname or "", where.port or 7233)
    except ProxyUnusable:
        raise
    except ValueError:
        return None  # no address at all, as the SDK will say
    if proxy is None:
        return None
    if proxy.scheme != "http":
        raise ProxyUnusable(f"{proxy.named_by} names an https proxy; Temporal's client speaks to http ones only")
    return HttpConnectProxyConfig(target_host=proxy.address, basic_auth=proxy.auth)
