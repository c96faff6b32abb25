"""What a run takes: carried over from a sample, mended by answers, bounded by limits; what is not known is said."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.job.job import Job
from batch.job.limits import Limits
from batch.previews import estimation
from batch.previews.answer_size import answer_tokens
from batch.previews.estimation import Asked, Estimate, Measured, Range, estimate, total
from batch.storage.records import read_record
from tests.jobs import job

SIZES = st.lists(st.integers(0, 10_000), min_size=3, max_size=60)


def flat(per_token: float = 1e-6) -> estimation.Price:
    return lambda prompt, cached, completion: per_token * (prompt + 4 * completion)


def unknown(prompt: int, cached: int, completion: int) -> float | None:
    return None


def made(sample: Sequence[Measured], asked: Sequence[Asked] = (), **changes: Any) -> Estimate:
    """An estimate of a corpus of which the sample is all, unless said otherwise."""
    given: dict[str, Any] = {
        "documents": sum(one.weight for one in sample),
        "size": sum(one.weight * one.size for one in sample),
        "too_large": 0,
        "schema_bytes": 0,
        "asks": len(asked),
        "online": flat(),
        "batch": flat(0.5e-6),
        "processes": 1,
        "the_job": Job.parse(job()),
        **changes,
    }
    return estimate(given.pop("the_job"), sample=sample, asked=asked, **given)


def documents(count: int, size: int = 400, **changes: Any) -> list[Measured]:
    return [Measured(size, 1, prompt_bytes=size, messages=1, **changes) for _ in range(count)]


def answers(count: int, *, seconds: float = 1.0, tokens: int = 104) -> list[Asked]:
    return [Asked(104.0, tokens, 0, 50, seconds, 0.001) for _ in range(count)]


# -- from a sample to the corpus


@given(sizes=SIZES, seed=st.integers(0, 9))
def test_the_whole_corpus_as_sample_is_exact(sizes: list[int], seed: int) -> None:
    values = [random.Random(seed + size).random() * size for size in sizes]
    found, error = total(values, [Measured(size, 1) for size in sizes], len(sizes), sum(sizes))
    assert found == pytest.approx(sum(values))
    assert error == 0


@given(sizes=SIZES, sampled=st.integers(3, 20), fixed=st.floats(0, 100), share=st.floats(0, 2))
def test_what_depends_on_the_size_alone_is_exact(sizes: list[int], sampled: int, fixed: float, share: float) -> None:
    """Whichever documents the sample holds, as long as their sizes differ."""
    some = sizes[:sampled]
    if len(set(some)) < 2 or len(some) == len(sizes):
        return
    values = [fixed + share * size for size in some]
    found, error = total(values, [Measured(size, 1) for size in some], len(sizes), sum(sizes))
    wanted = fixed * len(sizes) + share * sum(sizes)
    assert found == pytest.approx(wanted, rel=1e-6, abs=1e-3)
    assert error <= 1e-3 * (1 + wanted)


def test_the_range_holds_nine_times_of_ten() -> None:
    """Lengths that are lognormal, texts that are half to all of an object's bytes."""
    held = 0
    for seed in range(200):
        chance = random.Random(seed)
        sizes = [int(chance.lognormvariate(7, 1)) + 1 for _ in range(3000)]
        values = [size * chance.uniform(0.5, 1.0) for size in sizes]
        picked = chance.sample(range(len(sizes)), 100)
        sample = [Measured(sizes[at], 30) for at in picked]
        found, error = total([values[at] for at in picked], sample, len(sizes), sum(sizes))
        held += abs(found - sum(values)) <= error
    assert 165 <= held <= 198, held


def test_one_document_tells_little() -> None:
    found, error = total([10.0], [Measured(10, 5)], 5, 50)
    assert (found, error) == (50.0, 50.0)
    assert total([], [], 0, 0) == (0.0, 0.0)


MEASURED = st.builds(
    Measured,
    size=st.integers(0, 10**6),
    weight=st.integers(1, 1000),
    prompt_bytes=st.integers(0, 10**6),
    messages=st.integers(1, 2),
    error_type=st.sampled_from(["", "", "", "empty"]),
)
ASKED = st.builds(
    Asked,
    by_rule=st.floats(1, 10**5),
    prompt_tokens=st.integers(1, 10**5),
    cached_tokens=st.just(0),
    completion_tokens=st.integers(0, 10**4),
    seconds=st.floats(0, 100),
    cost_usd=st.one_of(st.none(), st.floats(0, 1)),
)


@given(
    sample=st.lists(MEASURED, max_size=20),
    asked=st.lists(ASKED, max_size=5),
    more=st.integers(0, 1000),
    limits=st.fixed_dictionaries({}, optional={"requests_per_minute": st.integers(1, 10**6)}),
    processes=st.integers(0, 5),
)
def test_every_range_is_one(
    *, sample: list[Measured], asked: list[Asked], more: int, limits: dict[str, int], processes: int
) -> None:
    found = made(
        sample,
        asked,
        documents=sum(one.weight for one in sample) + (more if sample else 0),
        the_job=limited(**limits),
        processes=processes,
    )
    for name in ("answerable", "prompt_tokens", "completion_tokens", "cost_usd", "batch_cost_usd", "seconds"):
        each: Range | None = getattr(found, name)
        if each is not None:
            slack = 1e-9 * each.high
            assert 0 <= each.low <= each.value + slack <= each.high + 2 * slack, (name, each)
    assert read_record(Estimate, found.to_dict()) == found
    assert (found.seconds is None) == (not found.bound_by)


def limited(**limits: Any) -> Job:
    """A job with limits, whether or not the rest of docbatch carries them out yet."""
    return Job.parse(job()).model_copy(update={"limits": Limits(**limits)})


