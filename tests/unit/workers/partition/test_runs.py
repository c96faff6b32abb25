"""A run's control is followed for as long as partitions are worked on, whatever stands in its file."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from batch.workflows import contracts as c
from tests.unit.workers.partition.made_attempt import LAYOUT, RUN, Partition
from workers.partition import runs as runs_module
from workers.partition.runs import ActiveRun, Runs

PAUSED = b'{"state": "paused", "epoch": 3, "reason": "by_user", "message": "lunch"}'
DAMAGED = {
    "torn": b'{"state": "pau',
    "no text": b"\xff\xfe",
    "no object": b"[]",
    "empty": b"",
    "no such field": b'{"state": "running", "epoch": 2, "shade": "blue"}',
    "a wrong type": b'{"state": "paused", "epoch": "3"}',
    "another wrong type": b'{"state": 7, "epoch": 3}',
    "no state": b'{"state": null, "epoch": 3}',
}


@pytest.fixture
async def followed(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Partition, Runs]]:
    monkeypatch.setattr(runs_module, "CONTROL_EVERY", 0.01)
    partition: Any = Partition({})
    anything: Any = None
    runs = Runs(
        partition.storage, anything, anything, anything, partition.metrics, drain=partition.drain, temporal=anything
    )

    async def load(ref: c.RunRef) -> ActiveRun:
        run: ActiveRun = partition.run()
        vars(run.lane).update(open=lambda: None, close=lambda: None)
        return run

    monkeypatch.setattr(runs, "_load", load)
    yield partition, runs


async def until_paused(run: ActiveRun) -> str:
    async with asyncio.timeout(2):
        while not await run.brakes.wait_stopped(1):
            pass
    stop = run.brakes.stop()
    assert stop is not None
    return stop.message


@pytest.mark.parametrize("damaged", DAMAGED.values(), ids=DAMAGED)
async def test_a_control_that_cannot_be_read_is_followed_again_once_it_can(
    followed: tuple[Partition, Runs], damaged: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    partition, runs = followed
    partition.storage.objects[LAYOUT.control] = damaged
    async with asyncio.timeout(2), runs.use(RUN, 1) as run:
        await asyncio.sleep(0.1)
        assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) <= 1
        assert run.brakes.stop() is None
        partition.storage.objects[LAYOUT.control] = PAUSED
        assert await until_paused(run) == "lunch"


async def test_while_it_cannot_be_read_the_last_state_holds(
    followed: tuple[Partition, Runs], caplog: pytest.LogCaptureFixture
) -> None:
    partition, runs = followed
    partition.storage.objects[LAYOUT.control] = PAUSED
    async with asyncio.timeout(2), runs.use(RUN, 1) as run:
        assert await until_paused(run) == "lunch"
        partition.storage.objects[LAYOUT.control] = DAMAGED["torn"]
        await asyncio.sleep(0.1)
        assert await until_paused(run) == "lunch"
        assert "control of r" in caplog.text and caplog.text.count("WARNING") == 1


async def test_a_mistake_of_ours_ends_no_following(
    followed: tuple[Partition, Runs], monkeypatch: pytest.MonkeyPatch
) -> None:
    partition, runs = followed
    partition.storage.objects[LAYOUT.control] = PAUSED

    async def mistaken(bucket: str, key: str) -> None:
        raise RuntimeError("a mistake of ours")

    with monkeypatch.context() as patched:
        patched.setattr(partition.storage, "get_entry", mistaken)
        async with asyncio.timeout(2), runs.use(RUN, 1) as run:
            assert run.brakes.stop() is None
            patched.undo()
            assert await until_paused(run) == "lunch"
