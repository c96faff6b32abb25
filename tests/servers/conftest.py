"""llama.cpp's server with a small real model, and LiteLLM's proxy in front of it, as programs of their own."""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from batch.local.isolation import isolated_environment
from batch.local.llama import MODEL
from batch.local.ports import choose_ports
from batch.local.processes import Process

LITELLM = Path(os.environ.get("DOCBATCH_LITELLM", ".tools/litellm/bin/litellm"))
MASTER_KEY = "sk-master-of-the-test"
MOCKED = {"mock-context": "litellm.ContextWindowExceededError", "mock-blank": " "}
"""Models of the proxy that it answers itself, by its own exceptions, and the name of each."""


def answers(url: str) -> None:
    """Raises unless the address answers 200."""
    urllib.request.urlopen(url, timeout=5).close()


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of llama.cpp's server."""
    folder = tmp_path_factory.mktemp("llama")
    port = choose_ports(["llama"], taken=())["llama"]
    process = Process(
        "llama",
        [sys.executable, "-P", "-m", "batch.local.llama", "--port", str(port), "--folder", str(folder)],
        log=folder / "llama.log",
        environment=isolated_environment(),
        healthy=partial(answers, f"http://127.0.0.1:{port}/health"),
        healthy_timeout=120,
        grace=0,
    )
    process.start()
    yield f"http://127.0.0.1:{port}/v1"
    process.stop()


@pytest.fixture(scope="session")
def litellm(llama: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of LiteLLM's proxy, which knows llama.cpp's model as `gemma`."""
    folder = tmp_path_factory.mktemp("litellm")
    port = choose_ports(["litellm"], taken=())["litellm"]
    models = [
        {"model_name": "gemma", "litellm_params": {"model": f"openai/{MODEL}", "api_base": llama, "api_key": "-"}}
    ]
    models += [
        {"model_name": name, "litellm_params": {"model": "openai/x", "api_key": "-", "mock_response": response}}
        for name, response in MOCKED.items()
    ]
    config = folder / "config.yaml"
    config.write_text(json.dumps({"model_list": models, "general_settings": {"master_key": MASTER_KEY}}))
    process = Process(
        "litellm",
        [str(LITELLM.absolute()), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)],
        log=folder / "litellm.log",
        environment=isolated_environment() | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        healthy=partial(answers, f"http://127.0.0.1:{port}/health/liveliness"),
        healthy_timeout=120,
        grace=0,
    )
    process.start()
    yield f"http://127.0.0.1:{port}/v1"
    process.stop()
