"""`run.json`: the frozen job of a run, its fingerprint and its one Arrow schema. Created once, by the claim."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version

import pyarrow as pa

from batch.files.state import StatePointer
from batch.job.job import Job
from batch.job.logical_date import Nominal
from batch.job.stored import stored_job
from batch.schema.row_schema import ROW_SCHEMA_VERSION, row_schema, schema_from_json, schema_to_json
from batch.storage.layout import RunLayout
from batch.storage.records import read_record
from batch.storage.store import ObjectMissing, Storage
from batch.workflows.contracts import RunRef

VERSION = 1


class RunMissing(LookupError):
    """There is no such run below this output."""


@dataclass(frozen=True)
class RunFile:
    """What a run was started with: the job with its URIs resolved, and when the run is for.

    `execution_run_id` is Temporal's id of the execution that claimed it.
    """

    run_id: str
    job: Job
    schema: pa.Schema
    execution_run_id: str
    created_at: str
    nominal: Nominal
    state: StatePointer | None = None
    """Of an incremental run: what the job's last one left, when this one was claimed."""
    full: bool = False
    """Of an incremental run: whether it asks about all documents all the same."""
    manifest_etag: str = ""
    """Of a job with `source.manifest`: the version of it that the run goes by."""

    @property
    def fingerprint(self) -> str:
        """The job's, for this run's nominal start."""
        return self.job.fingerprint_at(self.nominal)

    def to_bytes(self) -> bytes:
        return json.dumps(
            {
                "version": VERSION,
                "run_id": self.run_id,
                "execution_run_id": self.execution_run_id,
                "created_at": self.created_at,
                "nominal_start": str(self.nominal),
                "state": json.loads(self.state.to_bytes()) if self.state is not None else None,
                "full": self.full,
                "manifest_etag": self.manifest_etag,
                "docbatch_version": version("docbatch"),
                "fingerprint": self.fingerprint,
                "job": json.loads(self.job.to_json()),
                "row_schema_version": ROW_SCHEMA_VERSION,
                "schema": schema_to_json(self.schema),
            },
            indent=1,
        ).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> RunFile:
        fields = json.loads(data)
        nominal = Nominal.parse(fields.get("nominal_start", fields["created_at"]))
        where = f"run.json of {fields['run_id']}"
        return cls(
            run_id=fields["run_id"],
            job=stored_job(fields["job"], nominal, fields.get("fingerprint"), where=where),
            schema=schema_from_json(fields["schema"]),
            execution_run_id=fields["execution_run_id"],
            created_at=fields["created_at"],
            nominal=nominal,
            state=read_record(StatePointer, fields["state"]) if fields.get("state") else None,
            full=fields.get("full", False),
            manifest_etag=fields.get("manifest_etag", ""),
        )

    @classmethod
    def of(
        cls,
        run_id: str,
        job: Job,
        execution_run_id: str,
        created_at: str,
        nominal: Nominal,
        *,
        state: StatePointer | None = None,
        full: bool = False,
        manifest_etag: str = "",
    ) -> RunFile:
        schema = row_schema(
            job.output.json_schema,
            incremental=job.incremental,
            on_too_long=job.long_documents.on_too_long if job.long_documents is not None else None,
            row=bool(job.source.keep),
            keep_text=job.output.keep_text,
        )
        return cls(run_id, job, schema, execution_run_id, created_at, nominal, state, full, manifest_etag)


async def load_run(storage: Storage, run: RunRef) -> RunFile:
    """The run's file. Raises `RunMissing` that says where it was looked for."""
    layout = RunLayout.of(run.output_uri, run.run_id)
    try:
        return RunFile.from_bytes(await storage.get(layout.output.bucket, layout.run_json))
    except ObjectMissing:
        raise RunMissing(f"there is no run {run.run_id!r} at {layout.uri(layout.root)}") from None
