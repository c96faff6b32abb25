"""Files of a newer version are read: what they say beyond what we know is ignored, in whatever kind of file it stands.

One field that was added, a roll-back and a rerun must not make every committed result a foreign one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch.corpus.planning import PLAN_SCHEMA, PlanFooter, PlannedDocument
from batch.files.ledger_segment import MAGIC, LedgerName, decode_segment, encode_segment
from batch.files.manifest import Manifest, ResultEntry, load_manifest
from batch.files.plan_file import read_documents
from batch.files.plan_file import read_footer as read_plan_footer
from batch.files.result_file import ResultFooter, decode, encode, totals_of
from batch.files.run_file import RunFile
from batch.files.state import StatePointer, read_pointer
from batch.job.job import Job
from batch.job.logical_date import Nominal
from batch.job.part import JobError
from batch.previews.estimation import Estimate, Range
from batch.previews.exchange import PreviewedDocument, PreviewRequest, PreviewResult
from batch.previews.sample import Picked
from batch.schema.arrow import row_schema
from batch.storage.layout import RunLayout, S3Uri, StateLayout
from batch.storage.records import read_record
from batch.workflows import contracts as c
from batch.workflows.states import State
from tests.jobs import job
from tests.memory_storage import MemoryStorage
from tests.newer_files import newer, newer_parquet, with_metadata
from workers.batch_mode.batch_records import BatchRecord, BatchRecords
from workers.observe.metrics import Metrics
from workers.process.control import RunControl

LAYOUT = RunLayout.of("s3://results/x/", "run-1")
NOMINAL = Nominal(datetime(2026, 1, 31, tzinfo=UTC))
TOTALS = c.Totals(documents=1, ok=1, errors_by_type={"timeout": 1})
POINTER = StatePointer("v1", 2, 30, "run-1", 1, "2026-01-01T00:00:00+00:00")
MANIFEST = Manifest(
    *("run-1", "tickets", "m", "f", State.COMPLETED, "", 1, "e", "", "", 1.0, TOTALS, 1),
    files=[ResultEntry(0, 0, 1, 10, "ab")],
)
RESULT = PreviewResult("tickets", "m", [PreviewedDocument("a", "s3://b/a", 3, [{"role": "user"}], "ok", {"on": "x"})])


def run_file(**changes: Any) -> RunFile:
    return RunFile.of("run-1", Job.parse(job(**changes)), "e", "2026-01-01T00:00:00+00:00", NOMINAL, state=POINTER)


def test_the_run_file() -> None:
    file = run_file(model__prices={"input": 1.0, "output": 2.0})
    nested = ("job", "job.source", "job.model", "job.model.prices", "job.output", "job.partitions", "state")
    assert RunFile.from_bytes(newer(file.to_bytes(), *nested)) == file


def test_a_run_whose_job_asks_something_that_we_cannot_know_is_not_ours_to_go_on_with() -> None:
    stored = json.loads(run_file().to_bytes())
    stored["job"]["model"]["reasoning_effort"] = "high"
    stored["fingerprint"] = "0" * 16
    with pytest.raises(JobError, match=r"run\.json of run-1.*newer docbatch.*model\.reasoning_effort"):
        RunFile.from_bytes(json.dumps(stored).encode())
    stored["job"]["name"] = "no name!"
    with pytest.raises(JobError, match=r"run\.json of run-1: name"):
        RunFile.from_bytes(json.dumps(stored).encode())


async def test_manifest_and_state() -> None:
    storage, state = MemoryStorage(), StateLayout(S3Uri.parse("s3://results/x/"), "tickets")
    storage.objects[LAYOUT.manifest] = newer(MANIFEST.to_bytes(), "totals", "files.0")
    storage.objects[state.current] = newer(POINTER.to_bytes())
    manifest, pointer = await load_manifest(storage, LAYOUT), await read_pointer(storage, state)
    assert manifest is not None and manifest[0] == MANIFEST
    assert pointer is not None and pointer[0] == POINTER


async def test_control() -> None:
    storage = MemoryStorage()
    storage.objects[LAYOUT.control] = newer(json.dumps({"state": State.PAUSED, "epoch": 7}).encode())
    nothing: Any = None
    control = RunControl(storage, nothing, nothing, Metrics())
    ref = c.RunRef("run-1", "s3://results/x/")
    before = storage.objects[LAYOUT.control]
    await control.write_control(c.ControlInput(ref, c.Control(epoch=6)))
    assert storage.objects[LAYOUT.control] == before
    await control.write_control(c.ControlInput(ref, c.Control(epoch=8)))
    assert json.loads(storage.objects[LAYOUT.control])["epoch"] == 8


def test_the_footer_of_a_result_file() -> None:
    footer = ResultFooter("run-1", 0, 3, 1, "token", replace(TOTALS, documents=0), partial=True)
    data = encode([], row_schema(None), footer)
    assert decode(newer_parquet(data))[1] == footer
    assert totals_of([], "run-1") == c.Totals(partitions=1)


def test_the_plan_file() -> None:
    storage = MemoryStorage()
    footer = PlanFooter(0, 0, 1, 1, "", "a", True, reasons={"new": 1}, planned_at="2026-01-01T00:00:00+00:00")
    document = PlannedDocument("a", "s3://b/a", '"1"', 7, reason="new")
    row = {**{each.name: getattr(document, each.name) for each in fields(document)}, "partition": 0}
    table = pa.Table.from_pylist([row], schema=PLAN_SCHEMA.with_metadata(footer.to_metadata()))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    plan = with_metadata(sink.getvalue().to_pybytes(), b"docbatch.of_a_newer_version", b"[1]")
    storage.objects[LAYOUT.plan(0)] = plan
    assert read_plan_footer(storage, "results", LAYOUT.plan(0)) == footer
    assert read_documents(storage, LAYOUT, 0, 0) == [document]


def test_a_segment_of_a_ledger() -> None:
    name, rows = LedgerName("run-1", "f00d", 7, 1, 1, 1), [{"document_id": "a"}]
    body = newer(encode_segment(name, rows).split(b"\n", 2)[2])
    digest = hashlib.sha256(body).hexdigest().encode()
    assert decode_segment(MAGIC + digest + b"\n" + body) == (name, rows)
    lacking = orjson.dumps({"run_id": "run-1", "rows": []})
    assert decode_segment(MAGIC + hashlib.sha256(lacking).hexdigest().encode() + b"\n" + lacking) is None


async def test_the_record_of_a_batch() -> None:
    storage = MemoryStorage()
    held = await BatchRecords(storage, LAYOUT, 7).announce(BatchRecord(7, 1, 1, "", 1.0, [0, 1], pages={"0": {"n": 1}}))
    key = LAYOUT.batch_record(7, 1, 1)
    storage.objects[key] = newer(storage.objects[key])
    (found,) = await BatchRecords(storage, LAYOUT).read()
    assert found.record == held.record


def test_previews_and_estimates() -> None:
    picked = [Picked(PlannedDocument("a", "s3://b/a", '"1"', 7), 3)]
    request = PreviewRequest(Job.parse(job()), NOMINAL, picked, asks=1)
    nested = ("job", "job.model", "picked.0", "picked.0.document")
    assert PreviewRequest.from_bytes(newer(request.to_bytes(), *nested)) == request
    assert read_record(PreviewResult, json.loads(newer(orjson.dumps(RESULT), "documents.0"))) == RESULT
    low = Range(1, 2, 3)
    estimate = Estimate(
        *("tickets", "m", 1, 10, 0, 1, {}, low, low, low, low, None, low, "CPU", {"CPU": 1.0}, 1),
    )
    assert read_record(Estimate, json.loads(newer(orjson.dumps(estimate), "answerable", "cost_usd"))) == estimate


@dataclass(frozen=True)
class Inner:
    number: int


@dataclass(frozen=True)
class Outer:
    one: Inner
    many: list[Inner] = field(default_factory=list)
    maybe: Inner | None = None
    by_name: dict[str, int] = field(default_factory=dict)


def test_what_is_lacking_is_named() -> None:
    assert read_record(Outer, {"one": {"number": 1}}) == Outer(Inner(1))
    whole = {"one": {"number": 1}, "many": [{"number": 2}], "maybe": {"number": 3}, "by_name": {"a": 4}}
    assert read_record(Outer, whole) == Outer(Inner(1), [Inner(2)], Inner(3), {"a": 4})
    for data, message in [
        ({}, "Outer: no field one"),
        ({"one": {"n": 1}}, "Inner: no field number"),
        ({"one": {"number": 1}, "many": [[]]}, "Inner: list in place of an object"),
        ([], "Outer: list in place of an object"),
        ({"one": {"number": 1}, "many": None}, "NoneType in place of a list"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_record(Outer, data)
