"""docbatch: an LLM prompt over every document of a corpus in object storage, durably, one typed Parquet row each.

The public names, loaded when first asked for: the workflow sandbox imports this package and must load nothing heavy.
"""

from __future__ import annotations

TYPE_CHECKING = False  # for type checkers; `typing` would be most of what the program's first moments import
if TYPE_CHECKING:
    from typing import Any

    from batch.checks import CheckFailed as CheckFailed
    from batch.client import BudgetTooSmall as BudgetTooSmall
    from batch.client import Run as Run
    from batch.client import RunBusy as RunBusy
    from batch.client import RunNotFound as RunNotFound
    from batch.client import RunResult as RunResult
    from batch.client import connect as connect
    from batch.client import rerun as rerun
    from batch.client import rerun_blocking as rerun_blocking
    from batch.client import run_blocking as run_blocking
    from batch.client import start as start
    from batch.connection import TemporalUnreachable as TemporalUnreachable
    from batch.estimation import Estimate as Estimate
    from batch.job import Job as Job
    from batch.job import JobError as JobError
    from batch.job import Limits as Limits
    from batch.job import Model as Model
    from batch.job import Output as Output
    from batch.job import Partitions as Partitions
    from batch.job import Prompt as Prompt
    from batch.job import Source as Source
    from batch.preview_file import PreviewedDocument as PreviewedDocument
    from batch.preview_file import PreviewResult as PreviewResult
    from batch.previews import estimate as estimate
    from batch.previews import estimate_blocking as estimate_blocking
    from batch.previews import preview as preview
    from batch.previews import preview_blocking as preview_blocking
    from batch.schedules import Schedule as Schedule
    from batch.schedules import create_schedule as create_schedule
    from batch.schedules import find_schedule as find_schedule
    from batch.schedules import list_schedules as list_schedules
    from batch.storage_errors import StorageError as StorageError
    from batch.timing import Overlap as Overlap
    from batch.timing import Timing as Timing

__all__ = [
    "BudgetTooSmall",
    "CheckFailed",
    "Estimate",
    "Job",
    "JobError",
    "Limits",
    "Model",
    "Output",
    "Overlap",
    "Partitions",
    "PreviewResult",
    "PreviewedDocument",
    "Prompt",
    "Run",
    "RunBusy",
    "RunNotFound",
    "RunResult",
    "Schedule",
    "Source",
    "StorageError",
    "TemporalUnreachable",
    "Timing",
    "connect",
    "create_schedule",
    "estimate",
    "estimate_blocking",
    "find_schedule",
    "list_schedules",
    "preview",
    "preview_blocking",
    "rerun",
    "rerun_blocking",
    "run_blocking",
    "start",
]

_HOMES = {
    **dict.fromkeys(("Job", "JobError", "Limits", "Model", "Output", "Partitions", "Prompt", "Source"), "batch.job"),
    **dict.fromkeys(("estimate", "estimate_blocking", "preview", "preview_blocking"), "batch.previews"),
    **dict.fromkeys(("PreviewResult", "PreviewedDocument"), "batch.preview_file"),
    "CheckFailed": "batch.checks",
    "Estimate": "batch.estimation",
    "StorageError": "batch.storage_errors",
    "TemporalUnreachable": "batch.connection",
    "Overlap": "batch.timing",
    "Schedule": "batch.schedules",
    "Timing": "batch.timing",
    "create_schedule": "batch.schedules",
    "find_schedule": "batch.schedules",
    "list_schedules": "batch.schedules",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'batch' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES.get(name, "batch.client")), name)
