"""The workflows of a preview and of an estimate: one activity each, on the control queue.

Only workers hold the model's credentials and the text extractors. Deterministic, and free of heavy imports.
"""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

from batch.workflows import contracts as c

HEARTBEAT_TIMEOUT = timedelta(seconds=10)
"""A cancellation arrives with a heartbeat, and those are sent every 0.8 of this."""
FREE_ATTEMPTS = 3


@workflow.defn(name=c.PREVIEW_WORKFLOW)
class Preview:
    """Asks the model about a few documents, and shows all of it to the client."""

    @workflow.run
    async def run(self, start: c.PreviewInput) -> c.PreviewOutcome:
        """Fails when the worker dies: who asks again pays again, so that is left to the user."""
        return await _look(c.PREVIEW_DOCUMENTS, start)


@workflow.defn(name=c.ESTIMATE_WORKFLOW)
class Estimate:
    """Reads a sample of the corpus, and says what a run over all of it would take."""

    @workflow.run
    async def run(self, start: c.PreviewInput) -> c.PreviewOutcome:
        """As a preview; one that pays nothing is tried again."""
        return await _look(c.ESTIMATE_RUN, start)


async def _look(activity: str, start: c.PreviewInput) -> c.PreviewOutcome:
    outcome: c.PreviewOutcome = await workflow.execute_activity(
        activity,
        start,
        result_type=c.PreviewOutcome,
        start_to_close_timeout=timedelta(seconds=start.within),
        heartbeat_timeout=HEARTBEAT_TIMEOUT,
        retry_policy=RetryPolicy(
            initial_interval=timedelta(seconds=0.5), maximum_attempts=1 if start.asks else FREE_ATTEMPTS
        ),
        cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        summary=f"{start.asks} questions" if start.asks else None,
    )
    return outcome
