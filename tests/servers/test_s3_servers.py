"""S3 servers that others wrote: what the check of an output says of each, and nights of a job over each as a source.

SeaweedFS and moto's server are outputs too. The others lack conditional PUT, so a router puts the bucket `corpus` of
one and SeaweedFS' bucket `results` behind one address.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from batch import Job, connect
from batch.cli.main import command_line
from batch.client.run import Connection, Run
from batch.client.status import RunResult
from batch.local.corpus import upload_async
from batch.local.options import StackOptions
from batch.local.ports import choose_ports
from batch.local.stack import LocalStack
from batch.storage.layout import S3Uri
from batch.storage.output_check import check_place
from batch.storage.store import Storage
from batch.workflows.contracts import Tuning
from batch.workflows.states import State
from tests.provider import ask, behave, forget, paid
from tests.servers.bucket_router import BucketRouter
from tests.servers.s3_servers import SERVERS, Key, S3Server, running

pytestmark = pytest.mark.servers

BY_NAME: dict[str, S3Server | None] = {"seaweedfs": None, "moto": None} | {server.name: server for server in SERVERS}
PLAIN = 30
ROWS = 20
ODD = [
    "a b.txt",
    "a+b.txt",
    "a&b=c;d,e.txt",
    "it's (one) [two] {three}.txt",
    "Übersicht.txt",
    "Übersicht in two marks.txt",
    "日本語.txt",
    "emoji 🙂.txt",
    "of two/földers/x y.txt",
    "of two.txt",
    "of two-b.txt",
    "100% sure.txt",
    "per%20cent.txt",
    "number#1.txt",
]
"""Names of objects; two of them and a folder show whether a server lists by bytes or by folders."""
SOON = Tuning(heartbeat_timeout=4, shard_partitions=3)
"""A killed worker is missed soon; several shards, each of which begins at a cursor."""


@dataclass
class Store:
    """A server and the stack that works on it.

    Attributes:
        server: None for the stack's own.
        direct: the server's own address.
    """

    name: str
    stack: LocalStack
    server: S3Server | None
    direct: str

    @contextmanager
    def alone(self) -> Iterator[None]:
        """This process sees the server with no router before it."""
        with self.stack.applied_environment():
            os.environ["AWS_ENDPOINT_URL_S3"] = self.direct
            yield

    async def write(self, texts: dict[str, str]) -> None:
        """Objects below `nights/`, by the name each."""
        environment = {**self.stack.environment(), "AWS_ENDPOINT_URL_S3": self.direct}
        await upload_async(environment, "corpus", "nights", [(name, text.encode()) for name, text in texts.items()])

    async def remove(self, name: str) -> None:
        with self.alone():
            await Storage().delete("corpus", [f"nights/{name}"])


@pytest.fixture(scope="module", params=list(BY_NAME))
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    server = BY_NAME[request.param]
    with ExitStack() as held:
        if server is None:
            own = "moto" if request.param == "moto" else "seaweedfs"
            options = StackOptions(s3_server=own)  # type: ignore[arg-type]
            stack = held.enter_context(LocalStack(options))
            stack.start_worker()
            yield Store(request.param, stack, None, stack.s3_endpoint)
            return
        ports = choose_ports(["s3", "router", server.name])
        port = ports[server.name]
        held.enter_context(BucketRouter(ports["router"], {"corpus": port}, ports["s3"]))
        address = {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{ports['router']}"}
        stack = held.enter_context(LocalStack(StackOptions(s3_port=ports["s3"], environment=address)))
        held.enter_context(running(server, tmp_path_factory.mktemp(server.name), port, Key.of(stack.environment())))
        stack.start_worker()
        yield Store(server.name, stack, server, f"http://127.0.0.1:{port}")


def job_of(output: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": "nights",
        "source": {"uri": "s3://corpus/nights/"},
        "prompt": {"user": "Label this.\n{{ text }}"},
        "model": {"name": "simulated-small"},
        "output": {"uri": output, "keep_text": True},
        "partitions": {"documents": 8},
        "limits": {"concurrency": 8, "max_error_rate": 1.0},
        **changes,
    }


async def test_the_check_of_an_output(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What fits is told fit; else nothing is started, asked or left, and the refusal says what is lacking."""
    await store.write({"first.txt": "the first"})
    with store.alone():
        if store.server is None:
            await check_place(Storage(), S3Uri.parse("s3://results/fit/"))
        else:
            forget(store.stack)
            file = tmp_path / "job.yaml"
            file.write_text(json.dumps(job_of("s3://results/unfit/")))
            for command in (["run", str(file), "--run-id", "unfit"], ["preview", str(file)]):
                code = await asyncio.to_thread(command_line, command)
                out, err = capsys.readouterr()
                assert (code, out) == (2, ""), err
                assert store.server.lacks in err
                assert "'results'" in err and "docs/deploy.md" in err and "Traceback" not in err
            assert ask(store.stack, "/stats")["requests"] == 0
            assert await (await connect()).list() == []
        left = [entry.key async for page in Storage().source_pages("results", "") for entry in page]
    await store.remove("first.txt")
    assert [key for key in left if not key.endswith("/")] == [], "JuiceFS leaves a folder when it deletes many at once"


