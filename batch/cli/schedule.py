"""Commands of schedules, `docbatch schedule ...`: nightly runs of a frozen job."""

from __future__ import annotations

import asyncio
import re
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batch.cli.app import (
    CliError,
    JsonOption,
    QueueOption,
    app,
    open_table_console,
    parse_day,
    print_json,
    say,
)
from batch.cli.watching import connect
from batch.workflows.contracts import DEFAULT_TASK_QUEUE

if TYPE_CHECKING:
    from batch.client.schedules import Schedule
    from batch.client.timing import Overlap, Timing

group = typer.Typer(
    help="Nightly runs: a job, frozen, again and again.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(group, name="schedule")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name, as `docbatch schedule list` shows it.")]
OVERLAPS = "skip, buffer-one, buffer-all, cancel-other or allow-all"


@group.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the schedule; its runs' ids begin with it.")],
    job_file: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="What to run; frozen into the schedule.")],
    *,
    cron: Annotated[
        str | None, typer.Option(metavar="EXPR", help='Five fields, such as "0 2 * * *" (or 6, 7: see docs).')
    ] = None,
    every: Annotated[str | None, typer.Option(metavar="SPAN", help="Instead: so often, such as 6h or 1d12h.")] = None,
    offset: Annotated[str, typer.Option(metavar="SPAN", help="Moves the times of --every.")] = "0s",
    time_zone: Annotated[str, typer.Option(metavar="ZONE", help="Of --cron and of {{ date }}.")] = "UTC",
    overlap: Annotated[
        str, typer.Option(metavar="POLICY", help=f"While the last run is still going: {OVERLAPS}.")
    ] = "skip",
    jitter: Annotated[str, typer.Option(metavar="SPAN", help="Start late by a random part of this.")] = "0s",
    catch_up: Annotated[str, typer.Option(metavar="SPAN", help="How late a missed slot is still run.")] = "6h",
    replace: Annotated[bool, typer.Option("--replace", help="Change the schedule of this name.")] = False,
    paused: Annotated[bool, typer.Option("--paused", help="Make it paused.")] = False,
    model_check: Annotated[
        bool, typer.Option("--model-check/--no-model-check", help="Ask the model one short question first.")
    ] = True,
    task_queue: QueueOption = DEFAULT_TASK_QUEUE,
) -> None:
    """Start a job again and again."""
    from batch.client.schedules import create_schedule
    from batch.job.job import Job

    job = Job.from_yaml(job_file)
    timing = _timing(
        cron=cron,
        every=every,
        offset=offset,
        time_zone=time_zone,
        overlap=overlap,
        jitter=jitter,
        catch_up=catch_up,
    )

    async def go() -> None:
        made = await create_schedule(
            name,
            job,
            timing,
            replace=replace,
            paused=paused,
            check_model=model_check,
            connection=await connect(task_queue),
        )
        status = await made.status()
        upcoming = status.next_times[0].isoformat(" ") if status.next_times else "never: no slot lies ahead"
        say(f"schedule {name}: next run {upcoming}{' (it is paused)' if status.paused else ''}")
        say(f"docbatch schedule show {name} tells more", err=True)

    asyncio.run(go())


@group.command(name="list")
def list_(as_json: JsonOption = False) -> None:
    """List the schedules."""
    from batch.client.schedules import list_schedules

    async def go() -> None:
        statuses = await list_schedules(connection=await connect())
        if as_json:
            print_json([status.to_dict() for status in statuses])
        elif statuses:
            from batch.terminal.run_tables import schedules_table

            open_table_console().print(schedules_table(statuses))
        else:
            say("there are no schedules; make one with `docbatch schedule create NAME JOB.yaml --cron ...`")

    asyncio.run(go())


@group.command()
def show(name: NameArgument, as_json: JsonOption = False) -> None:
    """Show its job, its next times, and how its last runs ended."""

    async def go() -> None:
        status = await (await _find(name)).status()
        if as_json:
            print_json(status.to_dict())
            return
        from batch.terminal.ending import plain
        from batch.terminal.run_tables import schedule_account, scheduled_runs_table

        console = open_table_console()
        for line in schedule_account(status):
            plain(console, line)
        if status.runs:
            console.print(scheduled_runs_table(status.runs))
        else:
            plain(console, f"{'last runs':<13}none yet")

    asyncio.run(go())


