"""What is checked before a run starts and money is spent: source, output, workers, model."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import aclosing
from datetime import timedelta

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client, WorkflowFailureError
from temporalio.service import RPCError

from batch.corpus.key_list import ManifestBroken, ManifestGone
from batch.corpus.keys import SourceKeys
from batch.files.state import another_order, read_pointer
from batch.job.job import Job
from batch.storage.layout import RunLayout, S3Uri
from batch.storage.output_check import check_place
from batch.storage.store import BucketMissing, Storage, StorageError, StorageRefused
from batch.workflows import contracts as c

LOOK_AT_KEYS = 100_000
"""Keys of the source that are looked through for a first document; after so many the planner may find out."""
LOOK_AT_ROWS = 1_000_000
"""Rows of a manifest that are looked through for what breaks its order: seconds. The planner looks at all."""

FIRST_POLL = 2.0
"""Seconds in which a worker that has just started polls for the first time: it is healthy a moment before."""


class CheckFailed(Exception):
    """The run would not work. The message says what, where, and what to do."""


class SourceEmpty(CheckFailed):
    """The source can be listed, and holds no document."""


async def check_source(storage: Storage, job: Job) -> None:
    """The source can be listed to its end and holds a document, and something lies under each of its prefixes.

    Or its manifest can be read, is sorted and names one.
    """
    keys = SourceKeys(storage, job.source)
    where = "source.uri" if job.source.manifest is None else "source.manifest"
    try:
        found = await (_finds_one if job.source.manifest is None else _names_one)(storage, keys)
    except ManifestGone as error:  # that of another day may come with it
        raise SourceEmpty(str(error)) from None
    except ManifestBroken as error:
        raise CheckFailed(str(error)) from None
    except BucketMissing as error:
        raise CheckFailed(f"{where}: {error}. Create it, or mend {where}") from None
    except StorageError as error:
        raise CheckFailed(f"{where}: {error}") from None
    if found:
        return
    what = f"objects under {keys.prefixes}" if job.source.manifest is None else f"keys of {job.source.manifest}"
    if keys.left_out:
        told = ", ".join(f"{count:,} {rule}" for rule, count in sorted(keys.left_out.items()))
        raise SourceEmpty(
            f"{where}: none of the {keys.seen} {what} is a document: left out are {told}. "
            "source.hidden: true takes them"
        )
    if keys.seen:
        raise SourceEmpty(
            f"{where}: none of the {keys.seen} {what} is a document by source.include "
            f"{job.source.include} and source.exclude {job.source.exclude}"
        )
    if job.source.manifest is not None:
        raise SourceEmpty(f"source.manifest: {job.source.manifest} names no key")
    raise SourceEmpty(f"source.uri: there is no object under {keys.prefixes}. Upload documents, or mend source.uri")


async def _finds_one(storage: Storage, keys: SourceKeys) -> bool:
    """Tells whether there is a document among the first keys."""
    places = keys.prefixes.places
    for place in places:
        await storage.examine_listing(place.bucket, place.prefix)
    if len(places) > 1:
        empties = await asyncio.gather(*(_is_empty(storage, place) for place in places))
        for place, empty in zip(places, empties, strict=True):
            key = place.prefix.rstrip("/")
            if empty and not (key in keys.prefixes.objects and await storage.head(place.bucket, key) is not None):
                raise SourceEmpty(f"source.uri: there is no object under {place}. Upload documents, or take it out")
    async with aclosing(keys.documents()) as pages:
        async for page in pages:
            if page or keys.seen >= LOOK_AT_KEYS:
                return True
    return False


async def _is_empty(storage: Storage, place: S3Uri) -> bool:
    async with aclosing(storage.source_pages(place.bucket, place.prefix, page_size=1)) as pages:
        return not await anext(pages, [])


async def _names_one(storage: Storage, keys: SourceKeys) -> bool:
    """Tells whether there is a document in the manifest, of which the first rows are all looked at."""
    try:
        await _is_empty(storage, keys.prefixes.places[0])
    except BucketMissing as error:
        raise CheckFailed(f"source.uri: {error}. Create it, or mend source.uri") from None
    except StorageRefused:
        pass  # what a manifest names needs not be listed
    found = False
    async with aclosing(keys.named()) as pages:
        async for page in pages:
            found = found or bool(page)
            if keys.seen >= LOOK_AT_ROWS:
                return True
    return found


async def check_state(storage: Storage, job: Job) -> None:
    """An incremental job's state has the order in which the source's keys come now."""
    if not job.incremental:
        return
    try:
        found = await read_pointer(storage, job.state_layout)
        same = found is None or found[0].by_folders == await SourceKeys(storage, job.source).by_folders()
    except StorageError as error:
        raise CheckFailed(f"state.uri: {error}") from None
    if not same:
        raise CheckFailed(f"state.uri: {another_order(job.state_layout)}")


async def check_output(storage: Storage, job: Job) -> None:
    """The output, and the state of an incremental job, can be written on condition, and deleted again."""
    places = {"output.uri": S3Uri.parse(job.output.uri)}
    if job.incremental:
        places["state.uri"] = job.state_layout.uri
    for name, place in places.items():
        try:
            await check_place(storage, place)
        except StorageError as error:
            raise CheckFailed(f"{name}: {place} cannot be written: {error}") from None


async def check_run_id(storage: Storage, job: Job, run_id: str) -> None:
    """No run of this id stands below the output."""
    layout = RunLayout.of(job.output.uri, run_id)
    try:
        taken = await storage.head(layout.output.bucket, layout.run_json) is not None
    except StorageError as error:
        raise CheckFailed(f"output.uri: {error}") from None
    if taken:
        raise CheckFailed(
            f"run id {run_id!r} exists already at {layout.uri(layout.root)}; choose another --run-id, or use "
            f"`docbatch rerun {run_id}` to do again what failed in it"
        )


async def unpolled_queue(client: Client, task_queue: str) -> str | None:
    """Returns the first of a run's two task queues that no worker polled lately; None if both are polled."""
    for queue in (task_queue, c.control_queue(task_queue)):
        if not await pollers(client, queue):
            return queue
    return None


