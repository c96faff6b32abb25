"""Every query of every panel, rule and alert, evaluated by a real Prometheus that scraped a real run.

The run has retries, refusals by the rate limit, error rows, a pause, a partition that is given up, and its worker is
stopped at the end. A query is evaluated over the whole time: one without a sample, or with zeros alone, has to be named
here with the reason.
"""

from __future__ import annotations

import asyncio
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from batch import Job, connect
from batch.client.run import Connection, Run
from batch.files.manifest import Manifest
from batch.local.corpus import upload_async
from batch.local.options import StackOptions
from batch.local.prometheus import INSTALL
from batch.local.stack import LocalStack
from batch.storage.store import Storage
from batch.workflows import contracts as c
from batch.workflows.states import State
from benchmarks.synthetic import synthetic_documents
from tests.provider import behave

ROOT = Path(__file__).parents[2]
DASHBOARDS = ROOT / "dashboards"
JOB, IN_BATCHES = "scraped", "scraped-in-batches"
POISON = "POISON-9"
SCHEMA = {"type": "object", "properties": {"label": {"type": "string"}}, "required": ["label"]}
GRAFANA = {
    "$__rate_interval": "5s",
    "$__range": "5m",
    # Values, never `.*`, which would match series that lack the label.
    "$job_name": f"{JOB}|{IN_BATCHES}",
    "$model": "simulated-small",
    "$instance": "127.0.0.1:.+",
    "$task_queue": "docbatch|docbatch-control",
    "$job": "docbatch-worker",
}
"""What Grafana puts in the place of its variables."""

EXPECTED_EMPTY = {
    "workers / Failed workflow tasks / {{workflow_type}} {{failure_reason}}": "no workflow code is at fault",
    "workers / Failed requests to Temporal / {{operation}} {{status_code}}": "Temporal answers all the time",
    "workers / Sticky cache: hits and misses / miss": "two processes hold all workflows in memory",
    "alert DocbatchNoProgress": "documents are answered right from the start",
    "alert DocbatchControlDelayed": "two processes keep up with one run",
    "alert DocbatchPartitionsDelayed": "nothing waited an hour ago",
    "alert DocbatchNondeterminism": "the workflow code does not change",
    "alert DocbatchReconciliationFailed": "the run reconciles",
    "alert DocbatchControlGone": "every worker polls for the control too",
    "alert DocbatchRunAborted": "the run ends by itself",
    "alert DocbatchBudgetNearlySpent": "the maximum cost is far away",
}
NEVER_FIRING = {
    f"alert Docbatch{name}" for name in ("ControlGone", "RunAborted", "ReconciliationFailed", "BudgetNearlySpent")
}
"""At the end of the run, with its workers still there."""
EXPECTED_ZERO: dict[str, str] = {}


def program(name: str) -> str:
    """The program, else the test is skipped; in CI it fails."""
    found = shutil.which(name)
    if found is None and os.environ.get("CI") == "true":
        pytest.fail(f"`{name}` is not installed: {INSTALL}")
    if found is None:
        pytest.skip(f"`{name}` is not installed: {INSTALL}")
    return found


