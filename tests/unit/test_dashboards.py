"""Dashboards and rules as they lie in the folder: fresh, complete, and of metrics that exist."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from dashboards.__main__ import FOLDER, documents
from workers.observe.metrics import Metrics

RULES = FOLDER / "rules"
RUNBOOK = FOLDER.parent / "docs" / "runbook.md"
JSON = sorted(FOLDER.glob("*.json"))


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((RULES / "docbatch.alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_the_committed_json_is_what_the_code_says() -> None:
    assert {path: path.read_text() for path in JSON} == documents(), "run `make dashboards`"


@pytest.mark.parametrize("path", JSON, ids=lambda path: path.stem)
def test_every_panel_says_what_it_shows(path: Any) -> None:
    dashboard = json.loads(path.read_text())
    shown = panels(dashboard)
    assert (
        len({panel["title"] for panel in shown})
        == len(shown)
        == len({panel["gridPos"]["y"] * 24 + panel["gridPos"]["x"] for panel in shown})
    )
    for panel in shown:
        assert panel["title"] and panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24, panel["title"]
        assert panel["targets"] and all(target["legendFormat"] for target in panel["targets"]), panel["title"]
        if panel["type"] == "timeseries":
            assert panel["options"]["legend"]["showLegend"], panel["title"]
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    used = set(re.findall(r"\$(?!__)(\w+)", " ".join(t["expr"] for panel in shown for t in panel["targets"])))
    assert used == set(variables) - {"datasource"}
    if path.stem == "corpus-runs":
        assert used == {"job_name", "model"}


def test_queries_and_rules_name_only_metrics_that_exist() -> None:
    metrics = Metrics()
    known = {sample.name for family in metrics.registry.collect() for sample in family.samples}
    known |= {family.name for family in metrics.registry.collect()}
    known |= {f"{name}_total" for name in known} | {f"{name}_{end}" for name in known for end in ("bucket", "count")}
    texts = [path.read_text() for path in [*JSON, *RULES.glob("*.yaml")]]
    named = {name for text in texts for name in re.findall(r"(?<![:\w])docbatch_[a-z0-9_]+", text)}
    assert named and named <= known, named - known
    declared = {family.name for family in metrics.registry.collect() if family.name.startswith("docbatch_")}
    shown = " ".join(texts)
    assert [name for name in declared if name not in shown] == [], "a metric that nothing shows"


def test_every_alert_has_its_section_in_the_runbook() -> None:
    headings = re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert headings == [alert["alert"] for alert in alerts()]
    for alert in alerts():
        assert alert["annotations"]["runbook_url"].endswith(f"docs/runbook.md#{alert['alert'].lower()}")
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert alert["annotations"]["summary"] and alert["annotations"]["description"]


def test_every_alert_fires_in_one_unit_test_and_is_silent_in_another() -> None:
    """That they do is for promtool: tests/integration/test_prometheus.py."""
    tests = yaml.safe_load((RULES / "tests" / "docbatch.tests.yaml").read_text())["tests"]
    fires, silent = set(), set()
    for test in tests:
        cases = test.get("alert_rule_test", [])
        fires |= {case["alertname"] for case in cases if case["exp_alerts"]}
        if not any(case["exp_alerts"] for case in cases):
            silent |= {case["alertname"] for case in cases}
    names = {alert["alert"] for alert in alerts()}
    assert fires == names and silent == names
