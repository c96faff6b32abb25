"""Nightly runs: a Temporal Schedule that starts a frozen job again and again, each run for the date of its slot.

    schedule = await create_schedule("nightly", Job.from_yaml("tickets.yaml"), Timing(cron="0 2 * * *",
                                     time_zone="Europe/Berlin"))
    print((await schedule.status()).next_times)

The job is frozen when the schedule is made, and changes only by `replace`. A slot's run is named by schedule and
nominal time, NAME-2026-11-22T01:00:00Z. A slot that has been run and is backfilled again does what failed in that run.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from temporalio import client as t
from temporalio.api.workflowservice.v1 import ListScheduleMatchingTimesRequest
from temporalio.common import TypedSearchAttributes
from temporalio.service import RPCError, RPCStatusCode

from batch.client import checks, visibility
from batch.client.run import Connection, connect
from batch.client.timing import Overlap, ScheduleError, Timing
from batch.job.job import Job
from batch.job.logical_date import Nominal, find_zone
from batch.workflows import contracts as c
from batch.workflows.run_state import RunInput

NEXT_TIMES = 5
JUST_BEFORE = timedelta(milliseconds=1)
"""Temporal takes the start of a backfill as exclusive; ours is inclusive."""
TRIGGERED_WITHIN = 10.0
"""Seconds in which a schedule that was triggered says what it started."""
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,99}")

log = logging.getLogger(__name__)


class ScheduleNotFound(LookupError):
    """Temporal has no such schedule."""


class ScheduleForeign(LookupError):
    """The schedule is none of docbatch's: it starts something else."""


