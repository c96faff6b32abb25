"""The dashboard "docbatch: corpus runs": how far the runs are, what fails, what the model does, what it costs.

Counters are read by rate and increase only, so that a worker that went, or a run that ended, takes nothing away.
"""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as builders

from dashboards.panels import Panel, Query, Row, Variable, build, quantiles, rate

JOB = 'job_name=~"$job_name"'
MODEL = 'model=~"$model"'


def in_range(metric: str, *, by: str, where: str) -> str:
    """Events in the dashboard's time range."""
    return f"sum by ({by}) (increase({metric}{{{where}}}[$__range]))"


PLANNED = in_range("docbatch_planned_documents_total", by="job_name", where=JOB)
COMMITTED = in_range("docbatch_documents_total", by="job_name", where=JOB)

RUNS = Row(
    "Runs",
    (
        Panel(
            title="Runs going",
            unit="short",
            description="Runs that are planning, running or paused, by job. Refreshed every 30 s from Temporal.",
            queries=(Query(f"max by (job_name, state) (docbatch_runs{{{JOB}}})", "{{job_name}} {{state}}"),),
        ),
        Panel(
            title="Paused runs",
            unit="short",
            description="Runs that make no calls until somebody, or a probe of the provider, resumes them. The reason "
            "is in `docbatch status RUN`.",
            kind="number",
            width=4,
            queries=(Query(f'sum(max by (job_name) (docbatch_runs{{{JOB},state="paused"}}))', "paused"),),
        ),
        Panel(
            title="Ended within the last hour",
            unit="short",
            description="How runs ended. `failed`: plan and results do not agree. `aborted`: no account was written.",
            width=6,
            kind="bars",
            queries=(Query(f"max by (job_name, state) (docbatch_ended_runs{{{JOB}}}) > 0", "{{job_name}} {{state}}"),),
        ),
        Panel(
            title="Pauses by reason",
            unit="short",
            description="Pauses in the time range, by their reason.",
            kind="bars",
            width=6,
            queries=(
                Query(
                    in_range("docbatch_pauses_total", by="job_name, reason", where=JOB) + " > 0",
                    "{{job_name}} {{reason}}",
                ),
            ),
        ),
    ),
)

THROUGHPUT = Row(
    "Throughput and progress",
    (
        Panel(
            title="Documents answered",
            unit="suffix: docs/s",
            description="Documents answered, or found to be unanswerable, as it happens. A document whose worker was "
            "lost within a second of its answer counts again.",
            queries=(Query(rate("docbatch_answers_total", by="job_name", where=JOB), "{{job_name}}"),),
        ),
        Panel(
            title="Documents committed",
            unit="suffix: docs/s",
            description="Rows in committed result files: whole partitions, each once.",
            queries=(
                Query(
                    rate("docbatch_documents_total", by="job_name, status", where=JOB),
                    "{{job_name}} {{status}}",
                ),
            ),
        ),
        Panel(
            title="Planned and committed",
            unit="short",
            description="Documents that plans (also of reruns) brought in the time range, and rows committed in it. "
            "Choose a time range that begins before the run.",
            kind="bars",
            queries=(Query(PLANNED, "{{job_name}} planned"), Query(COMMITTED, "{{job_name}} committed")),
        ),
        Panel(
            title="Progress",
            unit="percentunit",
            description="Committed of planned in the time range. It falls while planning is still under way.",
            kind="number",
            width=12,
            height=5,
            most=1,
            queries=(Query(f"clamp_max({COMMITTED} / ({PLANNED} > 0), 1)", "{{job_name}}"),),
        ),
        Panel(
            title="Time left at this speed",
            unit="s",
            description="What is planned and not committed, by the rate of answers of the last 15 minutes. Nothing "
            "while no answers come.",
            kind="number",
            width=12,
            height=5,
            queries=(
                Query(
                    f"clamp_min({PLANNED} - {COMMITTED}, 0) / (job_name:docbatch_answers:rate15m{{{JOB}}} > 0)",
                    "{{job_name}}",
                ),
            ),
        ),
    ),
)

