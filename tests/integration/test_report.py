"""`docbatch report` of a real run, opened in headless Chromium: it draws, silently, what the manifest says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from batch import connect
from batch.cli.main import command_line
from batch.files.manifest import Manifest
from batch.local.corpus import upload
from batch.local.stack import LocalStack
from benchmarks.synthetic import synthetic_documents

HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=document.title='taken'>"
DOCUMENTS = 80
JOB = """
name: report
source: {uri: s3://corpus/report/}
prompt: {user: "Label this. {{ text }}"}
model: {name: simulated-small}
output:
  uri: s3://results/report/
  schema:
    type: object
    properties: {label: {type: string, enum: [bug, praise]}}
    required: [label]
limits: {concurrency: 4, max_error_rate: 1.0}
partitions: {documents: 10}
"""


@pytest.fixture
def home(stack: LocalStack, tmp_path: Path) -> Iterator[Path]:
    """A user's folder, the job in it."""
    (tmp_path / "job.yaml").write_text(JOB)
    with stack.applied_environment(), contextlib.chdir(tmp_path):
        yield tmp_path


def test_report_of_a_real_run(
    home: Path, stack: LocalStack, provider: Callable[..., None], browser: webdriver.Chrome
) -> None:
    """Answers of different latencies, errors of three kinds, and a document whose name is markup."""
    bad = [(f"{HOSTILE}.txt", b"\x00\x01 no text \xff"), ("empty.txt", b"")]
    upload(stack.environment(), "corpus", "report", [*synthetic_documents(DOCUMENTS - len(bad), 200), *bad])
    provider(rate_truncated=0.1, latency_median=0.05, latency_sigma=0.7)
    assert command_line(["run", "job.yaml", "--run-id", "report-1"]) == 1
    assert command_line(["report", "report-1"]) == 0
    manifest = asyncio.run(read_manifest("report-1"))
    totals = manifest.totals
    assert totals.documents == DOCUMENTS and totals.ok > 50 and len(totals.errors_by_type) == 3

    open_page(browser, home / "report-1.html")
    shown = {
        element.get_attribute("data-figure"): float(element.get_attribute("data-value") or "nan")
        for element in browser.find_elements(By.CSS_SELECTOR, "[data-figure]")
    }
    names = ("documents", "ok", "errors", "prompt_tokens", "cached_tokens", "completion_tokens", "cost_usd")
    assert {name: shown[name] for name in (*names, "retryable_errors")} == {
        name: getattr(totals, name) for name in (*names, "retryable_errors")
    }
    assert shown["seconds"] == manifest.seconds
    text = browser.find_element(By.ID, "equation").text
    assert text == f"documents = ok + error: {DOCUMENTS} = {totals.ok} + {totals.errors}"
    assert browser.find_element(By.ID, "verdict").text == "as in the manifest"
    assert "simulated" in browser.find_element(By.ID, "simulated").text

    # What is drawn adds up to the same.
    drawn = {name: traces(browser, name) for name in ("throughput", "latency", "tokens", "errors", "partitions")}
    assert sum(drawn["throughput"]["ok"]["y"]) == totals.ok
    assert sum(drawn["throughput"]["errors"]["y"]) == totals.errors
    assert sum(drawn["tokens"]["in"]["y"]) == totals.prompt_tokens
    assert sum(drawn["latency"]["answers"]["y"]) == DOCUMENTS - len(bad)
    types = dict.fromkeys(drawn["errors"]["final"]["y"], 0.0)
    for trace in drawn["errors"].values():
        for kind, count in zip(trace["y"], trace["x"], strict=True):
            types[kind] += count
    assert types == totals.errors_by_type
    assert len(browser.find_elements(By.CSS_SELECTOR, ".chart svg.main-svg")) >= len(drawn)

    # Other people's text stays text.
    assert HOSTILE in browser.find_element(By.ID, "errors").text
    assert browser.title == "report-1 - docbatch report"
    assert browser.find_elements(By.CSS_SELECTOR, "#errors img, #errors script") == []
    assert browser.get_log("browser") == []
    assert requested(browser) == []
    picture = home / "report.png"
    assert browser.save_screenshot(str(picture))
    assert picture.stat().st_size > 50_000  # an empty page of this size has less than half of it


def test_report_of_a_run_without_rows_yet(
    home: Path,
    stack: LocalStack,
    provider: Callable[..., None],
    browser: webdriver.Chrome,
    capsys: pytest.CaptureFixture[str],
) -> None:
    upload(stack.environment(), "corpus", "report", synthetic_documents(20, 200))
    provider(latency=5.0)
    assert command_line(["run", "job.yaml", "--run-id", "report-2", "--detach"]) == 0
    try:
        deadline = time.monotonic() + 30
        while command_line(["report", "report-2", "--export", "early.html"]) != 0:
            assert "has not begun yet" in capsys.readouterr().err and time.monotonic() < deadline
            time.sleep(0.2)
        open_page(browser, home / "early.html")
        assert "nothing to draw" in browser.find_element(By.ID, "empty").text
        assert browser.get_log("browser") == []
    finally:
        command_line(["cancel", "report-2", "--no-wait"])


def test_report_of_no_run(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(["report", "nobody"]) == 2
    assert "there is no run 'nobody'" in capsys.readouterr().err


async def read_manifest(run_id: str) -> Manifest:
    manifest = await (await (await connect()).run(run_id)).manifest()
    assert manifest is not None
    return manifest


def open_page(browser: webdriver.Chrome, path: Path) -> None:
    browser.get_log("browser"), browser.get_log("performance")  # only what comes from now on
    browser.get(path.as_uri())
    WebDriverWait(browser, 20).until(
        lambda opened: opened.execute_script(
            "return [...document.querySelectorAll('.chart')].every(chart => chart.querySelector('svg.main-svg'))"
        )
    )


def traces(browser: webdriver.Chrome, name: str) -> dict[str, dict[str, list[Any]]]:
    """The traces that plotly drew of a chart, by name."""
    found = browser.execute_script(
        "return document.getElementById(arguments[0]).data.map(t => [t.name || '', [...t.x], [...t.y]])",
        f"chart-{name}",
    )
    return {trace: {"x": x, "y": y} for trace, x, y in found}


def requested(browser: webdriver.Chrome) -> list[str]:
    """What the page asked for beside itself."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith(("file:", "data:", "blob:"))]
