"""A rerun after a roll-back, over files that a newer version wrote: what is committed is not paid again."""

from __future__ import annotations

from batch import connect
from batch.local.stack import LocalStack
from batch.storage.store import Storage
from batch.workflows.states import State
from tests.integration.runs import job, put, texts
from tests.newer_files import newer, newer_parquet, with_metadata
from tests.provider import ask, forget


async def test_results_of_a_newer_version_are_not_paid_again(env: LocalStack) -> None:
    name = "rolled-back"
    await put(env, name, {**texts(60, 21), "x/empty.txt": b""})
    run = await (await connect()).start(job(name), check_model=False)
    result = await run.wait()
    assert (result.state, result.ok, result.errors) == (State.COMPLETED_WITH_FAILURES, 60, 1)

    storage, layout = Storage(), run.layout
    for key, records in [
        (layout.run_json, ("job", "job.model", "job.output")),
        (layout.manifest, ("totals", "files.0")),
    ]:
        await storage.put("results", key, newer(await storage.get("results", key), *records))
    await storage.put("results", layout.control, newer(b'{"epoch": 1}'))
    for entry in await storage.list_all("results", layout.results):
        await storage.put("results", entry.key, newer_parquet(await storage.get("results", entry.key)))
    for entry in await storage.list_all("results", layout.plans):
        data = await storage.get("results", entry.key)
        await storage.put("results", entry.key, with_metadata(data, b"docbatch.of_a_newer_version", b"[1]"))

    await put(env, name, {"x/empty.txt": b"not empty any more"})
    forget(env)
    again = await (await run.rerun(all_errors=True)).wait()
    assert (again.state, again.documents, again.ok, again.generation) == (State.COMPLETED, 61, 61, 2)
    assert ask(env, "/stats")["answered"] == 1
    assert run.results().collect().height == 61
