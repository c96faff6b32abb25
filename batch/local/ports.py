"""Ports on loopback for the servers of the local stack. They are free now, and stay apart from outgoing connections."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterable, Mapping

from batch.local.options import StackError

LOOPBACK = "127.0.0.1"
# Ports, and the ones 10,000 above, stay below those that Linux (from 32768) and macOS (from 49152) give to outgoing
# connections: a client that keeps calling a dead server on one of those sooner or later connects to itself, and the
# server cannot come back.
PORT_RANGE = range(15_000, 22_000)
# SeaweedFS' own worker looks for its admin server's gRPC at the admin's port plus this, whatever it is told.
GRPC_OFFSET = 10_000


def choose_ports(
    names: Iterable[str],
    *,
    fixed: Mapping[str, int] | None = None,
    preferred: Mapping[str, int] | None = None,
    taken: Iterable[int] = (),
) -> dict[str, int]:
    """A port on loopback for each name: its fixed one, else its preferred one if that is free, else any free one.

    But for fixed ones, the port 10,000 above is free too. All are held until the last is chosen: none is given twice.

    Raises:
        StackError: A fixed port is in use.
    """
    fixed, preferred, taken = fixed or {}, preferred or {}, set(taken)
    chosen: dict[str, int] = {}
    with contextlib.ExitStack() as held:

        def hold(port: int) -> bool:
            listener = held.enter_context(socket.socket())
            # As servers do, so that closed connections of a former server (TIME_WAIT) do not count.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((LOOPBACK, port))
                listener.listen(1)
            except (OSError, OverflowError):  # taken, or above 65535
                listener.close()
                return False
            return True

        for name in sorted(names, key=lambda name: (name not in fixed, name not in preferred)):
            if name in fixed:
                chosen[name] = fixed[name]
                if not hold(fixed[name]):
                    raise StackError(
                        f"port {fixed[name]}, asked for {name}, is in use: end what listens there or choose another"
                    )
                continue
            tries = [preferred[name]] if name in preferred else []
            tries += random.sample(PORT_RANGE, 1_000)
            free = (port for port in tries if port not in taken and hold(port) and hold(port + GRPC_OFFSET))
            chosen[name] = next(free, 0)
            if not chosen[name]:
                raise StackError(f"no free port from {PORT_RANGE.start} to {PORT_RANGE.stop} for {name}")
    return chosen
