"""The provider quotas that this process uses: a limiter each, shared by all runs here, and its lease on minute limits.

    limits of jobs and headers + what the lanes used -> lease request -> quota workflow (`batch.workflows.quota`)
    lease: shares by run, limits -> the lanes' paces; renewed every few seconds while there are lanes

Where no minute limit is known nothing is leased: the limiter alone finds how much the provider bears.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random
import secrets
import time
from datetime import timedelta

from temporalio.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from batch.job.job import Job
from batch.workflows import contracts as c
from batch.workflows.leases import (
    LIFE,
    RENEW,
    Book,
    Lease,
    LeaseClaim,
    LeaseRequest,
    QuotaInput,
    quota_workflow_id,
    weight_of,
)
from batch.workflows.quota import Quota
from workers.llm.limits.limiter import Lane, Limiter
from workers.llm.limits.waiting import raise_if_cancelled
from workers.observe.metrics import LimiterMetrics, Metrics

LEASED_WITHIN = 3.0
"""Seconds that a renewal may take; a third of a lease's life, so one that fails costs nothing."""
STARTED_WITHIN = 15.0
"""Seconds that the first lease of a quota may take: its workflow is started for it."""
NOT_LEASED = (RPCError, WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError)
"""What an unreachable Temporal raises, or one whose control workers are all away."""
ALONE = 0.25
"""Share of the quota that a process takes which cannot lease for as long as a lease lasts: others may hold the rest."""
RESTART_AFTER = 30.0
"""Seconds of failures after which the quota's workflow is taken to have lost its workers."""
JITTER = 0.15
SPARE, LEAST = 1.3, 0.01
"""What a lane may want when it was not held back: so many times what it used, and this share of the quota."""
PACED_FROM = 0.05
"""Share of the time in which the pace held a lane back from which on it wants all it can get."""
MEASURED_EVERY = 1.0

log = logging.getLogger(__name__)


class QuotaClient:
    """Asks the quota workflows for leases."""

    def __init__(self, client: Client, task_queue: str) -> None:
        self._client, self._task_queue = client, task_queue

    async def restart(self, quota: str) -> None:
        """Ends a quota's workflow that nobody works on any more, so that the next lease starts it on our task queue."""
        handle = self._client.get_workflow_handle(quota_workflow_id(quota))
        await handle.terminate("no worker answers for this quota", rpc_timeout=timedelta(seconds=LEASED_WITHIN))

    async def lease(self, quota: str, request: LeaseRequest, *, known: bool) -> Lease:
        """Renews or gives back a lease; `known`: others may hold some. Raises `NOT_LEASED`."""
        handle = self._client.get_workflow_handle(quota_workflow_id(quota))
        try:
            return await handle.execute_update(Quota.lease, request, rpc_timeout=timedelta(seconds=LEASED_WITHIN))
        except (RPCError, WorkflowUpdateFailedError) as error:
            gone = isinstance(error, WorkflowUpdateFailedError) or error.status == RPCStatusCode.NOT_FOUND
            if not gone or not request.claims:
                raise
        start = WithStartWorkflowOperation(
            Quota.run,
            QuotaInput(continued=known),
            id=quota_workflow_id(quota),
            task_queue=c.control_queue(self._task_queue),
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        )
        return await self._client.execute_update_with_start_workflow(
            Quota.lease,
            request,
            start_workflow_operation=start,
            rpc_timeout=timedelta(seconds=STARTED_WITHIN),
        )


class Quotas:
    """All quotas of this process. `client` None: nobody else uses them."""

    def __init__(self, endpoint: str, key: str, metrics: Metrics, client: QuotaClient | None) -> None:
        self._endpoint, self._key, self._metrics, self._client = endpoint, key, metrics, client
        self._quotas: dict[str, _Quota] = {}

    def lane(self, run_id: str, job: Job) -> QuotaLane:
        """Returns the lane of a run, closed as yet."""
        name = job.limits.quota or quota_name(self._endpoint, job.model.name, self._key)
        quota = self._quotas.get(name)
        if quota is None:
            quota = self._quotas[name] = _Quota(name, self._client, self._metrics.limiter(job.model.name))
        return QuotaLane(quota, run_id, job)

    async def close(self) -> None:
        """Gives all leases back."""
        await asyncio.gather(*(quota.end() for quota in self._quotas.values()))


