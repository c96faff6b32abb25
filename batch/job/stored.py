"""The frozen job within a file that we wrote, perhaps by another version of docbatch."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from pydantic import ValidationError

from batch.job.job import Job
from batch.job.logical_date import Nominal
from batch.job.part import JobError


def stored_job(data: Any, nominal: Nominal, fingerprint: str | None, *, where: str) -> Job:
    """Reads the job, without fields that only a newer version knows: a stored one may have such, a person's may not.

    Raises `JobError` if it asks something else without them: its `fingerprint` for `nominal` is another one then.
    """
    try:
        return Job.model_validate(data)
    except ValidationError as error:
        unknown = [each["loc"] for each in error.errors() if each["type"] == "extra_forbidden"]
    data = deepcopy(data)
    for *path, name in unknown:
        part = data
        for step in path:
            part = part[step]
        del part[name]
    job = Job.parse(data, where=where)
    if fingerprint is not None and job.fingerprint_at(nominal) != fingerprint:
        names = ", ".join(".".join(map(str, each)) for each in unknown)
        raise JobError(f"{where}: its job was made by a newer docbatch, and asks something else without {names}")
    return job
