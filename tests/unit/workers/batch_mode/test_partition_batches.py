"""One batch, whoever dies or stands still wherever: every step of its creation is tried as the last one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import IO, Any

import pytest
from openai.types import Batch

from batch.storage.store import PreconditionFailed
from tests.memory_storage import MemoryStorage
from tests.unit.workers.batch_mode.records import LAYOUT
from workers.batch_mode import partition_batches
from workers.batch_mode.api import BatchApiError, InputFile
from workers.batch_mode.batch_records import CREATED, BatchRecords, Held, TakenOver
from workers.batch_mode.partition_batches import PartitionBatches
from workers.batch_mode.spool import Spool
from workers.llm.answers.errors import Kind, Verdict, judge_status
from workers.llm.limits.stop import Brakes
from workers.observe.metrics import Metrics
from workers.partition.attempt_stop import Stopped

Gate = Callable[[], Awaitable[None]]
SPOOL = Spool(places=[0, 1, 2])
STEPS = 10
"""Places where a creation may be interrupted: before and after each of its writes and calls."""


class Killed(BaseException):
    """The process is gone."""


async def open_gate() -> None:
    """Lets everything through."""


class Provider:
    """Files and batches; a batch cannot be made of a file that was deleted."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.batches: dict[str, Batch] = {}
        self.uploads = 0
        self.lose_answer = False
        self.pending_looks = 0
        """Looks at an input file for which it is not processed yet."""
        self.late = 0
        """Creations that are refused although the file says that it is processed."""

    def api(self, gate: Gate) -> Any:
        return Api(self, gate)


class Api:
    """One worker's client: `gate` is passed before and after each call is carried out."""

    def __init__(self, provider: Provider, gate: Gate) -> None:
        self._provider, self._gate = provider, gate

    async def upload(self, file: IO[bytes], name: str) -> InputFile:
        await self._gate()
        self._provider.uploads += 1
        name = f"file-{self._provider.uploads}"
        self._provider.files.add(name)
        await self._gate()
        return InputFile(name, 100, self._provider.pending_looks > 0)

    async def is_pending(self, file_id: str) -> bool:
        self._provider.pending_looks -= 1
        return self._provider.pending_looks > 0

    async def create(self, input_file: str, metadata: dict[str, str]) -> Batch:
        await self._gate()
        provider = self._provider
        if input_file not in provider.files:
            raise BatchApiError(judge_status(400, {"error": {"message": "No such File object"}}), 400)
        if provider.pending_looks > 0 or provider.late:
            provider.late = max(0, provider.late - 1)
            raise BatchApiError(
                judge_status(400, {"error": {"message": "It has to be processed, and is pending."}}), 400
            )
        name = f"batch-{len(provider.batches) + 1}"
        batch = provider.batches[name] = Batch(
            id=name,
            object="batch",
            endpoint="/v1/chat/completions",
            completion_window="24h",
            created_at=100,
            input_file_id=input_file,
            status="in_progress",
            metadata=metadata,
        )
        await self._gate()
        if provider.lose_answer:
            provider.lose_answer = False
            raise BatchApiError(Verdict(Kind.TRANSIENT, "timeout", "no answer"), None)
        return batch

    async def find(self, is_it: Callable[[Batch], bool], *, since: int) -> Batch | None:
        await self._gate()
        return next((batch for batch in self._provider.batches.values() if is_it(batch)), None)

    async def delete(self, file_id: str) -> None:
        await self._gate()
        self._provider.files.discard(file_id)


class GatedMemory(MemoryStorage):
    """One worker's client of the storage `shared` by all."""

    def __init__(self, shared: MemoryStorage, gate: Gate) -> None:
        super().__init__()
        self.objects, self._gate = shared.objects, gate

    async def create(self, bucket: str, key: str, data: bytes) -> str:
        await self._gate()
        etag = await super().create(bucket, key, data)
        await self._gate()
        return etag

    async def replace(self, bucket: str, key: str, data: bytes, *, etag: str) -> str:
        await self._gate()
        etag = await super().replace(bucket, key, data, etag=etag)
        await self._gate()
        return etag


def attempt(provider: Provider, storage: MemoryStorage, gate: Gate = open_gate) -> PartitionBatches:
    brakes = Brakes(max_error_rate=1.0, drain=asyncio.Event())
    return PartitionBatches(
        provider.api(gate),
        BatchRecords(GatedMemory(storage, gate), LAYOUT, 7),  # type: ignore[arg-type]
        run_id="run-1",
        partition=7,
        generation=1,
        brakes=brakes,
        is_stopping=brakes.stopped,
        metrics=Metrics().llm("m"),
    )