def quota_name(endpoint: str, model: str, key: str) -> str:
    """Of the quota that nobody named: one for each endpoint, model and key. The key cannot be read from it."""
    salted = hashlib.scrypt(key.encode(), salt=f"docbatch {endpoint} {model}".encode(), n=2**12, r=8, p=1, dklen=8)
    return f"{model}-{salted.hex()}"


class QuotaLane(Lane):
    """A run's lane in the limiter of its quota, with what the lease service has to know of it."""

    def __init__(self, quota: _Quota, run_id: str, job: Job) -> None:
        weight = weight_of(job.priority, job.weight)
        super().__init__(quota.limiter, concurrency=job.limits.concurrency, weight=weight)
        self.run_id, self.job = run_id, job
        self.share = 0.0
        self._quota = quota
        self._seen = (0, 0.0, 0.0)

    def open(self) -> None:
        """The run has partitions here."""
        self._quota.open(self)

    def close(self) -> None:
        """It has none any more."""
        self._quota.close(self)

    def claim(self, seconds: float, requests: int | None, tokens: int | None) -> LeaseClaim:
        """What it needs, by what it used of the quota's limits in the last `seconds`, which are over with this."""
        seen, self._seen = self._seen, (self.requests_out, self.tokens_out, self.paced_seconds)
        used_requests, used_tokens, paced = (now - then for now, then in zip(self._seen, seen, strict=True))
        minutes = max(seconds, 1e-3) / 60
        used = max(
            used_requests / minutes / (requests or float("inf")), used_tokens / minutes / (tokens or float("inf"))
        )
        wants_all = not self.share or paced > PACED_FROM * seconds
        limits = self.job.limits
        return LeaseClaim(
            run_id=self.run_id,
            priority=self.job.priority,
            weight=self.job.weight,
            share=self.share,
            demand=1.0 if wants_all else min(1.0, used * SPARE + LEAST),
            requests_per_minute=limits.requests_per_minute,
            tokens_per_minute=limits.tokens_per_minute,
        )


