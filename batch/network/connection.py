"""The connection to Temporal, by Temporal's own environment settings and profiles, and by the environment's proxies."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from urllib.parse import urlsplit

from temporalio.api.failure.v1 import Failure
from temporalio.client import Client
from temporalio.converter import DataConverter, DefaultFailureConverter, PayloadConverter
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime
from temporalio.service import HttpConnectProxyConfig

from batch.network.proxies import ProxyUnusable, grpc_proxy_for
from batch.network.telemetry import shared_runtime

CONNECT_WITHIN = 10.0
LONGEST_MESSAGE, LONGEST_TRACE = 2_000, 6_000
"""Characters of a message, and of a stack trace."""
LARGEST_DETAILS = 20_000
"""Bytes of details of an error of ours; larger ones are left out."""
MOST_CAUSES = 6
"""Failures in a chain of causes: more are cut off."""


class BoundedFailureConverter(DefaultFailureConverter):
    """Temporal's own, with all that may be long cut; what is cut says so.

    The server takes 2 MB for a failure, and puts "Failure exceeds size limit" in the place of a longer one.
    """

    def to_failure(self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure) -> None:
        super().to_failure(exception, payload_converter, failure)
        bound(failure)


DATA_CONVERTER = replace(DataConverter.default, failure_converter_class=BoundedFailureConverter)
"""Temporal's own but for failures; for every connection of ours."""


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
    """Finds the proxy for a server's `host:port`. Raises `ProxyUnusable`."""
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


def bound(failure: Failure) -> None:
    """Cuts the failure, and those that caused it, to a few kilobytes each."""
    for depth in range(MOST_CAUSES):
        failure.message = cut(failure.message, LONGEST_MESSAGE)
        failure.stack_trace = cut(failure.stack_trace, LONGEST_TRACE)
        info = failure.application_failure_info
        if failure.HasField("application_failure_info"):
            info.type = cut(info.type, LONGEST_MESSAGE)
            if info.details.ByteSize() > LARGEST_DETAILS:
                info.ClearField("details")
        if (
            failure.HasField("canceled_failure_info")
            and failure.canceled_failure_info.details.ByteSize() > LARGEST_DETAILS
        ):
            failure.canceled_failure_info.ClearField("details")
        if not failure.HasField("cause"):
            return
        if depth + 1 == MOST_CAUSES:
            failure.ClearField("cause")
            return
        failure = failure.cause


def cut(text: str, longest: int) -> str:
    """Returns the beginning of a text that is too long, and how long it was."""
    if len(text) <= longest:
        return text
    told = f"... ({len(text):,} characters in all)"
    return text[: longest - len(told)] + told
