"""How the state of a job moves on a real S3 server, in the orders in which runs may end, end again, or not end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from batch import Job
from batch.corpus.planning import PlanFooter
from batch.files.run_file import RunFile
from batch.files.state import KEPT, read_entries, read_pointer
from batch.job.logical_date import Nominal
from batch.storage.layout import RunLayout
from batch.storage.store import Storage
from workers.finish.state_writer import StateWriter

pytestmark = pytest.mark.usefixtures("applied")
DAY = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
async def applied(stack: Any) -> AsyncIterator[None]:
    with stack.applied_environment():
        yield


class Nights:
    """Ends of runs of one job, without the runs: each says of which documents it has rows, and when they are of."""

    def __init__(self, name: str) -> None:
        self.storage = Storage()
        self.job = Job.parse(
            {
                "name": name,
                "source": {"uri": "s3://corpus/x/"},
                "prompt": {"user": "{{ text }}"},
                "model": {"name": "simulated-small"},
                "output": {"uri": f"s3://results/{name}/"},
                "incremental": True,
            }
        )

    async def claimed(self, night: int) -> RunFile:
        found = await read_pointer(self.storage, self.job.state_layout)
        at = DAY + timedelta(days=night)
        state = found[0] if found else None
        return RunFile.of(f"night-{night}", self.job, "x", at.isoformat(), Nominal.parse(at.isoformat()), state=state)

    async def end(
        self,
        file: RunFile,
        rows: dict[str, int | str],
        *,
        generation: int = 1,
        complete: bool = True,
        planned: int | None = None,
        etag: str = "e",
    ) -> None:
        """`rows`: document -> the hour when it was answered, or "error" for one that may pass.

        What comes before a `#` is the object that a document is a row of. `planned`: the hour when the plan was made.
        """
        layout = RunLayout.of(file.job.output.uri, file.run_id)
        made = [
            {
                "document_id": f"x/{name}",
                "uri": f"s3://corpus/x/{name.partition('#')[0]}",
                "etag": etag,
                "run_id": file.run_id,
                "generation": generation,
                "attempts": 0 if hour == "error" else 1,
                "fingerprint": file.fingerprint,
                "status": "error" if hour == "error" else "ok",
                "error_type": None if hour != "error" else "broken_object" if name.endswith(".jsonl") else "timeout",
                "retryable": hour == "error" or None,
                "processed_at": DAY + timedelta(hours=99 if isinstance(hour, str) else hour),
            }
            for name, hour in rows.items()
        ]
        writer = StateWriter(self.storage, layout, file, generation)
        if made:
            planned_at = (DAY + timedelta(hours=planned)).isoformat() if planned is not None else ""
            plan = PlanFooter(0, 0, 1, len(made), "", "", True, planned_at=planned_at)
            await writer.add(plan, 0, pa.Table.from_pylist(made, schema=file.schema))
        await writer.move(complete=complete)

    async def now(self) -> dict[str, int | str]:
        found = await read_pointer(self.storage, self.job.state_layout)
        assert found is not None
        entries = await asyncio.to_thread(lambda: list(read_entries(self.storage, self.job.state_layout, found[0])))
        assert found[0].documents == len(entries)
        hours = [int((each.processed_at - DAY).total_seconds() // 3600) for each in entries]
        return {
            each.document_id.removeprefix("x/"): "error" if each.status == "error" else hour
            for each, hour in zip(entries, hours, strict=True)
        }


async def test_reruns_of_an_older_night_take_nothing_back() -> None:
    nights = Nights("state-reruns")
    first = await nights.claimed(1)
    await nights.end(first, {"a": 24, "b": "error"})
    second = await nights.claimed(2)
    await nights.end(second, {"a": 24, "b": 48, "c": 48})
    for generation in (2, 3, 3):  # the last one's activity is repeated
        await nights.end(first, {"a": 24, "b": "error"}, generation=generation)
        assert await nights.now() == {"a": 24, "b": 48, "c": 48}


async def test_what_a_rerun_read_is_newer_than_the_listing_of_a_later_night() -> None:
    """But not what it only had in its plan."""
    nights = Nights("state-read-again")
    first, second = await nights.claimed(1), await nights.claimed(2)
    await nights.end(second, {"a": 48, "b": 48, "r#1": 48}, etag="2")
    await nights.end(first, {"a": 60, "b": "error", "r#1": 60}, generation=2, etag="1")
    assert await nights.now() == {"a": 60, "b": 48, "r#1": 48}


async def test_the_end_of_a_run_that_overlapped_may_be_repeated() -> None:
    nights = Nights("state-overlap")
    await nights.end(await nights.claimed(1), {"a": 24, "b": 24})
    early, late = await nights.claimed(2), await nights.claimed(3)
    await nights.end(late, {"a": 72, "b": 24, "d": 72})
    for _ in range(2):
        await nights.end(early, {"a": 48, "b": 48, "c": 48})
        assert await nights.now() == {"a": 72, "b": 48, "d": 72}, "c was gone when the later night was listed"


async def test_states_in_two_orders_are_not_merged() -> None:
    """Of a manifest and of a listing by folders, of runs that overlapped: the younger holds, whichever ends last."""
    for name, last in (("listing", 3), ("manifest", 2)):
        nights = Nights(f"state-orders-{name}")
        listing = nights.job
        manifest = Job.parse(
            {**json.loads(listing.to_json()), "source": {"uri": "s3://corpus/x/", "manifest": "s3://corpus/keys"}}
        )
        files = {}
        for night, of in ((2, manifest), (3, listing)):
            nights.job = of
            files[night] = await nights.claimed(night)
        for night in (5 - last, last):
            nights.job = manifest if night == 2 else listing
            await nights.end(files[night], {"a/x": 24 * night, "a.txt": 24 * night})
        assert await nights.now() == {"a/x": 72, "a.txt": 72}


async def test_what_a_rerun_goes_on_to_list_is_not_gone() -> None:
    """A run that was cancelled while it planned goes on after a later night, and lists what came since then."""
    nights = Nights("state-planned-on")
    early, late = await nights.claimed(1), await nights.claimed(2)
    await nights.end(early, {"a": 24}, planned=24, complete=False)
    await nights.end(late, {"a": 24, "b": 48}, planned=49)
    await nights.end(early, {"a": 24, "b": 48, "c": 60}, planned=60, generation=2)
    assert await nights.now() == {"a": 24, "b": 48, "c": 60}
    await nights.end(late, {"a": 24, "b": 48}, planned=49, generation=2)
    assert await nights.now() == {"a": 24, "b": 48, "c": 60}


@pytest.mark.parametrize("rows", [{}, {"a": 50}])
async def test_a_cancelled_run_concludes_nothing_from_what_it_lacks(rows: dict[str, int | str]) -> None:
    nights = Nights(f"state-cancelled-{len(rows)}")
    first, cancelled = await nights.claimed(1), await nights.claimed(2)
    await nights.end(cancelled, rows, complete=False)
    assert await nights.now() == rows
    await nights.end(first, {"a": 24, "b": 24, "c": 24})
    assert await nights.now() == {"a": 24, "b": 24, "c": 24} | rows
    await nights.end(cancelled, {"b": 60}, generation=2, complete=False)
    assert await nights.now() == {"a": 24, "c": 24} | rows | {"b": 60}


async def test_versions_are_cleaned_up_after_a_while() -> None:
    nights = Nights("state-versions")
    for night in range(KEPT + 4):
        last = await nights.claimed(night)
        await nights.end(last, {"a": night * 24}, generation=2)
    await nights.end(last, {"a": 0})  # too late: a rerun has ended since
    layout = nights.job.state_layout
    keys = [entry.key for entry in await nights.storage.list_all(layout.uri.bucket, layout.folder)]
    assert len(keys) == 1 + 1 + KEPT, keys


async def test_rows_of_an_object_that_was_not_read_to_its_end_stay() -> None:
    """It is broken for a night: its rows are neither forgotten nor paid again. What else is gone is gone."""
    nights = Nights("state-broken")
    rows: dict[str, int | str] = {"a.jsonl#1": 24, "a.jsonl#2": 24, "z": 24}
    await nights.end(await nights.claimed(1), {"a": 24, "a.jsonl#1": 24, "a.jsonl#2": 24, "b.jsonl#1": 24, "z": 24})
    second = await nights.claimed(2)
    for generation in (1, 1, 2):  # its end is repeated, and it is run again
        await nights.end(second, {"a.jsonl#2": 24, "a.jsonl": "error", "z": 24}, generation=generation)
        assert await nights.now() == {**rows, "a.jsonl": "error"}
    await nights.end(await nights.claimed(3), {"a.jsonl#2": 24, "z": 24})
    assert await nights.now() == {"a.jsonl#2": 24, "z": 24}