def test_rules_and_alerts_pass_their_unit_tests() -> None:
    promtool = program("promtool")
    rules = sorted((DASHBOARDS / "rules").glob("*.yaml"))
    tests = sorted((DASHBOARDS / "rules" / "tests").glob("*.yaml"))
    assert len(rules) == 2 and tests
    for command in (["check", "rules", *map(str, rules)], ["test", "rules", *map(str, tests)]):
        done = subprocess.run([promtool, *command], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@dataclass(frozen=True)
class Scraped:
    """A stack whose run is over and whose worker has ended; `start` and `end` are Unix seconds."""

    url: str
    start: float
    end: float
    manifest: Manifest
    ports: list[int]

    def api(self, path: str, **parameters: Any) -> Any:
        return api(self.url, path, **parameters)

    def over_time(self, query: str) -> list[dict[str, Any]]:
        """Every series of the query, a value each second of the run's time."""
        found = self.api("query_range", query=query, start=self.start, end=self.end, step=1)
        return list(found["result"])

    def numbers(self, query: str) -> list[float]:
        values = [float(value) for series in self.over_time(query) for _, value in series["values"]]
        return [value for value in values if not math.isnan(value)]

    def last(self, query: str) -> float:
        """The one value at the end, from before the worker was stopped."""
        result = self.api("query", query=query, time=self.end)["result"]
        assert len(result) == 1, (query, result)
        return float(result[0]["value"][1])


def api(url: str, path: str, **parameters: Any) -> Any:
    """An answer of Prometheus' HTTP API; a query that does not parse raises with Prometheus' own words."""
    address = f"{url}/api/v1/{path}?{urllib.parse.urlencode(parameters, doseq=True)}"
    try:
        with urllib.request.urlopen(address, timeout=20) as answer:
            return json.loads(answer.read())["data"]
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{parameters}: {error.read().decode()}") from None


@pytest.fixture(scope="module")
def scraped() -> Iterator[Scraped]:
    program("prometheus")
    arguments = ["--heartbeat-throttle-seconds", "1", "--count-runs-seconds", "1", "--processes", "2", "--slots", "4"]
    provider = ["--latency", "0.1", "--rate-429", "0.3", "--rate-500", "0.05", "--retry-after", "0.2"]
    provider += ["--rate-invalid", "0.1"]
    options = StackOptions(
        workers=1,
        worker_args=arguments,
        ui=False,
        scrape_seconds=1,
        provider_args=[*provider, "--poison-marker", POISON],
    )
    with LocalStack(options) as stack:
        assert stack.prometheus_url
        port = int(stack.metrics_url(stack.workers[0]).split(":")[2].split("/")[0])
        until(lambda: number(stack, "sum(up)") == 2, "both processes are scraped")
        start = time.time() - 3
        with stack.applied_environment():
            manifest = asyncio.run(eventful_run(stack))
        time.sleep(2.5)  # a scrape, and an evaluation of the rules, after the last event
        end = time.time()
        stack.workers[0].kill(signal.SIGTERM)
        stack.workers[0].wait(60)
        until(lambda: number(stack, "sum(up)") == 0, "the worker that was stopped is noticed")
        time.sleep(1.5)
        yield Scraped(stack.prometheus_url, start, end, manifest, [port, port + 1])


def until(holds: Any, what: str, within: float = 120.0) -> None:
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(0.2)


def number(stack: LocalStack, query: str) -> float | None:
    result = api(str(stack.prometheus_url), "query", query=query)["result"]
    return float(result[0]["value"][1]) if result else None


async def eventful_run(stack: LocalStack) -> Manifest:
    documents = list(synthetic_documents(160, 300, 11))
    documents += [(f"poison/{index}.txt", f"{POISON} number {index}".encode()) for index in range(30)]
    documents += [(f"zz/empty-{index}.txt", b"") for index in range(3)]
    await upload_async(stack.environment(), "corpus", JOB, documents)
    job = Job.parse(
        {
            "name": JOB,
            "source": {"uri": f"s3://corpus/{JOB}/"},
            "prompt": {"user": "Label this.\n{{ text }}"},
            "model": {"name": "simulated-small", "prices": {"input": 1.0, "output": 2.0}},
            "output": {"uri": f"s3://results/{JOB}/", "schema": SCHEMA},
            "partitions": {"documents": 20},
            "limits": {
                "concurrency": 8,
                "max_error_rate": 0.9,
                "requests_per_minute": 6000,
                "tokens_per_minute": 2_000_000,
                "max_cost_usd": 100.0,
            },
        }
    )
    connection = await connect()
    tuning = replace(c.Tuning(), max_barren_attempts=1)
    run = await connection.start(job, tuning=tuning, check_model=False)
    async for status in run.watch(every=0.1):
        if status.in_progress + status.documents >= 40:
            break
    behave(stack, fail_all="insufficient_quota")
    paused = partial(number, stack, f'max(docbatch_runs{{job_name="{JOB}",state="paused"}})')
    await asyncio.to_thread(until, lambda: paused() == 1, "Prometheus knows that the run is paused")
    await asyncio.sleep(2)
    torn, sound = await tear_plan(connection, run)
    behave(stack, fail_all=None)
    await run.resume()
    given_up = partial(number, stack, 'sum(docbatch_partitions_total{status="given_up"})')
    await asyncio.to_thread(until, lambda: given_up() == 1, f"partition {torn} is given up")
    await connection.storage.put("results", run.layout.plan(0), sound)
    await in_batches(connection)
    result = await run.wait()
    assert result.state == State.COMPLETED_WITH_FAILURES, result
    assert (result.documents, result.partitions["failed"]) == (193, 1)
    manifest = await run.manifest()
    assert manifest is not None
    return manifest


async def in_batches(connection: Connection) -> None:
    """A job of the provider's Batch API beside the other, over some of its documents."""
    job = Job.parse(
        {
            "name": IN_BATCHES,
            "source": {"uri": f"s3://corpus/{JOB}/", "include": ["zz/*", "poison/1*"]},
            "prompt": {"user": "{{ text }}"},
            "model": {"name": "simulated-small", "mode": "batch"},
            "output": {"uri": f"s3://results/{IN_BATCHES}/"},
            "limits": {"max_error_rate": 1.0},
        }
    )
    result = await (await connection.start(job, check_model=False)).wait()
    assert result.documents == 14, result


async def tear_plan(connection: Connection, run: Run) -> tuple[int, bytes]:
    """Spoils the plan of the last partition without a result: its number, and the plan as it was."""
    storage: Storage = connection.storage
    done = {entry.key for entry in await storage.list_all("results", run.layout.results)}
    plan = await storage.get("results", run.layout.plan(0))
    file = pq.ParquetFile(io.BytesIO(plan))
    spoiled = max(n for n in range(file.num_row_groups) if run.layout.result(0, n) not in done)
    schema = pa.schema([field.with_nullable(True) for field in file.schema_arrow])
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, schema) as writer:
        for number in range(file.num_row_groups):
            table = file.read_row_group(number).cast(schema)
            if number == spoiled:
                at = schema.get_field_index("size")
                table = table.set_column(at, schema.field(at), pa.nulls(table.num_rows, schema.field(at).type))
            writer.write_table(table)
    await storage.put("results", run.layout.plan(0), sink.getvalue())
    return spoiled, plan


