"""`docbatch demo`: the whole real path on a sample corpus, from starting the servers to removing their data.

Two jobs: one by the simulated provider over all documents that the machine has, and one by a real small model over 20.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from batch.client.run import Run, connect
from batch.client.status import RunResult
from batch.files.reconcile import Reconciler
from batch.job.job import Job
from batch.local import llama
from batch.local.corpus import demo_documents, upload
from batch.local.options import StackOptions
from batch.local.stack import LocalStack
from batch.terminal.consoles import SafeConsole
from batch.terminal.ending import account, plain
from batch.terminal.progress import display, follow
from batch.terminal.row_tables import field_types, rows_table
from batch.workflows.states import State

ROWS_SHOWN = 6
LLM_DOCUMENTS = 20
LLM_CHARACTERS = 600
"""Of each document: what a slot of the small model takes, and two cores read in a few seconds."""

CATEGORIES = ["data", "web", "cloud", "testing", "tooling", "science", "other"]


@dataclass(frozen=True)
class Demo:
    """What differs between the two."""

    job: dict[str, Any]
    options: dict[str, Any]
    said: str
    """Whose answers they are."""
    documents: int | None = None


def simulated_demo() -> Demo:
    """Returns all documents, by the simulated provider: slow enough that there is progress to see."""
    return Demo(
        job=_job(
            model={"name": "simulated-small", "temperature": 0, "max_output_tokens": 300},
            user="Describe this text.\n\n{{ text }}",
            limits={"concurrency": 4},  # of each worker
            partitions={"documents": 10},
        ),
        options={
            "workers": 2,
            "provider_args": ["--latency-median", "0.5", "--latency-sigma", "0.7"],
        },
        said="The answers are simulated: no model was asked, their words come from the documents.",
    )


def llm_demo(folder: Path) -> Demo:
    """A few documents, by a real model that runs here. Its answers are real, and as good as 270M parameters can."""
    return Demo(
        job=_job(
            model={"name": llama.MODEL, "temperature": 0, "max_output_tokens": 256, "timeout_seconds": 600},
            user=f"{{{{ text[:{LLM_CHARACTERS}] }}}}\n\nDescribe the software above as JSON: its title, a summary in "
            "one sentence, its category and up to four keywords.",
            limits={"concurrency": llama.SLOTS},
            partitions={"documents": 5},
        ),
        options={
            "workers": 1,
            "provider_command": [
                *(sys.executable, "-P", "-m", "batch.local.llama"),
                *("--port", "{port}", "--folder", str(folder)),
            ],
            "provider_health": "/health",
        },
        said=f"The answers are those of a real model, {llama.MODEL}, asked on this machine.",
        documents=LLM_DOCUMENTS,
    )


def _job(*, user: str, **parts: Any) -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "name": "demo",
        "source": {"uri": "s3://corpus/demo/"},
        "prompt": {"user": user},
        "output": {
            "uri": "s3://results/demo/",
            "schema": {
                "type": "object",
                "properties": {
                    "title": {**text, "maxLength": 80},
                    "summary": {**text, "maxLength": 200},
                    "category": {**text, "enum": CATEGORIES},
                    "keywords": {"type": "array", "items": {**text, "maxLength": 30}, "minItems": 1, "maxItems": 4},
                },
                "required": ["title", "summary", "category", "keywords"],
                "additionalProperties": False,
            },
        },
        **parts,
    }


def run_demo(*, llm: bool, keep: Path | None, documents: int | None) -> int:
    """Runs the demo and returns its exit code: 0 only if every document has its row.

    Args:
        llm: the real small model instead of the simulated provider.
        keep: folder for the servers' data, which stays; None: a temporary one.
        documents: how many documents at most; None: the demo's own number.
    """
    console = SafeConsole()
    with _folder() as folder:
        chosen = llm_demo(folder) if llm else simulated_demo()
        options = StackOptions(
            data=keep,
            # Progress within a partition is told by heartbeats; sent rarely by default, for they are billed on a cloud.
            worker_args=["--heartbeat-throttle-seconds", "1", "--slots", "2"],
            **chosen.options,
        )
        began = time.monotonic()
        plain(console, "starting Temporal, S3, provider and workers on this machine", style="bold")
        with LocalStack(options, on_event=lambda line: plain(console, f"  {line}", style="dim")) as stack:
            for note in stack.notes:
                plain(console, f"  {note}")
            corpus = islice(demo_documents(), documents or chosen.documents)
            uploaded = upload(stack.environment(), "corpus", "demo", corpus)
            plain(
                console,
                f"uploaded {uploaded.documents} documents ({uploaded.bytes / 1000:,.0f} kB): READMEs of the Python "
                "packages installed here",
            )
            with stack.applied_environment():
                code = asyncio.run(_run(console, Job.parse(chosen.job), chosen.said))
        plain(console, _where_next(keep))
        plain(console, f"all of it took {time.monotonic() - began:.0f} s", style="dim")
    return code


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="docbatch-demo-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


async def _run(console: Console, job: Job, said: str) -> int:
    connection = await connect()
    run = await connection.start(job)
    plain(console, f"run {run.run_id}: {job.model.name} over {job.source.place}", style="bold")
    simulated = job.model.name.startswith("simulated-")
    with display(console, simulated=simulated, plain_every=2) as shown:
        ended = await follow(run, shown, every=0.5)
    problems = await _problems(run, ended)
    frame = run.results()
    rows = frame.head(ROWS_SHOWN).collect().to_dicts()
    console.print(rows_table(rows, field_types(frame.collect_schema()), width=console.width))
    plain(console, f"{len(rows)} of {ended.documents} rows. {said}", style="bold")
    plain(console, "")
    for line in account(ended, simulated=simulated):
        plain(console, line)
    for problem in problems:
        plain(console, f"problem: {problem}", style="red")
    if not problems:
        plain(console, "verified: each document has exactly one row, in files with the manifest's checksums")
    return 0 if not problems and ended.state == State.COMPLETED else 1


async def _problems(run: Run, ended: RunResult) -> list[str]:
    """Tells why the run does not reconcile; empty: it does."""
    manifest = await run.manifest()
    if manifest is None:
        return [ended.message or "the run has no manifest"]
    expected = {entry.partition: entry for entry in manifest.files}
    found = await Reconciler(run.connection.storage, run.layout, expected=expected).run()
    if found.totals.documents != found.planned_documents or not found.planned_documents:
        found.problem(f"{found.planned_documents} documents planned, {found.totals.documents} rows")
    return [*manifest.problems, *found.problems]


def _where_next(keep: Path | None) -> str:
    if keep is not None:
        return f"All data stays in {keep}; servers and Temporal's UI again: docbatch up --ui --data {keep}"
    return "Servers and data are gone again. `docbatch up` starts them to stay, `docbatch up --ui` with Temporal's UI."
