"""The bound of documents and bytes in memory."""

from __future__ import annotations

import asyncio

import pytest

from workers.partition import memory_gate as rooms
from workers.partition.memory_gate import AHEAD, Room


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_bytes_and_documents_are_bounded_first_come_first_served() -> None:
    room = Room(documents=1, size=100)
    await room.enter(80)
    big, small = asyncio.create_task(room.enter(50)), asyncio.create_task(room.enter(1))
    await settled()
    assert not big.done(), "80 + 50 bytes do not fit"
    assert not small.done(), "nobody overtakes"
    room.leave(80)
    await settled()
    assert big.done() and small.done()


async def test_who_is_stopped_or_cancelled_makes_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "LOOK_EVERY", 0.01)
    room = Room(documents=1, size=100)
    await room.enter(50)
    stopped = False
    large = asyncio.create_task(room.enter(80, turn=1, stopped=lambda: stopped))
    larger = asyncio.create_task(room.enter(90, turn=2))
    small = asyncio.create_task(room.enter(20, turn=3))
    await settled()
    assert await asyncio.wait_for(room.enter(10), 1), "the lowest turn, and it fits"
    stopped = True
    assert not await asyncio.wait_for(large, 1)
    assert not small.done(), "a lower turn waits still"
    larger.cancel()
    assert await asyncio.wait_for(small, 1)
    room.leave(50), room.leave(10), room.leave(20)
    assert await asyncio.wait_for(room.enter(100), 1), "nothing is left of those that went"


async def test_the_lowest_turn_is_first_and_those_without_one_before_all() -> None:
    room = Room(documents=1, size=100)
    older, newer = 1, 2
    await room.enter(100)
    order: list[str] = []

    async def enter(name: str, turn: int) -> None:
        await room.enter(60, turn=turn)
        order.append(name)

    comers = [("newer", newer), ("older", older), ("older again", older), ("its first", 0), ("another's first", 0)]
    waiting = [asyncio.create_task(enter(*comer)) for comer in comers]
    await settled()
    room.leave(100)
    for _ in waiting:
        await settled()
        room.leave(60)
    assert order == ["its first", "another's first", "older", "older again", "newer"]


async def test_one_document_always_fits() -> None:
    room = Room(documents=1, size=10)
    await asyncio.wait_for(room.enter(1_000_000), 1)


async def test_a_cancelled_waiter_leaves_no_hole() -> None:
    room = Room(documents=1, size=10_000)
    for _ in range(1 + AHEAD):
        await room.enter(1)
    first, second = asyncio.create_task(room.enter(1)), asyncio.create_task(room.enter(1))
    await settled()
    first.cancel()
    await settled()
    room.leave(1)
    await settled()
    assert second.done()
    third = asyncio.create_task(room.enter(1))
    await settled()
    assert not third.done()
    room.leave(1)
    third.cancel()  # granted and cancelled in the same breath: the place goes back
    await settled()
    await asyncio.wait_for(room.enter(1), 1)
