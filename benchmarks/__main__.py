"""`python -m benchmarks [NAME ...] [--quick] [--write]`. Exits 1 when a figure misses its target."""

from __future__ import annotations

import argparse
import importlib
import sys
import time

from batch.local.isolation import isolate_process
from benchmarks.figures import print_table, write
from benchmarks.lab import idle_share

NAMES = (
    *("provider", "spine", "memory", "efficiency", "continuation", "operations", "limits"),
    *("extraction", "documents", "planning", "nights", "mixed"),
)
"""In the order of a full run: what others rest on first."""


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="fewer documents: a look, not a measurement")
    parser.add_argument("--write", action="store_true", help="rewrite the benchmarks' sections of FIGURES.md")
    options = parser.parse_args()
    if unknown := set(options.names) - {*NAMES, "all"}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(NAMES)}")
    isolate_process()
    missed = 0
    for name in NAMES if not options.names or "all" in options.names else options.names:
        module = importlib.import_module(f"benchmarks.{name}")
        title = (module.__doc__ or "").strip().split("\n\n", 1)[0]
        idle = idle_share()
        print(f"{name}: {title} ({idle:.0%} of the machine is idle)", flush=True)
        began = time.monotonic()
        figures = module.run(options.quick)
        print(f"  took {time.monotonic() - began:.0f} s")
        print_table(name, figures)
        if options.write:
            command = f"python -m benchmarks {name}{' --quick' if options.quick else ''}"
            write(name, title, figures, command=command, idle=idle)
        missed += sum(figure.holds is False for figure in figures)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
