"""The console that all of docbatch prints by: what came from outside reaches no terminal but as `printable` text."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from batch.terminal.printable import printable


class SafeConsole(Console):
    """A rich console without markup and emoji names, whose texts, however they came in, give the terminal no commands.

    Escapes need room: text that is to be laid out passes `printable` before, here it only cannot do harm.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Renders as rich does. Its own movements of the cursor are control segments, not text."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(printable(segment.text, lines=True), segment.style)
