"""The tables of runs and schedules: readable in 80 columns."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from rich.console import Console, RenderableType

from batch.client.schedules import ScheduleStatus
from batch.client.timing import Overlap, Timing
from batch.job.job import Job
from batch.terminal.run_tables import age, runs_table, schedule_account, scheduled_runs_table, schedules_table
from batch.workflows.states import State

NOW = datetime(2026, 11, 22, 21, tzinfo=UTC)


def text_of(table: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    shown: str = console.file.getvalue()  # type: ignore[attr-defined]
    return shown


def run(run_id: str, **changes: Any) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "job_name": "support-tickets",
        "state": State.COMPLETED_WITH_FAILURES,
        "started_at": "2026-11-22T20:43:00.123456+00:00",
        "closed_at": None,
        "documents": 1_200_000,
        "errors": 12,
        "cost_usd": 123.456,
        "output_uri": "s3://results/",
        **changes,
    }


def status(**changes: Any) -> ScheduleStatus:
    job = {
        "name": "support-tickets",
        "source": {"uri": "s3://corpus/{{ date }}/"},
        "prompt": {"user": "{{ text }}"},
        "model": {"name": "simulated-small"},
        "output": {"uri": "s3://results/{{ date }}/"},
    }
    zone = ZoneInfo("Europe/Berlin")
    fields: dict[str, Any] = {
        "name": "nightly",
        "job": Job.parse(job),
        "timing": Timing(cron="0 2 * * *", time_zone="Europe/Berlin", jitter=timedelta(minutes=10)),
        "paused": False,
        "note": "",
        "started": 12,
        "skipped": 1,
        "missed": 0,
        "next_times": [datetime(2026, 11, day, 2, tzinfo=zone) for day in range(23, 28)],
        "created_at": NOW,
        "updated_at": None,
        "runs": [{**run("nightly-2026-11-22T01:00:00Z"), "due_at": "2026-11-22T01:04:00+00:00"}],
    }
    return ScheduleStatus(**(fields | changes))


def test_ages() -> None:
    ages = [age((NOW - timedelta(seconds=seconds)).isoformat(), NOW) for seconds in (42, 60, 7199, 7200, 86_400 * 30)]
    assert ages == ["42s", "1m", "1h", "2h", "30d"]


def test_table_of_runs_keeps_ids_whole_in_80_columns() -> None:
    ids = ["support-tickets-20261122T210000-ab12", "nightly-2026-11-22T01:00:00Z"]
    shown = text_of(runs_table([run(ids[0]), run(ids[1], state=State.PAUSED, cost_usd=None)], width=80, now=NOW))
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    first, second = (next(line for line in lines if run_id in line).split() for run_id in ids)
    assert first[2:] == ["with", "failures", "16m", "1.20M", "$123.46"]
    assert second[2:] == ["paused", "16m", "1.20M", "-"]
    assert first[1].endswith("…")  # the job's name gave way, and only it
    wide = text_of(runs_table([run(ids[0])], width=120, now=NOW), 120)
    assert "support-tickets " in wide.replace(ids[0], "")


def test_account_of_a_schedule() -> None:
    lines = schedule_account(status())
    assert "source       s3://corpus/{{ date }}/" in lines
    assert "when         0 2 * * * Europe/Berlin, late by up to 0:10:00" in lines
    assert "overlap      skip, catch-up window 6:00:00" in lines
    assert "slots        12 started, 1 skipped (the run before was still going), 0 missed" in lines
    assert "next         Mon 2026-11-23 02:00:00 Europe/Berlin" in lines
    assert sum(line.startswith(("next ", " ")) for line in lines) == 5
    assert max(map(len, lines)) <= 80
    paused = schedule_account(status(paused=True, note="holidays", next_times=[]))
    assert "state        paused (holidays)" in paused
    assert "next         never: no slot lies ahead" in paused


def test_tables_of_schedules_fit_80_columns() -> None:
    every = Timing(every=timedelta(hours=6), offset=timedelta(minutes=5), overlap=Overlap.ALLOW_ALL)
    shown = text_of(schedules_table([status(), status(name="often", timing=every, paused=True, runs=[])]))
    assert "nightly" in shown and "2026-11-23" in shown and "paused" in shown and "every 6:00:00" in shown
    runs = text_of(scheduled_runs_table([*status().runs, {"run_id": "old", "state": "forgotten"}], now=NOW))
    assert "nightly-2026-11-22T01:00:00Z" in runs and "16m ago" in runs and "forgotten" in runs
    assert max(len(line) for text in (shown, runs) for line in text.splitlines()) <= 80


def test_a_schedule_as_plain_data() -> None:
    plain = status().to_dict()
    assert plain["timing"]["jitter"] == 600 and plain["timing"]["overlap"] == "skip"
    assert plain["next_times"][0] == "2026-11-23T02:00:00+01:00"
    assert plain["job"]["source"]["uri"] == "s3://corpus/{{ date }}/"
