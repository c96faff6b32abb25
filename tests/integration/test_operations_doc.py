"""The script that the documentation shows, executed exactly as it stands there: a run, and three typed rows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from batch.local.corpus import synthetic_documents, upload
from batch.local.isolation import isolated_environment
from batch.local.stack import LocalStack

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [README, (ROOT / "docs" / "operations.md").read_text()]


def blocks(text: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_script_of_ten_lines(stack: LocalStack, tmp_path: Path) -> None:
    scripts = [script for page in PAGES for script in blocks(page, "python script")]
    assert len(scripts) == 1
    assert len([line for line in scripts[0].splitlines() if line.strip()]) <= 10
    upload(stack.environment(), "corpus", "tickets", synthetic_documents(12, 300))
    (tmp_path / "tickets.yaml").write_text(blocks(README, "yaml")[0])
    (tmp_path / "script.py").write_text(scripts[0])
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**isolated_environment(), **stack.environment()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "completed: 12 documents, 12 ok, 0 errors"
    names, types = (re.sub(r"[│┆]", " ", lines[number]).split() for number in (3, 5))
    assert names == ["document_id", "label", "urgent"]
    assert types == ["str", "str", "bool"]
    rows = [line for line in lines if re.search(r"│ \S+ +┆ (bug|question|praise) +┆ (true|false) +│", line)]
    assert len(rows) == 3, done.stdout
