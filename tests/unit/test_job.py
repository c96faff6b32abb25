"""The job file: what is accepted, what the fingerprint covers, what is refused and in which words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from batch.job import MAX_JOB_BYTES, Job, JobError


def job(**changes: Any) -> dict[str, Any]:
    """The smallest job, with dotted keys changed."""
    data: dict[str, Any] = {
        "name": "tickets",
        "source": {"uri": "s3://corpus/tickets/"},
        "prompt": {"user": "Label this.\n{{ text }}"},
        "model": {"name": "simulated-small"},
        "output": {"uri": "s3://results/tickets/"},
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        part = data
        for step in path:
            part = part.setdefault(step, {})
        part[last] = value
    return data


def test_the_smallest_job_has_defaults_and_survives_json() -> None:
    parsed = Job.parse(job())
    assert parsed.partitions.documents == 500
    assert parsed.partitions.bytes == 64 * 2**20
    assert parsed.limits.concurrency == 256
    again = Job.parse(json.loads(parsed.to_json()))
    assert again == parsed
    assert again.fingerprint == parsed.fingerprint


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"prompt__user": "Other {{ text }}"}, False),
        ({"prompt__system": "Be brief."}, False),
        ({"model__name": "simulated-large"}, False),
        ({"model__temperature": 0}, False),
        ({"model__max_output_tokens": 5}, False),
        ({"output__schema": {"type": "object", "properties": {"a": {"type": "string"}}}}, False),
        ({"name": "other"}, True),
        ({"limits__concurrency": 5}, True),
        ({"partitions__documents": 5}, True),
        ({"model__timeout_seconds": 5}, True),
        ({"output__uri": "s3://elsewhere/"}, True),
    ],
)
def test_the_fingerprint_changes_just_when_answers_could(changes: dict[str, Any], same: bool) -> None:
    assert (Job.parse(job(**changes)).fingerprint == Job.parse(job()).fingerprint) is same


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sourc": {}}, "job: sourc: unknown key, did you mean 'source'?"),
        ({"source__formt": "auto"}, "job: source.formt: unknown key, did you mean 'format'?"),
        ({"output__shema": {}}, "job: output.shema: unknown key, did you mean 'schema'?"),
        ({"limits__concurrency": "many"}, "job: limits.concurrency: input should be a valid integer"),
        ({"prompt__user": "{{ text"}, "job: prompt.user, line 1: the template does not compile"),
        ({"prompt__user": "{{ tekst }}"}, "job: prompt.user: unknown variable 'tekst', did you mean 'text'?"),
        ({"prompt__user": "{{ text | nosuch }}"}, "job: prompt.user, line 1: the template does not compile"),
        ({"output__schema": {"type": "nonsense"}}, "job: output.schema"),
        (
            {"output__uri": "s3://corpus/tickets/out/"},
            "job: output.uri s3://corpus/tickets/out/ lies inside source.uri",
        ),
        ({"source__uri": "http://x/"}, "job: source.uri: 'http://x/' is no S3 prefix; write s3://BUCKET/PREFIX/"),
        ({"model__mode": "batch"}, "job: model.mode: batch is not supported yet"),
        ({"limits__max_cost_usd": 5}, "job: limits.max_cost_usd is not supported yet"),
        ({"limits__requests_per_minute": 5}, "job: limits.requests_per_minute is not supported yet"),
        ({"source__format": "jsonl"}, "job: source.format: jsonl is not supported yet"),
        ({"incremental": True}, "job: incremental is not supported yet"),
        ({"partitions__bytes": "64 bananas"}, "job: partitions.bytes: '64 bananas' is no size"),
        ({"name": "Not A Name"}, "job: name: a name has 1 to 63"),
        ({"prompt__system": "x" * MAX_JOB_BYTES}, "job: the job is larger than 48 KiB"),
    ],
)
def test_bad_input_is_refused_in_clear_words(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError) as error:
        Job.parse(job(**changes))
    assert str(error.value).startswith(message)


def test_a_required_key_is_named() -> None:
    with pytest.raises(JobError, match=r"job: model: this key is required"):
        Job.parse({key: value for key, value in job().items() if key != "model"})
