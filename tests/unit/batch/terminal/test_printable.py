"""What comes from outside gives a terminal no commands, by whichever renderer it comes; JSON says it exactly."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from batch.cli.app import CliError, print_json, say
from batch.cli.main import command_line
from batch.client.schedules import ScheduleStatus
from batch.client.status import RunResult
from batch.client.timing import Timing
from batch.job.job import Job
from batch.previews.estimation import Estimate, Range
from batch.previews.exchange import PreviewedDocument, PreviewResult
from batch.terminal import ending, progress, row_tables
from batch.terminal.consoles import SafeConsole
from batch.terminal.preview_tables import print_estimate, print_preview
from batch.terminal.printable import LineFormatter, json_line, printable
from batch.terminal.run_tables import runs_table, schedule_account, scheduled_runs_table, schedules_table
from batch.workflows.states import State
from workers.process import main as worker

SEQUENCES = {
    "colour": "\x1b[31mred",
    "clear the screen": "\x1b[2J\x1b[H",
    "title": "\x1b]0;owned\x07",
    "clipboard": "\x1b]52;c;cm0gLXJm\x1b\\",
    "link": "\x1b]8;;http://evil.example\x07ok\x1b]8;;\x07",
    "device control": "\x1bP$q\x1b\\",
    "C1 CSI": "\x9b31m",
    "C1 OSC": "\x9d0;owned\x9c",
    "bell and backspace": "\x07ok\x08\x08no",
    "carriage return": "state failed\rstate completed",
    "another line": "one\nstate        completed",
    "other lines": "a\x0bb\x0cc\x85d\u2028e\u2029f",
    "delete": "\x7f",
    "nul": "a\x00b",
    "bidi override": "\u202egpj.exe",
    "bidi isolate": "\u2066x\u2069\u200e\u200f\u061c",
    "zero width": "a\u200bb\u200cc\u200dd\ufeffe\u2060f\xadg",
    "tags": "\U000e0041\U000e0042",
    "surrogate": "\ud800x\udcff",
    "interlinear": "\ufff9a\ufffab\ufffb",
    "fillers": "\u3164\u115f\uffa0",
    "markup": "[red]no[/red][link=http://evil.example]x[/link] :warning:",
}
ALL = " ".join(SEQUENCES.values())


def unsafe(text: str) -> list[str]:
    """Characters of what was printed that a terminal would obey or hide; line feeds are the renderers' own."""
    invisible = {"\u034f", "\u115f", "\u1160", "\u3164", "\uffa0"}
    return [
        each
        for each in text
        if each in invisible or (unicodedata.category(each) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and each != "\n")
    ]


@pytest.mark.parametrize("name", SEQUENCES)
def test_the_function(name: str) -> None:
    text = SEQUENCES[name]
    shown = printable(text)
    assert not unsafe(shown) and "\n" not in shown and printable(shown) == shown
    assert not unsafe(printable(text, lines=True).replace("\t", ""))
    assert len(shown) >= len(text), "nothing is left out"


def test_what_people_write_is_left_as_it_is() -> None:
    text = "Übersicht — naïve 東京 نعم עברית हिन्दी e\u0301 👍🏽 ❤\ufe0f 50 % \xa0 \u3000 [sic] C:\\x1b ﷽"
    assert printable(text) == text
    assert printable("a\tb\r\nc\n", lines=True) == "a\tb\nc\n"
    assert printable("\x1b\x9b\u202e\U000e0041") == r"\x1b\x9b\u202e\U000e0041"


def test_every_character() -> None:
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    assert {unicodedata.name(each, each) for each in set(unsafe(printable(everything)))} <= {
        # Signs of scripts that are seen, though they join what follows; and two of scripts of antiquity.
        unicodedata.name(each)
        for each in everything
        if unicodedata.category(each) == "Cf"
        and unicodedata.name(each, "").startswith(("ARABIC", "SYRIAC", "KAITHI", "EGYPTIAN"))
    } - {"ARABIC LETTER MARK"}


