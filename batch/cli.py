"""The command line, `docbatch`. Thin: a command calls the client, the results or the local stack, and shows what came.

Exit codes: 0 done, 1 the run ended with failures, 2 wrong usage or input, or what is needed does not answer. Heavy
modules are imported where they are used: `docbatch --help` must not load Temporal, polars and pyarrow.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from datetime import date, time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import polars as pl
    from rich.console import Console

    from batch.client import Connection, Run, RunResult
    from batch.manifest import Manifest
    from batch.reconcile import Account

EXIT_FAILURES, EXIT_WRONG = 1, 2

app = typer.Typer(
    name="docbatch",
    help="An LLM prompt over every document of a corpus in object storage: durable, one typed Parquet row each.",
    epilog="Temporal, S3 and the model are found by their own variables: TEMPORAL_*, AWS_* and (workers) OPENAI_*.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Run id, as `docbatch list` shows it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to stdout.")]
OutputOption = Annotated[
    str | None,
    typer.Option("--output", metavar="S3_URI", help="The job's output.uri: finds a run that Temporal has forgotten."),
]
QueueOption = Annotated[str, typer.Option("--task-queue", metavar="Q", help="Task queue that the workers poll.")]
DetachOption = Annotated[bool, typer.Option("--detach", help="Start only; print the run id.")]
DEFAULT_QUEUE = "docbatch"


class CliError(Exception):
    """What the user asked cannot be done. The message says why, and what to do."""


def main() -> None:
    """The console entry `docbatch`."""
    code = command_line(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    # Not sys.exit: with Temporal's core in the process, the interpreter's shutdown aborts now and then (temporalio
    # sdk-python issue 300), and the exit code with it. All that has to be undone was undone by its context manager.
    os._exit(code)


def command_line(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code. Errors that a user can mend are a message, without a traceback."""
    try:
        app(list(arguments), prog_name="docbatch")
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else EXIT_WRONG
    except Exception as error:
        if not isinstance(error, _expected_errors()):
            traceback.print_exc()
            return EXIT_WRONG
        for line in _message(error).splitlines():
            typer.echo(f"docbatch: {line}", err=True)
        return EXIT_WRONG
    return 0


def _expected_errors() -> tuple[type[Exception], ...]:
    """Errors whose message is all that a user needs. Imported only once there is an error."""
    from polars.exceptions import PolarsError
    from temporalio.service import RPCError

    from batch.checks import CheckFailed
    from batch.client import RunBusy, RunNotFound
    from batch.connection import TemporalUnreachable
    from batch.job import JobError
    from batch.local.errors import StackError
    from batch.local.processes import ProcessError
    from batch.results import UnknownFormat
    from batch.run_file import RunMissing
    from batch.store import StorageError

    return (
        *(CliError, CheckFailed, JobError, RunBusy, RunMissing, RunNotFound, UnknownFormat),
        *(StorageError, TemporalUnreachable, RPCError, PolarsError, StackError, ProcessError),
    )


def _message(error: Exception) -> str:
    from temporalio.service import RPCError

    if isinstance(error, RPCError):
        address = os.environ.get("TEMPORAL_ADDRESS", "localhost:7233")
        return f"Temporal at {address} (TEMPORAL_ADDRESS) answers {error.status.name}: {error.message}"
    return str(error)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"docbatch {version('docbatch')}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("docbatch: %(message)s"))
    logging.getLogger("batch").handlers = [handler]


# -- the local stack


