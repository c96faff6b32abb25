"""`status --watch` as a person sees it: in a terminal of 80x24, and in a file."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from batch import Job, RunResult, start
from batch.local.corpus import upload
from batch.local.isolation import isolated_environment
from batch.local.stack import LocalStack
from benchmarks.synthetic import synthetic_documents
from tests.integration.screen import watch
from tests.provider import behave

DOCUMENTS = 240
JOB = """
name: watching
source: {uri: s3://corpus/watching/}
prompt: {user: "Label this. {{ text }}"}
model: {name: simulated-small}
output: {uri: s3://results/watching/}
limits: {concurrency: 16, max_error_rate: 1.0}
partitions: {documents: 60, in_flight: 2}
"""


LIVE = re.compile(r"^partitions [123] of 4.*\s+^errors: .*; in progress: \w+ \d", re.MULTILINE)


@dataclass
class Watched:
    """One run, seen in three ways at once: screens of a terminal, lines of a file, statuses of the Python client."""

    codes: tuple[int, int]
    screens: list[str]
    lines: list[str]
    statuses: list[RunResult]


@pytest.fixture(scope="module")
def watched(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """A run with errors of two kinds, which lasts until there is something to see everywhere, and then hurries."""
    upload(stack.environment(), "corpus", "watching", synthetic_documents(DOCUMENTS, 200))
    folder = tmp_path_factory.mktemp("watching")
    environment = {**isolated_environment(), **stack.environment()}
    command = [str(Path(sys.executable).with_name("docbatch")), "status", "watching-1", "--watch"]
    screens, piped, statuses = list[str](), folder / "piped.txt", list[RunResult]()
    behave(stack, latency=1.2, rate_truncated=0.08, rate_refusal=0.08)
    try:
        with stack.applied_environment(), ThreadPoolExecutor() as threads, piped.open("wb") as file:
            started = threading.Event()
            followed = threads.submit(asyncio.run, follow(statuses, started))
            assert started.wait(60)
            logged = subprocess.Popen(command, stdout=file, env=environment)
            shown = threads.submit(watch, command, environment, screens)
            while not (any(LIVE.search(screen) for screen in screens) and "running " in piped.read_text()):
                assert not followed.done(), (screens, piped.read_text())
                time.sleep(0.1)
            behave(stack, latency=0.1)
            codes = shown.result(), logged.wait(100)
            followed.result()
    finally:
        behave(stack, latency=0, rate_truncated=0, rate_refusal=0)
    (folder / "screens.txt").write_text("\n\n=====\n".join(screens))
    return Watched(codes, screens, piped.read_text().splitlines(), statuses)


async def follow(statuses: list[RunResult], started: threading.Event) -> None:
    run = await start(Job.parse(yaml.safe_load(JOB)), run_id="watching-1")
    started.set()
    async for status in run.watch(every=0.3):
        statuses.append(status)


def test_in_a_terminal_of_80_columns(watched: Watched) -> None:
    screens = watched.screens
    assert watched.codes == (1, 1), screens[-1]
    live = [screen for screen in screens if "elapsed" in screen]
    assert all(len(screen.splitlines()) <= 8 for screen in live)
    whole = [screen for screen in live if "(simulated)" in screen]  # what was read may end within a frame
    middle = next(screen for screen in reversed(whole) if LIVE.search(screen))
    for pattern in (
        r"^watching-1  running$",
        r"━+ +\d+/240  \d+ %$",
        r"^ok \d+   errors \d+   in progress \d+$",
        r"^(-|\d+\.\d+) documents/s   in flight [1-9]\d?   elapsed 0:0\d:\d\d   ETA (-|0:\d\d:\d\d)$",
        r"^tokens [\d.]+k? in, [\d.]+k? out   cost \$0.00 \(simulated\)$",
        r"^partitions [123] of 4   shards 0 done, 1 open$",
        r"^errors: (refusal|truncated) \d+.*; in progress: (refusal|truncated) \d+",
    ):
        assert re.search(pattern, middle, re.MULTILINE), (pattern, middle)
    # The progress is gone at the end, the account stands.
    assert "elapsed" not in screens[-1]
    assert re.search(r"documents = ok \+ error: 240 = \d+ \+ \d+", screens[-1])


def test_in_a_file(watched: Watched) -> None:
    lines = watched.lines
    assert not any("\x1b" in line or "\r" in line for line in lines)
    progress = [line for line in lines if line.startswith("running ")]
    assert re.fullmatch(
        r"running    [\d,]+/240\+? documents  ok \d+  errors \d+  in flight \d+  (-|[\d.]+)/s  tokens [\d.]+k?  "
        r"ETA (-|>?0:\d\d:\d\d)",
        progress[-1],
    )
    assert any(line.startswith("  errors: ") for line in lines)
    assert any(line.startswith("documents = ok + error: 240 = ") for line in lines)


def test_numbers_of_a_live_run(watched: Watched) -> None:
    """Answers in flight, and errors by type of committed partitions and of those at work."""
    live, ended = [each for each in watched.statuses if not each.ended], watched.statuses[-1]
    assert 0 < max(each.in_flight for each in live) <= 16, "the limit of the one worker, though two partitions beat"
    assert set().union(*(each.errors_in_progress for each in live)) == {"truncated", "refusal"}
    assert any(each.errors_by_type for each in live)
    for status in watched.statuses:
        assert sum(status.errors_by_type.values()) == status.errors
    assert set(ended.errors_by_type) == {"truncated", "refusal"}
    assert (ended.in_flight, ended.errors_in_progress) == (0, {})
