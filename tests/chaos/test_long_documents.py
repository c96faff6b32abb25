"""A worker that is killed in the middle of a long document: the answers to its chunks are paid once."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from batch.job.job import Job
from benchmarks.figures import Figure
from benchmarks.synthetic import synthetic_documents
from tests.chaos.harness import TUNING, Chaos, ChaosWorker, measured
from workers.documents.long_documents import AT_ONCE

KILLED_AFTER = 72
"""Answers to chunks: well beyond what may be lost."""


@pytest.mark.soak
async def test_kill_9_in_the_middle_of_100_chunks(chaos: Chaos) -> None:
    pages = "\n\n".join(text.decode() for _, text in synthetic_documents(500, 800, 3))
    corpus = await chaos.corpus(0, texts={"book.txt": pages})
    data = json.loads(chaos.job(corpus).to_json())
    rules = {"label": "majority", "urgent": "any"}
    data["long_documents"] = {"on_too_long": "chunk", "max_tokens": 1200, "combine": {"rules": rules}}
    workers = await chaos.start_workers("0", "1")
    chaos.provider(latency=0.25)
    run = await chaos.start(Job.parse(data), tuning=replace(TUNING, heartbeat_timeout=2.5))

    def at_work() -> list[ChaosWorker]:
        chaos.journal.refresh()
        return [worker for worker in workers if chaos.journal.answers(worker.by) >= KILLED_AFTER]

    await chaos.until(lambda: bool(at_work()))
    (worker,) = at_work()
    assert await chaos.kill_in_flight([worker], AT_ONCE // 2) is not None
    await chaos.complete(run, corpus)
    (loss,) = chaos.losses()
    rows = await chaos.check_rows(run, corpus)
    (row,) = rows.to_dicts()
    stats = chaos.ask("/stats")
    assert row["chunks"] >= 90 and row["attempts"] == row["chunks"] == stats["distinct"]
    measured(
        chaos.test,
        f"One document in {row['chunks']} chunks, {AT_ONCE} at once, its worker killed (`kill -9`), another goes on.",
        Figure("chunks answered before the kill", KILLED_AFTER),
        Figure("chunks paid again", loss.paid_again, at_most=loss.bound),
        Figure("chunks paid again for no kill", chaos.unexplained(), exactly=0),
        Figure("calls that the row counts", row["attempts"], exactly=row["chunks"]),
    )
