"""From a run id to a run, and a run on the screen until it ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from batch.cli.app import EXIT_FAILURES, CliError, open_console, print_json, say
from batch.workflows.contracts import DEFAULT_TASK_QUEUE
from batch.workflows.states import State

if TYPE_CHECKING:
    from batch.client.run import Connection, Run
    from batch.client.status import RunResult


async def connect(task_queue: str = DEFAULT_TASK_QUEUE) -> Connection:
    from batch.client.run import connect

    return await connect(task_queue=task_queue)


async def find(run_id: str, output: str | None, task_queue: str = DEFAULT_TASK_QUEUE) -> Run:
    from batch.storage.layout import S3Uri, check_run_id

    try:
        check_run_id(run_id)
        if output is not None:
            S3Uri.parse(output, where="--output")
    except ValueError as error:
        raise CliError(str(error)) from None
    return await (await connect(task_queue)).run(run_id, output_uri=output)


async def is_run_simulated(found: Run) -> bool:
    """Tells whether the run's model is one of the simulated provider; its costs are then none."""
    from batch.files.run_file import RunMissing, load_run
    from batch.terminal.quantities import is_simulated
    from batch.workflows.contracts import RunRef

    try:
        file = await load_run(found.connection.storage, RunRef(found.run_id, found.output_uri))
    except RunMissing:  # it has not been claimed yet
        return False
    return is_simulated(file.job.model.name)


async def attend(started: Run, *, simulated: bool, detach: bool, as_json: bool) -> int:
    """After a start: tell the run id at once, then watch or leave."""
    if not detach:
        say(f"run {started.run_id}", err=as_json)
        return await watch_to_end(started, simulated=simulated, as_json=as_json)
    if as_json:
        print_json((await started.status()).to_dict())
    else:
        say(started.run_id)
        say(f"it goes on by itself; docbatch status {started.run_id} --watch shows it", err=True)
    return 0


async def watch_to_end(watched: Run, *, simulated: bool, as_json: bool) -> int:
    """To the run's end; Ctrl-C ends only the watching."""
    from batch.terminal.progress import display, follow

    run_id = watched.run_id
    try:
        with display(open_console(err=as_json), simulated=simulated) as shown:
            ended = await follow(watched, shown)
    except asyncio.CancelledError:  # by Ctrl-C: asyncio turns it into a cancellation of the main task
        say(err=True)
        say(f"detached; the run goes on. Watch it again: docbatch status {run_id} --watch", err=True)
        say(f"Stop it: docbatch cancel {run_id}", err=True)
        if as_json and shown.status is not None:
            print_json(shown.status.to_dict())
        return 0
    return show(ended, simulated=simulated, as_json=as_json)


def show(result: RunResult, *, simulated: bool, as_json: bool) -> int:
    """Returns the account, and the exit code that belongs to it."""
    if as_json:
        print_json(result.to_dict())
    else:
        from batch.terminal.ending import print_account

        print_account(open_console(), result, simulated=simulated)
    return EXIT_FAILURES if result.ended and result.state != State.COMPLETED else 0
