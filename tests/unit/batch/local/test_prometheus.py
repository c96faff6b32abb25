"""The local stack's Prometheus: its configuration, and a stack that does without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from batch.local import stack as stack_module
from batch.local.options import StackOptions
from batch.local.prometheus import ScrapeTargets, processes_of
from batch.local.stack import LocalStack


def test_every_process_of_every_worker_is_a_target(tmp_path: Path) -> None:
    targets = ScrapeTargets(tmp_path, 5, "/secret")
    path = tmp_path / "workers.json"
    assert json.loads(path.read_text()) == [{"targets": []}]
    targets.add_worker("worker-0", 9000, ["--slots", "4"])
    targets.add_worker("worker-1", 9100, ["--slots", "4", "--processes", "3"])
    targets.add_worker("worker-0", 9000, ["--processes=2"])  # started again with other arguments
    addresses = ["127.0.0.1:9000", "127.0.0.1:9001", "127.0.0.1:9100", "127.0.0.1:9101", "127.0.0.1:9102"]
    assert json.loads(path.read_text()) == [{"targets": addresses}]
    config = yaml.safe_load((tmp_path / "prometheus.yaml").read_text())
    assert config["scrape_configs"][0]["file_sd_configs"] == [{"files": [str(path)]}]
    assert [len(list(Path(glob).parent.glob(Path(glob).name))) for glob in config["rule_files"]] == [1, 1]
    assert "--web.listen-address=127.0.0.1:9999" in targets.command("prometheus", 9999)


def test_the_last_of_several_options_counts() -> None:
    assert processes_of([]) == 1
    assert processes_of(["--processes", "2", "--processes", "4"]) == 4


def test_a_stack_without_prometheus_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack_module, "find_prometheus", lambda: None)
    stack = LocalStack(StackOptions(data=tmp_path, scrape_seconds=5))
    stack._prepare_data()
    servers = stack._prepare_servers()
    assert [server.name for server in servers] == ["provider", "s3", "temporal"]
    assert stack.prometheus_url is None
    assert stack.notes == [
        "Prometheus is not installed (apt-get install prometheus): only the workers' own ports have metrics."
    ]
    stack.stop()
