"""Writes the JSON of every dashboard."""

from __future__ import annotations

from pathlib import Path

from dashboards import corpus_runs, workers
from dashboards.panels import to_json

FOLDER = Path(__file__).parent


def documents() -> dict[Path, str]:
    """Path and JSON of each dashboard."""
    return {
        FOLDER / "corpus-runs.json": to_json(corpus_runs.dashboard()),
        FOLDER / "workers.json": to_json(workers.dashboard()),
    }


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text)
        print(path)  # noqa: T201