@app.command()
def up(
    *,
    workers: Annotated[int, typer.Option(min=0, help="Worker processes.")] = 1,
    data: Annotated[Path, typer.Option(metavar="DIR", help="Folder of all data and logs; kept.")] = Path(".docbatch"),
    env_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where the endpoints go, once all is healthy.  [default: DIR/env]"),
    ] = None,
    provider_args: Annotated[
        str, typer.Option(metavar="ARGS", help='Options of the simulated provider, such as "--latency 0.05".')
    ] = "",
    worker_args: Annotated[
        str, typer.Option(metavar="ARGS", help='Options of every worker, such as "--slots 4".')
    ] = "",
    ui: Annotated[bool, typer.Option("--ui/--no-ui", help="Serve Temporal's web UI.")] = True,
) -> None:
    """Run everything on this machine until Ctrl-C.

    Temporal with its UI, an S3 server, a simulated provider and workers.
    """
    from batch.local.stack import LocalStack, StackOptions

    env_file = env_file or data / "env"
    options = StackOptions(
        data=data,
        workers=workers,
        ui=ui,
        provider_args=shlex.split(provider_args),
        worker_args=shlex.split(worker_args),
    )
    written = False

    def on_event(line: str) -> None:
        if not written:  # while the file is there, all is healthy; before the first event the folder may be another's
            env_file.unlink(missing_ok=True)
        typer.echo(line)

    stopped = False
    try:
        with LocalStack(options, on_event=on_event) as stack:
            stack.write_env_file(env_file)
            written = True
            for note in stack.notes:
                typer.echo(f"note      {note}")
            typer.echo(f"data      {stack.data}, logs in {stack.logs}")
            typer.echo("\nThe provider is simulated: its models are simulated-small and simulated-large.")
            typer.echo(f"Ready. In another shell:\n\n    set -a; . {shlex.quote(str(env_file))}; set +a")
            typer.echo("    docbatch run JOB.yaml\n\nCtrl-C ends it; the data stays.")
            stack.wait()
    except KeyboardInterrupt:
        stopped = True
    except SystemExit as exit_:
        if exit_.code not in (129, 143):  # SIGHUP, SIGTERM
            raise
        stopped = True
    finally:
        if written:
            env_file.unlink(missing_ok=True)
    if stopped:
        typer.echo("stopped")


@app.command()
def demo(
    llm: Annotated[bool, typer.Option("--llm", help="20 documents by a real small model, on this machine.")] = False,
    keep: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep all data here, for `docbatch up --data DIR`.")
    ] = None,
    documents: Annotated[
        int | None, typer.Option(min=1, help="How many documents.  [default: all there are; with --llm 20]")
    ] = None,
) -> None:
    """Show the whole thing on a sample corpus.

    Starts everything, runs a job with live progress, shows rows, cleans up.
    """
    from batch.local.demo import run_demo

    raise typer.Exit(run_demo(llm=llm, keep=keep, documents=documents))


_HANDED_OVER = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(context_settings=_HANDED_OVER)
def worker(context: typer.Context) -> None:
    """Run a worker process; it has its own --help."""
    # -P: nothing in the current folder may be taken for our packages. exec: signals reach the worker itself.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "workers", *context.args])


@app.command(context_settings=_HANDED_OVER)
def simulate_provider(context: typer.Context) -> None:
    """Run the simulated provider; own --help."""
    from batch.local.provider import main as serve

    raise typer.Exit(serve(context.args))


# -- runs


@app.command()
def run(
    job_file: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="What to run; see the README.")],
    *,
    run_id: Annotated[str | None, typer.Option(metavar="ID", help="Name of the run.  [default: job, time]")] = None,
    detach: DetachOption = False,
    as_json: JsonOption = False,
    task_queue: QueueOption = DEFAULT_QUEUE,
    model_check: Annotated[
        bool, typer.Option("--model-check/--no-model-check", help="Ask the model one short question first.")
    ] = True,
) -> None:
    """Start a job and watch it to its end.

    Ctrl-C ends the watching only: the run goes on.
    """
    from batch.job import Job
    from batch.terminal import is_simulated

    job = Job.from_yaml(job_file)
    _check_run_id(run_id)

    async def go() -> int:
        connection = await _connect(task_queue)
        started = await connection.start(job, run_id=run_id, check_model=model_check)
        simulated = is_simulated(job.model.name)
        return await _attend(started, simulated=simulated, detach=detach, as_json=as_json)

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
        found = await _find(run_id, output)
        simulated = await _simulated(found)
        if watch:
            return await _watch(found, simulated=simulated, as_json=as_json)
        return _show(await found.status(), simulated=simulated, as_json=as_json)

    raise typer.Exit(asyncio.run(go()))


@app.command(name="list")
def list_runs(
    as_json: JsonOption = False,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="The latest N runs.")] = 20,
) -> None:
    """List the runs that Temporal knows, newest first."""
    runs = asyncio.run(_list(limit))
    if as_json:
        _print_json(runs)
    elif not runs:
        typer.echo("there are no runs; start one with `docbatch run JOB.yaml`")
    else:
        from batch.terminal import runs_table

        _console().print(runs_table(runs))


async def _list(limit: int) -> list[dict[str, Any]]:
    return await (await _connect()).list(limit=limit)