@dataclass(frozen=True)
class ScheduleStatus:
    """A schedule, what it has done, and what it will do. Times are in its time zone.

    `started`, `skipped` and `missed` count slots since the schedule was made: run, left out because a run was still
    going, and left out because Temporal was away for longer than the catch-up window. `runs` are the last ten, newest
    first, as in `visibility.list_runs` and with `due_at` (jitter included); "forgotten" is past Temporal's retention.
    """

    name: str
    job: Job
    timing: Timing
    paused: bool
    note: str
    started: int
    skipped: int
    missed: int
    next_times: list[datetime]
    created_at: datetime
    updated_at: datetime | None
    runs: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: durations in seconds, times in ISO 8601."""
        timing = {
            name: value.total_seconds() if isinstance(value, timedelta) else value
            for name, value in asdict(self.timing).items()
        }
        return {
            **{name: getattr(self, name) for name in ("name", "paused", "note", "started", "skipped", "missed")},
            "timing": timing,
            "next_times": [at.isoformat() for at in self.next_times],
            "created_at": self.created_at.isoformat(),
            "updated_at": self.updated_at.isoformat() if self.updated_at else None,
            "runs": self.runs,
            "job": json.loads(self.job.to_json()),
        }


@dataclass
class Schedule:
    """One schedule: look at it, pause it, trigger it, fill in past slots, delete it.

    Every method raises `ScheduleNotFound` or `ScheduleForeign` where there is no such schedule.
    """

    connection: Connection
    name: str

    @property
    def _handle(self) -> t.ScheduleHandle:
        return self.connection.temporal.get_schedule_handle(self.name)

    async def status(self) -> ScheduleStatus:
        """Tells where it stands, with its last runs and their outcomes."""
        description = await self._describe()
        recent = reversed(description.info.recent_actions)
        runs = await asyncio.gather(*(self._run_of(action) for action in recent))
        return await self._status(description, list(runs))

    async def exists(self) -> bool:
        """Raises `ScheduleForeign` if the name is taken by a schedule of something else."""
        try:
            await self._describe()
        except ScheduleNotFound:
            return False
        return True

    async def pause(self, note: str = "") -> None:
        """Starts nothing more until `resume`; a run that is going goes on."""
        async with self._found():
            await self._handle.pause(note=note or "paused by docbatch")

    async def resume(self, note: str = "") -> None:
        """Goes on with the next slot; those in between are not made up for, `backfill` does that."""
        async with self._found():
            await self._handle.unpause(note=note or "resumed by docbatch")

    async def trigger(self, overlap: Overlap | None = None) -> str | None:
        """Starts a run for this moment, by the schedule's overlap policy unless another is given.

        Returns its run id; None when it was skipped, or waits for the run that is going.
        """
        before = await self._describe()
        await self._handle.trigger(overlap=overlap.policy if overlap else None)
        known = {_run_id(action) for action in before.info.recent_actions}
        deadline = asyncio.get_running_loop().time() + TRIGGERED_WITHIN
        while asyncio.get_running_loop().time() < deadline:
            now = await self._describe()
            for action in reversed(now.info.recent_actions):
                if _run_id(action) not in known:
                    return _run_id(action)
            if now.info.num_actions_skipped_overlap > before.info.num_actions_skipped_overlap:
                return None
            await asyncio.sleep(0.2)
        return None

    async def backfill(
        self, start: datetime, end: datetime, *, overlap: Overlap = Overlap.BUFFER_ALL
    ) -> list[datetime]:
        """Runs the slots from `start` to `end`, both included, now; returns when they were due.

        By default one after another: most schedules skip a slot while a run is going, and would skip all but the first.
        Without an offset a time is in the schedule's time zone. With jitter a slot is where its jittered start is.
        Raises `ScheduleError` for a range without a slot.
        """
        zone = find_zone(Timing.of((await self._describe()).schedule).time_zone)
        start, end = ((at if at.tzinfo else at.replace(tzinfo=zone)).astimezone(UTC) for at in (start, end))
        if end < start:
            raise ScheduleError(f"a backfill goes forward in time, not from {start.isoformat()} to {end.isoformat()}")
        if start > datetime.now(UTC):
            raise ScheduleError(f"a backfill is of the past; {start.isoformat()} lies in the future")
        end = min(end, datetime.now(UTC))
        slots = [slot.astimezone(zone) for slot in await self._slots(start - JUST_BEFORE, end)]
        if not slots:
            raise ScheduleError(f"schedule {self.name!r} has no slot from {start.isoformat()} to {end.isoformat()}")
        await self._handle.backfill(
            t.ScheduleBackfill(start_at=start - JUST_BEFORE, end_at=end, overlap=overlap.policy)
        )
        return slots

    async def delete(self) -> None:
        """Starts nothing more. Runs stay, also one that is going."""
        await self._describe()
        await self._handle.delete()

    async def _slots(self, start: datetime, end: datetime) -> list[datetime]:
        temporal = self.connection.temporal
        request = ListScheduleMatchingTimesRequest(namespace=temporal.namespace, schedule_id=self.name)
        request.start_time.FromDatetime(start)
        request.end_time.FromDatetime(end)
        answer = await temporal.workflow_service.list_schedule_matching_times(request)
        return [at.ToDatetime(UTC) for at in answer.start_time]

    async def _describe(self) -> t.ScheduleDescription:
        async with self._found():
            description = await self._handle.describe()
            if _action(description).workflow == c.RUN_WORKFLOW:
                return description
        raise ScheduleForeign(
            f"schedule {self.name!r} is none of docbatch's: it starts {_action(description).workflow}"
        )

    @asynccontextmanager
    async def _found(self) -> AsyncIterator[None]:
        try:
            yield
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            raise ScheduleNotFound(
                f"there is no schedule {self.name!r} in Temporal's namespace {self.connection.temporal.namespace!r}; "
                "`docbatch schedule list` shows those there are"
            ) from None

    async def _status(self, description: t.ScheduleDescription, runs: list[dict[str, Any]]) -> ScheduleStatus:
        info = description.info
        try:
            timing = Timing.of(description.schedule)
            (start,) = await description.data_converter.decode(_action(description).args, [RunInput])
        except (ValueError, LookupError, TypeError) as error:
            raise ScheduleForeign(
                f"schedule {self.name!r} starts runs of docbatch, but was not made by docbatch: {error}"
            ) from None
        zone = find_zone(timing.time_zone)
        return ScheduleStatus(
            name=self.name,
            job=Job.parse(json.loads(start.job_json), where=f"the job of schedule {self.name!r}"),
            timing=timing,
            paused=description.schedule.state.paused,
            note=description.schedule.state.note or "",
            started=info.num_actions,
            skipped=info.num_actions_skipped_overlap,
            missed=info.num_actions_missed_catchup_window,
            next_times=[at.astimezone(zone) for at in info.next_action_times[:NEXT_TIMES]],
            created_at=info.created_at.astimezone(zone),
            updated_at=info.last_updated_at.astimezone(zone) if info.last_updated_at else None,
            runs=runs,
        )

    async def _run_of(self, action: t.ScheduleActionResult) -> dict[str, Any]:
        run_id = _run_id(action)
        try:
            execution = await self.connection.temporal.get_workflow_handle(run_id).describe()
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            return {"run_id": run_id, "state": "forgotten", "due_at": action.scheduled_at.isoformat()}
        found = visibility.summary(execution, await execution.memo())
        return {**found, "due_at": action.scheduled_at.isoformat()}


async def create_schedule(
    name: str,
    job: Job,
    timing: Timing,
    *,
    replace: bool = False,
    paused: bool = False,
    check_model: bool = True,
    connection: Connection | None = None,
) -> Schedule:
    """Makes a schedule that starts the job, after the checks that a run has. The connection is the environment's.

    `replace` changes job and timing of one that exists; what it counted, and whether it is paused, stays. Raises
    `ScheduleError`, `CheckFailed`, `JobError`, `StorageError`.
    """
    if not _NAME.fullmatch(name):
        raise ScheduleError(
            f"schedule {name!r}: use 1 to 100 of the characters a-z A-Z 0-9 . _ - and start with a letter or digit"
        )
    connection = connection or await connect()
    schedule = Schedule(connection, name)
    exists = await schedule.exists()
    if exists and not replace:
        raise _taken(name)
    await _check(connection, job, timing, check_model=check_model)
    searchable = await visibility.registered(connection.temporal)
    attributes = visibility.attributes_of(job.name) if searchable else None
    start = RunInput(
        tuning=c.Tuning(),
        partitions_queue=connection.task_queue,
        job_json=job.to_json(),
        time_zone=timing.time_zone,
    )
    made = t.Schedule(
        action=t.ScheduleActionStartWorkflow(
            c.RUN_WORKFLOW,
            start,
            id=name,
            task_queue=c.control_queue(connection.task_queue),
            memo={"job_name": job.name, "schedule": name},
            static_summary=f"{job.name}: {job.source.place} by {job.model.name}",
            typed_search_attributes=attributes or TypedSearchAttributes.empty,
        ),
        spec=timing.to_spec(),
        policy=t.SchedulePolicy(overlap=timing.overlap.policy, catchup_window=timing.catch_up),
        state=t.ScheduleState(paused=paused),
    )
    try:
        if exists:
            await _replace(schedule, made, attributes)
        else:
            await connection.temporal.create_schedule(name, made, search_attributes=attributes)
    except t.ScheduleAlreadyRunningError:
        raise _taken(name) from None
    except RPCError as error:
        if error.status != RPCStatusCode.INVALID_ARGUMENT:
            raise
        what = f"cron {timing.cron!r}" if timing.cron is not None else f"every {timing.every}"
        raise ScheduleError(f"{what}: {error.message}") from None
    return schedule


async def find_schedule(name: str, *, connection: Connection | None = None) -> Schedule:
    """Returns one that was made before. Raises `ScheduleNotFound`."""
    schedule = Schedule(connection or await connect(), name)
    await schedule._describe()
    return schedule


async def list_schedules(*, connection: Connection | None = None) -> list[ScheduleStatus]:
    """All of docbatch's in the namespace, by name; each with its last run alone. A new one takes a second to appear."""
    connection = connection or await connect()
    found: list[Schedule] = []
    async for entry in await connection.temporal.list_schedules():
        action = entry.schedule.action if entry.schedule else None
        if isinstance(action, t.ScheduleListActionStartWorkflow) and action.workflow == c.RUN_WORKFLOW:
            found.append(Schedule(connection, entry.id))
    statuses = await asyncio.gather(*(_briefly(schedule) for schedule in found))
    return sorted((status for status in statuses if status is not None), key=lambda status: status.name)


