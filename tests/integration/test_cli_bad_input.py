"""Bad input: a message that says what, where and what to do, exit code 2, no traceback, and nothing started."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from batch import connect
from batch.cli.main import command_line
from batch.local.ports import choose_ports
from batch.local.processes import Process, http_answers
from batch.local.stack import LocalStack

NOWHERE = "127.0.0.1:1"
"""Nothing listens there."""

Failed = Callable[..., str]


def job(**changes: Any) -> dict[str, Any]:
    """A good job, with keys like `source.uri` changed, or taken out by None."""
    text: dict[str, Any] = {
        "name": "bad",
        "source": {"uri": "s3://corpus/bad-input/"},
        "prompt": {"user": "Label this.\n{{ text }}"},
        "model": {"name": "simulated-small"},
        "output": {
            "uri": "s3://results/bad/",
            "schema": {"type": "object", "properties": {"label": {"type": "string"}}, "required": ["label"]},
        },
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        part = text
        for parent in parents:
            part = part.setdefault(parent, {})
        if value is None:
            del part[last]
        else:
            part[last] = value
    return text


@pytest.fixture(scope="module", autouse=True)
def documents(stack: LocalStack) -> Iterator[None]:
    """Two documents; at the end of the module, that no run was ever started."""
    for name in ("a.txt", "b.txt"):
        stack.s3_client().put_object(Bucket="corpus", Key=f"bad-input/{name}", Body=b"text")
    yield
    written = stack.s3_client().list_objects_v2(Bucket="results", Prefix="bad/").get("Contents", [])
    assert [entry["Key"] for entry in written] == ["bad/runs/taken/run.json"]


@pytest.fixture
def failed(stack: LocalStack, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Failed]:
    """Runs a command in this process, asserts how it failed, and returns the message, without its prefix.

    Keywords are further variables; None takes one away.
    """

    def run(*arguments: str, **environment: str | None) -> str:
        for name, value in environment.items():
            if value is None:
                del os.environ[name]  # put back with all others at the end
            else:
                os.environ[name] = value
        code = command_line(arguments)
        out, err = capsys.readouterr()
        assert (code, out) == (2, "")
        assert "Traceback" not in err
        lines = err.strip().splitlines()
        assert all(line.startswith("docbatch: ") for line in lines)
        return "\n".join(line.removeprefix("docbatch: ") for line in lines)

    with stack.applied_environment(), contextlib.chdir(tmp_path):
        yield run


def written(text: dict[str, Any] | str) -> str:
    Path("job.yaml").write_text(text if isinstance(text, str) else yaml.safe_dump(text, sort_keys=False))
    return "job.yaml"


# -- the job file: refused before anything is asked


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            job(source__ur1="s3://corpus/x/"),
            "job.yaml: source.ur1: unknown key, did you mean 'uri'?; known are uri, manifest, include, exclude, "
            "format, text_field, id_field, keep, hidden, max_document_bytes",
        ),
        (job(promt={"user": "x"}), "job.yaml: promt: unknown key, did you mean 'prompt'?"),
        (job(source__uri=None), "job.yaml: source.uri: this key is required"),
        (
            job(limits__concurrency="many"),
            "job.yaml: limits.concurrency: input should be a valid integer, not 'many'",
        ),
        (job(partitions__bytes="64 apples"), "job.yaml: partitions.bytes: '64 apples' is no size; write for example"),
        (job(name="Has Spaces"), "job.yaml: name: a name has 1 to 63 of the characters a-z 0-9 . _ -"),
        (
            job(prompt__user="Label\n{{ text"),
            "job.yaml: prompt.user, line 2: the template does not compile: unexpected end of template",
        ),
        (
            job(prompt__user="{{ txt }}"),
            "job.yaml: prompt.user: unknown variable 'txt', did you mean 'text'?; known are date, document_id, "
            "row, scheduled_at, text, uri",
        ),
        (job(output__schema={"type": "strng"}), "job.yaml: output.schema"),
        (job(output__schema={"type": "object", "properties": {"a": {"type": ["string", "integer"]}}}), "output.schema"),
        (job(source__uri="corpus/tickets"), "source.uri: 'corpus/tickets' is no S3 prefix; write s3://BUCKET/PREFIX/"),
        (
            job(output__uri="s3://corpus/bad-input/answers/"),
            "output.uri s3://corpus/bad-input/answers/ lies inside source.uri s3://corpus/bad-input/: the next run "
            "would read its own results. Choose an output outside the source prefix",
        ),
        (job(model__batch_deadline="6h"), "model.batch_deadline is for model.mode: batch; leave it out"),
        (job(model__mode="batch", model__batch_deadline="soon"), "model.batch_deadline: 'soon' is no duration"),
        (job(source__format="xml"), "job.yaml: source.format: input should be 'auto', 'object', 'jsonl' or 'parquet'"),
        (job(state={"uri": "s3://results/"}), "state is for incremental: true; leave it out, or set that"),
        ("- a\n- b\n", "job.yaml: a job is a mapping of keys such as name, source, prompt; this is a list"),
        ("name: [", "job.yaml: not valid YAML"),
        ("", "this is empty"),
    ],
)
def test_job_file(text: dict[str, Any] | str, message: str, failed: Failed) -> None:
    assert message in failed("run", written(text))


def test_every_mistake_at_once(failed: Failed) -> None:
    lines = failed("run", written(job(source__ur1="x", model__temperature="hot"))).splitlines()
    assert len(lines) == 2
    assert "source.ur1" in lines[0] and "model.temperature" in lines[1]


def test_job_file_that_is_missing(failed: Failed) -> None:
    assert failed("run", "nothing.yaml") == "nothing.yaml: no such file"


def test_job_file_that_is_a_folder(failed: Failed, tmp_path: Path) -> None:
    assert "cannot be read" in failed("run", str(tmp_path))


@pytest.mark.parametrize("run_id", ["../up", "a b", "x" * 129, ""])
def test_run_id_that_names_no_folder(run_id: str, failed: Failed) -> None:
    message = failed("run", written(job()), "--run-id", run_id)
    assert message.startswith("--run-id: run id ") and "use 1 to 128 of the characters" in message


# -- source and output


def test_source_bucket_that_is_missing(failed: Failed) -> None:
    message = failed("run", written(job(source__uri="s3://no-such-bucket/x/")))
    assert message.startswith("source.uri: ") and "there is no bucket 'no-such-bucket' at http://" in message


def test_source_prefix_that_is_empty(failed: Failed) -> None:
    message = failed("run", written(job(source__uri="s3://corpus/nothing-here/")))
    assert message.startswith("source.uri: there is no object under s3://corpus/nothing-here/. Upload documents")


def test_source_of_which_no_object_is_included(failed: Failed) -> None:
    message = failed("run", written(job(source__include=["**/*.pdf"])))
    assert "none of the 2 objects under s3://corpus/bad-input/ is a document by source.include ['**/*.pdf']" in message


def test_output_bucket_that_is_missing(failed: Failed) -> None:
    message = failed("run", written(job(output__uri="s3://no-such-bucket/x/")))
    assert message.startswith("output.uri: s3://no-such-bucket/x/ cannot be written: ")
    assert "there is no bucket 'no-such-bucket'" in message


def test_output_that_may_only_be_read(failed: Failed, stack: LocalStack) -> None:
    client = stack.s3_client()
    client.create_bucket(Bucket="read-only")
    no_puts = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::read-only/*"}
    client.put_bucket_policy(Bucket="read-only", Policy=json.dumps({"Version": "2012-10-17", "Statement": [no_puts]}))
    message = failed("run", written(job(output__uri="s3://read-only/x/")))
    assert message.startswith("output.uri: s3://read-only/x/ cannot be written: put s3://read-only/x/")
    assert f"access refused by {stack.s3_endpoint}" in message


def test_credentials_that_are_wrong(failed: Failed, stack: LocalStack) -> None:
    message = failed("run", written(job()), AWS_SECRET_ACCESS_KEY="wrong")
    assert message.startswith("output.uri: ")
    assert f"access refused by {stack.s3_endpoint}" in message


def test_no_credentials_at_all(failed: Failed) -> None:
    message = failed("run", written(job()), AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or a role" in message


# -- servers that do not answer


@pytest.mark.parametrize("arguments", [("run", "job.yaml"), ("list",), ("status", "x")])
def test_temporal_unreachable(arguments: tuple[str, ...], failed: Failed) -> None:
    written(job())
    message = failed(*arguments, TEMPORAL_ADDRESS=NOWHERE)
    assert message.startswith(f"cannot reach Temporal at {NOWHERE} (TEMPORAL_ADDRESS)")


def test_temporal_unreachable_at_its_default_address(failed: Failed) -> None:
    message = failed("list", TEMPORAL_ADDRESS=None)
    assert "cannot reach Temporal at localhost:7233 (TEMPORAL_ADDRESS sets it; `docbatch up` starts one" in message


def test_temporal_namespace_that_is_missing(failed: Failed) -> None:
    message = failed("list", TEMPORAL_NAMESPACE="nowhere")
    assert "(TEMPORAL_ADDRESS) answers NOT_FOUND: Namespace nowhere is not found" in message


def test_s3_unreachable(failed: Failed) -> None:
    message = failed("run", written(job()), AWS_ENDPOINT_URL_S3=f"http://{NOWHERE}")
    assert f"no usable answer from http://{NOWHERE} (AWS_ENDPOINT_URL_S3 sets the address)" in message


def test_maximum_cost_of_a_model_whose_price_nobody_knows(failed: Failed) -> None:
    message = failed("run", written(job(model__name="nobody-knows-this", limits__max_cost_usd=5)))
    assert message.startswith("limits.max_cost_usd: the price of 'nobody-knows-this' is not known")
    assert "give model.prices" in message


def test_model_that_the_provider_does_not_know(failed: Failed) -> None:
    message = failed("run", written(job(model__name="gpt-9")))
    assert message.startswith("model.name: gpt-9 does not answer: model_not_found")


def test_provider_unreachable(failed: Failed, stack: LocalStack, tmp_path: Path) -> None:
    """Only workers reach the provider: one of them finds out, and the message says which variable of its is meant."""
    port = choose_ports(["lost"])["lost"]
    worker = Process(
        "lost worker",
        [sys.executable, "-P", "-m", "workers", "--task-queue", "lost", "--metrics-port", str(port)],
        log=tmp_path / "worker.log",
        environment={**stack.child_environment(), "OPENAI_BASE_URL": f"http://{NOWHERE}/v1"},
        healthy=lambda: http_answers(port, "/healthz"),
        grace=1,
    )
    worker.start()
    try:
        message = failed("run", written(job()), "--task-queue", "lost")
    finally:
        worker.stop()
    assert message.startswith(f"model.name: simulated-small does not answer: unreachable: http://{NOWHERE}/v1/chat")
    assert "OPENAI_BASE_URL" in message


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ("OPENAI_API_KEY", "the worker's environment sets it: OPENAI_API_KEY"),
        ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together"),
    ],
)
def test_worker_without_its_settings(without: str, message: str, stack: LocalStack) -> None:
    """Before it takes a run's partitions, which could only pause."""
    environment = {name: value for name, value in stack.child_environment().items() if name != without}
    command = [sys.executable, "-P", "-m", "workers", "--task-queue", "nobodys", "--metrics-port", "0"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert message in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


# -- runs


def test_run_id_that_exists(failed: Failed, stack: LocalStack) -> None:
    stack.s3_client().put_object(Bucket="results", Key="bad/runs/taken/run.json", Body=b"{}")
    message = failed("run", written(job()), "--run-id", "taken")
    assert message == (
        "run id 'taken' exists already at s3://results/bad/runs/taken/; choose another --run-id, or use "
        "`docbatch rerun taken` to do again what failed in it"
    )


@pytest.mark.parametrize("command", ["status", "results", "verify", "pause", "resume", "cancel", "rerun"])
def test_run_that_is_unknown(command: str, failed: Failed) -> None:
    message = failed(command, "no-such-run")
    assert message.startswith("there is no run 'no-such-run' in Temporal's namespace 'default'; `docbatch list` shows")


def test_output_of_a_run_that_is_no_prefix(failed: Failed) -> None:
    assert failed("status", "x", "--output", "results").startswith("--output: 'results' is no S3 prefix")


# -- the program itself


def test_the_installed_program(stack: LocalStack, tmp_path: Path) -> None:
    """Code and message reach the shell."""
    (tmp_path / "job.yaml").write_text("nam: x\n")
    done = subprocess.run(
        [Path(sys.executable).with_name("docbatch"), "run", "job.yaml", "--json"],
        cwd=tmp_path,
        env={**os.environ, **stack.environment()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "docbatch: job.yaml: nam: unknown key, did you mean 'name'?" in done.stderr
    assert "Traceback" not in done.stderr


async def test_nothing_was_started(stack: LocalStack) -> None:
    """The last test of this file: Temporal knows no run of it."""
    with stack.applied_environment():
        runs = await (await connect()).list()
    assert not [run for run in runs if run["job_name"] == "bad" or run["run_id"].startswith("bad-")]
