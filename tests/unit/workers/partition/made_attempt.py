"""An attempt at a small partition, over storage in a dictionary and a model that answers from a script."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson

from batch.corpus.planning import PlannedDocument, ShardCutter
from batch.files.run_file import RunFile
from batch.job.job import Job
from batch.job.logical_date import Nominal
from batch.storage.layout import RunLayout
from batch.storage.listing import ObjectEntry
from batch.storage.store import StorageUnreachable
from batch.workflows import contracts as c
from tests.memory_storage import MemoryStorage
from tests.unit.workers.llm.limits.lanes import open_lane
from workers.documents.long_documents import LongDocuments
from workers.documents.prompt import CompiledPrompt
from workers.extract.pool import Extractors
from workers.llm.chat import Chat
from workers.llm.limits.stop import Brakes
from workers.llm.prices import pricer
from workers.llm.transport.transport import Reply
from workers.observe.metrics import Metrics
from workers.partition.asker import AskerMaker, Online
from workers.partition.attempt import Attempt
from workers.partition.memory_gate import Room
from workers.partition.runs import ActiveRun

RUN, SOURCE = c.RunRef("r", "s3://results/t/"), "s3://corpus/t/"
LAYOUT = RunLayout.of(RUN.output_uri, RUN.run_id)
JOB: dict[str, Any] = {
    "name": "t",
    "source": {"uri": SOURCE},
    "prompt": {"user": "{{ text }}"},
    "model": {"name": "simulated-small"},
    "output": {"uri": RUN.output_uri},
}


class Memory(MemoryStorage):
    """`away`: keys for which this holds do not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.away: Callable[[str], bool] = lambda key: False
        self.failed = asyncio.Event()

    def _check(self, key: str) -> None:
        if self.away(key):
            self.failed.set()
            raise StorageUnreachable(key)

    async def get_entry(
        self, bucket: str, key: str, *, max_bytes: int | None = None
    ) -> tuple[bytes, ObjectEntry] | None:
        self._check(key)
        return await super().get_entry(bucket, key, max_bytes=max_bytes)

    async def get_version(
        self, bucket: str, key: str, *, etag: str = "", max_bytes: int | None = None
    ) -> tuple[bytes, ObjectEntry]:
        self._check(key)
        return await super().get_version(bucket, key, etag=etag, max_bytes=max_bytes)

    async def get_many(self, bucket: str, wanted: list[ObjectEntry], *, max_bytes: int) -> list[Any]:
        return [None if self.away(entry.key) else self.objects.get(entry.key) for entry in wanted]

    def _write(self, key: str, data: bytes, check: Callable[[], None]) -> str:
        self._check(key)
        return super()._write(key, data, check)


class Model:
    """Answers each question with what `says` makes of the document's text; `asked` are the texts."""

    base_url = "http://simulated/v1/"

    def __init__(self, says: Callable[[str], str | Exception] = str.upper) -> None:
        self.says = says
        self.asked: list[str] = []

    async def post(self, path: str, payload: bytes, *, timeout: float) -> Reply:
        del path, timeout
        text = orjson.loads(payload)["messages"][-1]["content"]
        self.asked.append(text)
        said = self.says(text)
        if isinstance(said, Exception):
            raise said
        choice = {"message": {"content": said}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 9, "completion_tokens": 1}
        return Reply(200, {}, {"choices": [choice], "usage": usage})


class Pulse:
    """Tells what it is set to."""

    def __init__(self) -> None:
        self.late = False
        self.details: Callable[[], Any] = dict

    def superseded(self) -> bool:
        return self.late


class Partition:
    """One partition of a run, in which attempts are made; what is durable of it lies in `storage`."""

    def __init__(self, texts: dict[str, str], *, model: dict[str, Any] | None = None, **source: Any) -> None:
        """`texts`: of its documents, by key. `model`, `source`: more of those of the job."""
        self.storage, self.model, self.metrics = Memory(), Model(), Metrics()
        self.drain, self.pulse = asyncio.Event(), Pulse()
        more = {"model": {**JOB["model"], **(model or {})}, "source": {**JOB["source"], **source}}
        self.job = Job.parse({**JOB, **more})
        self.documents = []
        for key, text in texts.items():
            self.storage.objects[key] = text.encode()
            self.documents.append(PlannedDocument.of("corpus", self.storage.entry(key)))
        self.plan()

    def plan(self) -> None:
        """Writes the plan of `documents`."""
        cutter = ShardCutter(shard=0, first_partition=0, start_cursor="", documents=100, size=2**20, partitions=1)
        for document in self.documents:
            cutter.add(document, document.document_id)
        self.storage.objects[LAYOUT.plan(0)], _ = cutter.finish(last=True)

    def run(self) -> ActiveRun:
        """The run as a fresh process has it."""
        file = RunFile.of("r", self.job, "execution", "2026-01-01T00:00:00Z", Nominal.parse("2026-01-01T00:00:00Z"))
        brakes = Brakes(max_error_rate=1.0, drain=self.drain)
        lane: Any = open_lane(concurrency=8)
        transport: Any = self.model
        return ActiveRun(
            layout=LAYOUT,
            file=file,
            fingerprint=file.fingerprint,
            dates=file.nominal.values,
            prompt=CompiledPrompt(self.job.prompt),
            long=LongDocuments(self.job),
            chat=Chat(self.job, transport, brakes, self.metrics, lane),
            price=pricer(self.job.model),
            brakes=brakes,
            lane=lane,
            room=Room(documents=8),
            extractors=Extractors(),
        )

    def attempt(
        self, number: int = 1, *, generation: int = 1, run: ActiveRun | None = None, asker: AskerMaker = Online
    ) -> Attempt:
        """An attempt in that run, or in a fresh process."""
        task = c.PartitionInput(RUN, 0, 0, 0, generation, dispatch=1, epoch=1, max_barren_attempts=3)
        pulse: Any = self.pulse
        return Attempt(
            task,
            number,
            run or self.run(),
            storage=self.storage,
            metrics=self.metrics,
            pulse=pulse,
            asker=asker,
        )
