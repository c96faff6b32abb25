"""`docbatch schedule`: what is wrong is told before anything is asked, with exit code 2."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from temporalio import client as t

from batch.cli.main import command_line
from batch.client.schedule_timing import Overlap, ScheduleError, Timing
from batch.storage.layout import RunLayout

JOB = """
name: tickets
source: {uri: s3://corpus/tickets/}
prompt: {user: "{{ text }}"}
model: {name: simulated-small}
output: {uri: "s3://results/{{ date }}/"}
"""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "say when: --cron EXPR"),
        (["--cron", "0 2 * * *", "--every", "6h"], "say when: --cron EXPR"),
        (["--every", "6 bananas"], "--every: '6 bananas' is no time span; write for example 30s, 15m, 6h, 1d12h"),
        (["--every", ""], "--every: '' is no time span"),
        (["--every", "0s"], "every is at least one second"),
        (["--cron", "@every 5s"], "cron '@every 5s': an interval is no cron expression; say every (--every)"),
        (["--cron", "0 2 * * *", "--offset", "5m"], "offset goes with every"),
        (["--cron", "0 2 * * *", "--time-zone", "Mars/X"], "unknown time zone 'Mars/X'; write an IANA name such as"),
        (["--cron", "0 2 * * *", "--overlap", "terminate"], "--overlap: 'terminate' is no policy; known are skip, "),
        (["--cron", "0 2 * * *", "--catch-up", "1s"], "catch_up is at least 10 seconds"),
        (["--cron", "0 2 * * *", "--jitter", "-5m"], "--jitter: '-5m' is no time span"),
    ],
)
def test_bad_times(options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    assert command_line(["schedule", "create", "nightly", str(tmp_path / "job.yaml"), *options]) == 2
    assert capsys.readouterr().err.startswith(f"docbatch: {message}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["backfill", "n", "--from", "yesterday", "--to", "2026-11-22"], "--from: 'yesterday' is no time; write 2026-"),
        (["backfill", "n", "--from", "2026-11-20", "--to", "2026-11-31"], "--to: '2026-11-31' is no day; write YYYY-"),
        (["trigger", "n", "--overlap", "all"], "--overlap: 'all' is no policy"),
        (["create", "n", "no-such-file.yaml", "--every", "6h"], "no-such-file.yaml: no such file"),
    ],
)
def test_bad_input(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(["schedule", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"docbatch: {message}")


@pytest.mark.parametrize("text", ["22.11.2026", "2026-13-01", "20261122", ""])
def test_bad_date_of_a_run(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    assert command_line(["run", str(tmp_path / "job.yaml"), "--date", text]) == 2
    assert (
        capsys.readouterr().err == f"docbatch: --date: {text!r} is no day; write YYYY-MM-DD, for example 2026-11-22\n"
    )


def test_bad_state_of_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(["list", "--state", "done"]) == 2
    assert "--state: 'done' is no state of a run; known are running, paused, completed" in capsys.readouterr().err


def test_a_timing_survives_the_server() -> None:
    timing = Timing(every=timedelta(hours=6), offset=timedelta(minutes=5), overlap=Overlap.BUFFER_ONE)
    policy = t.SchedulePolicy(overlap=timing.overlap.policy, catchup_window=timing.catch_up)
    action = t.ScheduleActionStartWorkflow("w", id="i", task_queue="q")
    assert Timing.of(t.Schedule(action, timing.to_spec(), policy)) == timing
    with pytest.raises(ScheduleError, match="either cron or every"):
        Timing()


def test_the_folder_of_a_scheduled_run_has_no_colons() -> None:
    assert RunLayout.of("s3://results/", "nightly-2026-11-22T01:00:00Z").root == "runs/nightly-2026-11-22T010000Z/"
