"""Schedules on the real servers: slots, dates, pauses, skips, backfills, and what `list` finds by search attributes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from batch import Job, Timing, connect, create_schedule
from batch.cli.main import command_line
from batch.client import visibility
from batch.local.corpus import upload
from batch.local.stack import LocalStack
from batch.storage.layout import RunLayout
from batch.workflows import contracts as c
from benchmarks.synthetic import synthetic_documents
from tests.provider import behave

JOB = """
name: sched
source: {uri: "s3://corpus/sched/"}
prompt: {user: "On {{ date }}, label this. {{ text }}"}
model: {name: simulated-small}
output: {uri: "s3://results/sched/{{ date }}/{{ scheduled_at }}/"}
"""
DOCUMENTS = 4

Docbatch = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def corpus(stack: LocalStack) -> None:
    upload(stack.environment(), "corpus", "sched", synthetic_documents(DOCUMENTS, 200))


@pytest.fixture
def docbatch(stack: LocalStack, corpus: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Docbatch]:
    """Runs a command in this process: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = command_line(arguments)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    (tmp_path / "job.yaml").write_text(JOB)
    with stack.applied_environment(), contextlib.chdir(tmp_path):
        yield run


@pytest.fixture
def latency(stack: LocalStack) -> Iterator[Callable[[float], None]]:
    """How long the provider thinks about each answer, in seconds, for one test."""

    def control(seconds: float) -> None:
        behave(stack, latency=seconds)

    yield control
    control(0)


def show(docbatch: Docbatch, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docbatch("schedule", "show", name, "--json")[1])
    return found


