"""Runs as Temporal's visibility knows them: by job, state, age, documents and cost, without asking a worker.

What is shown stands in each run's memo. The search attributes `DocbatchJob` and `DocbatchState` (both Keyword) let the
server find runs by them; a namespace need not have them, and then the list is filtered here.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any

from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError, RPCStatusCode

from batch.workflows import contracts as c
from batch.workflows.states import State

STATES = (State.RUNNING, State.PAUSED, State.COMPLETED, State.COMPLETED_WITH_FAILURES, State.CANCELLED, State.FAILED)
"""The states that a list knows: planning is running, and so is a rerun."""
REGISTER = " && ".join(
    f"temporal operator search-attribute create --name {name} --type Keyword"
    for name in (c.JOB_ATTRIBUTE, c.STATE_ATTRIBUTE)
)
"""Gives a namespace our search attributes. One a command: of two names, Temporal's CLI 1.9 takes the first alone."""

_PASSING = {RPCStatusCode.UNAVAILABLE, RPCStatusCode.RESOURCE_EXHAUSTED, RPCStatusCode.DEADLINE_EXCEEDED}
"""What says nothing about the attributes."""

log = logging.getLogger(__name__)


async def registered(client: Client) -> bool:
    """Tells whether the namespace has our search attributes, with their types. False too if it does not say so.

    A query is asked, since any client may ask one: who may list attributes differs between servers and Temporal Cloud.
    """
    try:
        await client.count_workflows(f"{c.JOB_ATTRIBUTE} = '' AND {c.STATE_ATTRIBUTE} = ''")
    except RPCError as error:
        if error.status in _PASSING:
            raise
        log.debug("search attributes: %s", error.message)
        return False
    return True


def attributes_of(job_name: str) -> TypedSearchAttributes:
    """Returns what a run has from its start on, and a schedule."""
    key = SearchAttributeKey.for_keyword(c.JOB_ATTRIBUTE)
    return TypedSearchAttributes([SearchAttributePair(key, job_name)])


async def list_runs(client: Client, *, job: str | None, state: str | None, limit: int) -> list[dict[str, Any]]:
    """Returns the latest runs, newest first, at most `limit`; of one job, or in one of `STATES`, if asked for.

    Each is run_id, job_name, state, started_at and closed_at (ISO 8601, UTC; None while it is going), documents,
    errors, cost_usd (None where not known yet), output_uri.
    """
    query = f"WorkflowType = '{c.RUN_WORKFLOW}'"
    if state in (State.RUNNING, State.PAUSED):
        query += " AND ExecutionStatus = 'Running'"
    if job is not None:
        if await registered(client):
            # Runs that are older than the attribute have none: they are told by their memo, below.
            query += f" AND ({c.JOB_ATTRIBUTE} = {_quoted(job)} OR {c.JOB_ATTRIBUTE} IS NULL)"
        else:
            log.warning(
                "namespace %r lacks our search attributes: all its runs are looked through. Add them: %s",
                client.namespace,
                REGISTER,
            )
    runs: list[dict[str, Any]] = []
    async for execution in _latest(client, query):
        run = summary(execution, await execution.memo())
        if job in (None, run["job_name"]) and state in (None, run["state"]):
            runs.append(run)
            if len(runs) >= limit:
                break
    return runs


async def _latest(client: Client, query: str) -> AsyncIterator[WorkflowExecution]:
    """Yields the last execution of each run: a rerun, and each continuation, is one more under the same id."""
    seen: set[str] = set()
    async for execution in client.list_workflows(query):
        if execution.id not in seen and execution.status != WorkflowExecutionStatus.CONTINUED_AS_NEW:
            seen.add(execution.id)
            yield execution


def summary(execution: WorkflowExecution, memo: Mapping[str, Any]) -> dict[str, Any]:
    """Returns one run of the list, from its last execution."""
    return {
        "run_id": execution.id,
        "job_name": str(memo.get("job_name", "")),
        "state": _state(execution.status, str(memo.get("state", ""))),
        "started_at": _text(execution.start_time),
        "closed_at": _text(execution.close_time),
        "documents": memo.get("documents"),
        "errors": memo.get("errors"),
        "cost_usd": memo.get("cost_usd"),
        "output_uri": str(memo.get("output_uri", "")),
    }


async def open_shards(client: Client, run_id: str) -> list[str]:
    """Workflow ids of the run's shards that are going."""
    query = (
        f"WorkflowType = '{c.SHARD_WORKFLOW}' AND ExecutionStatus = 'Running' AND WorkflowId STARTS_WITH '{run_id}/'"
    )
    return [execution.id async for execution in client.list_workflows(query)]


def _state(status: WorkflowExecutionStatus | None, state: str) -> str:
    if status == WorkflowExecutionStatus.RUNNING:
        return state if state == State.PAUSED else State.RUNNING
    if status == WorkflowExecutionStatus.COMPLETED:
        return state or State.COMPLETED
    return State.CANCELLED if status == WorkflowExecutionStatus.CANCELED else State.FAILED


def _text(at: datetime | None) -> str | None:
    return at.isoformat() if at is not None else None


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