# -- tokens


def test_the_rule_is_said_and_the_providers_counts_mend_it() -> None:
    free = made(documents(100))
    assert free.prompt_tokens.value == 100 * (400 / 4 + 4)
    assert free.prompt_tokens.low == pytest.approx(10_400 * 4 / 5) and free.prompt_tokens.high > 13_000
    assert any("1 for 4 bytes of UTF-8" in note and "--ask N" in note for note in free.notes)
    mended = made(documents(100), answers(5, tokens=208))
    assert mended.prompt_tokens.value == 100 * 208
    assert mended.prompt_tokens.high - mended.prompt_tokens.low < free.prompt_tokens.high - free.prompt_tokens.low
    assert mended.completion_tokens.value == 100 * 50
    assert not mended.notes


def test_a_schema_goes_along_with_each_question() -> None:
    assert made(documents(10), schema_bytes=400).prompt_tokens.value == 10 * (100 + 100 + 4)


def test_documents_that_cannot_be_read_are_not_asked_about() -> None:
    sample = [*documents(90), *documents(10, error_type="not_utf8")]
    found = made(sample, documents=1000, size=400_000)
    assert found.unreadable == {"not_utf8": 10}
    assert found.answerable.value == 900
    assert found.answerable.low < 900 < found.answerable.high < 1000
    assert found.prompt_tokens.value == pytest.approx(900 * 104)


def test_nothing_is_said_of_a_sample_without_a_readable_document() -> None:
    found = made(documents(3, error_type="empty"), documents=10, size=4000)
    assert (found.cost_usd, found.seconds) == (None, None)
    assert "no document of the sample can be read: tokens, cost and time are unknown, not 0" in found.notes
    empty = made([], documents=0, size=0, too_large=4)
    assert empty.too_large == 4
    assert any("no document was sampled" in note for note in empty.notes)


SCHEMA = {
    "type": "object",
    "properties": {
        "label": {"type": "string"},
        "urgent": {"type": "boolean"},
        "score": {"type": "number"},
        "on": {"type": "string", "format": "date"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "person": {"type": "object", "properties": {"name": {"type": "string"}}},
        "any": {},
    },
}


def test_the_size_of_an_answer_by_its_schema() -> None:
    low, about, high = answer_tokens(Job.parse(job(output__schema=SCHEMA)))
    assert 10 < low < about < high < 5000
    capped = answer_tokens(Job.parse(job(output__schema=SCHEMA, model__max_output_tokens=20)))
    assert capped[2] == 20 and capped[0] <= capped[1] <= capped[2]
    assert answer_tokens(Job.parse(job(output__schema=None)))[1] == 300


# -- money


def test_cost_online_and_by_batch() -> None:
    found = made(documents(100), answers(5))
    assert found.cost_usd is not None and found.batch_cost_usd is not None
    assert found.cost_usd.value == pytest.approx(100 * (104 + 4 * 50) * 1e-6)
    assert found.batch_cost_usd.value == pytest.approx(found.cost_usd.value / 2)


def test_prices_that_rise_with_the_prompt() -> None:
    def tiered(prompt: int, cached: int, completion: int) -> float:
        return prompt * (2.0 if prompt > 1000 else 1.0)

    sample = [*documents(50, 400), *documents(50, 8000)]
    found = made(sample, online=tiered)
    assert found.cost_usd is not None
    assert found.cost_usd.value == pytest.approx(50 * 104 + 50 * 2004 * 2)


def test_an_unknown_price_is_no_price_of_zero() -> None:
    found = made(documents(10), online=unknown, batch=unknown)
    assert (found.cost_usd, found.batch_cost_usd) == (None, None)
    assert any("has no known price; model.prices says it" in note for note in found.notes)


def test_cached_tokens_are_said() -> None:
    found = made(documents(10), [Asked(104.0, 104, 52, 50, 1.0, 0.001)])
    assert any("50% of the prompt tokens asked with were cached" in note for note in found.notes)


# -- time


@pytest.mark.parametrize(
    ("limits", "asked", "processes", "bound_by", "seconds"),
    [
        ({"requests_per_minute": 60}, 0, 1, estimation.REQUESTS, 1000.0),
        ({"tokens_per_minute": 154 * 60}, 3, 1, estimation.TOKENS, 1000.0),
        ({"concurrency": 10}, 3, 2, estimation.CONCURRENCY, 50.0),
        ({"concurrency": 10}, 3, 0, estimation.CONCURRENCY, 100.0),
        ({"concurrency": 10_000}, 3, 2, estimation.CPU, 1000 / 1400),
    ],
)
def test_the_slowest_limit_binds(
    *, limits: dict[str, int], asked: int, processes: int, bound_by: str, seconds: float
) -> None:
    found = made(documents(1000), answers(asked), the_job=limited(**limits), processes=processes)
    assert found.bound_by == bound_by
    assert found.seconds is not None and found.seconds.value == pytest.approx(seconds)
    assert found.seconds_by_limit[bound_by] == found.seconds.value == max(found.seconds_by_limit.values())


def test_time_is_not_known_without_limits_and_latency() -> None:
    found = made(documents(1000))
    assert (found.seconds, found.bound_by, found.seconds_by_limit) == (None, "", {})
    assert any(note.startswith("time: not known") for note in found.notes)
    limited_only = made(documents(1000), the_job=limited(requests_per_minute=60))
    assert any("it may be longer" in note for note in limited_only.notes)
    nobody = made(documents(1000), answers(2), processes=0)
    assert any("no worker polls for partitions now" in note for note in nobody.notes)