class _Quota:
    """One quota: its limiter, and the task that keeps its lease while runs use it."""

    def __init__(self, name: str, client: QuotaClient | None, metrics: LimiterMetrics) -> None:
        self._name, self._client, self._metrics = name, client, metrics
        self._changed = asyncio.Event()
        self.limiter = Limiter(limits_seen=self._changed.set)
        self._lanes: list[QuotaLane] = []
        self._alone = Book()
        self._holder = secrets.token_hex(6)
        self._limits: tuple[int | None, int | None] = (None, None)
        self._leased_at = time.monotonic()
        self._has_lease = self._disagreed = False
        self._failing_since: float | None = None
        self._named = False
        """Whether jobs name this quota: others may know limits that neither they nor the headers here say."""
        self._keeper: asyncio.Task[None] | None = None

    def open(self, lane: QuotaLane) -> None:
        limits = lane.job.limits
        self._named = self._named or limits.quota is not None
        self.limiter.open(lane)
        self._lanes.append(lane)
        if limits.requests_per_minute or limits.tokens_per_minute or self._limits != (None, None):
            # Nothing goes out before there is a lease: a share of 0.
            known = (limits.requests_per_minute, limits.tokens_per_minute)
            self._limits = (self._limits[0] or known[0], self._limits[1] or known[1])
            self.limiter.set_limits(*self._limits)
        self._changed.set()
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._keep(), name=f"quota-{self._name}")

    def close(self, lane: QuotaLane) -> None:
        self.limiter.close(lane)
        self._lanes.remove(lane)
        lane.share = 0.0
        self._changed.set()

    async def end(self) -> None:
        """Gives the lease back, as a process that ends should."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        self._lanes.clear()
        await self._give_back()

    async def _keep(self) -> None:
        """Renews, and measures, for as long as there are lanes."""
        renew_at = 0.0
        while self._lanes:
            seen = (self.limiter.seen_requests_per_minute, self.limiter.seen_tokens_per_minute)
            if self._limits == (None, None) and seen != (None, None):
                self._limits = seen
                renew_at = 0.0
            leases = self._named or self._limits != (None, None)
            changed = self._changed.is_set()
            self._changed.clear()
            now = time.monotonic()
            if leases and (changed or now >= renew_at):
                try:
                    renew_at = now + await self._renew() * random.uniform(1 - JITTER, 1 + JITTER)
                except Exception:
                    log.exception("lease on quota %s not renewed", self._name)
                    renew_at = now + RENEW
            self._measure()
            wait = max(0.05, renew_at - time.monotonic()) if leases else MEASURED_EVERY
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(MEASURED_EVERY, wait))
                await asyncio.sleep(0.05)  # lanes are opened and closed in company
        self._keeper = None
        self._measure()
        await self._give_back()

    def _measure(self) -> None:
        self._metrics.show(
            concurrency=min(int(self.limiter.adaptive.limit), sum(lane.concurrency for lane in self._lanes)),
            share=sum(lane.share for lane in self._lanes) if self._limits != (None, None) else 0.0,
            waited_seconds=self.limiter.waited_seconds,
            limits=self._limits,
        )

    async def _renew(self) -> float:
        """Renews once; returns seconds until the next."""
        now = time.monotonic()
        since, self._leased_at = now - self._leased_at, now
        request = LeaseRequest(
            holder=self._holder,
            claims=[lane.claim(since, *self._limits) for lane in self._lanes],
            seen_requests_per_minute=self.limiter.seen_requests_per_minute,
            seen_tokens_per_minute=self.limiter.seen_tokens_per_minute,
        )
        try:
            lease = await self._ask(request)
        except NOT_LEASED as error:
            raise_if_cancelled()
            return await self._go_on(now, request, error)
        self._failing_since, self._has_lease = None, self._client is not None
        if lease.disagree and not self._disagreed:
            log.warning(
                "jobs that share quota %s name different limits; the smallest hold: %s requests and %s tokens a minute",
                self._name,
                lease.requests_per_minute or "any number of",
                lease.tokens_per_minute or "any number of",
            )
        self._disagreed = lease.disagree
        for lane in self._lanes:
            lane.share = lease.shares.get(lane.run_id, lane.share)
        self._limits = (lease.requests_per_minute, lease.tokens_per_minute)
        self.limiter.set_limits(*self._limits)
        return lease.renew_after

    async def _go_on(self, now: float, request: LeaseRequest, error: BaseException) -> float:
        """Without a new lease: with the shares that there were, or, once no lease of others can be so old, a part."""
        if self._failing_since is None:
            self._failing_since = now
            log.warning("lease on quota %s not renewed, going on with what it was: %r", self._name, error)
        failing = now - self._failing_since
        if failing > LIFE and not self._has_lease:
            alone = self._alone.lease(now, request)
            for lane in self._lanes:
                lane.share = ALONE * alone.shares.get(lane.run_id, 0.0)
        self.limiter.set_limits(*self._limits)
        if failing > RESTART_AFTER and self._client is not None:
            self._failing_since = now
            try:
                await self._client.restart(self._name)
            except NOT_LEASED:
                raise_if_cancelled()
        return 1.0

    async def _ask(self, request: LeaseRequest) -> Lease:
        if self._client is None:
            return self._alone.lease(time.monotonic(), request)
        return await self._client.lease(self._name, request, known=self._has_lease or self._failing_since is not None)

    async def _give_back(self) -> None:
        if not self._has_lease or self._client is None or self._lanes:
            return
        self._has_lease = False
        try:
            await self._client.lease(self._name, LeaseRequest(self._holder), known=True)
        except NOT_LEASED as error:
            log.info("lease on quota %s not given back; it ends by itself: %r", self._name, error)
