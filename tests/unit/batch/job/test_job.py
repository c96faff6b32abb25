"""The job file: what is accepted, what the fingerprint covers, what is refused and in which words."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from temporalio.converter import DataConverter
from temporalio.exceptions import ApplicationError

from batch.job.job import MAX_JOB_BYTES, Job
from batch.job.limits import BATCH_DOCUMENTS
from batch.job.logical_date import Nominal
from batch.job.part import JobError
from batch.job.templates import Prompt
from batch.workflows import contracts as c
from batch.workflows.run_state import RunInput
from tests.jobs import job
from workers.process.control import RunControl


def test_the_smallest_job_has_defaults_and_survives_json() -> None:
    parsed = Job.parse(job())
    assert parsed.partitions.documents == 500
    assert parsed.partitions.bytes == 64 * 2**20
    assert parsed.limits.concurrency == 256
    again = Job.parse(json.loads(parsed.to_json()))
    assert again == parsed
    assert again.fingerprint == parsed.fingerprint


def test_a_job_in_batch_mode_has_large_partitions_unless_it_says() -> None:
    parsed = Job.parse(job(model__mode="batch"))
    assert parsed.partitions.documents == BATCH_DOCUMENTS
    assert Job.parse(json.loads(parsed.to_json())) == parsed
    assert Job.parse(job(model__mode="batch", partitions__bytes="1MB")).partitions.documents == BATCH_DOCUMENTS
    assert Job.parse(job(model__mode="batch", partitions__documents=500)).partitions.documents == 500


@pytest.mark.parametrize(
    ("given", "seconds"), [("6h", 21_600), ("90m", 5400), ("1.5 h", 5400), ("45s", 45), ("1d", 86_400), (30, 30)]
)
def test_a_deadline_is_a_duration(given: str | int, seconds: float) -> None:
    assert Job.parse(job(model__mode="batch", model__batch_deadline=given)).model.batch_deadline == seconds


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"prompt__user": "Other {{ text }}"}, False),
        ({"prompt__system": "Be brief."}, False),
        ({"model__name": "simulated-large"}, False),
        ({"model__temperature": 0}, False),
        ({"model__max_output_tokens": 5}, False),
        ({"output__schema": {"type": "object", "properties": {"a": {"type": "string"}}}}, False),
        ({"source__html": "main"}, False),
        ({"source__html": "all"}, True),
        ({"name": "other"}, True),
        ({"source__uri": "s3://corpus/{{ date }}/"}, True),
        ({"output__uri": "s3://elsewhere/{{ scheduled_at }}/"}, True),
        ({"limits__concurrency": 5}, True),
        ({"partitions__documents": 5}, True),
        ({"model__timeout_seconds": 5}, True),
        ({"model__reasks": 0}, True),
        ({"model__mode": "batch"}, True),
        ({"model__mode": "batch", "model__batch_deadline": "6h"}, True),
        ({"output__uri": "s3://elsewhere/"}, True),
    ],
)
def test_the_fingerprint_changes_just_when_answers_could(changes: dict[str, Any], same: bool) -> None:
    assert (Job.parse(job(**changes)).fingerprint == Job.parse(job()).fingerprint) is same


def test_the_order_of_the_answers_fields_is_part_of_the_fingerprint() -> None:
    """A model writes them in this order, so it reasons before or after it concludes."""
    fields = {"reason": {"type": "string"}, "label": {"type": "string"}}
    one, other = (
        Job.parse(job(output__schema={"type": "object", "properties": {name: fields[name] for name in names}}))
        for names in (["reason", "label"], ["label", "reason"])
    )
    assert one.fingerprint != other.fingerprint
    assert one.fingerprint == Job.parse(json.loads(one.to_json())).fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sourc": {}}, "job: sourc: unknown key, did you mean 'source'?"),
        ({"source__formt": "auto"}, "job: source.formt: unknown key, did you mean 'format'?"),
        ({"output__json_schema": {}}, "job: output.json_schema: unknown key, did you mean 'schema'?"),
        ({"output__shema": {}}, "job: output.shema: unknown key, did you mean 'schema'?"),
        ({"model__reasks": 3}, "job: model.reasks: input should be less than or equal to 2, not 3"),
        ({"model__reasks": -1}, "job: model.reasks: input should be greater than or equal to 0, not -1"),
        ({"model__reasks": True}, "job: model.reasks: input should be a valid integer"),
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
        ({"model__batch_deadline": "6h"}, "job: model.batch_deadline is for model.mode: batch; leave it out"),
        (
            {"model__mode": "batch", "model__batch_deadline": "soon"},
            "job: model.batch_deadline: 'soon' is no duration; write for example 6h, 90m or a number of seconds",
        ),
        ({"model__mode": "batch", "model__batch_deadline": 0}, "job: model.batch_deadline: input should be greater"),
        (
            {"model__mode": "batch", "limits__max_cost_usd": 5},
            "job: limits.max_cost_usd in model.mode: batch is not supported yet; leave it out",
        ),
        ({"state__uri": "s3://results/state/"}, "job: state is for incremental: true; leave it out, or set that"),
        (
            {"incremental": True, "state__uri": "s3://corpus/tickets/state/"},
            "job: the state of incremental runs would lie inside source.uri, at s3://corpus/tickets/state/",
        ),
        ({"incremental": True, "state__uri": "results"}, "job: state.uri: 'results' is no S3 prefix"),
        (
            {"incremental": True, "prompt__user": "{{ date }} {{ text }}"},
            "job: the prompt names date, so every night would ask about all documents again",
        ),
        ({"source__uri": ["s3://a-b/", "s3://c-d/"]}, "job: source.uri: s3://a-b/ and s3://c-d/ lie in two buckets"),
        ({"source__uri": ["s3://a-b/x", "s3://a-b/x/"]}, "job: source.uri: s3://a-b/x/ is named twice"),
        (
            {"source__uri": ["s3://a-b/x/y/", "s3://a-b/x-y/", "s3://a-b/x/"]},
            "job: source.uri: s3://a-b/x/y/ lies within s3://a-b/x/, so its objects would be two documents each",
        ),
        ({"source__uri": ["s3://a-b/x/", "s3://a-b/"]}, "job: source.uri: s3://a-b/x/ lies within s3://a-b/, so"),
        ({"source__uri": []}, "job: source.uri: an empty list names no documents"),
        ({"source__uri": 5}, "job: source.uri is s3://BUCKET/PREFIX/, or a list of such prefixes, not '5'"),
        ({"source__uri": ["s3://a-b/", 5]}, "job: source.uri is s3://BUCKET/PREFIX/, or a list of such prefixes"),
        ({"source__uri": ["s3://a-b/", "{{ text }}"]}, "job: source.uri: unknown variable 'text'"),
        (
            {"source__uri": ["s3://results/a/", "s3://results/tickets/"]},
            "job: output.uri s3://results/tickets/ lies inside source.uri s3://results/tickets/: the next run",
        ),
        ({"source__manifest": "s3://a-b/"}, "job: source.manifest: 's3://a-b/' is no object; write s3://BUCKET/KEY"),
        ({"source__manifest": "s3://a-b//k"}, "job: source.manifest: 's3://a-b//k' is no object; write"),
        ({"source__manifest": "s3://a-b/{{ text }}"}, "job: source.manifest: unknown variable 'text'"),
        (
            {"source__format": "object", "source__keep": ["a"]},
            "job: source.keep is for rows of JSONL and Parquet; with",
        ),
        (
            {"source__format": "jsonl", "source__html": "main"},
            "job: source.html is for objects that are pages; with source.format: jsonl leave it out",
        ),
        (
            {"source__format": "object", "source__id_field": "a"},
            "job: source.id_field is for rows of JSONL and Parquet",
        ),
        ({"source__keep": [""]}, "job: source.text_field, source.id_field and source.keep name fields of a row"),
        (
            {"source__format": "object", "prompt__user": "{{ row.title }}"},
            "job: prompt: row.title is a field of a row; with source.format: object there are no rows",
        ),
        (
            {"prompt__user": "Label.\n{{ row }}"},
            "job: prompt.user, line 2: `row` is not there as a whole; name its fields, as in {{ row.title }}",
        ),
        (
            {"prompt__system": "{{ row[text] }}"},
            "job: prompt.system, line 1: a field of `row` is named in the template itself, as row.title or",
        ),
        ({"partitions__bytes": "64 bananas"}, "job: partitions.bytes: '64 bananas' is no size"),
        ({"name": "Not A Name"}, "job: name: a name has 1 to 63"),
        ({"prompt__system": "x" * MAX_JOB_BYTES}, "job: the job is larger than 60 KiB"),
    ],
)
def test_bad_input_is_refused_in_clear_words(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError) as error:
        Job.parse(job(**changes))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limits__concurrency": True}, "job: limits.concurrency: input should be a valid integer, not True"),
        ({"limits__concurrency": "256"}, "job: limits.concurrency: input should be a valid integer, not '256'"),
        ({"limits__concurrency": 3.0}, "job: limits.concurrency: input should be a valid integer, not 3.0"),
        ({"model__temperature": "0.5"}, "job: model.temperature: input should be a valid number, not '0.5'"),
        ({"model__timeout_seconds": True}, "job: model.timeout_seconds: input should be a valid number, not True"),
        ({"partitions__bytes": True}, "job: partitions.bytes: input should be a valid integer, not True"),
        ({"incremental": 1}, "job: incremental: input should be a valid boolean, not 1"),
        ({"partitions__bytes": "9" * 400}, "job: partitions.bytes: a size of 400 digits is too large"),
        ({"partitions__bytes": "9999999999 GiB"}, "job: partitions.bytes: input should be less than or equal to"),
        ({"source__max_document_bytes": 10**30}, "job: source.max_document_bytes: input should be less than"),
        ({"source__include": ["{1..2000}.txt"]}, "job: source.include: '{1..2000}.txt' stands for more than 1000"),
        ({"source__exclude": ["{1..2000}.txt"]}, "job: source.exclude: '{1..2000}.txt' stands for more than 1000"),
        ({"prompt__user": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}"}, "job: prompt.user: the template does not"),
        ({"prompt__user": "{% include 'x' %}"}, "job: prompt.user: the template does not render: there are no other"),
        ({"prompt__user": "{% extends 'x' %}"}, "job: prompt.user: the template does not render: there are no other"),
        ({"prompt__system": "{% import 'x' as x %}"}, "job: prompt.system: the template does not render: there are"),
        ({"prompt__user": "{{ text.foo }}"}, "job: prompt.user: the template does not render: 'str object' has no"),
        ({"prompt__user": "{{ text.__class__.mro() }}"}, "job: prompt.user: the template does not render: access to"),
        ({"output__uri": "s3://corpus/", "source__uri": "s3://corpus/runs/"}, "job: source.uri s3://corpus/runs/ is"),
        (
            {"output__uri": "s3://corpus/", "source__uri": "s3://corpus/previews/"},
            "job: source.uri s3://corpus/previews/ is",
        ),
        ({"prompt__system": "\u0431" * 12_000}, "job: the job is larger than 60 KiB"),
        ({"prompt__system": "\n" * 25_000}, "job: the job is larger than 60 KiB"),
    ],
)
def test_what_would_fail_later_is_refused_now(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError) as error:
        Job.parse(job(**changes))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    "changes",
    [
        {"model__temperature": 0},
        {"model__temperature": 0.7},
        {"partitions__bytes": "1.5 MiB"},
        {"output__uri": "s3://corpus/", "source__uri": "s3://corpus/runs-of-mine/"},
        {"prompt__user": "{{ text.split('\t')[7] }} {{ text.splitlines()[500] }}"},
        {"prompt__user": "{% if 'urgent' in text %}{{ text | upper }}{% else %}{{ text[:100] }}{% endif %}{{ uri }}"},
        {"source__include": ["**/*.{txt,md}", "{1..900}.txt"]},
        {"prompt__system": "\u0431" * 8_000},
    ],
)
def test_what_may_work_is_accepted(changes: dict[str, Any]) -> None:
    Job.parse(job(**changes))


def test_a_job_made_in_python_obeys_the_limit_of_size_too() -> None:
    parts = Job.parse(job())
    with pytest.raises(ValueError, match="the job is larger than 60 KiB"):
        Job(
            name="large",
            source=parts.source,
            prompt=Prompt(user="{{ text }}" + "x" * 200_000),
            model=parts.model,
            output=parts.output,
        )


def test_the_largest_job_fits_a_payload_of_temporal() -> None:
    largest = next(
        parsed for size in range(MAX_JOB_BYTES, 0, -100) if (parsed := _parsed(prompt__system="x" * size)) is not None
    )
    inputs = [
        RunInput(tuning=c.Tuning(), partitions_queue="q" * 100, job_json=largest.to_json()),
        c.ClaimInput(run_id="r" * 128, job_json=largest.to_json(), execution_run_id="e" * 36),
        c.CheckInput(job_json=largest.to_json()),
    ]
    sizes = [len(DataConverter.default.payload_converter.to_payload(value).data) for value in inputs]
    assert all(60_000 < size < 65_536 for size in sizes)


def _parsed(**changes: Any) -> Job | None:
    try:
        return Job.parse(job(**changes))
    except JobError:
        return None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nmodel: {name: x}\nname: b\n", "not valid YAML: line 3, column 1: 'name' stands there twice"),
        ("limits: {concurrency: 1, concurrency: 2}\n", "not valid YAML: line 1, column 26: 'concurrency' stands"),
        ("name: !!int x\n", "not valid YAML: invalid literal for int"),
        ("name: !!timestamp 2024-02-30\n", "not valid YAML: day is out of range"),
        ("[" * 5000, "not valid YAML: it nests too deeply"),
        ("name: " + "9" * 5000, "not valid YAML: Exceeds the limit"),
    ],
)
def test_yaml_that_loses_or_breaks_something_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(JobError) as error:
        Job.from_yaml(tmp_path / "job.yaml")
    assert str(error.value).startswith(f"{tmp_path}/job.yaml: {message}")


def test_yaml_keeps_dates_as_text_and_merges(tmp_path: Path) -> None:
    """JSON has no dates; a key beside a merge overrides the merged one."""
    data = job(output__schema={"type": "object", "properties": {"day": {"const": "DAY"}}, "required": ["day"]})
    text = json.dumps(data).replace('"DAY"', "2024-02-30").replace('"model": {', '"model": {<<: {name: other}, ')
    (tmp_path / "job.yaml").write_text(text)
    parsed = Job.from_yaml(tmp_path / "job.yaml")
    assert parsed.output.json_schema is not None
    assert parsed.output.json_schema["properties"]["day"] == {"const": "2024-02-30"}
    assert parsed.model.name == "simulated-small"


async def test_a_claim_of_a_job_that_cannot_run_is_not_repeated() -> None:
    claim = c.ClaimInput(run_id="r", job_json=json.dumps(job(limits__concurrency="many")), execution_run_id="e")
    control: Any = RunControl.__new__(RunControl)
    with pytest.raises(ApplicationError, match=r"limits\.concurrency") as error:
        await control.claim_run(claim)
    assert error.value.non_retryable


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


def test_several_prefixes_and_a_manifest_have_dates_too_and_no_fingerprint() -> None:
    uris = ["s3://corpus/{{ date }}/", "s3://corpus/all/"]
    template = Job.parse(job(source__uri=uris, source__manifest="s3://lists/{{ date }}.parquet"))
    resolved = template.resolved(NIGHT)
    assert resolved.source.uri == ["s3://corpus/2026-11-22/", "s3://corpus/all/"]
    assert resolved.source.manifest == "s3://lists/2026-11-22.parquet"
    assert template.source_is_dated and not resolved.source_is_dated
    assert Job.parse(job(source__manifest="s3://lists/{{ date }}.parquet")).source_is_dated
    assert Job.parse(json.loads(resolved.to_json())) == resolved
    assert template.fingerprint == Job.parse(job()).fingerprint
    assert template.source.place == "the keys of s3://lists/{{ date }}.parquet"
    assert Job.parse(job(source__uri=uris)).source.place == "s3://corpus/{{ date }}/ and 1 more"
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


def test_fields_of_a_row_are_found_in_the_prompt() -> None:
    prompt = "{% if row.title is defined %}{{ row['a b'] }}{% endif %}{{ row.nested.deep[0] + row.count * 2 }}"
    found = Job.parse(job(prompt__user=prompt, prompt__system="{{ row.lang }}"))
    assert found.prompt_fields == ["a b", "count", "lang", "nested", "title"]
    own = "{% for row in text.splitlines() %}{{ row }}{% endfor %}"
    assert Job.parse(job(prompt__user=own)).prompt_fields == []


def test_rows_change_the_fingerprint_only_by_what_changes_an_answer() -> None:
    plain = Job.parse(job()).fingerprint
    assert plain == Job.parse(job(source__keep=["a"], source__id_field="b", source__format="jsonl")).fingerprint
    assert plain != Job.parse(job(source__text_field="body")).fingerprint
