"""Arrows run one way, and the workflow sandbox loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import batch

ROOT = Path(__file__).parents[2]
HEAVY = ("pydantic", "polars", "pyarrow", "obstore", "openai")


def test_the_coordinator_loads_nothing_heavy() -> None:
    code = f"import batch.workflows.coordinator, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("name", batch.__all__)
def test_each_public_name_is_where_it_is_defined(name: str) -> None:
    """Also the errors that a script catches and the parts that it builds a job of."""
    assert getattr(batch, name).__module__ == batch._HOMES.get(name, "batch.client.run")
    assert {"CheckFailed", "RunNotFound", "StorageError", "Source", "Output"} <= set(batch.__all__)


def test_batch_never_imports_workers() -> None:
    for path in (ROOT / "batch").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "workers" for name in names), path
