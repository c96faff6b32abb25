"""docbatch: an LLM prompt over every document of a corpus in object storage, durably, one typed Parquet row each.

The public names, loaded when first asked for: the workflow sandbox imports this package and must load nothing heavy.
"""

from __future__ import annotations

TYPE_CHECKING = False  # for type checkers; `typing` would be most of what the program's first moments import
if TYPE_CHECKING:
    from typing import Any

    from batch.client.checks import CheckFailed as CheckFailed
    from batch.client.run import BudgetTooSmall as BudgetTooSmall
    from batch.client.run import Run as Run
    from batch.client.run import RunBusy as RunBusy
    from batch.client.run import RunNotFound as RunNotFound
    from batch.client.run import connect as connect
    from batch.client.run import rerun as rerun
    from batch.client.run import rerun_blocking as rerun_blocking
    from batch.client.run import run_blocking as run_blocking
    from batch.client.run import start as start
    from batch.client.schedules import Schedule as Schedule
    from batch.client.schedules import create_schedule as create_schedule
    from batch.client.schedules import find_schedule as find_schedule
    from batch.client.schedules import list_schedules as list_schedules
    from batch.client.status import RunResult as RunResult
    from batch.client.timing import Overlap as Overlap
    from batch.client.timing import Timing as Timing
    from batch.job.job import Job as Job
    from batch.job.limits import Limits as Limits
    from batch.job.limits import Partitions as Partitions
    from batch.job.model import Model as Model
    from batch.job.output import Output as Output
    from batch.job.part import JobError as JobError
    from batch.job.source import Source as Source
    from batch.job.templates import Prompt as Prompt
    from batch.network.connection import TemporalUnreachable as TemporalUnreachable
    from batch.previews.client import estimate as estimate
    from batch.previews.client import estimate_blocking as estimate_blocking
    from batch.previews.client import preview as preview
    from batch.previews.client import preview_blocking as preview_blocking
    from batch.previews.estimation import Estimate as Estimate
    from batch.previews.exchange import PreviewedDocument as PreviewedDocument
    from batch.previews.exchange import PreviewResult as PreviewResult
    from batch.storage.errors import StorageError as StorageError

_HOMES = {
    name: home
    for home, names in {
        "batch.client.checks": "CheckFailed",
        "batch.client.run": "BudgetTooSmall Run RunBusy RunNotFound connect rerun rerun_blocking run_blocking start",
        "batch.client.schedules": "Schedule create_schedule find_schedule list_schedules",
        "batch.client.status": "RunResult",
        "batch.client.timing": "Overlap Timing",
        "batch.job.job": "Job",
        "batch.job.limits": "Limits Partitions",
        "batch.job.model": "Model",
        "batch.job.output": "Output",
        "batch.job.part": "JobError",
        "batch.job.source": "Source",
        "batch.job.templates": "Prompt",
        "batch.network.connection": "TemporalUnreachable",
        "batch.previews.client": "estimate estimate_blocking preview preview_blocking",
        "batch.previews.estimation": "Estimate",
        "batch.previews.exchange": "PreviewResult PreviewedDocument",
        "batch.storage.errors": "StorageError",
    }.items()
    for name in names.split()
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'batch' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
