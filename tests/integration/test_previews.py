"""`preview` and `estimate` on the real stack: what they show, what they pay, and that nothing of them stays."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from batch import Job, connect, preview, preview_blocking
from batch.cli.main import command_line
from batch.local.corpus import upload
from batch.local.ports import choose_ports
from batch.local.processes import Process, http_answers
from batch.local.stack import LocalStack
from batch.storage.layout import PreviewLayout, preview_token
from benchmarks.synthetic import synthetic_documents
from tests.provider import behave, forget
from tests.provider import paid as paid_of

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
def paid(stack: LocalStack) -> Callable[[], int]:
    """Answers that the provider was paid for since the test began."""
    forget(stack)
    return partial(paid_of, stack)


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
    numbers = [
        int(document["document_id"].split("/")[-1].split(".")[0].split("-")[-1]) for document in found["documents"]
    ]
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
    assert "1 of 2  look/" in out and "You label tickets." in out and "(as above)" in out
    assert "label   string" in out and "urgent  boolean" in out
    assert "2 documents: 2 ok, 0 error   tokens " in out and f"spread over all {DOCUMENTS + 1} keys" in out
    assert paid() == 6
    assert left(stack) == []


def test_an_error_row_is_the_one_that_a_run_gives(
    docbatch: Docbatch, stack: LocalStack, provider: Callable[..., None]
) -> None:
    provider(rate_refusal=1.0)
    good, bad = "look/documents/00000003.txt", "look/bad/binary.txt"
    code, out, _ = docbatch("preview", "job.yaml", "--document", f"s3://corpus/{good}", "--document", bad, "--json")
    found = json.loads(out)
    assert (code, found["ok"], found["errors"], found["listed"]) == (1, 0, 2, 0)
    shown = {document["document_id"]: document for document in found["documents"]}

    async def run() -> dict[str, dict[str, Any]]:
        job = Job.parse({**JOB, "output": {**JOB["output"], "uri": "s3://results/look-run/"}, "limits": ONE_BY_ONE})
        narrow = job.model_copy(
            update={"source": job.source.model_copy(update={"include": ["**/00000003.txt", "bad/*"]})}
        )
        started = await (await connect()).start(narrow, check_model=False)
        await started.wait()
        return {row["document_id"]: row for row in started.results().collect().to_dicts()}

    rows = asyncio.run(run())
    assert rows.keys() == shown.keys()
    for document_id, row in rows.items():
        same = (
            "status",
            "error_type",
            "error_message",
            "retryable",
            "finish_reason",
            "model",
            "attempts",
            "output_text",
        )
        for name in (*same, "prompt_tokens", "cached_tokens", "completion_tokens", "cost_usd"):
            assert shown[document_id][name] == row[name], name
    assert {row["error_type"] for row in rows.values()} == {"refusal", "not_text"}
    text = docbatch("preview", "job.yaml", "--document", bad)[1]
    assert "error    not_text (not retryable): " in text and "never sent to the model" in text


ONE_BY_ONE = {"concurrency": 1, "max_error_rate": 1.0}


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        (("-n", "51"), {}, "a preview asks about 1 to 50 documents, not 51: each answer is paid"),
        (("-n", "0"), {}, "a preview asks about 1 to 50 documents, not 0"),
        (("--document", "elsewhere/a.txt"), {}, "does not lie under source.uri s3://corpus/look/"),
        (("--document", "look/documents/none.txt"), {}, "there is no object s3://corpus/look/documents/none.txt"),
        (("--document", "look/"), {}, "document 'look/' is left out by source.include ['**']"),
        ((), {"source": {"uri": "s3://corpus/nothing-here/"}}, "source.uri: there is no object under"),
        ((), {"output": {"uri": "s3://no-such-bucket/x/"}}, "output.uri: s3://no-such-bucket/x/ cannot be written"),
        ((), {"prompt": {"user": "{{ txt }}"}}, "unknown variable 'txt', did you mean 'text'?"),
        (("--task-queue", "nobody"), {}, "no worker polls the task queue 'nobody-control'; start one: docbatch worker"),
        ((), {"model": {"name": "gpt-9"}}, "model.name: gpt-9 does not answer: model_not_found"),
    ],
)
def test_what_cannot_be_previewed_is_refused_unpaid(
    *,
    arguments: tuple[str, ...],
    changes: dict[str, Any],
    message: str,
    docbatch: Docbatch,
    paid: Callable[[], int],
    stack: LocalStack,
) -> None:
    Path("job.yaml").write_text(yaml.safe_dump({**JOB, **changes}, sort_keys=False))
    code, out, err = docbatch("preview", "job.yaml", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("docbatch: ") and message in err
    assert (paid(), left(stack)) == (0, [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sample", "0"), "an estimate reads a sample of 1 to 5,000 documents, not 0"),
        (("--ask", "51"), "an estimate asks about 0 to 50 documents, not 51: each answer is paid"),
        (("--task-queue", "nobody"), "no worker polls the task queue 'nobody-control'; start one: docbatch worker"),
    ],
)
def test_what_cannot_be_estimated_is_refused(
    arguments: tuple[str, ...], message: str, docbatch: Docbatch, stack: LocalStack
) -> None:
    code, out, err = docbatch("estimate", "job.yaml", *arguments)
    assert (code, out, left(stack)) == (2, "", [])
    assert message in err


def test_an_estimate_is_free_and_an_asked_one_holds(
    docbatch: Docbatch, paid: Callable[[], int], stack: LocalStack
) -> None:
    size = DOCUMENTS * SIZE + 3
    code, out, _ = docbatch("estimate", "job.yaml", "--sample", "40", "--json")
    free = json.loads(out)
    assert (code, paid(), left(stack)) == (0, 0, [])
    assert (free["documents"], free["bytes"], free["asked"], free["seconds"]) == (DOCUMENTS + 1, size, 0, None)
    assert 20 <= free["sampled"] <= 40
    assert any("--ask" in note for note in free["notes"])

    code, out, _ = docbatch("estimate", "job.yaml", "--ask", "6", "--sample", "200", "--json")
    asked = json.loads(out)
    assert (code, paid(), left(stack)) == (0, asked["asked"], [])
    assert (asked["sampled"], asked["unreadable"], asked["answered"]) == (
        DOCUMENTS + 1,
        {"not_text": 1},
        asked["asked"],
    )
    assert asked["asked_cost_usd"] > 0

    async def run() -> dict[str, Any]:
        job = Job.parse({**JOB, "output": {**JOB["output"], "uri": "s3://results/look-run/"}})
        return (await (await (await connect()).start(job, check_model=False)).wait()).to_dict()

    real = asyncio.run(run())
    assert asked["answerable"]["value"] == real["ok"] == DOCUMENTS
    for name in ("prompt_tokens", "completion_tokens", "cost_usd"):
        assert asked[name]["low"] <= real[name] <= asked[name]["high"], name
        assert free[name]["low"] <= real[name] <= free[name]["high"], name
        assert asked[name]["high"] - asked[name]["low"] < free[name]["high"] - free[name]["low"]
    assert asked["batch_cost_usd"]["value"] == pytest.approx(asked["cost_usd"]["value"] / 2)
    assert asked["bound_by"] and asked["seconds"]["value"] > 0 and asked["processes"] == 1

    code, out, _ = docbatch("estimate", "job.yaml", "--sample", "30")
    assert code == 0
    assert f"documents    {DOCUMENTS + 1} of 48 kB under s3://corpus/look/ (counted)" in out
    assert (
        "by the Batch API, within a day" in out
        and "time         unknown" in out
        and "note         time: not known" in out
    )


def test_an_unknown_price_is_said(docbatch: Docbatch) -> None:
    Path("job.yaml").write_text(yaml.safe_dump({**JOB, "model": {"name": "nobody-knows-this"}}, sort_keys=False))
    code, out, _ = docbatch("estimate", "job.yaml", "--sample", "5")
    assert code == 0
    assert "cost         unknown" in out
    assert "note         cost: nobody-knows-this has no known price; model.prices says it" in out


def test_of_a_large_source_names_are_probed(
    docbatch: Docbatch, paid: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a real S3 server; only the first keys are listed."""
    monkeypatch.setattr("batch.previews.sample.LISTED", 10)
    monkeypatch.setattr("batch.previews.sample.PROBE_PAGE", 3)
    monkeypatch.setattr("batch.storage.store.PAGE", 10)
    found = preview_blocking(Job.parse(JOB), n=5)
    assert (found.ok, found.whole, paid()) == (5, False, 5)
    numbers = sorted(int(document.document_id[-12:-4]) for document in found.documents)
    assert len(set(numbers)) == 5 and numbers[-1] - numbers[0] > DOCUMENTS / 2


