"""An attempt's memory goes when it ends, not at the collector's next full round, which a worker seldom makes."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest
from temporalio.testing import ActivityEnvironment

from workers.partition.heartbeat import Pulse


class Attempt:
    """Tells its pulse what to carry, as the processor's does."""

    def __init__(self, pulse: Pulse) -> None:
        self.pulse = pulse
        pulse.details = self.beat

    def beat(self) -> list[int]:
        return [1]


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def test_an_ended_attempt_is_freed_without_the_collector(no_collector: None) -> None:
    async def work() -> tuple[weakref.ref[Pulse], weakref.ref[Attempt]]:
        async with Pulse() as pulse:
            await asyncio.sleep(0.05)  # it has begun to beat
            return weakref.ref(pulse), weakref.ref(Attempt(pulse))

    pulse, attempt = await ActivityEnvironment().run(work)
    assert attempt() is None
    await asyncio.sleep(0.05)  # the beating has ended
    assert pulse() is None
