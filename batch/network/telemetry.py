"""Where the words of Temporal's SDK go: to Python's logging as `temporalio.core`, never to stdout.

Left to itself its core (Rust) writes warnings to stdout, into the JSON of a command and into a live display.
"""

from __future__ import annotations

import functools
import logging

from temporalio.runtime import (
    LogForwardingConfig,
    LoggingConfig,
    PrometheusConfig,
    Runtime,
    TelemetryConfig,
    TelemetryFilter,
)

CORE_LOGGER = "temporalio.core"


def make_runtime(metrics: PrometheusConfig | None = None) -> Runtime:
    """Makes a runtime of the SDK that logs warnings of its core, and errors of what that uses, by `CORE_LOGGER`."""
    logs = LoggingConfig(
        filter=TelemetryFilter(core_level="WARN", other_level="ERROR"),
        forwarding=LogForwardingConfig(logger=logging.getLogger(CORE_LOGGER), append_target_to_name=False),
    )
    return Runtime(telemetry=TelemetryConfig(logging=logs, metrics=metrics))


@functools.cache
def shared_runtime() -> Runtime:
    """Returns the one runtime of all of this process' clients that bring none of their own."""
    return make_runtime()
