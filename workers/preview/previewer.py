"""Activities: ask about a few documents before a run, and measure a sample of them for an estimate.

Both read, extract, render and ask as a run does (see `workers.documents.reading`, `workers.llm`), and write nothing of
a run. What a client asks, and what it gets, lies in one object (`batch.previews.exchange`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import orjson
from temporalio import activity

from batch.corpus.planning import PlannedDocument
from batch.corpus.spread import evenly
from batch.previews.estimation import Asked, Estimate, Measured, estimate, rule
from batch.previews.exchange import (
    UNANSWERED,
    PreviewedDocument,
    PreviewRequest,
    PreviewResult,
    cut,
    cut_messages,
    read_request,
    write_answer,
)
from batch.previews.sample import Picked
from batch.storage.layout import PreviewLayout
from batch.storage.store import Storage, StorageError, StorageRefused
from batch.workflows.preview import ESTIMATE_RUN, PREVIEW_DOCUMENTS, PreviewInput, PreviewOutcome
from batch.workflows.states import Reason
from workers.documents.long_documents import ChunkedQuestion, LongDocuments, Shown
from workers.documents.prompt import CompiledPrompt
from workers.documents.reading import (
    check_key,
    check_pages,
    check_size,
    messages_of,
    planned_text,
    reading,
    row_answered,
    row_unread,
)
from workers.documents.rows import Row, RowMaker
from workers.extract import Unreadable
from workers.extract.pool import Extractors
from workers.llm.answer import Answer
from workers.llm.chat import Chat
from workers.llm.limits.quotas import QuotaLane, Quotas
from workers.llm.limits.stop import Brakes
from workers.llm.prices import cost_of, pricer
from workers.llm.transport.transport import Transport
from workers.observe.metrics import Metrics
from workers.partition.memory_gate import Room
from workers.partition.reader import read_planned
from workers.sources.planned import first_rows, holds_rows

AT_ONCE = 16
"""Questions asked at once: a preview is small, and shares its process with the control of runs."""
OUTAGE_AFTER = 10.0
"""Seconds of nothing but transient failures: a person waits, who can ask again."""


class Previewer:
    """Holds storage, the model's transport and quotas, metrics, and the worker's drain, which ends a preview early."""

    def __init__(
        self,
        storage: Storage,
        transport: Transport,
        quotas: Quotas,
        metrics: Metrics,
        drain: asyncio.Event,
        *,
        extractors: Extractors,
    ) -> None:
        self._storage, self._transport, self._quotas, self._extractors = storage, transport, quotas, extractors
        self._metrics, self._drain = metrics, drain

    @activity.defn(name=PREVIEW_DOCUMENTS)
    async def preview_documents(self, task: PreviewInput) -> PreviewOutcome:
        """Asks about each document of the request."""
        layout = PreviewLayout.of(task.output_uri)
        request, etag = await read_request(self._storage, layout, task.token, task.fingerprint)
        look = self._look(request, task)
        picked = await self._with_rows(request)
        seen = await look.all(picked, asks=range(len(picked)))
        documents = [_shown(one, request.characters) for one in seen]
        result = PreviewResult(request.job.name, request.job.model.name, documents, stopped=look.stopped)
        await write_answer(self._storage, layout, task.token, result, etag=etag)
        return PreviewOutcome(len(seen), result.ok + result.errors)

    @activity.defn(name=ESTIMATE_RUN)
    async def estimate_run(self, task: PreviewInput) -> PreviewOutcome:
        """Measures the documents of the request, and asks about some of them if it says so."""
        layout = PreviewLayout.of(task.output_uri)
        request, etag = await read_request(self._storage, layout, task.token, task.fingerprint)
        look = self._look(request, task)
        asks = evenly(range(len(request.picked)), request.asks)
        seen = await look.all(request.picked, asks=asks)
        found = self._estimate(request, seen, len(asks))
        if holding := await asyncio.to_thread(self._holding_rows, request):
            found = replace(
                found,
                notes=[
                    *found.notes,
                    f"documents: {len(holding):,} of the {len(request.picked):,} sampled objects hold JSON Lines, of "
                    f"which a run asks about each row; here they count as one document each, such as {min(holding)}",
                ],
            )
        if look.stopped:
            found = replace(found, notes=[*found.notes, f"stopped early, {look.stopped}"])
        await write_answer(self._storage, layout, task.token, found, etag=etag)
        return PreviewOutcome(len(seen), found.answered)

    async def _with_rows(self, request: PreviewRequest) -> list[Picked]:
        """Returns the documents; in place of an object of rows its first ones, so many that all are `asks` together."""
        holding = await asyncio.to_thread(self._holding_rows, request)
        rows = len(holding)
        each_gives = max(1, (request.asks - len(request.picked) + rows) // rows) if rows else 0
        picked: list[Picked] = []
        for each in request.picked:
            if each.document.uri in holding:
                found = await asyncio.to_thread(first_rows, self._storage, request.job, each.document, each_gives)
                picked += [Picked(document) for document in found]
            else:
                picked.append(each)
        return picked

    def _holding_rows(self, request: PreviewRequest) -> set[str]:
        """Returns the URIs of those objects of a request that hold rows. Blocking."""
        documents = (each.document for each in request.picked)
        return {each.uri for each in documents if holds_rows(self._storage, request.job, each)}

    def _look(self, request: PreviewRequest, task: PreviewInput) -> Look:
        if request.job.source.requester_pays:
            self._storage.pay_for(request.job.source.prefixes.bucket)
        lane = self._quotas.lane(f"preview-{task.token}", request.job)
        return Look(
            request,
            self._storage,
            self._transport,
            lane,
            self._metrics,
            drain=self._drain,
            extractors=self._extractors,
            ask_within=task.ask_within,
        )

    def _estimate(self, request: PreviewRequest, seen: Sequence[Seen], asks: int) -> Estimate:
        job = request.job
        schema = job.output.json_schema
        schema_bytes = len(orjson.dumps(schema)) if schema is not None else 0
        looked = [each for each in zip(seen, request.picked, strict=True) if each[0].is_known]
        sample = [one.measured(picked) for one, picked in looked]
        return estimate(
            job,
            documents=request.documents,
            size=request.size,
            too_large=request.too_large,
            sample=sample,
            schema_bytes=schema_bytes,
            asks=asks,
            asked=[
                _asked(one, rule(measured, schema_bytes))
                for (one, _), measured in zip(looked, sample, strict=True)
                if one.row is not None and one.row["prompt_tokens"]
            ],
            online=pricer(job.model),
            batch=pricer(job.model, batch=True),
            processes=request.processes,
        )


@dataclass
class Seen:
    """What became of a document: its `row` as in a run, None while it is unanswered."""

    document: PlannedDocument
    row: Row | None = None
    messages: list[dict[str, str]] = field(default_factory=list)
    """As a run would ask; of a document in chunks those of the first one."""
    questions: int = 1
    prompt_bytes: int = 0
    """Of all its questions."""

    @property
    def is_known(self) -> bool:
        """Tells whether it was read, or is known to be unreadable; not, where the source did not answer."""
        return self.row is not None or bool(self.messages)

    def measured(self, picked: Picked) -> Measured:
        unreadable = self.row is not None and not self.messages
        return Measured(
            size=self.document.size,
            weight=picked.weight,
            prompt_bytes=self.prompt_bytes,
            messages=len(self.messages) * self.questions,
            questions=self.questions,
            error_type=self.row["error_type"] if self.row is not None and unreadable else "",
        )


class Look:
    """One look at some documents of a job. `stopped` says why no more were asked about, empty while all is well."""

    def __init__(
        self,
        request: PreviewRequest,
        storage: Storage,
        transport: Transport,
        lane: QuotaLane,
        metrics: Metrics,
        *,
        drain: asyncio.Event,
        extractors: Extractors,
        ask_within: float,
    ) -> None:
        job = request.job
        self._job, self._storage, self._characters = job, storage, request.characters
        self._dates, self._extractors = request.nominal.values, extractors
        self._prompt, self._long = CompiledPrompt(job.prompt), LongDocuments(job)
        self._brakes = Brakes(max_error_rate=1.0, drain=drain, outage_after=OUTAGE_AFTER)
        self._lane, self._chat = lane, Chat(job, transport, self._brakes, metrics, lane)
        self._price = pricer(job.model)
        self._maker = RowMaker("", job.fingerprint_at(request.nominal), 1, 0, 0)
        lane.concurrency = min(AT_ONCE, lane.concurrency)
        self._room = Room(documents=AT_ONCE)
        self._ask_within, self._deadline = ask_within, time.monotonic() + ask_within
        self.stopped = ""

    async def all(self, picked: Sequence[Picked], *, asks: Sequence[int]) -> list[Seen]:
        """Reads and renders each; asks about those at the positions `asks`."""
        asked = set(asks)
        tasks = [asyncio.create_task(self._one(each.document, at in asked)) for at, each in enumerate(picked)]
        if asked:
            self._lane.open()
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            try:
                await asyncio.gather(*tasks, return_exceptions=True)
            finally:
                if asked:
                    self._lane.close()

    async def _one(self, document: PlannedDocument, ask: bool) -> Seen:
        seen = Seen(document)
        size = min(document.size, self._job.source.max_document_bytes)
        await self._room.enter(size)
        try:
            shown = await self._shown(document)
            texts = shown.chunks or (shown.text,)
            questions = [messages_of(self._prompt, self._dates, document, text) for text in texts]
            seen.questions = len(questions)
            seen.prompt_bytes = sum(len(each["content"].encode()) for messages in questions for each in messages)
            messages = questions[0]
            if ask:
                payload = self._chat.payload(messages)
                seen.row = await self._ask(document, shown, payload)
                messages = self._chat.sent(payload)
            seen.messages = cut_messages(messages, self._characters)
        except Unreadable as error:
            seen.row = row_unread(self._row(document, Answer(None, None)), error)
        except StorageError as error:
            reason = Reason.SOURCE_REFUSED if isinstance(error, StorageRefused) else Reason.STORAGE_UNREACHABLE
            self.stopped = self.stopped or f"{reason}: {error}"
        finally:
            self._room.leave(size)
        return seen

    async def _shown(self, document: PlannedDocument) -> Shown:
        text = planned_text(document)
        if text is None:
            text = await self._read(document)
        return await self._long.shown(text)

    async def _read(self, document: PlannedDocument) -> str:
        check_key(document)
        limit = self._job.source.max_document_bytes
        check_size(document, limit)
        with reading(document):
            data, _ = await read_planned(self._storage, document, limit=limit)
        source = self._job.source
        found = await self._extractors.text_of(document.uri, data, html=source.html)
        check_pages(found, source.min_text_pages)
        return found.text

    async def _ask(self, document: PlannedDocument, shown: Shown, payload: bytes) -> Row | None:
        """Asks the one question, or those about the chunks."""
        ask = partial(self._chat.ask, stopped=self._has_stopped)
        if shown.chunks:
            question = ChunkedQuestion(
                document, shown.chunks, self._long, self._prompt, self._dates, self._chat, self._price, ask
            )
            found = await question.answer()
            if found is not None:
                row = self._maker.row(document, document.etag, found.answer, found.cost_usd)
                return {**row_answered(row, found.answer), "chunks": found.chunks}
        else:
            answer = await ask(payload)
            if answer is not None:
                return {**row_answered(self._row(document, answer), answer), "truncated": shown.truncated}
        self._has_stopped()  # it was this very answer that ended all
        return None

    def _has_stopped(self) -> bool:
        stop = self._brakes.stop()
        if not self.stopped and stop is not None:
            self.stopped = f"{stop.reason}: {stop.message}"
        elif not self.stopped and time.monotonic() > self._deadline:
            self.stopped = f"not all questions were answered within {self._ask_within:g} s"
        return bool(self.stopped)

    def _row(self, document: PlannedDocument, answer: Answer) -> Row:
        return self._maker.row(document, document.etag, answer, cost_of(answer, self._price))


_OF_ROW = (
    *("status", "result", "error_type", "error_message", "retryable", "finish_reason", "model", "attempts"),
    *("prompt_tokens", "cached_tokens", "completion_tokens", "cost_usd", "latency_seconds", "chunks", "truncated"),
)


def _shown(seen: Seen, characters: int) -> PreviewedDocument:
    """Returns what the client gets to see."""
    document, row = seen.document, seen.row or {"status": UNANSWERED}
    fields: dict[str, Any] = {name: row[name] for name in _OF_ROW if name in row}
    text = row.get("output_text")
    fields["output_text"] = cut(text, characters) if text is not None else None
    return PreviewedDocument(
        document_id=document.document_id, uri=document.uri, size=document.size, messages=seen.messages, **fields
    )


def _asked(seen: Seen, by_rule: float) -> Asked:
    assert seen.row is not None
    row = seen.row
    return Asked(
        by_rule=by_rule,
        prompt_tokens=row["prompt_tokens"] or 0,
        cached_tokens=row["cached_tokens"] or 0,
        completion_tokens=row["completion_tokens"] or 0,
        seconds=row["latency_seconds"] * (1 if row.get("chunks") else row["attempts"]),
        cost_usd=row["cost_usd"],
    )
