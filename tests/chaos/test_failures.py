"""What failed for good, and how a rerun mends it; coordinators that were killed; result files that somebody touched."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from temporalio.service import RPCError

from batch.client.run import Run, RunBusy
from batch.storage.store import Storage
from batch.workflows.states import State
from tests.chaos.harness import TUNING, Chaos, Corpus, say

POISON = "POISON-41"


async def test_a_rerun_pays_for_what_failed_and_nothing_else(chaos: Chaos) -> None:
    """Ten partitions that fail for good and 50 poison documents; then the causes go."""
    doomed = range(10)
    poisoned = {f"documents/{number:08d}.txt": f"Text {number} with {POISON}." for number in range(100, 150)}
    corpus = await chaos.corpus(250, texts=poisoned)
    chaos.provider(poison_marker=POISON)
    worker = chaos.worker(
        "broken", fault="fail-partitions", environment={"DOCBATCH_CHAOS_PARTITIONS": ",".join(map(str, doomed))}
    )
    await worker.start()
    run = await chaos.start(chaos.job(corpus, documents=10), tuning=replace(TUNING, max_barren_attempts=2))
    result = await chaos.wait(run)
    say(f"first pass: {result.state} {result.ok} ok {result.errors_by_type}")
    assert (result.state, result.documents, result.ok) == (State.COMPLETED_WITH_FAILURES, 250, 100)
    assert result.errors_by_type == {"partition_failed": 100, "bad_request": 50}
    assert result.partitions["failed"] == len(doomed)
    await chaos.check_rows(run, corpus)

    await worker.terminate()
    await chaos.start_workers("sound")
    chaos.provider(poison_marker=None)
    expected = set(list(corpus.keys.values())[:100]) | {corpus.keys[f"{corpus.name}/{key}"] for key in poisoned}
    chaos.ask("/stats/reset", {})
    await run.rerun(tuning=TUNING)
    result = await chaos.wait(run)
    asked = chaos.ask("/stats?documents=1")
    say(f"rerun: {result.state} {result.ok} ok, {asked['requests']} calls for {asked['distinct']} documents")
    assert (result.state, result.ok, result.generation) == (State.COMPLETED, 250, 2)
    assert set(asked["documents"]) == expected
    assert asked["requests"] == len(expected)
    await chaos.check_rows(run, corpus)

    chaos.ask("/stats/reset", {})
    await run.rerun(tuning=TUNING)
    result = await chaos.wait(run)
    assert (result.state, result.ok, chaos.requests()) == (State.COMPLETED, 250, 0)


async def going(chaos: Chaos) -> tuple[Run, Corpus]:
    """A run in its midst."""
    corpus = await chaos.corpus(300)
    await chaos.start_workers("0")
    chaos.provider(latency=0.3)
    run = await chaos.start(chaos.job(corpus, documents=20, concurrency=16))
    await chaos.until_status(run, lambda status: status.documents >= 20, within=60)
    return run, corpus


@pytest.mark.soak
async def test_no_rerun_beside_what_still_works(chaos: Chaos) -> None:
    """Refused while the run goes, and after its coordinator was terminated until its shards have been stopped."""
    run, corpus = await going(chaos)
    with pytest.raises(RunBusy):
        await run.rerun()
    await run.handle.terminate("chaos")
    with pytest.raises(RunBusy):
        await run.rerun()
    await run.cancel()  # "`docbatch cancel` stops what is left of it"
    await until_idle(chaos, run)
    calls = chaos.requests()
    await asyncio.sleep(2)
    assert chaos.requests() == calls
    await run.rerun(tuning=TUNING)
    await chaos.complete(run, corpus)
    assert sum(chaos.journal.refresh().paid_again().values()) == 0


@pytest.mark.soak
async def test_shards_without_a_coordinator_end_and_a_rerun_takes_over(chaos: Chaos) -> None:
    run, corpus = await going(chaos)
    await run.handle.terminate("chaos")
    await until_idle(chaos, run)
    await run.rerun(tuning=TUNING)
    await chaos.complete(run, corpus)
    assert sum(chaos.journal.refresh().paid_again().values()) == 0


@pytest.mark.soak
async def test_a_rerun_killed_midway_goes_on_when_asked_again(chaos: Chaos) -> None:
    run, corpus = await going(chaos)
    await run.cancel()
    assert (await chaos.wait(run)).state == State.CANCELLED
    await run.rerun(tuning=TUNING)
    before = chaos.requests()
    await chaos.until(lambda: chaos.requests() > before + 30, within=30, every=0.1)
    await run.handle.terminate("chaos")
    manifest = await run.manifest()
    assert manifest is not None
    assert manifest.state == State.RERUNNING
    await until_idle(chaos, run)
    await run.rerun(tuning=TUNING)
    result = await chaos.complete(run, corpus)
    assert result.generation == 3
    assert sum(chaos.journal.refresh().paid_again().values()) == 0


async def until_idle(chaos: Chaos, run: Run, within: float = 60.0) -> None:
    for _ in range(int(within * 2)):
        try:
            await run.check_idle()
        except (RunBusy, RPCError):
            await asyncio.sleep(0.5)
        else:
            return
    raise AssertionError(f"shards of {run.run_id} still work after {within:g} s")


def _rewritten(data: bytes, change: Callable[[pa.Table], pa.Table]) -> bytes:
    """The file with other rows and the same footer."""
    sink = io.BytesIO()
    table = pq.read_table(io.BytesIO(data))
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), sink)
    return sink.getvalue()


async def test_verify_finds_every_doctored_file(chaos: Chaos) -> None:
    corpus = await chaos.corpus(60)
    await chaos.start_workers("0")
    run = await chaos.start(chaos.job(corpus, documents=10))
    await chaos.complete(run, corpus)
    storage = Storage()
    doctored: dict[str, Callable[[bytes], bytes | None]] = {
        "deleted": lambda data: None,
        "truncated": lambda data: data[: len(data) // 2],
        "emptied": lambda data: b"",
        "a row twice": lambda data: _rewritten(data, lambda table: pa.concat_tables([table, table.slice(3, 1)])),
        "a row less": lambda data: _rewritten(data, lambda table: table.slice(1)),
        "a row of another": lambda data: _rewritten(
            data, lambda table: pa.concat_tables([table.slice(1), table.slice(1, 1)])
        ),
    }
    for number, (what, change) in enumerate(doctored.items()):
        key = run.layout.result(0, number)
        data = await storage.get("results", key)
        changed = change(data)
        if changed is None:
            await storage.delete("results", [key])
        else:
            await storage.put("results", key, changed)
        account = await chaos.verify(run)
        say(f"{what}: {account.problems}")
        assert account.problem_count > 0, what
        assert all(f"partition {number}:" in problem for problem in account.problems), account.problems
        await storage.put("results", key, data)
    assert (await chaos.verify(run)).problems == []