class Nights:
    """A job over the store, its documents and what each has to be."""

    def __init__(self, store: Store, connection: Connection) -> None:
        self.store, self.connection = store, connection
        refused = store.server.refuses if store.server else ""
        names = [f"plain {number:02d}.txt" for number in range(PLAIN)]
        names += [name for name in ODD if not set(name) & set(refused)]
        self.texts = {name: f"what {name} has to say" for name in names}
        self.rows = [f"row {number} of a file" for number in range(ROWS)]

    @property
    def lines(self) -> str:
        return "".join(f"{json.dumps({'id': number, 'text': text})}\n" for number, text in enumerate(self.rows))

    @property
    def expected(self) -> Counter[str]:
        return Counter([*self.texts.values(), *self.rows])

    @property
    def reasons(self) -> dict[str, int]:
        """Of a night with one new document and one that changed. A store with one etag for all proves nothing."""
        if self.store.server is not None and self.store.server.one_etag:
            return {"new": 1, "unproven": len(self.texts) - 1, "unchanged": len(self.rows)}
        return {"new": 1, "changed": 1, "unchanged": self.expected.total() - 2}

    async def start(self, day: int) -> Run:
        job = Job.parse(job_of("s3://results/nights/{{ date }}/", incremental=True))
        forget(self.store.stack)
        return await self.connection.start(job, day=date(2026, 11, day), check_model=False, tuning=SOON)

    async def check(self, run: Run, result: RunResult, *, all_ok: bool) -> None:
        """Each document has one row, whose text is its object's; the account agrees."""
        rows = run.results().collect().to_dicts()
        assert result.documents == len(rows) == len({row["document_id"] for row in rows}) == self.expected.total()
        good = [row for row in rows if row["status"] == "ok"]
        assert len(good) == result.ok
        for row in rows:
            if row["document_id"].startswith("nights/rows+.jsonl"):
                assert row["text"] in self.rows
            else:
                assert row["text"] == self.texts[row["document_id"].removeprefix("nights/")], row
        if all_ok:
            assert Counter(row["text"] for row in good) == self.expected
        manifest = await run.manifest()
        assert manifest is not None and not (await run.verify(manifest)).problems


async def test_two_nights_with_a_kill_and_a_rerun(store: Store) -> None:
    with store.stack.applied_environment():
        nights = Nights(store, await connect())
        await store.write({**nights.texts, "rows+.jsonl": nights.lines})
        behave(store.stack, latency=0.3, rate_500=0.2, rate_refusal=0.2)
        run = await nights.start(1)
        async for status in run.watch(every=0.1):
            if status.in_progress + status.documents >= 4:
                break
        await asyncio.to_thread(store.stack.workers[0].restart, signal.SIGKILL)
        result = await run.wait()
        behave(store.stack, latency=0.0, rate_500=0.0, rate_refusal=0.0)
        assert result.state == State.COMPLETED_WITH_FAILURES and set(result.errors_by_type) == {"refusal"}, result
        await nights.check(run, result, all_ok=False)

        forget(store.stack)
        result = await (await run.rerun(all_errors=True)).wait()
        assert result.state == State.COMPLETED, result
        assert 0 < paid(store.stack) < nights.expected.total()
        await nights.check(run, result, all_ok=True)

        changes = {"plain 07.txt": "it says something else", "a new one+ü.txt": "a new one"}
        await store.write(changes)
        await store.remove("plain 11.txt")
        nights.texts.update(changes)
        del nights.texts["plain 11.txt"]
        second = await nights.start(2)
        result = await second.wait()
        assert result.state == State.COMPLETED, result
        await nights.check(second, result, all_ok=True)
        assert (paid(store.stack), result.deleted) == (2, 1), result
        assert result.reasons == nights.reasons