async def _briefly(schedule: Schedule) -> ScheduleStatus | None:
    """Returns None for one that has just been deleted, or that docbatch did not make."""
    try:
        description = await schedule._describe()
    except ScheduleNotFound:
        return None
    recent = description.info.recent_actions
    try:
        return await schedule._status(description, [await schedule._run_of(recent[-1])] if recent else [])
    except ScheduleForeign as error:
        log.warning("%s", error)
        return None


async def _replace(schedule: Schedule, made: t.Schedule, attributes: Any) -> None:
    def update(given: t.ScheduleUpdateInput) -> t.ScheduleUpdate:
        state = given.description.schedule.state
        state.paused = state.paused or made.state.paused
        made.state = state
        return t.ScheduleUpdate(made, attributes)

    await schedule._handle.update(update)


async def _check(connection: Connection, job: Job, timing: Timing, *, check_model: bool) -> None:
    """The checks of a run that would start now. A dated source may be empty: its documents come with the day."""
    today = job.resolved(Nominal.now(timing.time_zone))
    await checks.check_output(connection.storage, today)
    try:
        await checks.check_source(connection.storage, today)
    except checks.SourceEmpty as error:
        if not job.source_is_dated:
            raise
        log.warning("%s. It is another one for each run, so the schedule is made all the same", error)
    unpolled = await checks.unpolled_queue(connection.temporal, connection.task_queue)
    if unpolled is not None:
        log.warning("%s", checks.no_worker(unpolled, "runs will wait for one"))
    elif check_model:
        await checks.check_model(connection.temporal, today, connection.task_queue)


def _action(description: t.ScheduleDescription) -> t.ScheduleActionStartWorkflow:
    return cast(t.ScheduleActionStartWorkflow, description.schedule.action)


def _run_id(result: t.ScheduleActionResult) -> str:
    return cast(t.ScheduleActionExecutionStartWorkflow, result.action).workflow_id


def _taken(name: str) -> ScheduleError:
    return ScheduleError(f"schedule {name!r} exists already; --replace changes its job and its times")
