"""Who may use how much of a provider's minute limits: leases of shares, over all workers and runs of one quota. Pure.

Every worker process that asks the model for a run holds a lease of a share (0 to 1) of the quota's requests and tokens
a minute, which it renews every few seconds, saying how much it wants. Shares of running leases never add up to more
than 1: a newcomer gets what is free, and its part of the others' as they renew. One that is not renewed ends by itself.

Runs come first: each gets a part in proportion to its weight and priority, but no more than it wants; what it does not
want goes to the others. Within a run the workers that want more get equal parts (max-min fairness:
https://en.wikipedia.org/wiki/Max-min_fairness).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

QUOTA_WORKFLOW = "docbatch-quota"
LEASE_UPDATE = "lease"

LIFE = 7.2
"""Seconds that a lease lasts; it is renewed at a third of that, so what a dead process had is dealt out within 10."""
RENEW, RENEW_SOON = LIFE / 3, 1.0
PRIORITY_FACTOR = 4.0
"""A run's priority counts as so many times the weight of a run one step behind it."""
MOST_HOLDERS = 2000
ENOUGH = 0.98
"""Share of its due from which a lease is worth waiting a whole renewal for more."""


def weight_of(priority: int, weight: float) -> float:
    """What a run weighs against others: its weight, four times as much for each step of priority (1 comes first)."""
    return weight * PRIORITY_FACTOR ** (5 - priority)


def quota_workflow_id(quota: str) -> str:
    """Of the one workflow that deals out a quota."""
    return f"docbatch-quota/{quota}"


@dataclass(frozen=True)
class QuotaInput:
    """`continued`: another execution of the quota dealt out leases just before."""

    continued: bool = False


@dataclass(frozen=True)
class LeaseClaim:
    """What a run needs of a quota in one worker process. `share` and `demand` are parts (0 to 1) of the whole quota:
    what it holds, and what it would use. Limits are those of the run's job, a minute."""

    run_id: str
    priority: int
    weight: float
    share: float
    demand: float
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


@dataclass(frozen=True)
class LeaseRequest:
    """Renews the lease of a worker process; without claims it gives the lease back. Limits that were `seen` are those
    in the provider's headers."""

    holder: str
    claims: list[LeaseClaim] = field(default_factory=list)
    seen_requests_per_minute: int | None = None
    seen_tokens_per_minute: int | None = None


@dataclass(frozen=True)
class Lease:
    """Parts (0 to 1) of the quota by run, its limits a minute, and seconds until the lease should be renewed.
    `disagree`: jobs that share the quota name different limits; the smallest hold."""

    shares: dict[str, float] = field(default_factory=dict)
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    renew_after: float = 3.0
    disagree: bool = False


@dataclass(frozen=True)
class _Held:
    """A lease as it was last renewed."""

    request: LeaseRequest
    shares: dict[str, float]
    ends_at: float


class Book:
    """The leases of one quota. Times are seconds of one clock.

    A book that goes on from another one takes nothing over: until everyone has renewed once, holders say what they
    hold and get no more than that.
    """

    def __init__(self, *, everyone_known_at: float = 0.0) -> None:
        self._held: dict[str, _Held] = {}
        self._everyone_known_at = everyone_known_at

    def is_idle(self, now: float) -> bool:
        """Whether nobody holds a lease."""
        self._end_leases(now)
        return not self._held

    def lease(self, now: float, request: LeaseRequest) -> Lease:
        """Renews a holder's lease, or ends it where the request has no claims."""
        self._end_leases(now)
        self._held.pop(request.holder, None)
        if not request.claims:
            return Lease()
        if len(self._held) >= MOST_HOLDERS:
            return replace(self._limits([request]), renew_after=RENEW)
        free = max(0.0, 1.0 - sum(sum(lease.shares.values()) for lease in self._held.values()))
        due = self._due(request)
        wanted = sum(due.values())
        scale = min(1.0, free / wanted) if wanted else 0.0
        shares = {run: share * scale for run, share in due.items()}
        if now < self._everyone_known_at:
            shares = {claim.run_id: min(claim.share, shares[claim.run_id]) for claim in request.claims}
        self._held[request.holder] = _Held(request, shares, now + LIFE)
        limits = self._limits([lease.request for lease in self._held.values()])
        enough = sum(shares.values()) >= ENOUGH * wanted
        return replace(limits, shares=shares, renew_after=RENEW if enough else RENEW_SOON)

    def _end_leases(self, now: float) -> None:
        for holder in [holder for holder, lease in self._held.items() if lease.ends_at <= now]:
            del self._held[holder]

    def _due(self, request: LeaseRequest) -> dict[str, float]:
        """The part of each run of one holder, if all leases were dealt out anew."""
        requests = [*(lease.request for lease in self._held.values()), request]
        demands: dict[str, dict[str, float]] = defaultdict(dict)
        weights: dict[str, float] = {}
        for each in requests:
            for claim in each.claims:
                demands[claim.run_id][each.holder] = claim.demand
                weights[claim.run_id] = weight_of(claim.priority, claim.weight)
        of_runs = _dealt(1.0, {run: sum(wanted.values()) for run, wanted in demands.items()}, weights)
        due = {}
        for claim in request.claims:
            wanted = demands[claim.run_id]
            due[claim.run_id] = _dealt(of_runs[claim.run_id], wanted, dict.fromkeys(wanted, 1.0))[request.holder]
        return due

    def _limits(self, requests: list[LeaseRequest]) -> Lease:
        """The quota's limits: the smallest that any job or the provider itself says."""
        claims = [claim for request in requests for claim in request.claims]
        of_requests = {claim.requests_per_minute for claim in claims if claim.requests_per_minute}
        of_tokens = {claim.tokens_per_minute for claim in claims if claim.tokens_per_minute}
        seen_requests = {request.seen_requests_per_minute for request in requests if request.seen_requests_per_minute}
        seen_tokens = {request.seen_tokens_per_minute for request in requests if request.seen_tokens_per_minute}
        return Lease(
            requests_per_minute=min(of_requests | seen_requests, default=None),
            tokens_per_minute=min(of_tokens | seen_tokens, default=None),
            disagree=len(of_requests) > 1 or len(of_tokens) > 1,
        )


def _dealt(whole: float, demands: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """The whole, dealt out by weight: to nobody more than wanted, unless all have what they want and some is left."""
    given = dict.fromkeys(demands, 0.0)
    left = whole
    hungry = {name for name, demand in demands.items() if demand > 0}
    while hungry and left > 1e-12:
        unit = left / sum(weights[name] for name in sorted(hungry))
        full = {name for name in hungry if demands[name] - given[name] <= unit * weights[name]}
        if not full:
            for name in hungry:
                given[name] += unit * weights[name]
            return given
        for name in sorted(full):
            left -= demands[name] - given[name]
            given[name] = demands[name]
        hungry -= full
    spare = max(0.0, left) / sum(weights.values()) if weights else 0.0
    return {name: share + spare * weights[name] for name, share in given.items()}
