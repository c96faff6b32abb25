"""The command line, `docbatch`. Thin: a command calls the client, the results or the local stack, and shows what came.

Exit codes: 0 done, 1 the run ended with failures, 2 wrong usage or input, or what is needed does not answer. Heavy
modules are imported where they are used: `docbatch --help` must not load Temporal, polars and pyarrow.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from batch.cli import previews, results, runs, schedule, stack  # noqa: F401 - each adds its commands
from batch.cli.app import EXIT_WRONG, CliError, app, say
from batch.cli.interrupt import INTERRUPTED, STOPPED
from batch.terminal.printable import LineFormatter


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
        code = _run(arguments)
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:
        say(STOPPED, err=True)
    return code


def _run(arguments: Sequence[str]) -> int:
    try:
        app(list(arguments), prog_name="docbatch")
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else EXIT_WRONG
    except Exception as error:
        text = _message(error) if isinstance(error, _expected_errors()) else None
        for line in (traceback.format_exc() if text is None else text).strip("\n").split("\n"):
            say(line if text is None else f"docbatch: {line}", err=True)
        return EXIT_WRONG
    return 0


def _expected_errors() -> tuple[type[Exception], ...]:
    """Errors whose message is all that a user needs. Imported only once there is an error."""
    from polars.exceptions import PolarsError
    from temporalio.service import RPCError

    from batch.client.checks import CheckFailed
    from batch.client.run import BudgetTooSmall, RunBusy, RunNotFound
    from batch.client.schedules import ScheduleForeign, ScheduleNotFound
    from batch.client.timing import ScheduleError
    from batch.files.results import UnknownFormat
    from batch.files.run_file import RunMissing
    from batch.job.part import JobError
    from batch.local.options import StackError
    from batch.local.processes import ProcessError
    from batch.network.connection import TemporalUnreachable
    from batch.storage.store import StorageError

    return (
        *(BudgetTooSmall, CliError, CheckFailed, JobError, RunBusy, RunMissing, RunNotFound, UnknownFormat),
        *(ScheduleError, ScheduleForeign, ScheduleNotFound),
        *(StorageError, TemporalUnreachable, RPCError, PolarsError, StackError, ProcessError),
        OSError,  # a full disk, a folder that is not there: what the system says, and of which file
    )


def _message(error: Exception) -> str:
    from temporalio.service import RPCError

    if isinstance(error, RPCError):
        address = os.environ.get("TEMPORAL_ADDRESS", "localhost:7233")
        return f"Temporal at {address} (TEMPORAL_ADDRESS) answers {error.status.name}: {error.message}"
    if isinstance(error, OSError) and error.strerror:
        return ": ".join([*(str(name) for name in (error.filename, error.filename2) if name), error.strerror])
    return str(error) or type(error).__name__


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        say(f"docbatch {version('docbatch')}")
        raise typer.Exit


class _Messages(logging.StreamHandler[Any]):
    """Writes to what is stderr now: above a live display while there is one, which takes its place."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    handler = _Messages()
    handler.setFormatter(LineFormatter("docbatch: %(message)s"))
    for name in ("batch", "temporalio", "asyncio"):
        logging.getLogger(name).handlers = [handler]