def queries() -> dict[str, str]:
    """Name and PromQL of every query of every panel, recording rule and alert, Grafana's variables filled in."""
    found = {}
    for path in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                expr = target["expr"]
                for variable in sorted(GRAFANA, key=len, reverse=True):
                    expr = expr.replace(variable, GRAFANA[variable])
                assert "$" not in expr, expr
                found[f"{path.stem} / {panel['title']} / {target['legendFormat']}"] = expr
    for path in sorted((DASHBOARDS / "rules").glob("*.yaml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                name = f"rule {rule['record']}" if "record" in rule else f"alert {rule['alert']}"
                found[name] = rule["expr"]
                if "record" in rule:
                    found[f"recorded {rule['record']}"] = rule["record"]
    return found


def test_every_query_of_every_panel_rule_and_alert(scraped: Scraped) -> None:
    asked = queries()
    assert EXPECTED_EMPTY.keys() | EXPECTED_ZERO.keys() <= asked.keys()
    late = replace(scraped, end=scraped.end + 4)  # with the worker down
    empty, zero = set(), set()
    for name, query in asked.items():
        numbers = late.numbers(query)
        if not numbers:
            empty.add(name)
        elif not any(numbers) and not name.startswith("alert "):  # of an alert any sample is one that fires
            zero.add(name)
    print(
        f"\n{len(asked)} queries evaluated: {len(asked) - len(empty) - len(zero)} with data, "
        f"{len(zero)} zero as expected, {len(empty)} empty as expected"
    )
    assert empty <= EXPECTED_EMPTY.keys(), empty - EXPECTED_EMPTY.keys()
    for name in NEVER_FIRING:
        assert scraped.api("query", query=asked[name], time=scraped.end)["result"] == [], name
    assert zero <= EXPECTED_ZERO.keys(), zero - EXPECTED_ZERO.keys()


def test_the_choices_of_every_dashboard_have_values(scraped: Scraped) -> None:
    for path in sorted(DASHBOARDS.glob("*.json")):
        for variable in json.loads(path.read_text())["templating"]["list"]:
            if variable["type"] == "query":
                match = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"])
                assert match is not None and match[2] == variable["name"]
                values = scraped.api(f"label/{match[2]}/values", **{"match[]": match[1]})
                assert values, variable["query"]


def test_prometheus_has_loaded_every_rule_and_finds_no_fault_with_it(scraped: Scraped) -> None:
    loaded = [rule for group in scraped.api("rules")["groups"] for rule in group["rules"]]
    assert {(rule["health"], rule.get("lastError")) for rule in loaded} <= {("ok", None), ("ok", "")}
    assert len(loaded) == sum(name.startswith(("rule ", "alert ")) for name in queries())
    names = {alert["labels"]["alertname"] for alert in scraped.api("alerts")["alerts"]}
    assert "DocbatchWorkerDown" in names, "pending, until its time is up"


def test_all_processes_are_scraped_and_no_label_was_taken(scraped: Scraped) -> None:
    instances = {series["metric"]["instance"] for series in scraped.over_time("docbatch_event_loop_lag_seconds_count")}
    assert instances == {f"127.0.0.1:{port}" for port in scraped.ports}
    assert [label for label in scraped.api("labels") if label.startswith("exported_")] == []
    both = scraped.over_time("sum by (instance) (increase(docbatch_documents_total[5m])) > 0")
    assert len(both) == 2, "both processes did some of the work"
    long = scraped.over_time('temporal_activity_execution_latency_seconds_bucket{le="300"}')
    assert long, "Temporal's own buckets end at 60 s"


def test_a_finished_runs_numbers_stand_and_begin_at_0(scraped: Scraped) -> None:
    """What Prometheus counted is what the manifest says, also by `increase`, which sees differences alone."""
    totals = scraped.manifest.totals
    for status, count in (("ok", totals.ok), ("error", totals.errors)):
        where = f'{{job_name="{JOB}",status="{status}"}}'
        assert scraped.last(f"sum(docbatch_documents_total{where})") == count
    assert scraped.last(f'sum(docbatch_planned_documents_total{{job_name="{JOB}"}})') == totals.documents == 193
    failed = scraped.manifest.totals.errors_by_type["partition_failed"]
    assert scraped.last('sum(docbatch_answers_total{outcome="partition_failed"})') == failed > 0
    for name in ("docbatch_documents_total", "docbatch_planned_documents_total", "docbatch_llm_requests_total"):
        for series in scraped.over_time(name):
            assert float(series["values"][0][1]) == 0, series["metric"]
        # A sum of differences: `increase` itself extrapolates to the edges of its window.
        counted = sum(float(series["values"][-1][1]) for series in scraped.over_time(name))
        increased = scraped.last(f"sum(increase({name}[5m]))")
        assert increased == pytest.approx(counted, rel=0.2) and counted > 0
