"""The README's picture: the end of a real demo in a terminal; `python -m benchmarks.picture` draws it anew."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 100
PICTURE = Path(__file__).parents[1] / "docs" / "demo.svg"


def capture() -> str:
    """What the demo writes to a terminal of 100 columns."""
    parent, child = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(WIDTH), "LINES": "50", "TERM": "xterm-256color"}
    command = [str(Path(sys.executable).with_name("docbatch")), "demo"]
    demo = subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=environment, close_fds=True)
    os.close(child)
    parts = []
    while True:
        try:
            data = os.read(parent, 65536)
        except OSError:
            break
        if not data:
            break
        parts.append(data)
    if demo.wait() != 0:
        raise SystemExit("the demo failed")
    return b"".join(parts).decode().replace("\r\n", "\n").replace("\r", "")


def last_frame(text: str) -> str:
    """From the last frame of the progress display on, without the movements of the cursor."""
    start = [match.start() for match in re.finditer(r"demo-\d{8}T", text)]
    frame = next(at for at in start if "100" in text[at : at + 900] and "completed" in text[at : at + 200])
    return re.sub(r"\x1b\[\?25[hl]|\x1b\[\d*[ABCDJK]", "", text[frame:])


def draw() -> None:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ docbatch demo", style="bold"))
    console.print(Text.from_ansi(last_frame(capture())))
    PICTURE.parent.mkdir(exist_ok=True)
    console.save_svg(str(PICTURE), title="docbatch demo (answers are simulated)")
    print(f"wrote {PICTURE}")


if __name__ == "__main__":
    draw()
