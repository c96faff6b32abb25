"""Prometheus beside the local stack: it scrapes the workers, with docbatch's recording rules and alerts loaded.

Installed by the system (`apt-get install prometheus`), not carried by a wheel: without it the stack does without.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from batch.local.folder import write_private
from batch.local.options import StackError
from batch.local.ports import LOOPBACK

INSTALL = "apt-get install prometheus"
JOB = "docbatch-worker"
"""The scrape's name, Prometheus' own label `job`: the alerts look for `docbatch` in it."""
MOST_STORED = "2GB"


def find_prometheus() -> str | None:
    """Returns the program on PATH, None where it is not installed."""
    return shutil.which("prometheus")


def dashboards_folder() -> Path:
    """Where docbatch's dashboards (`*.json`) and rules (`rules/*.yaml`) are. Never imported: they are files to us."""
    spec = importlib.util.find_spec("dashboards")
    locations = spec.submodule_search_locations if spec is not None else None
    for location in locations or ():
        if (Path(location) / "rules" / "docbatch.rules.yaml").is_file():
            return Path(location)
    raise StackError("docbatch's dashboards and rules are missing: install docbatch anew")


class ScrapeTargets:
    """Prometheus' configuration, command and list of targets, in a folder of its own.

    Args:
        folder: Where configuration and data go; made if it is not there.
        scrape_seconds: Time between two scrapes, and between two evaluations of the rules.
        path: Where on its port Prometheus answers, such as `/x`: no web page finds it that does not know it.
    """

    def __init__(self, folder: Path, scrape_seconds: float, path: str) -> None:
        self.folder = folder
        self._path = path
        self._targets = folder / "workers.json"
        self._ports: dict[str, list[int]] = {}
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        rules = dashboards_folder() / "rules"
        interval = f"{scrape_seconds * 1000:.0f}ms"
        config = {
            "global": {
                "scrape_interval": interval,
                "scrape_timeout": interval if scrape_seconds < 10 else "10s",
                "evaluation_interval": interval,
            },
            "rule_files": [str(rules / "*.rules.yaml"), str(rules / "*.alerts.yaml")],
            "scrape_configs": [{"job_name": JOB, "file_sd_configs": [{"files": [str(self._targets)]}]}],
        }
        write_private(folder / "prometheus.yaml", yaml.safe_dump(config, sort_keys=False))
        self._write()

    def command(self, program: str, port: int) -> list[str]:
        return [
            program,
            f"--config.file={self.folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--storage.tsdb.retention.size={MOST_STORED}",
            f"--web.listen-address={LOOPBACK}:{port}",
            f"--web.external-url=http://{LOOPBACK}:{port}{self._path}",
            "--web.cors.origin=^$",  # by default any web page may ask
            "--log.level=warn",
        ]

    def add_worker(self, name: str, port: int, arguments: Sequence[str]) -> None:
        """Scrapes a worker from now on: each of its processes, on ports from `port` up."""
        self._ports[name] = [port + index for index in range(processes_of(arguments))]
        self._write()

    def _write(self) -> None:
        """Prometheus watches the file, and takes a new one within a second."""
        addresses = [f"{LOOPBACK}:{port}" for ports in self._ports.values() for port in ports]
        write_private(self._targets, json.dumps([{"targets": addresses}]) + "\n")


def processes_of(arguments: Iterable[str]) -> int:
    """Tells how many processes a worker with these arguments has (`--processes N`)."""
    count, before = 1, ""
    for argument in arguments:
        if before == "--processes":
            count = int(argument)
        elif argument.startswith("--processes="):
            count = int(argument.partition("=")[2])
        before = argument
    return count
