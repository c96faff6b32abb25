"""What a benchmark returns, and `FIGURES.md`, which is written from it and never by hand."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

FIGURES = Path(__file__).with_name("FIGURES.md")
_HEAD = """# Figures

Written by `python -m benchmarks --write` and, where the command is a test, by that test under
`DOCBATCH_WRITE_FIGURES=1`; never by hand. Each section says how to measure it again.
"""


@dataclass(frozen=True)
class Figure:
    """A measured number and what it has to be; without a target it stands for comparison."""

    name: str
    value: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    exactly: float | None = None

    @property
    def holds(self) -> bool | None:
        """None without a target."""
        if self.exactly is not None:
            return self.value == self.exactly
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most

    @property
    def target(self) -> str:
        bounds = ((self.exactly, "exactly"), (self.at_least, "at least"), (self.at_most, "at most"))
        return next((f"{word} {self._text(bound)}" for bound, word in bounds if bound is not None), "")

    def cells(self) -> tuple[str, str, str, str]:
        """Name, value, target, whether it holds."""
        return self.name, self._text(self.value), self.target, {None: "", True: "yes", False: "**no**"}[self.holds]

    def _text(self, value: float) -> str:
        if self.unit == "%":
            return f"{value:.1%}".replace("%", " %")
        if isinstance(value, int) or value >= 1000:
            number = f"{value:,.0f}"
        else:
            number = f"{value:.3f}" if value < 10 else f"{value:.1f}"
        return f"{number} {self.unit}".rstrip()


def same(name: str, holds: bool) -> Figure:
    """A yes-or-no figure: 1 when it holds."""
    return Figure(name, int(holds), exactly=1)


def print_table(name: str, figures: Sequence[Figure]) -> None:
    """The figures, aligned for a terminal."""
    rows = [("figure", "value", "target", "holds"), *(figure.cells() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    print(f"\n{name}")
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(flush=True)


def write(name: str, title: str, figures: Sequence[Figure], *, command: str, idle: float | None = None) -> None:
    """Replaces a section of `FIGURES.md`; the others stay. `idle` is how idle the machine was before."""
    before = "" if idle is None else f", {idle:.0%} idle before".replace("%", " %")
    lines = [
        f"## {name}",
        "",
        title,
        "",
        f"`{command}` on {datetime.now(UTC):%Y-%m-%d}, {machine()}{before}.",
        "",
        "| figure | value | target | holds |",
        "|---|---:|---|---|",
        *("| " + " | ".join(figure.cells()) + " |" for figure in figures),
    ]
    sections = _sections(FIGURES.read_text()) if FIGURES.exists() else {}
    sections[name] = "\n".join(lines) + "\n"
    FIGURES.write_text("\n".join([_HEAD, *(sections[each] for each in sorted(sections))]))


def _sections(text: str) -> dict[str, str]:
    parts = re.split(r"^## (\S+)\n", text, flags=re.MULTILINE)
    return {name: f"## {name}\n{body.rstrip()}\n" for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def machine() -> str:
    """Cores, processor and Python."""
    model = re.search(r"^model name\s*: (.+)$", _read("/proc/cpuinfo"), flags=re.MULTILINE)
    processor = model[1] if model else platform.machine()
    return f"{os.cpu_count()} cores ({processor}), Python {platform.python_version()}"


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