def wait_for(docbatch: Docbatch, name: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while not condition(now := show(docbatch, name)):
        assert time.monotonic() < deadline, now
        time.sleep(0.3)
    return now


def completed(now: dict[str, Any]) -> list[dict[str, Any]]:
    return [run for run in now["runs"] if run["state"] == "completed"]


def slot_of(run: dict[str, Any]) -> datetime:
    """The nominal time that Temporal puts at the end of a run's id."""
    return datetime.fromisoformat(re.sub(r"^[a-z]+-", "", run["run_id"]))


def check_run(stack: LocalStack, run: dict[str, Any]) -> None:
    """Its results lie where the dates of its slot say, and it knows its slot."""
    slot = slot_of(run)
    output = f"s3://results/sched/{slot:%Y-%m-%d}/{slot.astimezone(UTC):%Y%m%dT%H%M%SZ}/"
    assert run["output_uri"] == output
    assert (run["documents"], run["errors"], run["cost_usd"]) == (DOCUMENTS, 0, 0)
    layout = RunLayout.of(output, run["run_id"])

    def read(key: str) -> Any:
        return json.loads(stack.s3_client().get_object(Bucket="results", Key=key)["Body"].read())

    manifest, file = read(layout.manifest), read(layout.run_json)
    assert (manifest["state"], manifest["totals"]["ok"]) == ("completed", DOCUMENTS)
    assert datetime.fromisoformat(file["nominal_start"]) == slot
    assert file["job"]["output"]["uri"] == output


def test_a_schedule_runs_skips_pauses_and_is_deleted(
    docbatch: Docbatch, stack: LocalStack, latency: Callable[[float], None]
) -> None:
    code, out, _ = docbatch("schedule", "create", "often", "job.yaml", "--every", "2s")
    assert (code, out.startswith("schedule often: next run 20")) == (0, True)
    code, _, err = docbatch("schedule", "create", "often", "job.yaml", "--every", "1h")
    assert (code, "schedule 'often' exists already; --replace changes its job and its times" in err) == (2, True)

    now = wait_for(docbatch, "often", lambda now: len(completed(now)) >= 3)
    slots = sorted(slot_of(run) for run in completed(now))
    assert all(slot.timestamp() % 2 == 0 for slot in slots)
    for run in completed(now)[:3]:
        check_run(stack, run)

    latency(3)  # a run that takes longer than from slot to slot
    now = wait_for(docbatch, "often", lambda now: now["skipped"] >= 1)
    assert docbatch("schedule", "pause", "often", "--reason", "enough")[0] == 0
    latency(0)
    text = docbatch("schedule", "show", "often")[1]
    assert re.search(r"^slots +\d+ started, \d+ skipped \(the run before was still going\), 0 missed$", text, re.M)
    assert "state        paused (enough)" in text
    assert len(re.findall(r"^(?:next|    ) +\w{3} 20\d\d-", text, re.M)) == 5

    before = wait_for(docbatch, "often", lambda now: len(completed(now)) == len(now["runs"]))
    time.sleep(4.5)  # two slots
    after = show(docbatch, "often")
    assert (after["started"], after["skipped"]) == (before["started"], before["skipped"])

    code, out, err = docbatch("schedule", "trigger", "often")  # also of a paused one
    assert code == 0, err
    run_id = out.strip()
    assert docbatch("status", run_id, "--watch")[0] == 0
    assert json.loads(docbatch("results", run_id, "--json", "--head", "1")[1])["run_id"] == run_id

    assert "often" in docbatch("schedule", "list")[1]
    assert docbatch("schedule", "delete", "often")[0] == 0
    for command in (["show"], ["delete"], ["pause"], ["trigger"]):
        code, _, err = docbatch("schedule", *command, "often")
        assert (code, "there is no schedule 'often' in Temporal's namespace 'default'" in err) == (2, True)
    assert docbatch("status", run_id)[0] == 0


def test_backfill_gives_the_runs_that_the_policy_says(
    docbatch: Docbatch, stack: LocalStack, latency: Callable[[float], None]
) -> None:
    made = ["schedule", "create", "hourly", "job.yaml", "--cron", "0 * * * *", "--time-zone", "Asia/Tokyo", "--paused"]
    assert docbatch(*made)[0] == 0
    day = datetime.now(UTC) - timedelta(days=3)
    next_day = f"{day + timedelta(days=1):%Y-%m-%d}"
    slots = ("hourly", "--from", f"{day:%Y-%m-%d}T15:00", "--to", f"{day:%Y-%m-%d}T19:00")

    code, out, err = docbatch("schedule", "backfill", *slots)
    assert code == 0, err
    assert out.startswith(f"5 slots, from {day:%Y-%m-%d} 15:00:00+09:00 to {day:%Y-%m-%d} 19:00:00+09:00")
    now = wait_for(docbatch, "hourly", lambda now: len(completed(now)) == 5)
    runs = sorted(completed(now), key=lambda run: run["run_id"])
    assert [f"{slot_of(run):%H}" for run in runs] == ["06", "07", "08", "09", "10"]  # UTC
    for earlier, later in itertools.pairwise(runs):  # one after another
        assert earlier["closed_at"] <= later["started_at"]
    for run in runs:
        check_run(stack, run)

    # The date is the time zone's: 23:00 UTC is eight in the morning of the next day in Tokyo.
    latency(1.5)
    code, out, err = docbatch(
        *("schedule", "backfill", "hourly", "--overlap", "skip"),
        *("--from", f"{day:%Y-%m-%d}T23:00Z", "--to", f"{next_day}T03:00Z"),
    )
    assert (code, out[:8]) == (0, "5 slots,"), err
    now = wait_for(docbatch, "hourly", lambda now: len(completed(now)) == 6)
    assert (now["started"], now["skipped"]) == (6, 4)
    first = next(run for run in now["runs"] if "T23:00:00Z" in run["run_id"])
    assert first["output_uri"].startswith(f"s3://results/sched/{next_day}/{day:%Y%m%d}T230000Z/")
    latency(0)

    # A slot that was run already: nothing failed in it, so nothing is asked again, and its account stays.
    again = (
        *slots[:-1],
        f"{day:%Y-%m-%d}T15:00",
    )
    assert docbatch("schedule", "backfill", *again)[1].startswith("1 slots")
    wait_for(docbatch, "hourly", lambda now: now["started"] == 7 and len(completed(now)) == len(now["runs"]))
    status = json.loads(docbatch("status", runs[0]["run_id"], "--json")[1])
    assert (status["state"], status["generation"], status["documents"]) == ("completed", 2, DOCUMENTS)
    assert docbatch("verify", runs[0]["run_id"])[0] == 0

    for frm, to, message in (
        ("2026-11-20", "2026-11-19", "a backfill goes forward in time, not from 2026-11-19T15:00:00+00:00 to"),
        ("2120-01-01", "2120-01-02", "a backfill is of the past; 2119-12-31T15:00:00+00:00 lies in the future"),
        ("2026-11-20T00:01", "2026-11-20T00:59", "schedule 'hourly' has no slot from"),
    ):
        code, _, err = docbatch("schedule", "backfill", "hourly", "--from", frm, "--to", to)
        assert (code, message in err) == (2, True), err

    # Frozen: the job changes only by --replace, and the schedule stays paused with its counts.
    Path("job.yaml").write_text(JOB.replace("label this", "file this"))
    assert docbatch(*made[:-1], "--replace")[0] == 0
    now = show(docbatch, "hourly")
    assert "file this" in now["job"]["prompt"]["user"]
    assert (now["paused"], now["started"], now["timing"]["cron"]) == (True, 7, "0 * * * *")
    assert docbatch("schedule", "delete", "hourly")[0] == 0


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (JOB, ["--cron", "0 2 * *"], "cron '0 2 * *': Invalid schedule spec: CronString does not have 5-7 fields"),
        (JOB, ["--cron", "99 2 * * *"], "cron '99 2 * * *': Invalid schedule spec: Minute is not in range [0-59]"),
        (
            JOB.replace("corpus/sched/", "corpus/nothing/"),
            ["--every", "6h"],
            "source.uri: there is no object",
        ),
        (
            JOB.replace("s3://results", "s3://no-such-bucket"),
            ["--every", "6h"],
            "output.uri: s3://no-such-bucket/",
        ),
        (
            JOB.replace("simulated-small", "no-such-model"),
            ["--every", "6h"],
            "model.name: no-such-model does",
        ),
    ],
)
def test_what_would_not_work_is_refused(text: str, options: list[str], message: str, docbatch: Docbatch) -> None:
    Path("job.yaml").write_text(text)
    code, _, err = docbatch("schedule", "create", "refused", "job.yaml", *options)
    assert (code, err.startswith(f"docbatch: {message}")) == (2, True), err
    assert docbatch("schedule", "show", "refused")[0] == 2


