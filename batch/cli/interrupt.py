"""Ctrl-C from the program's first moment on: one line and exit code 130. Imports as little as can be."""

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


def _end(number: int, frame: FrameType | None) -> None:
    try:
        os.write(2, f"{STOPPED}\n".encode())
    finally:
        os._exit(INTERRUPTED)