@app.command()
def results(
    run_id: RunArgument,
    *,
    errors: Annotated[bool, typer.Option("--errors", help="Only documents that could not be answered.")] = False,
    head: Annotated[int, typer.Option("--head", min=0, metavar="N", help="So many rows; 0: all.")] = 10,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write all of them to a .parquet, .csv or .jsonl file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a row.")] = False,
    output: OutputOption = None,
) -> None:
    """Show or export rows of a run, also while it is going."""
    import polars as pl

    found, committed = asyncio.run(_committed(run_id, output))
    if not committed:
        typer.echo(f"run {run_id} has no rows yet: no partition is committed", err=True)
        return
    frame = found.results()
    if errors:
        frame = frame.filter(pl.col("status") == "error")
    if export is not None:
        _export(frame, export)
        return
    shown = frame if head == 0 else frame.head(head)
    if as_json:
        for part in shown.collect_batches():
            for row in part.iter_rows(named=True):
                typer.echo(json.dumps(row, ensure_ascii=False, default=_plain_value))
        return
    _print_rows(frame, shown, errors=errors)


async def _committed(run_id: str, output: str | None) -> tuple[Run, bool]:
    found = await _find(run_id, output)
    layout = found.layout
    async for page in found.connection.storage.pages(layout.output.bucket, layout.results):
        if page:
            return found, True
    return found, False


def _export(frame: pl.LazyFrame, path: Path) -> None:
    import polars as pl

    from batch.results import export

    try:
        export(frame, path)
    except OSError as error:
        raise CliError(f"{path} cannot be written: {error}") from None
    typer.echo(f"{frame.select(pl.len()).collect().item():,} rows in {path}", err=True)


def _print_rows(frame: pl.LazyFrame, shown: pl.LazyFrame, *, errors: bool) -> None:
    import polars as pl

    from batch.terminal import field_types, plain, rows_table

    rows = shown.collect().to_dicts()
    console = _console()
    types = field_types(frame.collect_schema())
    console.print(rows_table(rows, types, errors=errors, width=console.width))
    count = frame.select(pl.len()).collect().item()
    if count > len(rows):
        plain(console, f"{len(rows):,} of {count:,} rows; --head 0 shows all, --export FILE writes them", style="dim")


@app.command()
def verify(run_id: RunArgument, as_json: JsonOption = False, output: OutputOption = None) -> None:
    """Reconcile plan, results and manifest again.

    Each planned document has exactly one row, and each file is the one of the manifest.
    """

    async def go() -> int:
        found = await _find(run_id, output)
        manifest = await found.manifest()
        if manifest is None or manifest.state == "rerunning":
            state = "is being rerun" if manifest else "has no manifest yet: it has not ended"
            raise CliError(f"run {run_id!r} {state}; verify it afterwards (`docbatch status {run_id} --watch`)")
        account = await _reconcile(found, manifest)
        return _show_verified(run_id, manifest, account, as_json=as_json)

    raise typer.Exit(asyncio.run(go()))


async def _reconcile(found: Run, manifest: Manifest) -> Account:
    from batch.reconcile import Reconciler

    console = _console(err=True)
    with console.status("reading plan and results") as shown:

        def progress(account: Account) -> None:
            shown.update(f"{account.planned_documents:,} of {manifest.planned_documents:,} documents")

        expected = {entry.partition: entry for entry in manifest.files}
        reconciler = Reconciler(
            found.connection.storage,
            found.layout,
            expected=expected,
            on_progress=progress if console.is_terminal else None,
        )
        account = await reconciler.run(plan_complete=manifest.state != "cancelled")
    for name in ("documents", "ok", "errors", "skipped"):
        counted, written = getattr(account.totals, name), getattr(manifest.totals, name)
        if counted != written:
            account.problem(f"the manifest says {written} {name}, the files hold {counted}")
    return account


def _show_verified(run_id: str, manifest: Manifest, account: Account, *, as_json: bool) -> int:
    from batch.terminal import equation

    totals = account.totals
    clean = account.problem_count == 0
    if as_json:
        _print_json(
            {
                "run_id": run_id,
                "state": manifest.state,
                "reconciled": clean,
                "planned_documents": account.planned_documents,
                "partitions": len(account.files),
                "missing_partitions": account.missing,
                **{name: getattr(totals, name) for name in ("documents", "ok", "errors", "skipped")},
                "errors_by_type": dict(account.errors_by_type),
                "problem_count": account.problem_count,
                "problems": account.problems,
            }
        )
        return 0 if clean else EXIT_FAILURES
    typer.echo(f"run {run_id}, {manifest.state}: {account.planned_documents:,} documents planned")
    typer.echo(equation(totals.documents, totals.ok, totals.errors, totals.skipped))
    if account.missing:
        typer.echo(f"{account.missing:,} partitions have no rows yet; docbatch rerun {run_id} goes on with them")
    if clean:
        typer.echo(f"verified: {len(account.files):,} result files are the manifest's, each document has one row")
        return 0
    for problem in account.problems:
        typer.echo(f"problem: {problem}")
    typer.echo(f"NOT verified: {account.problem_count:,} problems")
    return EXIT_FAILURES


