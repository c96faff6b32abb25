"""Payloads and files of other versions are read: fields that we do not have, or have no more, are ignored."""

from __future__ import annotations

import json
from dataclasses import asdict

from temporalio.api.common.v1 import Payload

from batch.network.connection import DATA_CONVERTER
from batch.storage.records import read_record
from batch.workflows.contracts import Claimed, RunRef, Totals, Tuning
from batch.workflows.run_state import RunInput

REF = RunRef("r", "s3://results/")


async def test_a_payload_with_fields_that_we_do_not_have_is_read() -> None:
    """At any depth: `skipped` was in those of older versions, and newer ones have others."""
    claimed = Claimed(REF, "tickets", priority=3, in_flight=10, model="m")
    older = {**asdict(claimed), "run": {**asdict(REF), "region": "r"}, "unknown": {"deep": [1]}}
    start = {**asdict(RunInput(Tuning(), "q")), "carried": {"claimed": older, "generation": 2, "control": {},
             "started_at": 1.0, "totals": {"documents": 2, "ok": 2, "skipped": 0}}}  # fmt: skip
    payload = Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(start).encode())
    (found,) = await DATA_CONVERTER.decode([payload], [RunInput])
    assert found.carried.claimed == claimed
    assert (found.carried.totals, found.carried.generation) == (Totals(documents=2, ok=2), 2)


def test_totals_of_an_older_version_are_read() -> None:
    assert read_record(Totals, {"documents": 2, "ok": 2, "skipped": 0}) == Totals(documents=2, ok=2)


def test_a_claim_has_what_older_versions_cannot_do_without() -> None:
    """They go on with a run after a roll-back, and with a coordinator that a newer version has continued as new."""
    assert {"run", "job_name", "model", "priority", "in_flight"} <= asdict(Claimed(REF, "tickets", 3, 10)).keys()
