"""Commands that start runs and act on them: `run`, `status`, `list`, `pause`, `resume`, `cancel`, `rerun`."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batch.cli.app import (
    CliError,
    DetachOption,
    JsonOption,
    OutputOption,
    QueueOption,
    RunArgument,
    app,
    open_console,
    open_table_console,
    parse_day,
    print_json,
    say,
)
from batch.cli.watching import attend, connect, find, is_run_simulated, show, watch_to_end
from batch.workflows.contracts import DEFAULT_TASK_QUEUE
from batch.workflows.states import State

if TYPE_CHECKING:
    from batch.client.run import Run
    from batch.client.status import RunResult
    from batch.files.results import RerunScope


@app.command()
def run(
    job_file: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="What to run; see the README.")],
    *,
    run_id: Annotated[str | None, typer.Option(metavar="ID", help="Name of the run.  [default: job, time]")] = None,
    day: Annotated[
        str | None, typer.Option("--date", metavar="DAY", help="What {{ date }} is, YYYY-MM-DD.  [default: today, UTC]")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Of an incremental job: ask about all documents.")] = False,
    detach: DetachOption = False,
    as_json: JsonOption = False,
    task_queue: QueueOption = DEFAULT_TASK_QUEUE,
    model_check: Annotated[
        bool, typer.Option("--model-check/--no-model-check", help="Ask the model one short question first.")
    ] = True,
) -> None:
    """Start a job and watch it to its end.

    Ctrl-C ends the watching only: the run goes on.
    """
    from batch.job.job import Job
    from batch.terminal.quantities import is_simulated

    job = Job.from_yaml(job_file)
    _check_run_id(run_id)
    for_day = parse_day("--date", day) if day is not None else None

    async def go() -> int:
        connection = await connect(task_queue)
        started = await connection.start(job, run_id=run_id, day=for_day, check_model=model_check, full=full)
        simulated = is_simulated(job.model.name)
        return await attend(started, simulated=simulated, detach=detach, as_json=as_json)

    raise typer.Exit(asyncio.run(go()))


@app.command()
def status(
    run_id: RunArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
) -> None:
    """Tell where a run stands, or how it ended."""

    async def go() -> int:
        found = await find(run_id, output)
        simulated = await is_run_simulated(found)
        if watch:
            return await watch_to_end(found, simulated=simulated, as_json=as_json)
        return show(await found.status(examples=True), simulated=simulated, as_json=as_json)

    raise typer.Exit(asyncio.run(go()))


@app.command(name="list")
def list_runs(
    *,
    job: Annotated[str | None, typer.Option("--job", metavar="NAME", help="Only runs of this job.")] = None,
    state: Annotated[
        str | None,
        typer.Option("--state", metavar="S", help="Only running, paused, completed, cancelled, failed, ..."),
    ] = None,
    as_json: JsonOption = False,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="The latest N runs.")] = 20,
) -> None:
    """List the runs that Temporal knows, newest first.

    A run that ended with errors is in the state completed_with_failures.
    """
    from batch.client.visibility import STATES
    from batch.terminal.run_tables import runs_table

    if state is not None and state not in STATES:
        raise CliError(f"--state: {state!r} is no state of a run; known are {', '.join(STATES)}")

    async def go() -> list[dict[str, Any]]:
        return await (await connect()).list(job=job, state=state, limit=limit)

    runs = asyncio.run(go())
    if as_json:
        print_json(runs)
    elif runs:
        console = open_table_console()
        console.print(runs_table(runs, width=console.width))
    elif job or state:
        say("no such run; `docbatch list` shows those there are")
    else:
        say("there are no runs; start one with `docbatch run JOB.yaml`")


@app.command()
def pause(
    run_id: RunArgument,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for those who look at the run.")] = "",
) -> None:
    """Stop calling the model for now.

    No new calls within seconds; calls in flight are kept.
    """

    async def go() -> None:
        found = await find(run_id, None)
        await _require_open(found)
        await found.pause(reason)
        say(f"run {run_id} pauses; docbatch resume {run_id} goes on with it")

    asyncio.run(go())


@app.command()
def resume(
    run_id: RunArgument,
    max_cost_usd: Annotated[
        float | None,
        typer.Option(metavar="X", min=0.0, help="The run's maximum cost from now on, in all, in US dollars."),
    ] = None,
) -> None:
    """Go on with a paused run.

    One that has used up its limits.max_cost_usd needs a higher one.
    """

    async def go() -> None:
        found = await find(run_id, None)
        now = await _require_open(found)
        if now.state != State.PAUSED and max_cost_usd is None:
            say(f"run {run_id} is not paused: {now.state}")
            return
        await found.resume(max_cost_usd=max_cost_usd)
        within = f"; it may spend ${max_cost_usd:g} in all" if max_cost_usd is not None else ""
        say(f"run {run_id} goes on{within}")

    asyncio.run(go())


@app.command()
def cancel(
    run_id: RunArgument,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it has stopped.")] = True,
) -> None:
    """Stop a run for good.

    What is answered stays and the manifest says so; a rerun goes on with the rest.
    """

    async def go() -> int:
        from batch.terminal.ending import print_account
        from batch.terminal.progress import display, follow

        found = await find(run_id, None)
        if (await found.status()).ended:
            return await _cancel_rest(found)
        await found.cancel()
        if not wait:
            say(f"run {run_id} is asked to stop; docbatch status {run_id} tells when it has")
            return 0
        simulated, console = await is_run_simulated(found), open_console()
        try:
            with display(console, simulated=simulated) as shown:
                shown.note("stopping: answers in flight are kept")
                ended = await follow(found, shown)
        except asyncio.CancelledError:
            say(f"run {run_id} is stopping; docbatch status {run_id} tells when it has", err=True)
            return 0
        print_account(console, ended, simulated=simulated)
        return 0

    raise typer.Exit(asyncio.run(go()))


async def _cancel_rest(found: Run) -> int:
    """Of a run whose coordinator has ended, or is gone: the shards that it left at work, if any."""
    from batch.client.run import RunBusy

    try:
        await found.check_idle()
    except RunBusy:
        await found.cancel()
        say(f"the coordinator of run {found.run_id} is gone; the shards that it left are asked to stop")
        return 0
    await _require_open(found)
    return 0


@app.command()
def rerun(
    run_id: RunArgument,
    *,
    all_errors: Annotated[bool, typer.Option("--all-errors", help="Also errors that are not retryable.")] = False,
    partition: Annotated[
        list[int] | None, typer.Option("--partition", min=0, metavar="N", help="Only this partition (repeatable).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be asked again.")] = False,
    detach: DetachOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    task_queue: QueueOption = DEFAULT_TASK_QUEUE,
) -> None:
    """Ask again what failed.

    Documents with retryable errors, and partitions that were given up or never done.
    """

    async def go() -> int:
        found = await find(run_id, output, task_queue)
        await found.check_idle()
        simulated = await is_run_simulated(found)
        scope = await found.rerun_scope(all_errors=all_errors, partitions=partition)
        if dry_run:
            return _show_scope(run_id, scope, simulated=simulated, as_json=as_json)
        if scope is not None and scope.empty:
            which = "no errors" if all_errors else "no retryable errors (--all-errors asks for the others too)"
            say(f"nothing to do again in run {run_id}: {which}, no document without a row", err=as_json)
            if as_json:
                print_json((await found.status()).to_dict())
            return 0
        await found.rerun(all_errors=all_errors, partitions=partition)
        return await attend(found, simulated=simulated, detach=detach, as_json=as_json)

    raise typer.Exit(asyncio.run(go()))


def _show_scope(run_id: str, scope: RerunScope | None, *, simulated: bool, as_json: bool) -> int:
    from batch.terminal.quantities import money

    if scope is None:
        raise CliError(f"run {run_id!r} ended without a manifest: what a rerun would ask is not known")
    if as_json:
        print_json({"run_id": run_id, **asdict(scope)})
        return 0
    say(f"a rerun of {run_id} would ask {scope.documents:,} documents in {scope.partitions:,} partitions")
    if scope.without_row:
        say(f"and go on with {scope.without_row:,} planned documents that have no row")
    say(f"for about {money(scope.estimated_cost_usd, simulated=simulated)}, by the run's mean cost of an answer")
    return 0


def _check_run_id(run_id: str | None) -> None:
    from batch.storage.layout import check_run_id

    try:
        check_run_id(run_id) if run_id is not None else None
    except ValueError as error:
        raise CliError(f"--run-id: {error}") from None


async def _require_open(found: Run) -> RunResult:
    now = await found.status()
    if now.ended:
        raise CliError(f"run {found.run_id!r} has ended already: {now.state}")
    return now