@group.command()
def pause(
    name: NameArgument,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for those who look at it.")] = "",
) -> None:
    """Start nothing more for now."""

    async def go() -> None:
        await (await _find(name)).pause(reason)
        say(f"schedule {name} is paused; docbatch schedule resume {name} goes on with it")

    asyncio.run(go())


@group.command()
def resume(name: NameArgument) -> None:
    """Go on with the next slot."""

    async def go() -> None:
        await (await _find(name)).resume()
        say(f"schedule {name} goes on; `docbatch schedule backfill` runs slots that were left out")

    asyncio.run(go())


@group.command()
def trigger(
    name: NameArgument,
    overlap: Annotated[
        str | None, typer.Option(metavar="POLICY", help=f"Other than the schedule's: {OVERLAPS}.")
    ] = None,
) -> None:
    """Start a run now, for now."""
    policy = _overlap(overlap) if overlap is not None else None

    async def go() -> None:
        run_id = await (await _find(name)).trigger(policy)
        if run_id is None:
            raise CliError(
                f"schedule {name} started nothing: its last run is still going, and the overlap policy makes this one "
                "wait or skips it. --overlap allow-all starts it beside the other"
            )
        say(run_id)
        say(f"docbatch status {run_id} --watch shows it", err=True)

    asyncio.run(go())


@group.command()
def backfill(
    name: NameArgument,
    *,
    start: Annotated[str, typer.Option("--from", metavar="TIME", help="First day or time, included.")],
    end: Annotated[str, typer.Option("--to", metavar="TIME", help="Last day or time, included.")],
    overlap: Annotated[str, typer.Option(metavar="POLICY", help=f"Among those runs: {OVERLAPS}.")] = "buffer-all",
) -> None:
    """Run past slots now, each for its own date.

    Days and times are in the schedule's time zone, unless they say otherwise.
    """
    policy = _overlap(overlap)
    first, last = _moment("--from", start, time()), _moment("--to", end, time(23, 59, 59))

    async def go() -> None:
        slots = await (await _find(name)).backfill(first, last, overlap=policy)
        begin, finish = (slot.isoformat(" ", "seconds") for slot in (slots[0], slots[-1]))
        say(f"{len(slots):,} slots, from {begin} to {finish}")
        say(f"overlap policy {policy}; docbatch schedule show {name} shows the runs", err=True)

    asyncio.run(go())


@group.command()
def delete(name: NameArgument) -> None:
    """Delete a schedule. Its runs stay, also one that is going."""

    async def go() -> None:
        await (await _find(name)).delete()
        say(f"schedule {name} is deleted; its runs stay")

    asyncio.run(go())


async def _find(name: str) -> Schedule:
    from batch.client.schedules import find_schedule

    return await find_schedule(name, connection=await connect())


def _timing(
    *, cron: str | None, every: str | None, offset: str, time_zone: str, overlap: str, jitter: str, catch_up: str
) -> Timing:
    from batch.client.timing import Timing

    if (cron is None) == (every is None):
        raise CliError('say when: --cron EXPR, such as "0 2 * * *", or --every SPAN, such as 6h')
    return Timing(
        cron=cron,
        every=_span("--every", every) if every is not None else None,
        offset=_span("--offset", offset),
        time_zone=time_zone,
        overlap=_overlap(overlap),
        jitter=_span("--jitter", jitter),
        catch_up=_span("--catch-up", catch_up),
    )


def _span(where: str, text: str) -> timedelta:
    match = re.fullmatch(r"(?=\d)(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text.strip())
    if not match:
        raise CliError(f"{where}: {text!r} is no time span; write for example 30s, 15m, 6h, 1d12h")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def _overlap(text: str) -> Overlap:
    from batch.client.timing import Overlap

    try:
        return Overlap(text)
    except ValueError:
        raise CliError(f"--overlap: {text!r} is no policy; known are {OVERLAPS}") from None


def _moment(where: str, text: str, of_day: time) -> datetime:
    """A day (at `of_day`) or a time in ISO 8601; without an offset it is the schedule's time zone that counts."""
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        return datetime.combine(parse_day(where, text), of_day)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise CliError(
            f"{where}: {text!r} is no time; write 2026-11-22, 2026-11-22T02:00 or 2026-11-22T02:00+01:00"
        ) from None
