"""Commands that read what a run left: `results`, `report`, `verify`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batch.cli.app import (
    EXIT_FAILURES,
    CliError,
    JsonOption,
    OutputOption,
    RunArgument,
    app,
    open_console,
    print_json,
    say,
)
from batch.cli.watching import find
from batch.files.whole_files import whole_file

ROWS_SHOWN = 10

if TYPE_CHECKING:
    import polars as pl

    from batch.client.run import Run
    from batch.files.manifest import Manifest
    from batch.files.reconcile import Account
    from batch.report import Report


@app.command()
def results(
    run_id: RunArgument,
    *,
    of_job: Annotated[
        bool, typer.Option("--current", help="RUN is JOB.yaml: the newest row of each document of an incremental job.")
    ] = False,
    errors: Annotated[bool, typer.Option("--errors", help="Only documents that could not be answered.")] = False,
    head: Annotated[
        int | None,
        typer.Option("--head", min=0, metavar="N", help="So many rows; 0: all.  [default: 10; with --json all]"),
    ] = None,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write all of them to a .parquet, .csv or .jsonl file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a row.")] = False,
    output: OutputOption = None,
) -> None:
    """Show or export rows of a run, also while it is going."""
    import polars as pl

    if export is not None and (head is not None or as_json):
        raise CliError(f"--export writes all rows to {export}, in the format of its ending: without --head and --json")
    if of_job:
        if output is not None:
            raise CliError("--output names the place of a run; with --current JOB.yaml says where its state is")
        frame = _current(Path(run_id))
    elif run_id.endswith((".yaml", ".yml")):
        raise CliError(
            f"{run_id} is a job file and no run: name a run (docbatch list shows them), or, for the newest row of each "
            "document of an incremental job, add --current"
        )
    else:
        _, rows = asyncio.run(_look(run_id, output))
        if rows is None:
            if export is not None:
                raise CliError(f"run {run_id!r} has no rows yet: no document is answered; {export} is not written")
            say(f"run {run_id} has no rows yet: no document is answered", err=True)
            return
        frame = rows
    if errors:
        frame = frame.filter(pl.col("status") == "error")
    if export is not None:
        _export(frame, export)
        return
    if head is None:
        head = 0 if as_json else ROWS_SHOWN
    shown = frame if head == 0 else frame.head(head)
    if as_json:
        for part in shown.collect_batches():
            for row in part.iter_rows(named=True):
                print_json(row)
        return
    _print_rows(frame, shown, errors=errors)


def _current(job_file: Path) -> pl.LazyFrame:
    """Returns the rows of an incremental job's state."""
    from batch.files.results import current
    from batch.files.state import read_pointer
    from batch.job.job import Job
    from batch.storage.store import Storage

    job = Job.from_yaml(job_file)
    if not job.incremental:
        raise CliError(f"--current: job {job.name!r} is not incremental; name a run to see its rows")
    found = asyncio.run(read_pointer(Storage(), job.state_layout))
    if found is None:
        raise CliError(f"job {job.name!r} has no state yet at {job.state_layout.uri}: no run of it has ended")
    return current(job.state_layout, found[0])


async def _look(run_id: str, output: str | None) -> tuple[Run, pl.LazyFrame | None]:
    """The run, and its rows, if it has any: those of committed partitions, and what others have answered by now."""
    import polars as pl

    from batch.files.run_file import RunMissing

    found = await find(run_id, output)
    try:
        answered = await found.uncommitted_results()
    except RunMissing:  # no worker has taken it up yet
        answered = pl.DataFrame()
    layout = found.layout
    pages = found.connection.storage.pages(layout.output.bucket, layout.results)
    committed = found.results() if any([page async for page in pages]) else None
    if answered.is_empty():
        return found, committed
    say(f"{len(answered):,} of these documents are in partitions that are not committed yet", err=True)
    if committed is None:
        return found, answered.lazy()
    # One that is committed just now would come twice.
    others = committed.filter(~pl.col("partition").is_in(answered["partition"].unique().to_list()))
    return found, pl.concat([others, answered.lazy()], how="diagonal_relaxed")


def _export(frame: pl.LazyFrame, path: Path) -> None:
    import polars as pl

    from batch.files.results import export

    try:
        export(frame, path)
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise CliError(f"{path} cannot be written: {reason}") from None
    say(f"{frame.select(pl.len()).collect().item():,} rows in {path}", err=True)


