"""An attempt that asks in batches: paid once whoever dies, online what is left at the deadline, tidied at its end."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import IO, Any

import orjson
import pytest
from openai.types import Batch

from batch.workflows.states import Outcome
from tests.unit.workers.partition.made_attempt import LAYOUT, Partition
from workers.batch_mode import partition_batches
from workers.batch_mode.api import InputFile
from workers.batch_mode.rounds import BatchRounds


class Provider:
    """Files and batches. A batch ends once `ends`, with an answer to each line, in capitals."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.batches: list[Batch] = []
        self.ends = True
        self.spooling = asyncio.Semaphore(1)
        self.looked = asyncio.Event()

    async def upload(self, file: IO[bytes], name: str) -> InputFile:
        file.seek(0)
        self.files[name] = file.read()
        return InputFile(name, 100, False)

    async def create(self, input_file: str, metadata: dict[str, str]) -> Batch:
        batch = Batch(
            id=f"batch-{len(self.batches)}",
            object="batch",
            endpoint="/v1/chat/completions",
            completion_window="24h",
            created_at=100,
            input_file_id=input_file,
            status="in_progress",
            metadata=metadata,
        )
        self.batches.append(batch)
        return batch

    async def retrieve(self, batch_id: str) -> Batch:
        batch = next(each for each in self.batches if each.id == batch_id)
        if self.ends and batch.status == "in_progress":
            batch.status, batch.completed_at, batch.output_file_id = "completed", 160, f"{batch_id}.out"
            lines = [orjson.loads(line) for line in self.files[batch.input_file_id].splitlines()]
            self.files[f"{batch_id}.out"] = b"\n".join(map(_answer, lines))
        self.looked.set()
        return batch

    async def cancel(self, batch_id: str) -> None:
        batch = await self.retrieve(batch_id)
        batch.status = "cancelled"

    async def download(self, file_id: str, file: IO[bytes]) -> None:
        file.write(self.files[file_id])

    async def delete(self, file_id: str) -> None:
        self.files.pop(file_id, None)


def _answer(line: dict[str, Any]) -> bytes:
    text = line["body"]["messages"][-1]["content"].upper()
    body = {
        "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 1},
    }
    return orjson.dumps({"custom_id": line["custom_id"], "response": {"status_code": 200, "body": body}})


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Provider:
    monkeypatch.setattr(partition_batches, "POLL_FIRST", 0.01)
    return Provider()


@pytest.fixture
def asker(provider: Provider) -> Any:
    api: Any = provider
    return partial(BatchRounds, api=api)


def partition_of(**model: Any) -> Partition:
    return Partition({"t/a.txt": "one", "t/b.txt": "two"}, model={"mode": "batch", **model})


async def test_one_batch_answers_all_and_leaves_nothing_behind(provider: Provider, asker: Any) -> None:
    partition = partition_of()
    outcome = await partition.attempt(asker=asker).run()
    assert (outcome.outcome, outcome.totals.ok) == (Outcome.COMMITTED, 2)
    assert len(provider.batches) == 1 and not partition.model.asked
    assert not provider.files
    assert not [key for key in partition.storage.objects if key.startswith(LAYOUT.batch_records(0))]


@pytest.mark.parametrize("by", ["forgotten", "cut", "drain"])
async def test_the_next_attempt_takes_over_the_batch_that_there_is(provider: Provider, asker: Any, by: str) -> None:
    partition = partition_of()
    provider.ends = False
    attempt = partition.attempt(asker=asker)
    work = asyncio.create_task(attempt.run())
    await asyncio.wait_for(provider.looked.wait(), 3)
    match by:
        case "forgotten":
            work.cancel()
        case "cut":
            attempt.cut()
            assert (await asyncio.wait_for(work, 3)).outcome == Outcome.YIELDED
        case "drain":
            partition.drain.set()
            assert (await asyncio.wait_for(work, 3)).outcome == Outcome.YIELDED
            partition.drain.clear()
    provider.ends = True
    outcome = await partition.attempt(2, asker=asker).run()
    assert (outcome.outcome, outcome.totals.ok) == (Outcome.COMMITTED, 2)
    assert len(provider.batches) == 1


async def test_at_the_deadline_what_is_left_is_asked_online(
    provider: Provider, asker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = partition_of(batch_deadline="1h")
    provider.ends = False
    work = asyncio.create_task(partition.attempt(asker=asker).run())
    await asyncio.wait_for(provider.looked.wait(), 3)
    later = time.time() + 4000
    monkeypatch.setattr(time, "time", lambda: later)
    outcome = await asyncio.wait_for(work, 10)
    assert (outcome.outcome, outcome.totals.ok) == (Outcome.COMMITTED, 2)
    assert sorted(partition.model.asked) == ["one", "two"]