@pytest.mark.parametrize("name", SEQUENCES)
def test_json_is_exact_and_as_harmless(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    value = {SEQUENCES[name]: [SEQUENCES[name], datetime(2026, 11, 29, tzinfo=UTC)]}
    assert json.loads(json_line(value)) == {SEQUENCES[name]: [SEQUENCES[name], "2026-11-29T00:00:00+00:00"]}
    print_json(value)
    out = capsys.readouterr().out
    assert out.endswith("\n") and not unsafe(out) and out.count("\n") == 1


def test_json_leaves_people_their_letters() -> None:
    assert json_line({"a": "Übersicht 👍🏽"}) == '{"a": "Übersicht 👍🏽"}'


# -- every renderer


def result(**fields: Any) -> RunResult:
    return replace(
        RunResult(
            run_id=ALL,
            state=State.PAUSED,
            documents=1,
            ok=1,
            errors=0,
            prompt_tokens=1,
            completion_tokens=1,
            cost_usd=1.0,
            results_uri=ALL,
            manifest_uri=ALL,
            seconds=1.0,
            planned=2,
            reason=ALL,
            message=ALL,
            errors_by_type={ALL: 1},
            errors_in_progress={ALL: 1},
            reasons={ALL: 1},
            problems=[ALL],
        ),
        **fields,
    )


def job() -> Job:
    return Job.parse(
        {
            "name": "n",
            "source": {"uri": "s3://corpus/x/"},
            "prompt": {"user": "{{ text }}"},
            "model": {"name": "simulated-small"},
            "output": {
                "uri": "s3://results/x/",
                "schema": {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]},
            },
        }
    )


def schedule() -> ScheduleStatus:
    return ScheduleStatus(
        name=ALL,
        job=job(),
        timing=Timing(every=timedelta(hours=6)),
        paused=True,
        note=ALL,
        started=1,
        skipped=0,
        missed=0,
        next_times=[],
        created_at=datetime(2026, 11, 29, tzinfo=UTC),
        updated_at=None,
        runs=[LISTED],
    )


LISTED = {
    "run_id": ALL,
    "job_name": ALL,
    "state": ALL,
    "started_at": "2026-11-29T00:00:00+00:00",
    "documents": 1,
    "errors": 1,
    "cost_usd": 1.0,
}
ROWS = [
    {
        "document_id": f"folder/{ALL}/{number}",
        "status": status,
        "error_type": ALL,
        "error_message": ALL,
        "retryable": True,
        "output_text": ALL,
        "result": {"title": ALL, "list": [ALL], "more": {"deep": ALL}, ALL: ALL},
    }
    for number, status in enumerate(("ok", "error", ALL))
]
TYPES = {"title": "string", "list": "list[string]", "more": "struct", ALL: ALL}


def preview() -> PreviewResult:
    messages = [{"role": "system", "content": ALL}, {"role": "user", "content": ALL}]
    documents = [
        PreviewedDocument(
            ALL, ALL, 1, messages, status, result={"title": ALL}, output_text=ALL, error_type=ALL, error_message=ALL
        )
        for status in ("ok", "error", "unanswered")
    ]
    return PreviewResult(job_name=ALL, model=ALL, documents=documents, stopped=ALL)


def estimate() -> Estimate:
    one = Range(1, 1, 1)
    return Estimate(
        **dict.fromkeys(("answerable", "prompt_tokens", "completion_tokens"), one),
        **dict.fromkeys(("cost_usd", "batch_cost_usd", "seconds")),
        **dict.fromkeys(("documents", "bytes", "too_large", "sampled", "processes"), 1),
        job_name=ALL,
        model=ALL,
        unreadable={ALL: 1},
        bound_by=ALL,
        seconds_by_limit={},
        notes=[ALL],
    )


def live(console: Console) -> None:
    shown = progress.LiveDisplay(console, simulated=False)
    shown.note(ALL)
    console.print(shown.render())
    shown.update(result())
    console.print(shown.render())


def plain_lines(console: Console) -> None:
    lines: list[str] = []
    shown = progress.PlainDisplay(lines.append, simulated=False)
    shown.update(result())
    shown.note(ALL)
    assert not unsafe("\n".join(lines))
    for line in lines:
        ending.plain(console, line)


RENDERERS: dict[str, Callable[[Console], None]] = {
    "status": lambda console: ending.print_account(console, result(), simulated=False),
    "status, ended": lambda console: ending.print_account(console, result(state=State.FAILED), simulated=False),
    "watching": live,
    "watching, plain": plain_lines,
    "results": lambda console: console.print(row_tables.rows_table(ROWS, TYPES)),
    "results, text": lambda console: console.print(row_tables.rows_table(ROWS, {})),
    "results --errors": lambda console: console.print(row_tables.rows_table(ROWS, TYPES, errors=True)),
    "list": lambda console: console.print(runs_table([LISTED], width=80)),
    "schedule list": lambda console: console.print(schedules_table([schedule()])),
    "schedule show": lambda console: [ending.plain(console, line) for line in schedule_account(schedule())] and None,
    "schedule show, runs": lambda console: console.print(scheduled_runs_table([LISTED])),
    "preview": lambda console: print_preview(console, preview(), job(), simulated=False, full=False),
    "preview --full": lambda console: print_preview(console, preview(), job(), simulated=False, full=True),
    "estimate": lambda console: print_estimate(console, estimate(), source=ALL, simulated=False),
    "text of any kind": lambda console: console.print(ALL),
}


