"""The workflows of a check, a preview and an estimate: one activity each, on the control queue.

Only workers hold the model's credentials and the text extractors. Deterministic, and free of heavy imports.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

from batch.workflows import contracts as c

PREVIEW_WORKFLOW = "docbatch-preview"
ESTIMATE_WORKFLOW = "docbatch-estimate"
PREVIEW_DOCUMENTS = "preview_documents"
ESTIMATE_RUN = "estimate_run"

HEARTBEAT_TIMEOUT = timedelta(seconds=10)
"""A cancellation arrives with a heartbeat, and those are sent every 0.8 of this."""
FREE_ATTEMPTS = 3


@dataclass(frozen=True)
class PreviewInput:
    """A preview or an estimate. The job and its documents lie in the output's `previews/`, under `token`."""

    output_uri: str
    token: str
    asks: int
    """Documents that the model may be asked about; 0: nothing is paid."""
    ask_within: float
    """Seconds in which questions may begin."""
    within: float
    """Seconds that a worker may take for all of it."""
    fingerprint: str = ""
    """The job's, for a worker of another version: without a field that it does not know it may ask something else."""


@dataclass(frozen=True)
class PreviewOutcome:
    """Documents that were read, and those that the model answered; all else lies where the input lay."""

    documents: int
    answered: int


@workflow.defn(name=c.CHECK_WORKFLOW)
class Check:
    """Asks the model one short question by way of a worker, since only workers hold its credentials."""

    @workflow.run
    async def run(self, start: c.CheckInput) -> c.CheckResult:
        """Never raises for a model that does not answer: the result says what is wrong."""
        result: c.CheckResult = await workflow.execute_activity(
            c.CHECK_MODEL,
            start,
            result_type=c.CheckResult,
            start_to_close_timeout=timedelta(seconds=90),
            retry_policy=RetryPolicy(maximum_attempts=2),
        )
        return result


@workflow.defn(name=PREVIEW_WORKFLOW)
class Preview:
    """Asks the model about a few documents, and shows all of it to the client."""

    @workflow.run
    async def run(self, start: PreviewInput) -> PreviewOutcome:
        """Fails when the worker dies: who asks again pays again, so that is left to the user."""
        return await _look(PREVIEW_DOCUMENTS, start)


@workflow.defn(name=ESTIMATE_WORKFLOW)
class Estimate:
    """Reads a sample of the corpus, and says what a run over all of it would take."""

    @workflow.run
    async def run(self, start: PreviewInput) -> PreviewOutcome:
        """As a preview; one that pays nothing is tried again."""
        return await _look(ESTIMATE_RUN, start)


async def _look(activity: str, start: PreviewInput) -> PreviewOutcome:
    outcome: PreviewOutcome = await workflow.execute_activity(
        activity,
        start,
        result_type=PreviewOutcome,
        start_to_close_timeout=timedelta(seconds=start.within),
        heartbeat_timeout=HEARTBEAT_TIMEOUT,
        retry_policy=RetryPolicy(
            initial_interval=timedelta(seconds=0.5), maximum_attempts=1 if start.asks else FREE_ATTEMPTS
        ),
        cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        summary=f"{start.asks} questions" if start.asks else None,
    )
    return outcome
