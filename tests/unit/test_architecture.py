"""docs/architecture.md against the tree: each folder has one line, and what the page names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()


def test_each_folder_has_one_line() -> None:
    listed = re.findall(r"^\| `([a-z_/]+)/` \| \S.*\|$", PAGE, re.MULTILINE)
    files = [*(ROOT / "batch").rglob("*.py"), *(ROOT / "workers").rglob("*.py")]
    assert sorted(listed) == sorted({str(path.parent.relative_to(ROOT)) for path in files})


def test_what_is_named_is_there() -> None:
    named = re.findall(r"`((?:batch|workers|tests|dashboards)/[\w/.]*)`", PAGE)
    files = re.findall(r"^\| `([a-z_/]+/)` \|.*`(\w+\.py)`", PAGE, re.MULTILINE)
    missing = [name for name in [*named, *(folder + file for folder, file in files)] if not (ROOT / name).exists()]
    assert len(named) > 60 and files and missing == []


def test_each_public_name_on_the_page_is_in_its_file() -> None:
    for name, file in re.findall(r"`([A-Z_]{4,})` (?:of|in) `([\w/.]+)`", PAGE):
        assert re.search(rf"^{name}\b", (ROOT / file).read_text(), re.MULTILINE), name
