"""The end of an incremental run moves the state: whatever happens to the PUT, what `current.json` names is there."""

from __future__ import annotations

import io
from dataclasses import asdict
from datetime import UTC, datetime

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from batch.files.run_file import RunFile
from batch.files.state import STATE_SCHEMA, Entry, StatePointer, read_entries, read_pointer
from batch.job.job import Job
from batch.job.logical_date import Nominal
from batch.storage.layout import RunLayout
from batch.storage.store import PreconditionFailed
from tests.jobs import job
from tests.memory_storage import MemoryStorage
from workers.finish.state_writer import StateWriter

DAY = datetime(2026, 11, 23, tzinfo=UTC)


async def test_a_412_for_ones_own_move_removes_nothing() -> None:
    """The answer was lost, and whoever sits between sent the request a second time."""
    storage, of = MemoryStorage(), Job.parse(job(incremental=True))
    entry = Entry("a", "a", "e", None, "f", "ok", None, DAY, DAY, DAY, "s3://results/n")
    part = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([entry._asdict()], schema=STATE_SCHEMA), part)
    before = StatePointer("another-run", 1, 1, "n", 1, DAY.isoformat())
    storage.objects = {
        of.state_layout.part("another-run", 0): part.getvalue(),
        of.state_layout.current: orjson.dumps({"version": 1, **asdict(before)}),
    }
    file = RunFile.of("r", of, "e", DAY.isoformat(), Nominal.now())
    replace = storage.replace

    async def twice(bucket: str, key: str, data: bytes, *, etag: str) -> str:
        storage.replace = replace  # type: ignore[method-assign]
        await replace(bucket, key, data, etag=etag)
        raise PreconditionFailed(key)

    storage.replace = twice  # type: ignore[method-assign]
    await StateWriter(storage, RunLayout.of(of.output.uri, "r"), file, 1).move(complete=False)
    found = await read_pointer(storage, of.state_layout)
    assert found is not None and found[0].run_id == "r" and found[0].older == ["another-run"]
    assert list(read_entries(storage, of.state_layout, found[0])) == [entry]