@app.command()
def pause(
    run_id: RunArgument,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for those who look at the run.")] = "",
) -> None:
    """Stop calling the model for now.

    No new calls within seconds; calls in flight are kept.
    """

    async def go() -> None:
        found = await _find(run_id, None)
        await _require_open(found)
        await found.pause(reason)
        typer.echo(f"run {run_id} pauses; docbatch resume {run_id} goes on with it")

    asyncio.run(go())


@app.command()
def resume(run_id: RunArgument) -> None:
    """Go on with a paused run."""

    async def go() -> None:
        found = await _find(run_id, None)
        now = await _require_open(found)
        if now.state != "paused":
            typer.echo(f"run {run_id} is not paused: {now.state}")
            return
        await found.resume()
        typer.echo(f"run {run_id} goes on")

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
        from batch.terminal import display, follow, print_account

        found = await _find(run_id, None)
        if (await found.status()).ended:
            return await _cancel_rest(found)
        await found.cancel()
        if not wait:
            typer.echo(f"run {run_id} is asked to stop; docbatch status {run_id} tells when it has")
            return 0
        simulated, console = await _simulated(found), _console()
        try:
            with display(console, simulated=simulated) as shown:
                shown.note("stopping: answers in flight are kept")
                ended = await follow(found, shown)
        except asyncio.CancelledError:
            typer.echo(f"run {run_id} is stopping; docbatch status {run_id} tells when it has", err=True)
            return 0
        print_account(console, ended, simulated=simulated)
        return 0

    raise typer.Exit(asyncio.run(go()))


async def _cancel_rest(found: Run) -> int:
    """Of a run whose coordinator has ended, or is gone: the shards that it left at work, if any."""
    from batch.client import RunBusy

    try:
        await found.check_idle()
    except RunBusy:
        await found.cancel()
        typer.echo(f"the coordinator of run {found.run_id} is gone; the shards that it left are asked to stop")
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
    task_queue: QueueOption = DEFAULT_QUEUE,
) -> None:
    """Ask again what failed.

    Documents with retryable errors, and partitions that were given up or never done.
    """

    async def go() -> int:
        found = await _find(run_id, output, task_queue)
        await found.check_idle()
        simulated = await _simulated(found)
        scope = await _rerun_scope(found, all_errors=all_errors, partitions=partition or [])
        if dry_run:
            return _show_scope(run_id, scope, simulated=simulated, as_json=as_json)
        if scope is not None and not scope["documents"] and not scope["without_row"]:
            which = "no errors" if all_errors else "no retryable errors (--all-errors asks for the others too)"
            typer.echo(f"nothing to do again in run {run_id}: {which}, no document without a row", err=as_json)
            if as_json:
                _print_json((await found.status()).to_dict())
            return 0
        await found.rerun(all_errors=all_errors, partitions=partition)
        return await _attend(found, simulated=simulated, detach=detach, as_json=as_json)

    raise typer.Exit(asyncio.run(go()))


async def _rerun_scope(found: Run, *, all_errors: bool, partitions: list[int]) -> dict[str, Any] | None:
    """What a rerun would ask: documents with such errors, and about what that costs by the run's mean.

    None for a run that ended without a manifest.
    """
    import polars as pl

    manifest = await found.manifest()
    if manifest is None:
        return None
    without_row = max(0, manifest.planned_documents - manifest.totals.documents)
    scope: dict[str, Any] = {"partitions": 0, "documents": 0, "without_row": without_row, "estimated_cost_usd": 0.0}
    if not manifest.files:
        return scope
    wanted = (pl.col("status") == "error") & (pl.lit(all_errors) | pl.col("retryable"))
    if partitions:
        wanted &= pl.col("partition").is_in(partitions)
    row = (
        found.results()
        .select(
            documents=wanted.sum(),
            partitions=pl.col("partition").filter(wanted).n_unique(),
            cost=pl.col("cost_usd").filter(pl.col("status") == "ok").mean(),
        )
        .collect()
        .row(0, named=True)
    )
    cost = (row["documents"] + without_row) * (row["cost"] or 0.0)
    return {
        **scope,
        "partitions": row["partitions"],
        "documents": row["documents"],
        "estimated_cost_usd": round(cost, 6),
    }