ERRORS = Row(
    "Errors and retries",
    (
        Panel(
            title="Error share",
            unit="percentunit",
            description="Share of documents that ended as an error row, over 5 minutes. A run pauses by itself past "
            "its `limits.max_error_rate`.",
            most=1,
            queries=(Query(f"job_name:docbatch_error_ratio:rate5m{{{JOB}}}", "{{job_name}}"),),
        ),
        Panel(
            title="Errors by reason",
            unit="suffix: docs/s",
            description="Documents that became error rows, by error_type (docs/errors.md).",
            queries=(
                Query(
                    rate(
                        "docbatch_answers_total",
                        by="job_name, outcome",
                        where=f'{JOB},outcome!="ok"',
                        nonzero=True,
                    ),
                    "{{job_name}} {{outcome}}",
                ),
            ),
        ),
        Panel(
            title="Calls repeated, by reason",
            unit="reqps",
            description="Calls to the model that failed in a way that may pass and are repeated in place, and re-asks: "
            "an answer did not fit the job's schema, and the model is shown why.",
            queries=(
                Query(
                    rate("docbatch_llm_retries_total", by="model, reason", where=MODEL, nonzero=True),
                    "{{model}} {{reason}}",
                ),
                Query(
                    rate("docbatch_llm_reasks_total", by="model", where=MODEL, nonzero=True),
                    "{{model}} re-ask",
                ),
            ),
        ),
    ),
)

LLM = Row(
    "Model",
    (
        Panel(
            title="Calls by outcome",
            unit="reqps",
            description="Calls to the model as they end; each repetition is one.",
            queries=(
                Query(
                    rate("docbatch_llm_requests_total", by="model, outcome", where=MODEL, nonzero=True),
                    "{{model}} {{outcome}}",
                ),
            ),
        ),
        Panel(
            title="Calls in flight and their limit",
            unit="short",
            description="Calls in flight in all processes, and how many are let out there: what the provider was found "
            "to bear, at most `limits.concurrency` of the runs at work. In flight at the limit: the provider's latency "
            "bounds the run.",
            queries=(
                Query(f"sum by (model) (docbatch_llm_in_flight{{{MODEL}}})", "{{model}} in flight"),
                Query(f"sum by (model) (docbatch_llm_concurrency_limit{{{MODEL}}})", "{{model}} limit"),
            ),
        ),
        Panel(
            title="429 share",
            unit="percentunit",
            description="Share of calls that the provider refused for its rate limit, over 5 minutes.",
            most=1,
            queries=(Query(f"model:docbatch_llm_rate_limited_ratio:rate5m{{{MODEL}}}", "{{model}}"),),
        ),
        Panel(
            title="Waiting for the provider's limits",
            unit="percentunit",
            description="Share of the time in which calls were ready and only minute limits, or a pause that the "
            "provider asked for, held them back; the mean of the processes. Near 100 %: only a larger quota makes the "
            "runs faster.",
            queries=(
                Query(
                    f"avg by (model) (rate(docbatch_llm_rate_limit_wait_seconds_total{{{MODEL}}}[$__rate_interval]))",
                    "{{model}}",
                ),
            ),
        ),
        Panel(
            title="Quota used",
            unit="percentunit",
            description="Calls, and tokens, of all processes as shares of the limit a minute, where one is known.",
            queries=(
                Query(
                    f"60 * sum by (model) (rate(docbatch_llm_requests_total{{{MODEL}}}[$__rate_interval])) / "
                    f'(max by (model) (docbatch_llm_quota_limit_per_minute{{{MODEL},unit="requests"}}) > 0)',
                    "{{model}} requests",
                ),
                Query(
                    "60 * sum by (model) (rate(docbatch_tokens_total{"
                    + MODEL
                    + ',direction=~"prompt|completion"}[$__rate_interval])) / '
                    f'(max by (model) (docbatch_llm_quota_limit_per_minute{{{MODEL},unit="tokens"}}) > 0)',
                    "{{model}} tokens",
                ),
            ),
        ),
        Panel(
            title="Shares of the quota",
            unit="percentunit",
            description="What each process holds of the quota's minute limits; together at most 100 %.",
            queries=(Query(f"docbatch_llm_quota_share{{{MODEL}}} > 0", "{{instance}} {{model}}"),),
        ),
        Panel(
            title="Latency of calls",
            unit="s",
            description="Time of one call, successful or not, without waits between repetitions.",
            queries=quantiles("docbatch_llm_request_seconds", by="model", where=MODEL),
        ),
        Panel(
            title="Documents in batches",
            unit="short",
            description="Documents of `model.mode: batch` that wait in batches at the provider.",
            queries=(Query(f"sum by (job_name) (docbatch_batch_documents{{{JOB}}}) > 0", "{{job_name}}"),),
        ),
        Panel(
            title="Batches by state",
            unit="short",
            description="Batches of the provider's Batch API that came into a state, a second.",
            queries=(
                Query(
                    rate("docbatch_llm_batches_total", by="model, state", where=MODEL, nonzero=True),
                    "{{model}} {{state}}",
                ),
            ),
        ),
        Panel(
            title="Tokens",
            unit="short",
            description="Tokens a second of all calls, by direction; cached ones are part of the prompt's.",
            queries=(
                Query(rate("docbatch_tokens_total", by="model, direction", where=MODEL), "{{model}} {{direction}}"),
            ),
        ),
        Panel(
            title="Cost",
            unit="currencyUSD",
            description="US dollars an hour of committed rows, by published prices; 0 for a model without a known "
            "price and for a simulated one.",
            width=4,
            queries=(
                Query(
                    "3600 * " + rate("docbatch_cost_usd_total", by="job_name, model", where=f"{JOB},{MODEL}"),
                    "{{job_name}} {{model}}",
                ),
            ),
        ),
        Panel(
            title="Cost in the time range",
            unit="currencyUSD",
            description="US dollars of rows committed in the time range.",
            kind="number",
            width=4,
            queries=(
                Query(in_range("docbatch_cost_usd_total", by="job_name", where=f"{JOB},{MODEL}"), "{{job_name}}"),
            ),
        ),
        Panel(
            title="Spent of the maximum cost",
            unit="percentunit",
            description="What runs with `limits.max_cost_usd` have spent or set aside of it. At 100 % they pause.",
            width=4,
            most=1,
            queries=(
                Query(
                    f"max by (job_name) (docbatch_budget_charged_usd{{{JOB}}}) / "
                    f"(max by (job_name) (docbatch_budget_usd{{{JOB}}}) > 0)",
                    "{{job_name}}",
                ),
            ),
        ),
    ),
)