@pytest.mark.parametrize("name", RENDERERS)
def test_renderers(name: str) -> None:
    file = io.StringIO()
    console = SafeConsole()
    console.file = file
    RENDERERS[name](console)
    text = file.getvalue()
    assert "x1b" in text.replace("\n", ""), "the sequences were shown at all"
    assert not unsafe(text)


@pytest.mark.parametrize("name", sorted(RENDERERS.keys() - {"text of any kind", "preview", "preview --full"}))
def test_renderers_do_not_rest_on_the_console(name: str) -> None:
    """So that columns are as wide as what is shown in them."""
    console = Console(file=io.StringIO(), width=200)
    RENDERERS[name](console)
    assert isinstance(console.file, io.StringIO)
    assert not unsafe(console.file.getvalue())


def test_a_live_console_still_moves_its_own_cursor() -> None:
    file = io.StringIO()
    console = SafeConsole()
    console.file, console._force_terminal = file, True
    with progress.LiveDisplay(console, simulated=False) as shown:
        shown.update(result())
    assert "\x1b[" in file.getvalue() and "\x1b]" not in file.getvalue() and "\x9b" not in file.getvalue()


# -- messages


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Exception], None]]:
    """Lets `docbatch list` fail with an error."""

    def put(error: Exception) -> None:
        def fail(_: object) -> None:
            asyncio.iscoroutine(_) and _.close()
            raise error

        monkeypatch.setattr(asyncio, "run", fail)

    yield put


@pytest.mark.parametrize(
    "error", [CliError(ALL), RuntimeError(ALL), OSError(5, ALL, ALL), UnicodeError(ALL), CliError("")]
)
def test_messages_and_tracebacks(
    error: Exception, failing: Callable[[Exception], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(error)
    assert command_line(["list"]) == 2
    out, err = capsys.readouterr()
    assert not out and err and not unsafe(err)
    assert isinstance(error, RuntimeError | UnicodeError) == ("Traceback" in err)
    if isinstance(error, CliError | OSError):
        assert all(line.startswith("docbatch: ") for line in err.splitlines())


def test_what_commands_say(capsys: pytest.CaptureFixture[str]) -> None:
    for err in (False, True):
        say(ALL, err=err)
    out, err_text = capsys.readouterr()
    assert out == err_text and out.count("\n") == 1 and not unsafe(out)


def test_no_command_prints_past_it() -> None:
    """`typer.echo`, `print` and rich's own console are for the functions that escape."""
    for path in [*Path("batch/cli").glob("*.py"), *Path("batch/terminal").glob("*.py"), Path("batch/local/demo.py")]:
        source = path.read_text()
        allowed = {"app.py": 2}.get(path.name, 0)
        assert source.count("typer.echo(") + source.count("print_exc(") == allowed, path
        assert " = Console(" not in source and "return Console(" not in source, path


def test_log_lines() -> None:
    formatter = LineFormatter("%(levelname)s %(name)s: %(message)s")
    for arguments in ((ALL, ()), ("key %s", (ALL,)), ("key %r", (ALL,))):
        record = logging.LogRecord("docbatch", logging.WARNING, "x.py", 1, *arguments, None)  # type: ignore[arg-type]
        assert not unsafe(formatter.format(record)) and "\n" not in formatter.format(record)
    try:
        raise ValueError(ALL)
    except ValueError:
        record = logging.LogRecord("docbatch", logging.ERROR, "x.py", 1, "failed", (), sys.exc_info())
    assert not unsafe(formatter.format(record)) and "Traceback" in formatter.format(record)


def test_the_worker_logs_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(running: Any) -> None:
        running.close()
        logging.getLogger("docbatch.worker").warning("key %s", ALL)
        raise worker.PortTaken(ALL)

    monkeypatch.setattr(worker.uvloop, "run", fail)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    handlers = logging.getLogger().handlers[:]
    logging.getLogger().handlers[:] = []
    try:
        with pytest.raises(SystemExit):
            worker.main(["--metrics-port", "0"])
        sys.excepthook(ValueError, ValueError(ALL), None)
    finally:
        logging.getLogger().handlers[:] = handlers
    err = capsys.readouterr().err
    assert err.count("x1b]52") == 3 and not unsafe(err)
