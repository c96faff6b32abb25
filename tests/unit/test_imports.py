"""Arrows run one way, from folder to folder and from file to file, and the workflow sandbox loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import batch

ROOT = Path(__file__).parents[2]
HEAVY = ("pydantic", "polars", "pyarrow", "obstore", "openai")
MOST_FILES = 16
"""Files of one folder: more, and nobody finds anything in it."""

BELOW = {
    # batch: what a run is, in floors from the ground up
    "batch/schema": "",
    "batch/storage": "",
    "batch/network": "",
    "batch/workflows": "",
    "batch/job": "schema storage",
    "batch/corpus": "job schema storage",
    "batch/files": "corpus job schema storage workflows",
    "batch/client": "corpus files job network storage workflows",
    "batch/previews": "client corpus files job schema storage workflows",
    "batch/terminal": "client corpus files job previews schema storage workflows",
    "batch/report": "client files terminal",
    "batch/local/simulator": "network",
    "batch/local": "client files job network storage terminal workflows",
    "batch/cli": "client files job local local/simulator network previews report storage terminal workflows",
    "batch": "cli client job network previews storage",
    # workers: what does the work; of batch, only what is named here
    "workers/extract/files": "batch/schema",
    "workers/extract/web": "batch/schema extract/files",
    "workers/extract/pdf": "batch/schema extract/files extract/web",
    "workers/extract/office": "batch/schema extract/files",
    "workers/extract/mail": "batch/schema extract/files extract/office extract/web",
    "workers/extract": "batch/schema extract/files extract/mail extract/office extract/pdf extract/web",
    "workers/sources": "batch/corpus batch/files batch/job batch/schema batch/storage",
    "workers/observe": "batch/schema batch/workflows",
    "workers/llm/answers": "batch/schema",
    "workers/llm/transport": "batch/network batch/schema llm/answers",
    "workers/llm/limits": "batch/job batch/workflows llm/answers observe",
    "workers/llm": "batch/job batch/schema llm/answers llm/limits llm/transport observe",
    "workers/documents": "batch/corpus batch/files batch/job batch/schema batch/storage extract llm llm/answers",
    "workers/partition": "batch/corpus batch/files batch/schema batch/storage batch/workflows"
    " documents extract llm llm/limits llm/transport observe",
    "workers/plan": "batch/corpus batch/files batch/storage batch/workflows observe partition sources",
    "workers/preview": "batch/corpus batch/previews batch/storage batch/workflows"
    " documents extract llm llm/limits llm/transport observe partition sources",
    "workers/batch_mode": "batch/corpus batch/schema batch/storage batch/workflows"
    " documents extract llm llm/answers llm/limits llm/transport observe partition",
    "workers/finish": "batch/corpus batch/files batch/schema batch/storage batch/workflows"
    " batch_mode documents llm observe partition plan sources",
    "workers/process": "batch/client batch/corpus batch/files batch/job batch/network batch/schema batch/storage"
    " batch/terminal batch/workflows"
    " batch_mode extract finish llm llm/answers llm/limits llm/transport observe partition plan preview",
    "workers": "process",
}
"""The folders that each folder may import from, those of its own house without the house's name. An arrow that is not
here runs upward, or wants a good reason."""


def test_the_coordinator_loads_nothing_heavy() -> None:
    code = f"import batch.workflows.coordinator, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("name", batch.__all__)
def test_each_public_name_is_where_it_is_defined(name: str) -> None:
    """Also the errors that a script catches and the parts that it builds a job of."""
    assert getattr(batch, name).__module__ == batch._HOMES[name]
    assert {"CheckFailed", "RunNotFound", "StorageError", "Source", "Output"} <= set(batch.__all__)


@pytest.mark.parametrize("folder", sorted(BELOW))
def test_a_folder_imports_only_what_lies_below_it(folder: str) -> None:
    below = _within(folder) | {folder}
    upward = {
        f"{module} imports {other}"
        for module, others in imports().items()
        for other in others
        if folder_of(module) == folder and folder_of(other) not in below
    }
    assert not upward


def test_each_folder_has_its_floor() -> None:
    assert {folder_of(module) for module in imports()} <= BELOW.keys()


def test_no_files_and_no_folders_import_each_other_in_a_circle() -> None:
    TopologicalSorter(imports()).prepare()
    TopologicalSorter({folder: _within(folder) for folder in BELOW}).prepare()


@pytest.mark.parametrize("house", ["batch", "workers"])
def test_nothing_lies_loose_and_no_folder_is_too_full_to_be_read(house: str) -> None:
    assert {path.name for path in (ROOT / house).glob("*.py")} == {"__init__.py", "__main__.py"}
    files = [path for path in (ROOT / house).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    folders = {path.parent for path in files}
    assert {folder.name: n for folder in folders if (n := sum(p.parent == folder for p in files)) > MOST_FILES} == {}


def _within(folder: str) -> set[str]:
    house = folder.split("/", maxsplit=1)[0]
    return {name if name.startswith("batch/") else f"{house}/{name}" for name in BELOW[folder].split()}


def folder_of(module: str) -> str:
    """The folder that a module's file lies in."""
    return str(sources()[module].parent.relative_to(ROOT))


@cache
def sources() -> dict[str, Path]:
    """The file of each module of ours."""
    found = {}
    for path in sorted([*(ROOT / "batch").rglob("*.py"), *(ROOT / "workers").rglob("*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports() -> dict[str, set[str]]:
    """Which modules of ours each one imports, also in functions and for type checkers alone."""
    found = {}
    for module, path in sources().items():
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                names |= whole & sources().keys() or {node.module or ""}
        found[module] = (names & sources().keys()) - {module}
    return found
