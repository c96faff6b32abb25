"""What holds for every control activity: it beats by itself, and fails for good where repeating it is no use."""

from __future__ import annotations

from typing import Any

from temporalio.exceptions import ApplicationError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from batch.files.run_file import RunMissing
from workers.partition.heartbeat import Pulse


class ControlActivities(Interceptor):
    """Makes every control activity beat by itself, and fail for good where repeating it is no use.

    They are few, so they have a short heartbeat timeout: a worker killed in one is noticed within seconds.
    """

    def intercept_activity(
        self,
        next: ActivityInboundInterceptor,  # noqa: A002 - the name that the SDK gives
    ) -> ActivityInboundInterceptor:
        return _ControlActivity(next)


class _ControlActivity(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 - as above
        try:
            async with Pulse():
                return await super().execute_activity(input)
        except (RunMissing, KeyError, ValueError) as error:  # a file of the run is gone, torn or doctored
            raise ApplicationError(str(error) or repr(error), type=type(error).__name__, non_retryable=True) from error
