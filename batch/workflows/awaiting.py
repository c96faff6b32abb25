"""How workflows await: control activities, and results that come together with a cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any, TypeVar, cast

from temporalio import workflow
from temporalio.common import RetryPolicy

R = TypeVar("R")

CONTROL_HEARTBEAT_TIMEOUT = timedelta(seconds=20)


async def control_activity(
    name: str, argument: Any, result: type[R], summary: str = "", *, within: timedelta = timedelta(hours=4)
) -> R:
    """Planner, finisher and the like: repeated for as long as it takes, unless they say that repeating is no use."""
    activity = workflow.execute_activity(
        name,
        argument,
        result_type=result,
        start_to_close_timeout=within,
        heartbeat_timeout=CONTROL_HEARTBEAT_TIMEOUT,
        retry_policy=RetryPolicy(maximum_interval=timedelta(seconds=10)),
        summary=summary or None,
    )
    return cast(R, await minding_cancellation(activity))


async def minding_cancellation(awaited: Awaitable[R]) -> R:
    """The result; raises for a task that is cancelled in the moment when the result arrives.

    The SDK then hands over the result and forgets the cancellation: a loop would go on for ever.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    done = await awaited
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError
    return done


def has_failed(task: asyncio.Task[None]) -> bool:
    """Whether a part of a workflow ended by an exception that is no cancellation."""
    return task.done() and not task.cancelled() and task.exception() is not None
