"""Before a run: a few answers to look at, and what the whole will take. From Python, as `start` and `rerun` are.

The client lists the source and picks the documents; a worker reads them and asks the model, since only workers hold the
model's credentials and the text extractors. Nothing of it is part of any run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import orjson
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ActivityError, TerminatedError
from temporalio.service import RPCError

from batch.client import checks
from batch.client.checks import CheckFailed
from batch.client.run import blocking, connect
from batch.job.job import Job
from batch.job.logical_date import Nominal
from batch.previews.estimation import Estimate
from batch.previews.exchange import PreviewRequest, PreviewResult, delete_left
from batch.previews.sample import Corpus, Picked, named_documents, sample_of_source, spread_over_source
from batch.storage.errors import ObjectMissing, StorageError
from batch.storage.layout import PreviewLayout, preview_token
from batch.storage.records import read_record
from batch.workflows import contracts as c
from batch.workflows.preview import ESTIMATE_WORKFLOW, PREVIEW_WORKFLOW, PreviewInput, PreviewOutcome

if TYPE_CHECKING:
    from batch.client.run import Connection

MOST_DOCUMENTS = 50
"""Documents of a preview at most, and answers of an estimate: each is paid, and a person looks at them."""
MOST_SAMPLED = 5_000
SAMPLED = 200
CUT, UNCUT = 4_000, 1_000_000
"""Characters of each message and answer that come back."""
ASK_WITHIN = 300.0
"""Seconds in which questions begin."""
OVERHEAD = 120.0
"""Seconds for all else: waiting for a worker's slot, reading, writing."""
CANCELLED_WITHIN = 15.0
"""Seconds in which a worker notices that it is not wanted any more: two heartbeats."""
LOOK_EVERY = 5.0
ABANDONED_AFTER = 30.0
"""Seconds that no worker takes up a workflow task, which takes milliseconds."""


async def preview(
    job: Job,
    *,
    n: int = 5,
    documents: Sequence[str] = (),
    full: bool = False,
    day: date | None = None,
    task_queue: str = c.DEFAULT_TASK_QUEUE,
    connection: Connection | None = None,
) -> PreviewResult:
    """Asks the model about a few documents, as a run would, and writes nothing. Each answer is paid.

    Args:
        n: how many, from all over the source, 50 at most; of JSONL and Parquet the first rows.
        documents: keys or `s3://` URIs of objects to ask about instead; of JSONL and Parquet the first row.
        full: bring back messages and answers whole (up to a million characters each).
        day: what `{{ date }}` stands for; by default today, UTC.
        task_queue: the one that the workers poll.

    Raises `CheckFailed`, `JobError`, `StorageError`, `TemporalUnreachable`.
    """
    if len(documents) > MOST_DOCUMENTS or not (documents or 1 <= n <= MOST_DOCUMENTS):
        raise CheckFailed(
            f"a preview asks about 1 to {MOST_DOCUMENTS} documents, not {len(documents) or n}: each answer is paid. A "
            "run with a narrower source.include answers more, and keeps the answers"
        )
    connection = connection or await connect(task_queue=task_queue)
    job, nominal = _resolved(job, day)
    await _check(connection, job)
    if documents:
        picked, listed, whole = await named_documents(connection.storage, job, documents), 0, True
        n = len(picked)
    else:
        few = await spread_over_source(connection.storage, job, n)
        picked, listed, whole = few.documents, few.listed, few.whole
        if not picked:
            raise CheckFailed(
                f"source.uri: no document found among the first {listed:,} keys under {job.source.place}, nor where "
                "others were probed; name some (--document)"
            )
    request = PreviewRequest(
        job, nominal, [Picked(document) for document in picked], asks=n, characters=UNCUT if full else CUT
    )
    found = read_record(PreviewResult, orjson.loads(await _look(connection, PREVIEW_WORKFLOW, request)))
    if found.stopped and not any(document.attempts for document in found.documents):
        raise checks.model_silent(job, found.stopped)
    return replace(found, listed=listed, whole=whole)


