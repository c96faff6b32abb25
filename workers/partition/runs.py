"""The runs that this process works on: what is loaded once and shared by all their partitions here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson
from temporalio.client import Client

from batch.files.run_file import RunFile, load_run
from batch.storage.layout import RunLayout
from batch.storage.records import read_record
from batch.storage.store import Storage, StorageError
from batch.workflows import contracts as c
from workers.documents.long_documents import LongDocuments
from workers.documents.prompt import CompiledPrompt
from workers.extract.pool import Extractors
from workers.llm.call_cost import CallBudget, CallCost, Expected
from workers.llm.chat import Chat
from workers.llm.limits.budget_client import Purse, coordinator_of
from workers.llm.limits.quotas import QuotaLane, Quotas
from workers.llm.limits.stop import Brakes
from workers.llm.prices import Pricer, pricer
from workers.llm.transport.transport import Transport
from workers.observe.metrics import Metrics
from workers.partition.memory_gate import Room

CONTROL_EVERY = 2.5
"""Seconds between two looks at `control.json`, once a process and run while partitions of it are worked on."""
KEPT = 16
"""Idle runs that stay loaded."""

log = logging.getLogger(__name__)


class Reads:
    """The last document that one run could read from its source in this process."""

    def __init__(self) -> None:
        self._at = 0.0
        self._where: tuple[str, str] | None = None

    def note(self, bucket: str, key: str) -> None:
        self._at, self._where = time.monotonic(), (bucket, key)

    async def others_work(self, storage: Storage, since: float) -> bool:
        """Whether another document was read since (monotonic seconds), or the last one that was is still there."""
        if self._at > since:
            return True
        if self._where is None:
            return False
        try:
            return await storage.head(*self._where) is not None
        except StorageError:
            return False


@dataclass
class ActiveRun:
    """One run in this process. `lane` lets its calls out, `room` bounds the documents held in memory."""

    layout: RunLayout
    file: RunFile
    fingerprint: str
    dates: dict[str, str]
    """What `date` and `scheduled_at` are in the run's prompts."""
    prompt: CompiledPrompt
    long: LongDocuments
    chat: Chat
    price: Pricer
    brakes: Brakes
    lane: QuotaLane
    room: Room
    extractors: Extractors
    """The process', shared by all runs."""
    purse: Purse | None = None
    """Of a run with `limits.max_cost_usd`."""
    reads: Reads = field(default_factory=Reads)
    partitions: int = 0
    in_batches: int = 0
    """Documents in batches that are waited for."""
    followed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the run's control was read."""
    watcher: asyncio.Task[None] | None = field(default=None, repr=False)


class Runs:
    """Loads runs when first asked for; follows the control of those that have partitions here."""

    def __init__(
        self,
        storage: Storage,
        transport: Transport,
        quotas: Quotas,
        extractors: Extractors,
        metrics: Metrics,
        *,
        drain: asyncio.Event,
        temporal: Client,
    ) -> None:
        self._storage, self._transport, self._quotas, self._extractors = storage, transport, quotas, extractors
        self._metrics, self._drain, self._temporal = metrics, drain, temporal
        self._runs: OrderedDict[str, ActiveRun] = OrderedDict()
        self._loading = asyncio.Lock()

    @asynccontextmanager
    async def use(self, ref: c.RunRef, epoch: int) -> AsyncIterator[ActiveRun]:
        """The run, followed for as long as the context lasts; the control is read once before it begins."""
        run = self._runs.get(ref.run_id)
        if run is None:
            async with self._loading:
                run = self._runs.get(ref.run_id) or await self._load(ref)
                self._runs[ref.run_id] = run
        self._runs.move_to_end(ref.run_id)
        self._metrics.start_job(run.file.job.name)
        run.partitions += 1
        if run.partitions == 1:
            run.lane.open()
        try:
            if run.watcher is None:
                run.followed.clear()
                run.watcher = asyncio.create_task(self._watch(run), name=f"control-{ref.run_id}")
            for run_id in [run_id for run_id, other in self._runs.items() if not other.partitions][:-KEPT]:
                del self._runs[run_id]
            await run.followed.wait()
            run.brakes.follow(c.Control(epoch=epoch))
            yield run
        finally:
            run.partitions -= 1
            if not run.partitions:
                run.lane.close()
                if run.watcher is not None:
                    run.watcher.cancel()
                    run.watcher = None
                if run.purse is not None:
                    await run.purse.put_away()

    async def _load(self, ref: c.RunRef) -> ActiveRun:
        file = await load_run(self._storage, ref)
        job = file.job
        if job.source.requester_pays:
            self._storage.pay_for(job.source.prefixes.bucket)
        brakes = Brakes(max_error_rate=job.limits.max_error_rate, drain=self._drain)
        price = pricer(job.model)
        expected = Expected(job.model.most_output_tokens)
        purse = budget = None
        if job.limits.max_cost_usd is not None:
            purse = Purse(coordinator_of(self._temporal, ref.run_id), brakes, name=ref.run_id)
            budget = CallBudget(purse, CallCost(price, expected))
        lane = self._quotas.lane(ref.run_id, job)
        chat = Chat(job, self._transport, brakes, self._metrics, lane, expected=expected, budget=budget)
        self._metrics.cost.labels(job.name, job.model.name)
        return ActiveRun(
            layout=RunLayout.of(ref.output_uri, ref.run_id),
            file=file,
            fingerprint=file.fingerprint,
            dates=file.nominal.values,
            prompt=CompiledPrompt(job.prompt),
            long=LongDocuments(job),
            chat=chat,
            price=price,
            purse=purse,
            brakes=brakes,
            lane=lane,
            room=Room(documents=job.limits.concurrency),
            extractors=self._extractors,
        )

    async def _watch(self, run: ActiveRun) -> None:
        """Follows the run's control for ever. While it cannot be read, for whatever reason, the last state holds."""
        failing = False
        while True:
            try:
                found = await self._storage.get_entry(run.layout.output.bucket, run.layout.control)
                if found is not None:
                    run.brakes.follow(_control(found[0]))
                failing = False
            except Exception as error:
                if not failing:
                    log.warning("control of %s not read, trying again: %r", run.layout.run_id, error)
                failing = True
            run.followed.set()
            await asyncio.sleep(CONTROL_EVERY)


def _control(data: bytes) -> c.Control:
    """What a control file says. Raises `TypeError` or `ValueError` for one that is damaged."""
    control = read_record(c.Control, orjson.loads(data))
    if not (isinstance(control.epoch, int) and isinstance(control.state, str) and isinstance(control.message, str)):
        raise TypeError(f"{control} has values of wrong types")
    return control
