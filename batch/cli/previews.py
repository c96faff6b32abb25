"""Commands to look before a run: `preview`, `estimate`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batch.cli.app import EXIT_FAILURES, JsonOption, QueueOption, app, open_console, parse_day, print_json, say
from batch.cli.watching import connect
from batch.workflows.contracts import DEFAULT_TASK_QUEUE

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any, TypeVar

    from batch.previews.sample import Corpus

    R = TypeVar("R")

JobArgument = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job that is to be run.")]
DayOption = Annotated[
    str | None, typer.Option("--date", metavar="DAY", help="What {{ date }} is, YYYY-MM-DD.  [default: today, UTC]")
]


@app.command()
def preview(
    job_file: JobArgument,
    *,
    count: Annotated[int, typer.Option("-n", metavar="N", help="So many documents, from all over the source.")] = 5,
    document: Annotated[
        list[str] | None,
        typer.Option("--document", metavar="ID", help="Instead: this one, by its id or s3:// URI (repeatable)."),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Show prompts and answers whole.")] = False,
    day: DayOption = None,
    as_json: JsonOption = False,
    task_queue: QueueOption = DEFAULT_TASK_QUEUE,
) -> None:
    """Ask about a few documents, paid, and write nothing.

    Shows prompt, answer, typed result, tokens and cost of each. Exit code 1 if one would be an error row.
    """
    from batch.job.job import Job
    from batch.previews.client import preview as look
    from batch.terminal.preview_tables import print_preview
    from batch.terminal.quantities import is_simulated

    job = Job.from_yaml(job_file)
    for_day = parse_day("--date", day) if day is not None else None

    async def go() -> int:
        connection = await connect(task_queue)
        with open_console(err=True).status("asking the model"):
            found = await _paid(
                look(job, n=count, documents=document or (), full=full, day=for_day, connection=connection)
            )
        if as_json:
            print_json(found.to_dict())
        else:
            print_preview(open_console(), found, job, simulated=is_simulated(job.model.name), full=full)
        return 0 if found.ok == len(found.documents) else EXIT_FAILURES

    raise typer.Exit(asyncio.run(go()))


@app.command()
def estimate(
    job_file: JobArgument,
    *,
    sample: Annotated[int, typer.Option(metavar="N", help="Documents at most that are read.")] = 200,
    ask: Annotated[
        int, typer.Option(metavar="N", help="Ask the model about so many of them, paid: for tokens and time.")
    ] = 0,
    day: DayOption = None,
    as_json: JsonOption = False,
    task_queue: QueueOption = DEFAULT_TASK_QUEUE,
) -> None:
    """Tell what a run would take, for nothing.

    Documents, tokens, cost and time: lists the source and reads a sample of it. Says what is counted and what is
    estimated.
    """
    from batch.job.job import Job
    from batch.previews.client import estimate as look
    from batch.terminal.preview_tables import print_estimate
    from batch.terminal.quantities import is_simulated

    job = Job.from_yaml(job_file)
    for_day = parse_day("--date", day) if day is not None else None

    async def go() -> None:
        connection = await connect(task_queue)
        with open_console(err=True).status("listing the source") as shown:

            def progress(corpus: Corpus) -> None:
                shown.update(f"listing the source: {corpus.documents:,} documents")

            working = look(job, sample=sample, ask=ask, day=for_day, on_progress=progress, connection=connection)
            found = await (_paid(working) if ask else working)
        if as_json:
            print_json(found.to_dict())
        else:
            print_estimate(open_console(), found, source=job.source.place, simulated=is_simulated(job.model.name))

    asyncio.run(go())


async def _paid(working: Coroutine[Any, Any, R]) -> R:
    """Says what Ctrl-C cannot undo."""
    try:
        return await working
    except asyncio.CancelledError:
        say(err=True)
        say("docbatch: cancelled; questions that had been sent may have been paid", err=True)
        raise
