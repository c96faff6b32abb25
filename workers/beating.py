"""Heartbeats of the control activities: they beat by themselves, so that a killed worker is noticed within seconds.

These activities are short and few, so frequent heartbeats cost nothing. Those of partitions, which are billed by the
hundred thousand, beat by themselves in `workers.processor`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

BEAT_EVERY = 4.0
"""Seconds; `batch.coordinator.CONTROL_HEARTBEAT_TIMEOUT` is five of them."""


class Beating(Interceptor):
    """Every activity of the worker beats for as long as the event loop turns."""

    def intercept_activity(
        self,
        next: ActivityInboundInterceptor,  # noqa: A002 - the name that the SDK gives
    ) -> ActivityInboundInterceptor:
        return _BeatingActivity(next)


class _BeatingActivity(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 - as above
        beat = asyncio.create_task(_beat())
        try:
            return await super().execute_activity(input)
        finally:
            beat.cancel()


async def _beat() -> None:
    while True:
        activity.heartbeat()
        await asyncio.sleep(BEAT_EVERY)
