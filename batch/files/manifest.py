"""`manifest.json`: the run's account. State, totals, errors by type, problems, result files with checksums."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from batch.storage.compare_and_set import update
from batch.storage.layout import RunLayout
from batch.storage.records import read_record
from batch.storage.store import Storage
from batch.workflows.contracts import Totals

VERSION = 1


@dataclass(frozen=True)
class ResultEntry:
    """One result file as it stood when the run was reconciled. `sha256` in hex."""

    shard: int
    partition: int
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """`completed` and `completed_with_failures` mean reconciled: each planned document has exactly one row.

    Times are UTC in ISO 8601; `seconds` is the wall time of the last generation.
    """

    run_id: str
    job_name: str
    model: str
    fingerprint: str
    state: str
    reason: str
    generation: int
    execution_run_id: str
    started_at: str
    finished_at: str
    seconds: float
    totals: Totals
    planned_documents: int
    max_cost_usd: float | None = None
    charged_usd: float | None = None
    """What was charged against it in all generations, also for answers that no row shows; None where there is none."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Of an incremental run: planned documents by the reason why they were asked about, or not."""
    deleted: int = 0
    """Of an incremental run: documents of the last one that were not listed any more."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Keys of the source that are no documents, by the rule (`batch.corpus.hidden`)."""
    problems: list[str] = field(default_factory=list)
    files: list[ResultEntry] = field(default_factory=list)

    def to_bytes(self) -> bytes:
        return json.dumps({"version": VERSION, **asdict(self)}, indent=1).encode()


async def load_manifest(storage: Storage, layout: RunLayout) -> tuple[Manifest, str] | None:
    """The manifest and its etag; None while the run has none."""
    found = await storage.get_entry(layout.output.bucket, layout.manifest)
    return (read_record(Manifest, json.loads(found[0])), found[1].etag) if found else None


async def write_manifest(storage: Storage, layout: RunLayout, manifest: Manifest) -> None:
    """Replaces the manifest unless a later generation's stands already."""

    def written(found: bytes | None) -> bytes | None:
        later = found is not None and read_record(Manifest, json.loads(found)).generation > manifest.generation
        return None if later else manifest.to_bytes()

    await update(storage, layout.output.bucket, layout.manifest, written)