def _print_rows(frame: pl.LazyFrame, shown: pl.LazyFrame, *, errors: bool) -> None:
    import polars as pl

    from batch.terminal.ending import plain
    from batch.terminal.row_tables import field_types, rows_table

    rows = shown.collect().to_dicts()
    console = open_console()
    types = field_types(frame.collect_schema())
    console.print(rows_table(rows, types, errors=errors, width=console.width))
    count = frame.select(pl.len()).collect().item()
    if count > len(rows):
        plain(console, f"{len(rows):,} of {count:,} rows; --head 0 shows all, --export FILE writes them", style="dim")


@app.command()
def report(
    run_id: RunArgument,
    *,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the page goes.  [default: RUN.html, here]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the page's numbers as JSON, write no page.")] = False,
    output: OutputOption = None,
) -> None:
    """Write a run's report: one HTML page with charts.

    Throughput, latencies, tokens, cost, errors with examples; nothing is fetched when it is opened. Also of a run that
    is going.
    """
    from batch.report import render

    found = asyncio.run(_report(run_id, output))
    if as_json:
        numbers = {name: value for name, (_, value, _) in found.facts.items()}
        print_json({"run_id": run_id, "state": found.status.state, "verdict": found.verdict[0], **numbers})
        return
    path = export or Path(f"{run_id}.html")
    try:
        with whole_file(path) as unfinished:
            unfinished.write_text(render(found), encoding="utf-8")
    except OSError as error:
        raise CliError(f"{path} cannot be written: {error.strerror or error}") from None
    say(str(path))
    if found.verdict[0] == "different":
        say(f"the rows are not those of the manifest: {found.verdict[1]}", err=True)
        raise typer.Exit(EXIT_FAILURES)


async def _report(run_id: str, output: str | None) -> Report:
    from batch.files.run_file import RunMissing, load_run
    from batch.report import Measures, Report, measure, own_work
    from batch.workflows.contracts import RunRef

    found, rows = await _look(run_id, output)
    status = await found.status()
    try:
        file = await load_run(found.connection.storage, RunRef(found.run_id, found.output_uri))
    except RunMissing:
        raise CliError(f"run {run_id!r} has not begun yet; report it once a worker has taken it up") from None
    console = open_console(err=True)
    with console.status("reading the rows"):
        measures = await asyncio.to_thread(measure, own_work(rows, found.run_id)) if rows is not None else Measures()
    return Report(status, await found.manifest(), measures, file.job.name, file.job.model.name)


@app.command()
def verify(run_id: RunArgument, as_json: JsonOption = False, output: OutputOption = None) -> None:
    """Reconcile plan, results and manifest again.

    Each planned document has exactly one row, and each file is the one of the manifest.
    """

    async def go() -> int:
        found = await find(run_id, output)
        manifest = await found.manifest()
        if manifest is None or manifest.state == "rerunning":
            state = "is being rerun" if manifest else "has no manifest yet: it has not ended"
            raise CliError(f"run {run_id!r} {state}; verify it afterwards (`docbatch status {run_id} --watch`)")
        account = await _verified(found, manifest)
        return _show_verified(run_id, manifest, account, as_json=as_json)

    raise typer.Exit(asyncio.run(go()))


async def _verified(found: Run, manifest: Manifest) -> Account:
    console = open_console(err=True)
    with console.status("reading plan and results") as shown:

        def progress(account: Account) -> None:
            shown.update(f"{account.planned_documents:,} of {manifest.planned_documents:,} documents")

        return await found.verify(manifest, on_progress=progress if console.is_terminal else None)


def _show_verified(run_id: str, manifest: Manifest, account: Account, *, as_json: bool) -> int:
    from batch.terminal.ending import equation

    totals = account.totals
    clean = account.problem_count == 0
    if as_json:
        print_json(
            {
                "run_id": run_id,
                "state": manifest.state,
                "reconciled": clean,
                "planned_documents": account.planned_documents,
                "partitions": len(account.files),
                "missing_partitions": account.missing,
                "partial_partitions": account.partial,
                **{name: getattr(totals, name) for name in ("documents", "ok", "errors")},
                "errors_by_type": totals.errors_by_type,
                "problem_count": account.problem_count,
                "problems": account.problems,
            }
        )
        return 0 if clean else EXIT_FAILURES
    say(f"run {run_id}, {manifest.state}: {account.planned_documents:,} documents planned")
    say(equation(totals.documents, totals.ok, totals.errors))
    for count, what in ((account.missing, "no rows yet"), (account.partial, "only what was answered by then")):
        if count:
            say(f"{count:,} partitions have {what}; docbatch rerun {run_id} goes on with them")
    if clean:
        most = "at most one row" if account.missing or account.partial else "one row"
        say(f"verified: result files as in the manifest ({len(account.files):,}), each document has {most}")
        return 0
    for problem in account.problems:
        say(f"problem: {problem}")
    say(f"NOT verified: {account.problem_count:,} problems")
    return EXIT_FAILURES
