"""`preview` and `estimate` on the real stack: what they show, what they pay, and that nothing of them stays."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from batch import CheckFailed, Estimate, Job, connect, estimate, preview, preview_blocking
from batch import contracts as c
from batch.cli import command_line
from batch.layout import PreviewLayout, preview_token
from batch.local.corpus import synthetic_documents, upload
from batch.local.stack import LocalStack

DOCUMENTS, SIZE = 120, 400
JOB: dict[str, Any] = {
    "name": "look",
    "source": {"uri": "s3://corpus/look/"},
    "prompt": {"system": "You label tickets.", "user": "Label this ticket.\n{{ text }}"},
    "model": {"name": "simulated-small", "prices": {"input": 100.0, "output": 400.0}},
    "output": {
        "uri": "s3://results/look/",
        "schema": {
            "type": "object",
            "properties": {"label": {"type": "string", "enum": ["bug", "praise"]}, "urgent": {"type": "boolean"}},
            "required": ["label", "urgent"],
        },
    },
}

Docbatch = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module", autouse=True)
def corpus(stack: LocalStack) -> Iterator[None]:
    """Documents, one that is no text, and at the end of the module: nothing is left in the output."""
    upload(stack.environment(), "corpus", "look", synthetic_documents(DOCUMENTS, SIZE))
    stack.s3_client().put_object(Bucket="corpus", Key="look/bad/binary.txt", Body=b"\x00\x01\xff")
    yield
    assert "Contents" not in stack.s3_client().list_objects_v2(Bucket="results", Prefix="look/")


@pytest.fixture
def docbatch(stack: LocalStack, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Docbatch]:
    """Runs a command in this process: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = command_line(arguments)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB, sort_keys=False))
    with stack.applied_environment(), contextlib.chdir(tmp_path):
        yield run


@pytest.fixture
def paid(stack: LocalStack) -> Iterator[Callable[[], int]]:
    """Requests that the provider was paid for since the test began."""

    def ask(path: str, method: str = "GET") -> dict[str, Any]:
        request = urllib.request.Request(f"{stack.provider_url}{path}", method=method, data=b"" if method != "GET" else None)
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: dict[str, Any] = json.loads(answer.read() or b"{}")
            return found

    ask("/stats/reset", "POST")
    yield lambda: int(ask("/stats")["paid"])


def left(stack: LocalStack) -> list[str]:
    """Keys below the output."""
    found = stack.s3_client().list_objects_v2(Bucket="results", Prefix="look/").get("Contents", [])
    return [entry["Key"] for entry in found]


def test_a_preview_shows_each_document_and_pays_once_each(
    docbatch: Docbatch, paid: Callable[[], int], stack: LocalStack
) -> None:
    code, out, _ = docbatch("preview", "job.yaml", "-n", "4", "--json")
    found = json.loads(out)
    assert (code, found["ok"], found["errors"], found["unanswered"]) == (0, 4, 0, 0)
    assert paid() == 4
    numbers = [int(document["document_id"].split("/")[-1].split(".")[0].split("-")[-1]) for document in found["documents"]]
    assert numbers == sorted(numbers) and numbers[0] < DOCUMENTS / 3 and numbers[-1] > DOCUMENTS * 2 / 3
    first = found["documents"][0]
    assert [message["role"] for message in first["messages"]] == ["system", "user"]
    assert first["messages"][1]["content"].startswith("Label this ticket.\nDocument ")
    assert first["result"] == json.loads(first["output_text"])
    assert first["result"]["label"] in ("bug", "praise") and isinstance(first["result"]["urgent"], bool)
    price = (first["prompt_tokens"] * 100 + first["completion_tokens"] * 400) / 1e6
    assert first["cost_usd"] == pytest.approx(price)
    assert found["cost_usd"] == pytest.approx(sum(document["cost_usd"] for document in found["documents"]), abs=1e-6)
    assert (found["listed"], found["whole"]) == (DOCUMENTS + 1, True)

    code, out, _ = docbatch("preview", "job.yaml", "-n", "2")
    assert code == 0
    print(out)
    assert "1 of 2  look/" in out and "You label tickets." in out and "(as above)" in out
    assert "label   string" in out and "urgent  boolean" in out
    assert "2 documents: 2 ok, 0 errors   tokens " in out and f"spread over all {DOCUMENTS + 1} keys" in out
    assert paid() == 6
    assert left(stack) == []