PARTITIONS = Row(
    "Partitions, ledger and object storage",
    (
        Panel(
            title="Attempts at partitions, by end",
            unit="short",
            description="Attempts a second. `yielded`: handed back on a drain, pause or outage. `given_up`: after "
            "several attempts in a row without progress.",
            queries=(
                Query(
                    rate("docbatch_partitions_total", by="job_name, status", where=JOB),
                    "{{job_name}} {{status}}",
                ),
            ),
        ),
        Panel(
            title="Time of attempts at partitions",
            unit="s",
            description="From an attempt's start to its end, whatever that was.",
            queries=quantiles("docbatch_partition_seconds", by="job_name", where=JOB, of=(0.5, 0.95)),
        ),
        Panel(
            title="Ledger",
            unit="short",
            description="A second: segments written, segments ignored (torn or foreign), and answers taken from a "
            "ledger instead of being paid again.",
            queries=(
                Query(rate("docbatch_ledger_segments_total", by="status"), "segments {{status}}"),
                Query(
                    "sum(rate(docbatch_ledger_replayed_documents_total[$__rate_interval]))",
                    "answers taken over",
                ),
            ),
        ),
        Panel(
            title="S3 requests",
            unit="reqps",
            description="Requests to object storage, by operation.",
            width=12,
            queries=(Query(rate("docbatch_s3_request_seconds_count", by="operation"), "{{operation}}"),),
        ),
        Panel(
            title="Latency of S3 requests",
            unit="s",
            description="Time of one request, by operation; of a listing, all its pages.",
            width=12,
            queries=quantiles("docbatch_s3_request_seconds", by="operation", of=(0.95,)),
        ),
    ),
)


def dashboard() -> builders.Dashboard:
    return build(
        uid="docbatch-corpus-runs",
        title="docbatch: corpus runs",
        description="Runs of docbatch: progress, errors, the model, cost, partitions.",
        since="now-6h",
        variables=(
            Variable("job_name", "Job", "docbatch_documents_total"),
            Variable("model", "Model", "docbatch_llm_requests_total"),
        ),
        rows=(RUNS, THROUGHPUT, ERRORS, LLM, PARTITIONS),
    )
