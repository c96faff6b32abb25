"""The connection to Temporal, by Temporal's own environment settings and profiles."""

from __future__ import annotations

import asyncio
import os

from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime

from batch.failures import DATA_CONVERTER
from batch.telemetry import shared_runtime

CONNECT_WITHIN = 10.0


class TemporalUnreachable(Exception):
    """No Temporal server answers; the message names the address and what sets it."""


async def connect_temporal(*, runtime: Runtime | None = None) -> Client:
    """Connects as `TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`, `TEMPORAL_API_KEY`, `TEMPORAL_PROFILE` say.

    Raises `TemporalUnreachable`.
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
        return await asyncio.wait_for(
            Client.connect(**config, runtime=runtime or shared_runtime(), data_converter=DATA_CONVERTER),
            CONNECT_WITHIN,
        )
    except (RuntimeError, TimeoutError, OSError) as error:
        reason = f": {str(error)[:300]}" if str(error) else f" within {CONNECT_WITHIN:g} s"
        set_by = "TEMPORAL_ADDRESS" if "TEMPORAL_ADDRESS" in os.environ else "TEMPORAL_ADDRESS sets it; `docbatch up`"
        hint = set_by if set_by == "TEMPORAL_ADDRESS" else f"{set_by} starts one on this machine"
        raise TemporalUnreachable(f"cannot reach Temporal at {address} ({hint}){reason}") from None