async def estimate(
    job: Job,
    *,
    sample: int = SAMPLED,
    ask: int = 0,
    day: date | None = None,
    on_progress: Callable[[Corpus], None] | None = None,
    task_queue: str = c.DEFAULT_TASK_QUEUE,
    connection: Connection | None = None,
) -> Estimate:
    """Lists the whole source, reads a sample of it, and says what a run would take. Costs nothing unless `ask` is set.

    Args:
        sample: documents at most that are read.
        ask: documents of the sample that the model is asked about, 50 at most; each answer is paid.
        day: what `{{ date }}` stands for; by default today, UTC.
        on_progress: called while the source is listed.
        task_queue: the one that the workers poll.

    Raises `CheckFailed`, `JobError`, `StorageError`, `TemporalUnreachable`.
    """
    if not 1 <= sample <= MOST_SAMPLED:
        raise CheckFailed(f"an estimate reads a sample of 1 to {MOST_SAMPLED:,} documents, not {sample}")
    if not 0 <= ask <= MOST_DOCUMENTS:
        raise CheckFailed(f"an estimate asks about 0 to {MOST_DOCUMENTS} documents, not {ask}: each answer is paid")
    connection = connection or await connect(task_queue=task_queue)
    job, nominal = _resolved(job, day)
    await _check(connection, job)
    corpus = await sample_of_source(connection.storage, job, sample, on_progress=on_progress)
    request = PreviewRequest(
        job,
        nominal,
        corpus.sample,
        asks=min(ask, len(corpus.sample)),
        documents=corpus.documents,
        size=corpus.bytes,
        too_large=corpus.too_large,
        processes=await checks.pollers(connection.temporal, connection.task_queue),
    )
    found = read_record(Estimate, orjson.loads(await _look(connection, ESTIMATE_WORKFLOW, request)))
    if not corpus.left_out:
        return found
    told = ", ".join(f"{count:,} {rule}" for rule, count in sorted(corpus.left_out.items()))
    return replace(found, notes=[*found.notes, f"documents: left out are {told}; source.hidden: true takes them"])


preview_blocking = blocking(preview)
estimate_blocking = blocking(estimate)


def _resolved(job: Job, day: date | None) -> tuple[Job, Nominal]:
    nominal = Nominal.of_day(day) if day is not None else Nominal.now()
    return job.resolved(nominal), nominal


async def _check(connection: Connection, job: Job) -> None:
    """What a run checks, but for its id and the model, which is asked anyhow."""
    await checks.check_output(connection.storage, job)
    await checks.check_source(connection.storage, job)
    await checks.check_control_polled(connection.temporal, connection.task_queue)


async def _look(connection: Connection, workflow: str, request: PreviewRequest) -> bytes:
    """Has a worker do it and returns what it left, of which nothing stays."""
    storage, layout, token = connection.storage, PreviewLayout.of(request.job.output.uri), preview_token()
    bucket, key, asked = layout.output.bucket, layout.file(token), request.to_bytes()
    await delete_left(storage, layout)
    await storage.put(bucket, key, asked)
    try:
        within = ASK_WITHIN + request.job.model.timeout_seconds + OVERHEAD
        handle: WorkflowHandle[object, PreviewOutcome] = await connection.temporal.start_workflow(
            workflow,
            PreviewInput(request.job.output.uri, token, request.asks, ASK_WITHIN, within, request.fingerprint),
            id=f"{workflow}-{request.job.name}-{token}",
            task_queue=c.control_queue(connection.task_queue),
            result_type=PreviewOutcome,
            execution_timeout=timedelta(seconds=within + OVERHEAD),
            static_summary=f"{request.job.name}: {len(request.picked)} documents by {request.job.model.name}",
        )
        await _ended(handle, request)
        answer = await storage.get(bucket, key)
        if answer == asked:
            raise _failed(request, "the worker that was at it has gone, and no other goes on: docbatch worker")
        return answer
    except ObjectMissing:
        raise CheckFailed(f"{layout.folder}{token}.json is gone: somebody else has deleted it") from None
    finally:
        with suppress(StorageError):  # what stays is deleted by the next one
            await storage.delete(bucket, [key])


async def _ended(handle: WorkflowHandle[object, PreviewOutcome], request: PreviewRequest) -> None:
    """Waits for the end, or until there is no worker any more that could tell of it."""
    ending = asyncio.ensure_future(handle.result())
    try:
        while not (await asyncio.wait({ending}, timeout=LOOK_EVERY))[0]:
            if await _is_abandoned(handle):
                await handle.terminate("no worker goes on with it")
                break
        await ending
    except asyncio.CancelledError:
        with suppress(RPCError, WorkflowFailureError, TimeoutError):
            await handle.cancel()
            await asyncio.wait_for(handle.result(), CANCELLED_WITHIN)
        raise
    except WorkflowFailureError as error:
        cause: BaseException | None = error.cause
        if isinstance(cause, TerminatedError):
            return
        if isinstance(cause, ActivityError) and cause.cause is not None:
            cause = cause.cause
        raise _failed(request, str(cause)) from None
    finally:
        ending.cancel()


async def _is_abandoned(handle: WorkflowHandle[object, PreviewOutcome]) -> bool:
    """Whether the workflow has something to do that nobody takes up. (Polls are remembered for minutes: no help.)"""
    description = (await handle.describe()).raw_description
    if not description.HasField("pending_workflow_task"):
        return False
    task = description.pending_workflow_task
    since = task.original_scheduled_time.ToDatetime(UTC) if task.HasField("original_scheduled_time") else None
    return since is not None and datetime.now(UTC) - since > timedelta(seconds=ABANDONED_AFTER)


def _failed(request: PreviewRequest, why: str) -> CheckFailed:
    paid = f"; up to {request.asks} answers may have been paid" if request.asks else ""
    return CheckFailed(f"{request.job.name}: no answer from the worker: {why}{paid}")