async def test_what_a_client_left_that_died_is_deleted_after_an_hour(
    stack: LocalStack, docbatch: Docbatch, paid: Callable[[], int]
) -> None:
    client, layout = stack.s3_client(), PreviewLayout.of(JOB["output"]["uri"])
    old, foreign = layout.file("20260101T000000Z-0123456789ab"), f"{layout.folder.prefix}notes.json"
    young = layout.file(preview_token())
    for key in (old, young, foreign):
        client.put_object(Bucket="results", Key=key, Body=b"{}")
    try:
        assert (await preview(Job.parse(JOB), n=1)).ok == 1
        assert set(left(stack)) == {young, foreign}
    finally:
        for key in (old, young, foreign):
            client.delete_object(Bucket="results", Key=key)
    assert paid() == 1


@pytest.mark.usefixtures("docbatch")
def test_what_was_answered_is_shown_although_the_last_worker_went(
    stack: LocalStack,
    provider: Callable[..., None],
    paid: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Its drain lets calls in flight end and keeps what came; then nobody is left to end the workflow."""
    monkeypatch.setattr("batch.previews.client.LOOK_EVERY", 0.2)
    monkeypatch.setattr("batch.previews.client.ABANDONED_AFTER", 0.5)
    port = choose_ports(["going"])["going"]
    worker = Process(
        "going worker",
        [sys.executable, "-P", "-m", "workers", "--task-queue", "going", "--metrics-port", str(port)],
        log=tmp_path / "worker.log",
        environment=stack.child_environment(),
        healthy=lambda: http_answers(port, "/healthz"),
        grace=1,
    )
    worker.start()
    provider(latency=1.0)

    def end_after_some() -> None:
        while paid() < 3 and time.monotonic() < deadline:
            time.sleep(0.1)
        worker.kill(signal.SIGTERM)

    deadline = time.monotonic() + 30
    stopping = threading.Thread(target=end_after_some)
    stopping.start()
    try:
        job = Job.parse({**JOB, "limits": {"concurrency": 2}})
        found = preview_blocking(job, n=12, task_queue="going")
    finally:
        stopping.join()
        worker.stop()
    assert found.stopped == "drain: the worker is shutting down"
    assert 0 < found.ok < 12 and found.ok + found.unanswered == 12
    assert left(stack) == []


def test_a_key_that_is_refused_is_said_at_once(docbatch: Docbatch, stack: LocalStack) -> None:
    """Also where one document alone is asked about."""
    behave(stack, fail_all="invalid_api_key")
    try:
        code, out, err = docbatch("preview", "job.yaml", "-n", "1")
    finally:
        behave(stack, fail_all=None)
    assert (code, out) == (2, "")
    assert "model.name: simulated-small does not answer: invalid_api_key: " in err


def test_ctrl_c_takes_it_back(
    docbatch: Docbatch, stack: LocalStack, provider: Callable[..., None], paid: Callable[[], int]
) -> None:
    provider(latency=2.0)
    Path("job.yaml").write_text(yaml.safe_dump({**JOB, "limits": {"concurrency": 1}}, sort_keys=False))
    program = Path(sys.executable).with_name("docbatch")
    command = [program, "preview", "job.yaml", "-n", "30"]
    asking = subprocess.Popen(command, env=os.environ, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 20
    while paid() == 0:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    asking.send_signal(signal.SIGINT)
    _, err = asking.communicate(timeout=30)
    assert asking.returncode == 130
    assert "docbatch: cancelled; questions that had been sent may have been paid" in err and "Traceback" not in err
    assert left(stack) == []
    provider(latency=0)
    before = paid()
    assert before <= 8, "a cancellation reaches the worker with its next heartbeat"
    time.sleep(1.0)
    assert paid() == before, "the worker has stopped asking"
