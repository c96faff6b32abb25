"""The file of what an incremental run found gone: that of the plan which stands, whichever attempts there were."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from temporalio.testing import ActivityEnvironment

from batch.files.plan_file import read_footer
from batch.files.run_file import RunFile
from batch.files.state import STATE_SCHEMA, Entry, StatePointer
from batch.job.logical_date import Nominal
from batch.storage.store import ObjectEntry
from batch.workflows import contracts as c
from tests.memory_storage import MemoryStorage
from tests.unit.workers.sources.row_corpus import LAYOUT, job
from workers.observe.metrics import Metrics
from workers.plan.planner import Planner

DAY = datetime(2026, 11, 23, tzinfo=UTC)
KNOWN = ["in/a", "in/b", "in/c"]


class Raced(MemoryStorage):
    """The first listing ends only when another attempt, which finds more, has planned the shard."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self._found: list[str] | None = found

    async def source_pages(
        self, bucket: str, prefix: str, *, after: str = "", page_size: int = 1
    ) -> AsyncIterator[list[ObjectEntry]]:
        async for page in super().source_pages(bucket, prefix, after=after):
            yield page
        found, self._found = self._found, None
        if found is not None:
            self.objects.update(dict.fromkeys(found, b"is back"))
            await asyncio.create_task(plan(self))


def night(memory: MemoryStorage) -> None:
    """A run that is claimed, and the state that it is compared with; of the objects only the first is listed."""
    of = job().model_copy(update={"incremental": True})
    entries = [Entry(key, key, "e", None, "f", "ok", None, DAY, DAY, DAY, "s3://results/n") for key in KNOWN]
    part = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([entry._asdict() for entry in entries], schema=STATE_SCHEMA), part)
    state = StatePointer("before", 1, len(KNOWN), "n", 1, DAY.isoformat())
    file = RunFile.of("r", of, "e", DAY.isoformat(), Nominal.now(), state=state)
    memory.objects = {
        LAYOUT.run_json: file.to_bytes(),
        of.state_layout.part("before", 0): part.getvalue(),
        "in/a": b"a",
    }


async def plan(memory: MemoryStorage) -> c.PlannedShard:
    planner = Planner(memory, Metrics())
    return await ActivityEnvironment().run(
        planner.plan_shard, c.PlanInput(c.RunRef("r", "s3://results/x/"), 0, 0, "", 1000)
    )


def gone(memory: MemoryStorage) -> list[str]:
    data = memory.objects.get(LAYOUT.deleted(0))
    return [] if data is None else pq.read_table(io.BytesIO(data)).column("document_id").to_pylist()


@pytest.mark.parametrize(("found", "lacked"), [(["in/b"], ["in/c"]), (["in/b", "in/c"], [])])
async def test_an_attempt_that_loses_the_race_writes_nothing(found: list[str], lacked: list[str]) -> None:
    memory = Raced(found)
    night(memory)
    planned = await plan(memory)
    assert (planned.documents, planned.deleted, gone(memory)) == (1 + len(found), len(lacked), lacked)


async def test_a_planner_that_died_before_it_wrote_what_is_gone() -> None:
    """The next attempt finds the plan, and what is gone by it, though the corpus is another one by now."""
    memory = MemoryStorage()
    night(memory)
    began = datetime.now(UTC)
    planned = await plan(memory)
    assert gone(memory) == KNOWN[1:]
    planned_at = read_footer(memory, "results", LAYOUT.plan(0)).planned_at
    assert began <= datetime.fromisoformat(planned_at) <= datetime.now(UTC)
    del memory.objects[LAYOUT.deleted(0)]
    memory.objects["in/b"] = b"is back"
    assert await plan(memory) == planned
    assert gone(memory) == KNOWN[1:]
