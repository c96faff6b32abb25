"""Commands of the local stack and of the processes in it: `up`, `demo`, `worker`, `simulate-provider`."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from batch.cli.app import CliError, app, say
from batch.cli.interrupt import InterruptEndsAtOnce

SCRAPE_SECONDS = 5.0
"""Between two scrapes of `up`'s Prometheus: a run on a laptop lasts minutes."""
_HANDED_OVER = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


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
    ui: Annotated[bool, typer.Option("--ui/--no-ui", help="Serve Temporal's web UI.")] = False,
) -> None:
    """Run everything on this machine until Ctrl-C.

    Temporal, an S3 server, a simulated provider and workers.
    """
    with InterruptEndsAtOnce():
        from batch.local.isolation import is_foreign, isolate_process

        isolate_process()
        from batch.local.options import StackOptions
        from batch.local.prometheus import dashboards_folder
        from batch.local.stack import LocalStack

    env_file = env_file or data / "env"
    if env_file.is_dir():
        raise CliError(f"--env-file: {env_file} is a folder; name a file")
    if is_foreign(env_file):
        raise CliError(f"--env-file: {env_file} is there and is not of `docbatch up`, which removes it when it ends")
    options = StackOptions(
        data=data,
        workers=workers,
        ui=ui,
        scrape_seconds=SCRAPE_SECONDS,
        provider_args=shlex.split(provider_args),
        worker_args=shlex.split(worker_args),
    )
    written = False

    def on_event(line: str) -> None:
        if not written:  # while the file is there, all is healthy; before the first event the folder may be another's
            env_file.unlink(missing_ok=True)
        say(line)

    stopped = False
    try:
        with LocalStack(options, on_event=on_event) as stack:
            stack.write_env_file(env_file)
            written = True
            if stack.prometheus_url:
                files = dashboards_folder() / "*.json"
                say(f"grafana   add the Prometheus data source {stack.prometheus_url}, import {files}")
            for note in stack.notes:
                say(f"note      {note}")
            say(f"data      {stack.data}, logs in {stack.logs}")
            for line in _ready(env_file):
                say(line)
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
        say("stopped")


def _ready(env_file: Path) -> list[str]:
    return [
        "",
        "The provider is simulated: its models are simulated-small and simulated-large.",
        "Ready. In another shell:",
        "",
        f"    set -a; . {shlex.quote(str(env_file))}; set +a",
        "    docbatch run JOB.yaml",
        "",
        "Ctrl-C ends it; the data stays.",
    ]


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
    with InterruptEndsAtOnce():
        from batch.local.isolation import isolate_process

        isolate_process()
        from batch.local.demo import run_demo

    raise typer.Exit(run_demo(llm=llm, keep=keep, documents=documents))


@app.command(context_settings=_HANDED_OVER)
def worker(context: typer.Context) -> None:
    """Run a worker process; it has its own --help."""
    # -P: nothing in the current folder may be taken for our packages. exec: signals reach the worker itself.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "workers", *context.args])


@app.command(context_settings=_HANDED_OVER)
def simulate_provider(context: typer.Context) -> None:
    """Run the simulated provider; own --help."""
    from batch.local.simulator.provider import main as serve

    raise typer.Exit(serve(context.args))
