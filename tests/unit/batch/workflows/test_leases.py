"""Leases of a quota: never more than the whole, fair between runs and workers, free again when somebody is gone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from batch.workflows.leases import LIFE, RENEW, RENEW_SOON, Book, Lease, LeaseClaim, LeaseRequest


def claim(run: str = "r", *, demand: float = 1.0, priority: int = 3, weight: float = 1.0, **more: float) -> LeaseClaim:
    return LeaseClaim(
        run, priority, weight, more.get("share", 0.0), demand, requests_per_minute=int(more.get("rpm", 3000))
    )


def ask(holder: str, *claims: LeaseClaim) -> LeaseRequest:
    return LeaseRequest(holder, list(claims or [claim()]))


def settled(book: Book, requests: list[LeaseRequest], *, start: float = 0.0) -> dict[str, Lease]:
    """What all have after a few rounds of renewals."""
    leases = {}
    for round_ in range(4):
        for request in requests:
            leases[request.holder] = book.lease(start + round_ * RENEW, request)
    return leases


def test_the_first_gets_all_and_a_newcomer_its_part_as_the_lease_is_renewed() -> None:
    book = Book()
    assert book.lease(0.0, ask("a")).shares == {"r": 1.0}
    newcomer = book.lease(1.0, ask("b"))
    assert newcomer.shares == {"r": 0.0}
    assert newcomer.renew_after == RENEW_SOON
    assert book.lease(3.0, ask("a")).shares == {"r": approx(0.5)}
    later = book.lease(3.1, ask("b"))
    assert later.shares == {"r": approx(0.5)}
    assert later.renew_after == RENEW


def test_a_worker_that_died_is_forgotten_within_ten_seconds() -> None:
    book = Book()
    settled(book, [ask("a"), ask("b")])
    last = 3 * RENEW
    assert book.lease(last + LIFE - 0.1, ask("b")).shares["r"] == approx(0.5)
    assert book.lease(last + LIFE + 0.1, ask("b")).shares["r"] == approx(1.0)
    assert LIFE <= 10.0
    assert approx(LIFE / 3) == RENEW


def test_a_lease_shrinks_to_what_is_used() -> None:
    leases = settled(Book(), [ask("a", claim(demand=0.1)), ask("b"), ask("c")])
    assert leases["a"].shares["r"] == approx(0.1)
    assert [leases[holder].shares["r"] for holder in "bc"] == [approx(0.45)] * 2


def test_what_nobody_wants_is_left_with_those_who_have() -> None:
    leases = settled(Book(), [ask("a", claim(demand=0.1)), ask("b", claim(demand=0.2))])
    assert leases["a"].shares["r"] + leases["b"].shares["r"] == approx(1.0)
    assert leases["a"].shares["r"] >= 0.1


def test_runs_of_equal_weight_get_half_each_however_many_workers_they_have() -> None:
    requests = [ask("a", claim("x")), ask("b", claim("x")), ask("c", claim("x"), claim("y"))]
    leases = settled(Book(), requests)
    assert sum(lease.shares.get("x", 0.0) for lease in leases.values()) == approx(0.5)
    assert leases["c"].shares["y"] == approx(0.5)


def test_weight_and_priority() -> None:
    leases = settled(Book(), [ask("a", claim("x", weight=3.0), claim("y", weight=1.0))])
    assert leases["a"].shares == {"x": approx(0.75), "y": approx(0.25)}
    leases = settled(Book(), [ask("a", claim("x", priority=1)), ask("b", claim("y", priority=5))])
    assert leases["a"].shares["x"] > 0.95
    leases = settled(Book(), [ask("a", claim("x", priority=1, demand=0.1)), ask("b", claim("y", priority=5))])
    assert leases["b"].shares["y"] == approx(0.9)


def test_a_lease_that_is_given_back_is_free_at_once() -> None:
    book = Book()
    settled(book, [ask("a"), ask("b")])
    book.lease(10.0, LeaseRequest("a"))
    assert book.lease(10.1, ask("b")).shares["r"] == approx(1.0)
    book.lease(10.2, LeaseRequest("b"))
    assert book.is_idle(10.3)


def test_the_smallest_limit_holds_and_disagreement_is_told() -> None:
    book = Book()
    book.lease(0.0, ask("a", claim("x", rpm=600)))
    lease = book.lease(0.0, ask("b", claim("y", rpm=3000)))
    assert (lease.requests_per_minute, lease.tokens_per_minute, lease.disagree) == (600, None, True)
    seen = LeaseRequest("c", [claim("x", rpm=600)], seen_requests_per_minute=300, seen_tokens_per_minute=9)
    lease = book.lease(0.0, seen)
    assert (lease.requests_per_minute, lease.tokens_per_minute) == (300, 9)


def test_a_book_that_goes_on_deals_nothing_out_before_everyone_is_known() -> None:
    book = Book(everyone_known_at=104.0)
    assert book.lease(100.0, ask("new")).shares["r"] == 0.0
    assert book.lease(100.1, ask("a", claim(share=0.5))).shares["r"] == 0.5
    assert book.lease(100.2, ask("b", claim(share=0.5))).shares["r"] == approx(1 / 3)
    for now in (104.0, 107.0, 110.0):
        leases = [book.lease(now, ask(holder)) for holder in ("a", "b", "new")]
    assert [lease.shares["r"] for lease in leases] == [approx(1 / 3)] * 3


requests = st.builds(
    lambda holder, runs: LeaseRequest(
        holder, [claim(run, demand=demand, priority=priority) for run, (demand, priority) in runs.items()]
    ),
    st.sampled_from("abcd"),
    st.dictionaries(st.sampled_from("xyz"), st.tuples(st.floats(0, 1), st.integers(1, 5))),
)


@given(st.lists(st.tuples(st.floats(0, 5), requests), max_size=40))
def test_running_leases_never_add_up_to_more_than_the_quota(steps: list[tuple[float, LeaseRequest]]) -> None:
    book, now = Book(), 0.0
    held: dict[str, tuple[float, float]] = {}
    for pause, request in steps:
        now += pause
        lease = book.lease(now, request)
        assert all(share >= 0 for share in lease.shares.values())
        held[request.holder] = (now + LIFE, sum(lease.shares.values()))
        assert sum(share for ends_at, share in held.values() if ends_at > now) <= 1 + 1e-9


@given(st.lists(st.tuples(st.floats(0.01, 1), st.integers(1, 5)), min_size=1, max_size=6))
def test_all_of_the_quota_is_dealt_out(wants: list[tuple[float, int]]) -> None:
    asked = [ask(str(index), claim(str(index), demand=d, priority=p)) for index, (d, p) in enumerate(wants)]
    leases = settled(Book(), asked)
    assert sum(sum(lease.shares.values()) for lease in leases.values()) == approx(1.0)
