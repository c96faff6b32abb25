"""The job file: what is accepted, what the fingerprint covers, what is refused and in which words."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest

from batch.job import MAX_JOB_BYTES, Job, JobError
from batch.nominal import Nominal


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
        ({"source__uri": "s3://corpus/{{ date }}/"}, True),
        ({"output__uri": "s3://elsewhere/{{ scheduled_at }}/"}, True),
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
        (
            {"source__uri": "s3://corpus/{{ text }}/"},
            "job: source.uri: unknown variable 'text', did you mean 'date'?",
        ),
        ({"output__uri": "s3://x/{{ dat }}/"}, "job: output.uri: unknown variable 'dat', did you mean 'date'?"),
        ({"output__uri": "s3://results/{{ date"}, "job: output.uri, line 1: the template does not compile"),
        ({"output__uri": "s3://results/{{ date.day }}/"}, "job: output.uri: the template does not render"),
        ({"output__uri": "s3://results/{{ date[20:] }}/x/"}, "job: output.uri: 's3://results//x/' has an empty"),
        (
            {"output__uri": "s3://corpus/tickets/{{ date }}/"},
            "job: output.uri s3://corpus/tickets/{{ date }}/ lies inside source.uri",
        ),
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


NIGHT = Nominal.parse("2026-11-21T23:30:00+00:00", "Europe/Berlin")


def test_dates_are_those_of_the_time_zone_and_fit_into_keys() -> None:
    assert NIGHT.values == {"date": "2026-11-22", "scheduled_at": "20261121T233000Z"}
    assert Nominal.parse(str(NIGHT)) == NIGHT  # as run.json keeps it
    assert Nominal.parse(str(NIGHT)).values == NIGHT.values
    assert Nominal.of_day(date(2026, 11, 22)).values == {"date": "2026-11-22", "scheduled_at": "20261122T000000Z"}
    with pytest.raises(ValueError, match="unknown time zone 'Mars/Olympus'; write an IANA name"):
        Nominal.now("Mars/Olympus")


def test_a_job_is_resolved_for_its_date_and_the_prompt_stays_a_template() -> None:
    template = Job.parse(
        job(
            source__uri="s3://corpus/{{ date[:4] }}/{{ date }}/",
            output__uri="s3://results/{{ scheduled_at }}/",
            prompt__user="On {{ date }}: {{ text }}",
        )
    )
    assert template.source_is_dated
    resolved = template.resolved(NIGHT)
    assert (resolved.source.uri, resolved.output.uri) == (
        "s3://corpus/2026/2026-11-22/",
        "s3://results/20261121T233000Z/",
    )
    assert resolved.prompt == template.prompt
    assert resolved.resolved(NIGHT) == resolved
    assert not resolved.source_is_dated


def test_what_a_date_makes_wrong_is_refused_for_that_date() -> None:
    only_then = Job.parse(job(output__uri="s3://{{ 'corpus/tickets' if date == '2026-11-22' else 'results' }}/"))
    with pytest.raises(JobError, match=r"job 'tickets' for 2026-11-22T00:30:00\+01:00: output.uri .* lies inside"):
        only_then.resolved(NIGHT)


def test_the_date_is_in_a_runs_fingerprint_only_where_its_prompt_names_it() -> None:
    other_night = Nominal.parse("2026-11-25T23:30:00+00:00", "Europe/Berlin")
    plain = Job.parse(job(source__uri="s3://corpus/{{ date }}/"))
    assert plain.fingerprint_at(NIGHT) == plain.fingerprint_at(other_night) == plain.fingerprint
    dated = Job.parse(job(prompt__system="Today is {{ date }}."))
    assert dated.fingerprint_at(NIGHT) != dated.fingerprint_at(other_night)
    later_that_day = Nominal.parse("2026-11-22T10:00:00+00:00", "Europe/Berlin")
    assert dated.fingerprint_at(NIGHT) == dated.fingerprint_at(later_that_day)


def test_a_required_key_is_named() -> None:
    with pytest.raises(JobError, match=r"job: model: this key is required"):
        Job.parse({key: value for key, value in job().items() if key != "model"})
