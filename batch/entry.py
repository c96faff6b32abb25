"""The program `docbatch`. From its first moment on Ctrl-C is one line and exit code 130, also while modules load.

What is imported here at the top is imported before that: as little as can be.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType, TracebackType

INTERRUPTED = 130
STOPPED = "docbatch: stopped"


class InterruptEndsAtOnce:
    """Makes Ctrl-C end the process on the spot: for imports, which a `KeyboardInterrupt` leaves half done.

    A context manager. Nothing that would have to be undone may have begun.
    """

    def __enter__(self) -> None:
        # Else it is ignored, as for all that a shell runs in its background.
        self._ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._ours:
            signal.signal(signal.SIGINT, _end)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def main() -> None:
    """The console entry."""
    with InterruptEndsAtOnce():
        from batch.cli import main as run
    run()


def _end(number: int, frame: FrameType | None) -> None:
    try:
        os.write(2, f"{STOPPED}\n".encode())
    finally:
        os._exit(INTERRUPTED)