async def batch_of(one: PartitionBatches) -> Held:
    """What an attempt does: adopts the batch that there is, or creates it."""
    for _ in range(5):
        found = await one.adopt(after=0)
        if found:
            return found[0]
        held = await one.create(SPOOL)
        if held is not None:
            return held
    raise AssertionError("there is no batch")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLL_FIRST", "FENCE_PAUSE"):
        monkeypatch.setattr(partition_batches, name, 0.0)
    monkeypatch.setattr(partition_batches, "backoff", lambda *_: 0.0)


@pytest.mark.parametrize("step", range(STEPS))
async def test_an_attempt_that_is_killed_at_any_step_leaves_one_batch(step: int) -> None:
    provider, storage = Provider(), MemoryStorage()
    passed = 0

    async def gate() -> None:
        nonlocal passed
        if passed == step:
            raise Killed
        passed += 1

    with pytest.raises(Killed):
        await batch_of(attempt(provider, storage, gate))
    held = await batch_of(attempt(provider, storage))
    assert (held.record.state, held.record.documents) == (CREATED, [0, 1, 2])
    assert list(provider.batches) == [held.record.batch_id]


@pytest.mark.parametrize("step", range(STEPS))
async def test_an_attempt_that_stands_still_at_any_step_creates_no_second_batch(step: int) -> None:
    provider, storage = Provider(), MemoryStorage()
    stands, goes_on = asyncio.Event(), asyncio.Event()
    passed = 0

    async def gate() -> None:
        nonlocal passed
        passed += 1
        if passed == step + 1:
            stands.set()
            await goes_on.wait()

    late = asyncio.create_task(batch_of(attempt(provider, storage, gate)))
    stood = asyncio.create_task(stands.wait())
    await asyncio.wait([stood, late], return_when=asyncio.FIRST_COMPLETED)
    stood.cancel()
    held = await batch_of(attempt(provider, storage))
    goes_on.set()
    with suppress(TakenOver, Stopped):
        await late
    assert list(provider.batches) == [held.record.batch_id]
    (found,) = await BatchRecords(storage, LAYOUT, 7).read()  # type: ignore[arg-type]
    assert found.record.batch_id == held.record.batch_id


async def test_no_step_is_left_out() -> None:
    passed = 0

    async def gate() -> None:
        nonlocal passed
        passed += 1

    await batch_of(attempt(Provider(), MemoryStorage(), gate))
    assert passed == STEPS


async def test_a_creation_whose_answer_is_lost_is_found_in_the_list() -> None:
    provider, storage = Provider(), MemoryStorage()
    provider.lose_answer = True
    held = await batch_of(attempt(provider, storage))
    assert list(provider.batches) == [held.record.batch_id]


async def test_a_batch_of_an_earlier_generation_is_adopted_until_that_is_settled() -> None:
    provider, storage = Provider(), MemoryStorage()
    held = await batch_of(attempt(provider, storage))
    assert [each.record for each in await attempt(provider, storage).adopt(after=0)] == [held.record]
    assert await attempt(provider, storage).adopt(after=1) == []


def test_the_storage_of_these_tests_is_conditional() -> None:
    async def twice() -> None:
        storage = MemoryStorage()
        await storage.create("b", "k", b"1")
        await storage.create("b", "k", b"2")

    with pytest.raises(PreconditionFailed):
        asyncio.run(twice())


@pytest.mark.parametrize(("looks", "late"), [(3, 0), (0, 2), (3, 2)])
async def test_an_input_file_that_is_not_processed_yet_is_waited_for(
    looks: int, late: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition_batches, "PROCESSED_FIRST", 0.001)
    provider, storage = Provider(), MemoryStorage()
    provider.pending_looks, provider.late = looks, late
    held = await attempt(provider, storage).create(SPOOL)
    assert held is not None and held.record.state == CREATED
    assert (provider.uploads, len(provider.batches)) == (1, 1)


async def test_an_input_file_that_is_never_processed_is_an_error_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition_batches, "PROCESSED_WITHIN", 0.0)
    monkeypatch.setattr(partition_batches, "POLL_FIRST", 0.001)
    provider = Provider()
    provider.pending_looks = 10**9
    assert await attempt(provider, MemoryStorage()).create(SPOOL) is None
    assert (provider.files, provider.batches) == (set(), {})
