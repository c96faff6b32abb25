"""The dashboard "docbatch: workers": Temporal's slots, latencies and failures, and the processes themselves."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as builders

from dashboards.panels import Panel, Query, Row, Variable, build, quantiles, rate

PROCESS = 'job=~"$job",instance=~"$instance"'
QUEUE = f'{PROCESS},task_queue=~"$task_queue"'

SLOTS = Row(
    "Slots",
    (
        Panel(
            title="Processes",
            unit="short",
            description="Worker processes that Prometheus knows, and those that answered its last scrape.",
            width=6,
            queries=(
                Query('count(up{job=~"$job"})', "known"),
                Query('sum(up{job=~"$job"})', "up"),
            ),
        ),
        Panel(
            title="Slots in use",
            unit="short",
            description="Partitions, control activities and workflow tasks at work. Partitions at the sum of --slots: "
            "more workers would do more at once, if the provider's limit allows.",
            width=6,
            queries=(
                Query(
                    f"sum by (task_queue, worker_type) (temporal_worker_task_slots_used{{{QUEUE}}})",
                    "{{task_queue}} {{worker_type}}",
                ),
            ),
        ),
        Panel(
            title="Share of slots in use",
            unit="percentunit",
            description="In use, of all there are.",
            width=6,
            most=1,
            queries=(
                Query(
                    f"sum by (task_queue, worker_type) (temporal_worker_task_slots_used{{{QUEUE}}}) / "
                    f"sum by (task_queue, worker_type) (temporal_worker_task_slots_used{{{QUEUE}}} + "
                    f"temporal_worker_task_slots_available{{{QUEUE}}})",
                    "{{task_queue}} {{worker_type}}",
                ),
            ),
        ),
        Panel(
            title="Pollers",
            unit="short",
            description="Polls of task queues under way. None on a queue: nobody takes its tasks.",
            width=6,
            queries=(
                Query(
                    f"sum by (task_queue, poller_type) (temporal_num_pollers{{{QUEUE}}})",
                    "{{task_queue}} {{poller_type}}",
                ),
            ),
        ),
    ),
)

LATENCY = Row(
    "Latency",
    (
        Panel(
            title="Schedule to start of activities",
            unit="s",
            description="How long activities wait for a slot. On the partitions' queue that is normal while more are "
            "dispatched than there are slots; on the control queue it should stay below a second.",
            queries=quantiles(
                "temporal_activity_schedule_to_start_latency_seconds",
                by="task_queue",
                where=QUEUE,
                of=(0.5, 0.95),
            ),
        ),
        Panel(
            title="Schedule to start of workflow tasks",
            unit="s",
            description="How long workflow tasks wait for a worker; it should stay well below a second.",
            queries=quantiles(
                "temporal_workflow_task_schedule_to_start_latency_seconds",
                by="task_queue",
                where=QUEUE,
                of=(0.5, 0.95),
            ),
        ),
        Panel(
            title="Time of activities",
            unit="s",
            description="Partitions take 30 to 300 s each; planner, finisher and control take seconds.",
            queries=quantiles(
                "temporal_activity_execution_latency_seconds",
                by="activity_type",
                where=QUEUE,
                of=(0.5, 0.95),
            ),
        ),
        Panel(
            title="Time of workflow tasks",
            unit="s",
            description="Execution of workflow code, by workflow. Beyond a second: the process is short of CPU.",
            width=12,
            queries=quantiles(
                "temporal_workflow_task_execution_latency_seconds",
                by="workflow_type",
                where=QUEUE,
                of=(0.95,),
            ),
        ),
        Panel(
            title="Requests to Temporal",
            unit="s",
            description="Latency of the calls to Temporal's service, without long polls.",
            width=12,
            queries=quantiles("temporal_request_latency_seconds", by="operation", where=PROCESS, of=(0.95,)),
        ),
    ),
)

FAILURES = Row(
    "Failures",
    (
        Panel(
            title="Failed activities",
            unit="short",
            description="Attempts a second that ended by an exception; Temporal repeats them.",
            queries=(
                Query(
                    rate("temporal_activity_execution_failed_total", by="activity_type", where=QUEUE),
                    "{{activity_type}}",
                ),
            ),
        ),
        Panel(
            title="Failed workflow tasks",
            unit="short",
            description="A second, by reason. NonDeterminismError: a worker runs code that does not fit the history.",
            queries=(
                Query(
                    rate(
                        "temporal_workflow_task_execution_failed_total",
                        by="workflow_type, failure_reason",
                        where=QUEUE,
                    ),
                    "{{workflow_type}} {{failure_reason}}",
                ),
            ),
        ),
        Panel(
            title="Failed requests to Temporal",
            unit="reqps",
            description="By operation and status; a few NOT_FOUND are normal.",
            queries=(
                Query(
                    rate("temporal_request_failure_total", by="operation, status_code", where=PROCESS),
                    "{{operation}} {{status_code}}",
                ),
            ),
        ),
        Panel(
            title="Sticky cache: workflows held",
            unit="short",
            description="Workflows that stay in memory, by process.",
            width=12,
            queries=(Query(f"sum by (instance) (temporal_sticky_cache_size{{{QUEUE}}})", "{{instance}}"),),
        ),
        Panel(
            title="Sticky cache: hits and misses",
            unit="short",
            description="Workflow tasks a second that found their workflow in memory, and that had to replay it.",
            width=12,
            queries=(
                Query(f"sum(rate(temporal_sticky_cache_hit_total{{{QUEUE}}}[$__rate_interval]))", "hit"),
                Query(f"sum(rate(temporal_sticky_cache_miss_total{{{QUEUE}}}[$__rate_interval]))", "miss"),
            ),
        ),
    ),
)

PROCESSES = Row(
    "Processes",
    (
        Panel(
            title="CPU",
            unit="short",
            description="Cores in use by each process; one is the most that its event loop can use.",
            width=6,
            queries=(Query(rate("process_cpu_seconds_total", by="instance", where=PROCESS), "{{instance}}"),),
        ),
        Panel(
            title="Memory",
            unit="bytes",
            description="Resident memory of each process.",
            width=6,
            queries=(Query(f"process_resident_memory_bytes{{{PROCESS}}}", "{{instance}}"),),
        ),
        Panel(
            title="Event loop lag",
            unit="s",
            description="How late the event loop wakes a sleeper. Beyond 0.1 s the process is short of CPU: fewer "
            "--slots, or more processes.",
            width=6,
            queries=quantiles("docbatch_event_loop_lag_seconds", by="instance", where=PROCESS, of=(0.5, 0.99)),
        ),
        Panel(
            title="Open files",
            unit="short",
            description="File descriptors in use: mostly connections to the model and to object storage.",
            width=6,
            queries=(Query(f"process_open_fds{{{PROCESS}}}", "{{instance}}"),),
        ),
    ),
)


def dashboard() -> builders.Dashboard:
    return build(
        uid="docbatch-workers",
        title="docbatch: workers",
        description="Worker processes of docbatch, and Temporal as they see it.",
        since="now-1h",
        variables=(
            Variable("job", "Scrape", "docbatch_event_loop_lag_seconds_count", all_value=None),
            Variable("instance", "Process", "docbatch_event_loop_lag_seconds_count"),
            Variable("task_queue", "Task queue", "temporal_worker_task_slots_available"),
        ),
        rows=(SLOTS, LATENCY, FAILURES, PROCESSES),
    )