def test_a_slot_that_cannot_be_run_says_why(docbatch: Docbatch) -> None:
    output = """ "s3://{{ 'corpus/sched' if date < '2026-01-01' else 'results/sched' }}/" """
    Path("job.yaml").write_text(re.sub(r"(?<=output: {uri: ).*(?=})", output, JOB))
    assert docbatch("schedule", "create", "sometimes", "job.yaml", "--cron", "0 2 * * *", "--paused")[0] == 0
    assert docbatch("schedule", "backfill", "sometimes", "--from", "2025-11-22", "--to", "2025-11-22")[0] == 0
    now = wait_for(docbatch, "sometimes", lambda now: bool(now["runs"]) and now["runs"][0]["state"] != "running")
    assert now["runs"][0]["state"] == "failed"
    code, _, err = docbatch("status", now["runs"][0]["run_id"])
    assert (code, "began: JobError: job 'sched' for 2025-11-22T02:00:00+00:00" in err) == (2, True), err
    assert docbatch("schedule", "delete", "sometimes")[0] == 0


def test_a_dated_source_may_still_be_empty(docbatch: Docbatch) -> None:
    Path("job.yaml").write_text(JOB.replace("corpus/sched/", "corpus/sched-{{ date }}/"))
    code, _, err = docbatch("schedule", "create", "dated", "job.yaml", "--every", "6h")
    assert code == 0
    assert f"docbatch: source.uri: there is no object under s3://corpus/sched-{datetime.now(UTC):%Y-%m-%d}/" in err
    assert docbatch("schedule", "delete", "dated")[0] == 0


def test_a_run_by_hand_for_a_date_and_the_list(docbatch: Docbatch, stack: LocalStack) -> None:
    code, out, err = docbatch("run", "job.yaml", "--run-id", "sched-by-hand", "--date", "2026-02-28", "--json")
    assert code == 0, err
    assert json.loads(out)["results_uri"].startswith(
        "s3://results/sched/2026-02-28/20260228T000000Z/runs/sched-by-hand/"
    )

    async def found() -> int:
        temporal = (await connect()).temporal
        assert await visibility.registered(temporal)
        query = f"{c.JOB_ATTRIBUTE} = 'sched' AND {c.STATE_ATTRIBUTE} = 'completed' AND WorkflowId = 'sched-by-hand'"
        for _ in range(50):  # visibility lags
            if count := (await temporal.count_workflows(query)).count:
                return count
            await asyncio.sleep(0.1)
        return 0

    assert asyncio.run(found()) == 1
    newest = json.loads(docbatch("list", "--job", "sched", "--state", "completed", "--json")[1])[0]
    assert (newest["run_id"], newest["documents"], newest["cost_usd"]) == ("sched-by-hand", DOCUMENTS, 0)
    assert json.loads(docbatch("list", "--job", "sched", "--state", "paused", "--json")[1]) == []
    assert json.loads(docbatch("list", "--job", "o'hara", "--json")[1]) == []
    lines = docbatch("list", "--job", "sched")[1].splitlines()
    assert lines[0].split() == ["run", "job", "state", "age", "docs", "cost"]
    assert lines[1].split()[0] == "sched-by-hand" and max(map(len, lines)) <= 80


async def test_from_python(stack: LocalStack, corpus: None) -> None:
    with stack.applied_environment():
        job = Job.parse({**JOB_DATA, "source": {"uri": "s3://corpus/sched/"}})
        schedule = await create_schedule("python", job, Timing(cron="30 1 * * *", time_zone="Europe/Berlin"))
        status = await schedule.status()
        await schedule.delete()
    assert [(at.hour, at.minute, str(at.tzinfo)) for at in status.next_times] == [(1, 30, "Europe/Berlin")] * 5
    assert status.timing.catch_up == timedelta(hours=6)
    assert status.job == job


JOB_DATA: dict[str, Any] = {
    "name": "sched",
    "prompt": {"user": "{{ text }}"},
    "model": {"name": "simulated-small"},
    "output": {"uri": "s3://results/sched/{{ date }}/"},
}
