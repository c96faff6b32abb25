"""Ledger segments check themselves; the writer flushes in time, holds intake when it cannot, and loses nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from batch.files.ledger_segment import LedgerName, decode_segment, encode_segment
from batch.storage.store import StorageRefused, StorageUnreachable
from tests.memory_storage import MemoryStorage
from tests.unit.workers.partition.ledgers import LAYOUT, NAME, row
from workers.observe.metrics import Metrics
from workers.partition import ledger as ledger_module
from workers.partition.ledger import Ledger, read_ledger


async def test_many_bytes_wait_for_no_company(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "FLUSH_EVERY", 30.0)
    monkeypatch.setattr(ledger_module, "FLUSH_BYTES", 10_000)
    storage = MemoryStorage()
    ledger = Ledger(storage, LAYOUT, NAME, Metrics())  # type: ignore[arg-type]
    ledger.start()
    for number in range(30):
        ledger.add(row(number))
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    assert len(storage.objects) == 1
    await asyncio.wait_for(ledger.close(), 5)
    assert len((await read(storage)).rows) == 30


async def test_a_flush_that_fails_by_a_mistake_ends_the_attempt() -> None:
    storage = MemoryStorage()
    storage.fail = RuntimeError("a mistake of ours")
    ledger = Ledger(storage, LAYOUT, NAME, Metrics())  # type: ignore[arg-type]
    ledger.start()
    ledger.add(row(1))
    await asyncio.sleep(ledger_module.FLUSH_EVERY + 0.2)
    assert ledger.has_failed()
    with pytest.raises(RuntimeError, match="of ours"):
        await ledger.close()


def test_a_segment_survives_only_whole() -> None:
    data = encode_segment(NAME, [row(1)])
    decoded = decode_segment(data)
    assert decoded == (NAME, [row(1)])
    for torn in (b"", data[:-1], data[:20], b"x" + data, data.replace(b"t1", b"t2")):
        assert decode_segment(torn) is None


async def read(storage: MemoryStorage, name: LedgerName = NAME) -> ledger_module.Replayed:
    return await read_ledger(storage, LAYOUT, name)  # type: ignore[arg-type]


async def test_replay_dedups_ignores_strangers_and_knows_the_last_attempt() -> None:
    storage = MemoryStorage()
    prefix = LAYOUT.ledger(7)
    other = LedgerName("run-1", "beef", 7, 1, 1, 3)
    storage.objects = {
        f"{prefix}a": encode_segment(NAME, [row(1), row(2)]),
        f"{prefix}b": encode_segment(LedgerName("run-1", "f00d", 7, 1, 1, 2), [row(2, at="2026-02-01T00:00:00+00:00")]),
        f"{prefix}c": encode_segment(other, [row(9)]),
        f"{prefix}d": b"garbage",
        f"{prefix}e": encode_segment(LedgerName("run-1", "f00d", 7, 1, 2, 9), [row(3)]),
    }
    found = await read(storage)
    assert sorted(found.rows) == ["d1", "d2", "d3"]
    assert found.rows["d2"]["processed_at"].startswith("2026-02")
    assert found.ignored == 2
    assert found.last_attempt == 2, "attempts of another dispatch do not count"


def writer(storage: MemoryStorage) -> Ledger:
    ledger = Ledger(storage, LAYOUT, NAME, Metrics())  # type: ignore[arg-type]
    ledger.start()
    return ledger


async def test_answers_are_durable_within_about_a_second() -> None:
    storage = MemoryStorage()
    ledger = writer(storage)
    ledger.add(row(1))
    await asyncio.sleep(ledger_module.FLUSH_EVERY + 0.3)
    assert sorted((await read(storage)).rows) == ["d1"]
    ledger.add(row(2))
    await ledger.close()
    assert sorted((await read(storage)).rows) == ["d1", "d2"]
    assert len(storage.objects) == 2


async def test_intake_is_held_while_s3_is_away_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "HOLD_AFTER", 0.5)
    monkeypatch.setattr(ledger_module, "FLUSH_EVERY", 0.1)
    storage = MemoryStorage()
    storage.fail = StorageUnreachable("away")
    ledger = writer(storage)
    assert ledger.is_ready()
    ledger.add(row(1))
    await asyncio.sleep(0.8)
    assert not ledger.is_ready()
    ledger.add(row(2))
    storage.fail = None
    await ledger.close()
    assert ledger.is_ready()
    assert sorted((await read(storage)).rows) == ["d1", "d2"]


async def test_a_put_that_arrived_although_it_failed_counts_once() -> None:
    storage = MemoryStorage()
    storage.lose = ["answer"]
    ledger = writer(storage)
    ledger.add(row(1))
    await ledger.close()
    assert len(storage.objects) == 1


async def test_a_refusal_is_told_and_a_closing_ledger_does_not_hang_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "GIVE_UP_AFTER", 0.3)
    monkeypatch.setattr(ledger_module, "FLUSH_EVERY", 0.05)
    storage = MemoryStorage()
    storage.fail = StorageRefused("no bucket")
    ledger = writer(storage)
    ledger.add(row(1))
    await asyncio.sleep(0.3)
    assert ledger.refused is not None
    await asyncio.wait_for(ledger.close(), 5)
    assert storage.objects == {}


async def test_an_attempt_that_waits_elsewhere_leaves_a_mark_without_answers() -> None:
    storage = MemoryStorage()
    await Ledger(storage, LAYOUT, replace(NAME, attempt=4), Metrics()).mark()  # type: ignore[arg-type]
    replayed = await read_ledger(storage, LAYOUT, NAME)  # type: ignore[arg-type]
    assert (replayed.rows, replayed.last_attempt, replayed.ignored) == ({}, 4, 0)
