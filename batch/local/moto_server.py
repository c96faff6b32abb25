"""moto's S3 server, where SeaweedFS has no wheel: in memory, on loopback, and for no web page.

    python -m batch.local.moto_server PORT

By itself it asks nobody for a key and lets every page read (`Access-Control-Allow-Origin: *`).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.datastructures import EnvironHeaders
from werkzeug.serving import run_simple
from werkzeug.wrappers import Response

from batch.local.ports import LOOPBACK
from batch.network.browsers import refusal

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class Guarded:
    """A WSGI application that answers 403 to what a web page may have asked."""

    def __init__(self) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        reason = refusal(dict(EnvironHeaders(environ).items()), bound_to=LOOPBACK)
        if reason is not None:
            return Response(f"{reason}\n", status=403)(environ, start_response)
        answer: Iterable[bytes] = self._moto(environ, start_response)
        return answer


def main() -> None:
    """Serves until SIGTERM; there is nothing to save."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    os.environ["MOTO_PORT"] = sys.argv[1]
    run_simple(LOOPBACK, int(sys.argv[1]), Guarded(), threaded=True)


if __name__ == "__main__":
    main()
