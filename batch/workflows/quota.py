"""The workflow that deals out one provider quota to the workers: one entity for each quota that is in use.

Workers ask by update (see `batch.workflows.leases`), the first one starts it, and it ends by itself once nobody holds a
lease. Continues as new when the server suggests it, so its history is bounded, and onto new versions of the workers; it
carries nothing over but that it went on.
"""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

from batch.workflows.leases import LEASE_UPDATE, QUOTA_WORKFLOW, RENEW, Book, Lease, LeaseRequest, QuotaInput

IDLE = timedelta(seconds=60)
"""How often it looks whether anybody still holds a lease."""


@workflow.defn(name=QUOTA_WORKFLOW)
class Quota:
    """Holds the book of leases."""

    @workflow.init
    def __init__(self, start: QuotaInput) -> None:
        self._book = Book(everyone_known_at=workflow.time() + RENEW + 1.0 if start.continued else 0.0)

    @workflow.run
    async def run(self, start: QuotaInput) -> None:
        """Until nobody has held a lease for a while."""
        while True:
            try:
                await workflow.wait_condition(_may_continue, timeout=IDLE)
            except TimeoutError:
                if self._book.is_idle(workflow.time()):
                    return
                continue
            await workflow.wait_condition(workflow.all_handlers_finished)
            workflow.continue_as_new(
                QuotaInput(continued=True),
                initial_versioning_behavior=workflow.ContinueAsNewVersioningBehavior.AUTO_UPGRADE,
            )

    @workflow.update(name=LEASE_UPDATE)
    def lease(self, request: LeaseRequest) -> Lease:
        """Renews a worker process's lease."""
        return self._book.lease(workflow.time(), request)


def _may_continue() -> bool:
    """The history is long, or a newer version of the workers is there: this execution is pinned to its own."""
    info = workflow.info()
    return info.is_continue_as_new_suggested() or info.is_target_worker_deployment_version_changed()
