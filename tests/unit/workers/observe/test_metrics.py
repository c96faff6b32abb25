"""Metrics: label sets that start at 0, stay, and are bounded, whatever a provider answers."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from batch.schema.error_types import ErrorType, Stage, words_of
from batch.workflows.states import State
from workers.llm.answers.completion import read_completion
from workers.llm.answers.errors import RULES, Kind, Verdict, judge_answer, judge_status
from workers.observe.metrics import (
    ANSWER_OUTCOMES,
    BATCH_STATES,
    LLM_OUTCOMES,
    OTHER,
    PAUSE_REASONS,
    REFUSED_DOCUMENT,
    REFUSED_JOB,
    TRANSIENT,
    Metrics,
)
from workers.process.exposition import FirstScrape, merged


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_the_label_sets_of_a_job_start_at_0_and_stay() -> None:
    metrics = Metrics()
    assert value(metrics, "docbatch_documents_total", job_name="night", status="ok") is None
    metrics.start_job("night")
    for status in ("ok", "error"):
        assert value(metrics, "docbatch_documents_total", job_name="night", status=status) == 0
    for outcome in ANSWER_OUTCOMES:
        assert value(metrics, "docbatch_answers_total", job_name="night", outcome=outcome) == 0
    for reason in PAUSE_REASONS:
        assert value(metrics, "docbatch_pauses_total", job_name="night", reason=reason) == 0
    assert value(metrics, "docbatch_planned_documents_total", job_name="night") == 0
    assert value(metrics, "docbatch_partition_seconds_count", job_name="night") == 0
    metrics.answers("night", "ok", 3)
    metrics.start_job("night")
    assert value(metrics, "docbatch_answers_total", job_name="night", outcome="ok") == 3


def test_the_label_sets_of_a_model_start_at_0() -> None:
    metrics = Metrics()
    metrics.llm("small")
    for outcome in LLM_OUTCOMES:
        assert value(metrics, "docbatch_llm_requests_total", model="small", outcome=outcome) == 0
    for reason in TRANSIENT:
        assert value(metrics, "docbatch_llm_retries_total", model="small", reason=reason) == 0
    for direction in ("prompt", "cached", "completion"):
        assert value(metrics, "docbatch_tokens_total", model="small", direction=direction) == 0
    assert value(metrics, "docbatch_llm_reasks_total", model="small") == 0
    for state in BATCH_STATES:
        assert value(metrics, "docbatch_llm_batches_total", model="small", state=state) == 0


def test_words_that_no_list_knows_count_as_other() -> None:
    metrics = Metrics()
    for status in range(500, 1000):
        llm = metrics.llm("small")
        llm.requests(f"http_{status}")
        llm.retries(f"http_{status}")
        metrics.answers("night", f"http_{status}")
        metrics.pauses("night", f"http_{status}")
    lines = [line for line in merged(metrics.registry, "").splitlines() if "http_" in line]
    assert len(lines) < 40, "a status of a provider's invention is no label"
    assert value(metrics, "docbatch_llm_requests_total", model="small", outcome=OTHER) == 500 - 8
    assert value(metrics, "docbatch_llm_requests_total", model="small", outcome="http_503") == 1


def test_every_verdict_of_the_taxonomy_has_a_label() -> None:
    """Statuses that docs/errors.md names, and every finish reason: none of them may hide in `other`."""
    codes = ("rate_limit_exceeded", "insufficient_quota", "content_filter", "context_length_exceeded", None)
    verdicts = [
        judge_status(status, {"error": {"code": code, "message": message}})
        for status in (301, 307, 400, 401, 402, 403, 404, 408, 409, 413, 422, 425, 429, 500, 502, 503, 504, 529)
        for code in codes
        for message in ("no", "request too large")
    ]
    verdicts += [Verdict(rule.kind, rule.error_type, "") for rule in RULES if "{" not in rule.error_type]
    for finish in ("length", "content_filter", "tool_calls", "abort", "refusal"):
        found = read_completion({"choices": [{"message": {"content": ""}, "finish_reason": finish}]})
        verdicts += [v for v in (judge_answer(200, found), judge_answer(200, read_completion(None))) if v]
    lists = {Kind.TRANSIENT: TRANSIENT, Kind.DOCUMENT: REFUSED_DOCUMENT, Kind.JOB: REFUSED_JOB}
    for verdict in verdicts:
        assert verdict.error_type in lists[verdict.kind], verdict


def test_every_word_of_a_row_or_a_pause_has_a_label() -> None:
    pauses = set(words_of(Stage.JOB, Stage.JOB_BATCH))
    assert pauses <= set(PAUSE_REASONS)
    assert set(ErrorType) - pauses <= set(ANSWER_OUTCOMES)


def test_runs_by_state_are_0_when_they_are_over_and_gone_when_nobody_knows() -> None:
    metrics = Metrics()
    metrics.show_runs({("night", State.PAUSED): 1, ("night", State.RUNNING): 2}, {})
    assert value(metrics, "docbatch_runs", job_name="night", state="paused") == 1
    metrics.show_runs({}, {("night", State.FAILED): 1})
    assert value(metrics, "docbatch_runs", job_name="night", state="paused") == 0
    assert value(metrics, "docbatch_runs", job_name="night", state="running") == 0
    assert value(metrics, "docbatch_ended_runs", job_name="night", state="failed") == 1
    assert value(metrics, "docbatch_ended_runs", job_name="night", state="completed") == 0
    metrics.forget_runs()
    assert value(metrics, "docbatch_runs", job_name="night", state="paused") is None
    assert value(metrics, "docbatch_ended_runs", job_name="night", state="failed") is None


def test_buckets_fit_activities_of_30_to_300_seconds() -> None:
    metrics = Metrics()
    metrics.start_job("night")
    bounds = [
        float(sample.labels["le"])
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "docbatch_partition_seconds_bucket"
    ]
    assert len([bound for bound in bounds if 30 <= bound <= 300]) >= 6
    assert 600 in bounds


def test_one_exposition_of_ours_and_the_sdks_without_labels_of_prometheus_own() -> None:
    sdk = (
        "# HELP temporal_x_total x\n# TYPE temporal_x_total counter\n"
        'temporal_x_total{namespace="default",task_queue="a"} 1\n'
        'temporal_x_total{operation="namespace=\\"b",namespace="default"} 2\n'
    )
    families = {family.name: family for family in text_string_to_metric_families(merged(CollectorRegistry(), sdk))}
    labels = [sample.labels for sample in families["temporal_x"].samples]
    assert labels[0] == {"temporal_namespace": "default", "task_queue": "a"}
    ours = Metrics()
    ours.start_job("night")
    ours.llm("small")
    for family in ours.registry.collect():
        for sample in family.samples:
            assert not {"job", "instance", "namespace", "pod", "service"} & set(sample.labels), sample


def test_the_first_scrape_of_a_counter_is_0_and_a_gauge_is_what_it_is() -> None:
    metrics, first = Metrics(), FirstScrape()
    metrics.answers("night", "ok", 7)
    metrics.llm_in_flight.labels("small").set(3)
    metrics.observe_storage("get", 0.5)

    def scrape() -> dict[str, float]:
        families = text_string_to_metric_families(first.zeroed(merged(metrics.registry, "")))
        return {f"{s.name}{sorted(s.labels.values())}": s.value for family in families for s in family.samples}

    names = ("docbatch_answers_total['night', 'ok']", "docbatch_s3_request_seconds_sum['get']")
    one = scrape()
    assert [one[name] for name in names] == [0, 0]
    assert one["docbatch_llm_in_flight['small']"] == 3
    metrics.answers("night", "refusal", 2)
    two = scrape()
    assert [two[name] for name in names] == [7, 0.5]
    assert two["docbatch_answers_total['night', 'refusal']"] == 0
    assert scrape()["docbatch_answers_total['night', 'refusal']"] == 2
