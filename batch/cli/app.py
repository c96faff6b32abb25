"""The Typer application, and what its commands share: options, exit codes, output."""

from __future__ import annotations

import os
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from batch.terminal.printable import json_line, printable

if TYPE_CHECKING:
    from rich.console import Console

EXIT_FAILURES, EXIT_WRONG = 1, 2

ORDER = [
    *("up", "demo", "worker", "simulate-provider"),
    *("preview", "estimate"),
    *("run", "status", "list", "results", "report", "verify", "pause", "resume", "cancel", "rerun"),
    "schedule",
]
"""The commands as `docbatch --help` lists them."""


class Commands(TyperGroup):
    """Lists the commands in `ORDER`, whichever module of them was imported first."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=ORDER.index)


app = typer.Typer(
    cls=Commands,
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


class CliError(Exception):
    """What the user asked cannot be done. The message says why, and what to do."""


def open_console(*, err: bool = False) -> Console:
    from batch.terminal.consoles import SafeConsole

    return SafeConsole(stderr=err)


def open_table_console() -> Console:
    """For tables. Where stdout is no terminal nothing is shortened, so that `grep` and `awk` find whole names."""
    console = open_console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 1_000
    return console


def parse_day(where: str, text: str) -> date:
    """Returns a day as YYYY-MM-DD. `where` names the option in the message."""
    try:
        if len(text) == len("2026-11-22"):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise CliError(f"{where}: {text!r} is no day; write YYYY-MM-DD, for example 2026-11-22")


def say(line: str = "", *, err: bool = False) -> None:
    """Prints a line for people, whatever stands in it."""
    typer.echo(printable(line), err=err)


def print_json(value: object) -> None:
    typer.echo(json_line(value))