def _show_scope(run_id: str, scope: dict[str, Any] | None, *, simulated: bool, as_json: bool) -> int:
    from batch.terminal import money

    if scope is None:
        raise CliError(f"run {run_id!r} ended without a manifest: what a rerun would ask is not known")
    if as_json:
        _print_json({"run_id": run_id, **scope})
        return 0
    typer.echo(f"a rerun of {run_id} would ask {scope['documents']:,} documents in {scope['partitions']:,} partitions")
    if scope["without_row"]:
        typer.echo(f"and go on with {scope['without_row']:,} planned documents that have no row")
    typer.echo(
        f"for about {money(scope['estimated_cost_usd'], simulated=simulated)}, by the run's mean cost of an answer"
    )
    return 0


# -- what commands share


def _console(*, err: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=err)


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, default=_plain_value))


def _plain_value(value: Any) -> Any:
    return value.isoformat() if isinstance(value, (date, time)) else str(value)


def _check_run_id(run_id: str | None) -> None:
    from batch.layout import check_run_id

    try:
        check_run_id(run_id) if run_id is not None else None
    except ValueError as error:
        raise CliError(f"--run-id: {error}") from None


async def _connect(task_queue: str = DEFAULT_QUEUE) -> Connection:
    from batch.client import connect

    connection = await connect()
    connection.task_queue = task_queue
    return connection


async def _find(run_id: str, output: str | None, task_queue: str = DEFAULT_QUEUE) -> Run:
    from batch.layout import S3Uri, check_run_id

    try:
        check_run_id(run_id)
        if output is not None:
            S3Uri.parse(output, where="--output")
    except ValueError as error:
        raise CliError(str(error)) from None
    return await (await _connect(task_queue)).run(run_id, output_uri=output)


async def _simulated(found: Run) -> bool:
    """Whether the run's model is one of the simulated provider; its costs are then none."""
    from batch.contracts import RunRef
    from batch.run_file import RunMissing, load_run
    from batch.terminal import is_simulated

    try:
        file = await load_run(found.connection.storage, RunRef(found.run_id, found.output_uri))
    except RunMissing:  # it has not been claimed yet
        return False
    return is_simulated(file.job.model.name)


async def _require_open(found: Run) -> RunResult:
    now = await found.status()
    if now.ended:
        raise CliError(f"run {found.run_id!r} has ended already: {now.state}")
    return now


async def _attend(started: Run, *, simulated: bool, detach: bool, as_json: bool) -> int:
    """After a start: tell the run id at once, then watch or leave."""
    if not detach:
        typer.echo(f"run {started.run_id}", err=as_json)
        return await _watch(started, simulated=simulated, as_json=as_json)
    if as_json:
        _print_json((await started.status()).to_dict())
    else:
        typer.echo(started.run_id)
        typer.echo(f"it goes on by itself; docbatch status {started.run_id} --watch shows it", err=True)
    return 0


async def _watch(watched: Run, *, simulated: bool, as_json: bool) -> int:
    """To the run's end; Ctrl-C ends only the watching."""
    from batch.terminal import display, follow

    run_id = watched.run_id
    try:
        with display(_console(err=as_json), simulated=simulated) as shown:
            ended = await follow(watched, shown)
    except asyncio.CancelledError:  # by Ctrl-C: asyncio turns it into a cancellation of the main task
        typer.echo(f"\ndetached; the run goes on. Watch it again: docbatch status {run_id} --watch", err=True)
        typer.echo(f"Stop it: docbatch cancel {run_id}", err=True)
        if as_json and shown.status is not None:
            _print_json(shown.status.to_dict())
        return 0
    return _show(ended, simulated=simulated, as_json=as_json)


def _show(result: RunResult, *, simulated: bool, as_json: bool) -> int:
    """The account, and the exit code that belongs to it."""
    if as_json:
        _print_json(result.to_dict())
    else:
        from batch.terminal import print_account

        print_account(_console(), result, simulated=simulated)
    return EXIT_FAILURES if result.ended and result.state != "completed" else 0