async def pollers(client: Client, queue: str) -> int:
    """Worker processes that polled a queue for activities in the last minutes."""
    answer = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace,
            task_queue=TaskQueue(name=queue),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
        )
    )
    return len({poller.identity for poller in answer.pollers})


def no_worker(queue: str, then: str) -> str:
    """Tells what is said where nobody polls a queue; `then` is what follows from it."""
    return f"no worker polls the task queue {queue!r}; {then}: docbatch worker"


async def check_control_polled(client: Client, task_queue: str) -> None:
    """A worker is there, or comes right now, for what only workers can do: ask the model."""
    queue = c.control_queue(task_queue)
    deadline = time.monotonic() + FIRST_POLL
    while not await pollers(client, queue):
        if time.monotonic() > deadline:
            raise CheckFailed(no_worker(queue, "start one"))
        await asyncio.sleep(0.2)


async def check_model(client: Client, job: Job, task_queue: str) -> None:
    """The model answers one short question, asked by a worker: only workers hold its credentials."""
    try:
        result: c.CheckResult = await client.execute_workflow(
            c.CHECK_WORKFLOW,
            c.CheckInput(job_json=job.to_json()),
            id=f"docbatch-check-{job.name}-{secrets.token_hex(6)}",
            task_queue=c.control_queue(task_queue),
            result_type=c.CheckResult,
            execution_timeout=timedelta(seconds=100),
        )
    except (WorkflowFailureError, RPCError) as error:
        cause = getattr(error, "cause", error)
        raise CheckFailed(f"model.name: the check that {job.model.name} answers did not end: {cause}") from None
    if result.mistake:
        raise CheckFailed(result.mistake)
    if result.problem:
        raise model_silent(job, result.problem, hint="; --no-model-check starts without asking")


def model_silent(job: Job, problem: str, *, hint: str = "") -> CheckFailed:
    """The model does not answer."""
    return CheckFailed(
        f"model.name: {job.model.name} does not answer: {problem} "
        f"(the worker's OPENAI_BASE_URL and OPENAI_API_KEY set where and by what key it is asked{hint})"
    )


async def check_job(storage: Storage, job: Job, run_id: str) -> None:
    """All that needs object storage alone."""
    await check_run_id(storage, job, run_id)
    await check_output(storage, job)
    await check_source(storage, job)
    await check_state(storage, job)
