"""Performs a Dockerfile's steps below a folder, for machines without a container engine.

The folder stands for the image's root: absolute paths that the Dockerfile writes to are taken below it. What a stage
has from its base image (Python, a shell) is this machine's own. Nothing of the steps is repeated here: `RUN` lines run
as they are written.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

INSTRUCTION = re.compile(r"^([A-Z]+)\s+(.*)$", re.DOTALL)


@dataclass
class Stage:
    """The instructions of one `FROM`; `name` is empty for the last stage."""

    base: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def values(self, instruction: str) -> list[str]:
        return [rest for each, rest in self.steps if each == instruction]

    def environment(self) -> dict[str, str]:
        words = [word for rest in self.values("ENV") for word in shlex.split(rest)]
        return dict(word.split("=", 1) for word in words)

    def command(self, instruction: str) -> list[str]:
        """Of an `ENTRYPOINT` or `CMD` in exec form; `ValueError` for one that goes through a shell."""
        command: list[str] = json.loads(self.values(instruction)[-1])
        return command


def stages(dockerfile: Path) -> list[Stage]:
    lines = [line for line in dockerfile.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found: list[Stage] = []
    for line in re.split(r"\n(?!\s)", "\n".join(lines)):
        instruction, rest = INSTRUCTION.fullmatch(re.sub(r"\\\n\s*", " ", line)).groups()  # type: ignore[union-attr]
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            found.append(Stage(base, name))
        else:
            found[-1].steps.append((instruction, rest))
    return found


def build(stage: Stage, context: Path, root: Path, environment: Mapping[str, str]) -> None:
    """Performs `WORKDIR`, `COPY` from the context, `ENV` and `RUN`. Raises `CalledProcessError`.

    `environment` is the process' environment; what the stage's `ENV` sets wins over it.
    """
    variables = dict(environment)
    folder = root
    for instruction, rest in stage.steps:
        if instruction == "WORKDIR":
            folder = below(root, rest)
            folder.mkdir(parents=True, exist_ok=True)
        elif instruction == "ENV":
            for name, value in (word.split("=", 1) for word in shlex.split(rest)):
                variables[name] = str(below(root, value)) if value.startswith("/") else value
        elif instruction == "COPY" and not rest.startswith("--from="):
            *sources, target = rest.split()
            for source in sources:
                copy(context / source, folder / target, whole=target.endswith("/"))
        elif instruction == "RUN":
            command = re.sub(r"--mount=\S+\s+", "", rest)
            subprocess.run(
                ["sh", "-ec", command], cwd=folder, env=variables, check=True, capture_output=True, text=True
            )


def below(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def copy(source: Path, target: Path, *, whole: bool) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    else:
        shutil.copy(source, target / source.name if whole else target)
