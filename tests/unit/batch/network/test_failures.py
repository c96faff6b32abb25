"""Failures that go through Temporal keep their beginning, however long what they say is."""

from __future__ import annotations

import pytest
from temporalio.api.failure.v1 import Failure
from temporalio.exceptions import ApplicationError

from batch.network.connection import DATA_CONVERTER, LONGEST_MESSAGE, MOST_CAUSES

LONG = 3_000_000


def sent(error: BaseException) -> Failure:
    failure = Failure()
    DATA_CONVERTER.failure_converter.to_failure(error, DATA_CONVERTER.payload_converter, failure)
    return failure


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    "error",
    [
        ValueError("the key of shard 7: " + "ä" * LONG),
        ApplicationError("the key of shard 7: " + "x" * LONG, "y" * LONG, type="z" * LONG, non_retryable=True),
    ],
)
def test_a_long_error_is_told_with_its_beginning(error: BaseException) -> None:
    failure = sent(raised(error))
    assert failure.ByteSize() < 50_000
    assert failure.message.startswith("the key of shard 7: ") and failure.message.endswith("characters in all)")
    assert len(failure.message) == LONGEST_MESSAGE


def test_a_long_chain_of_causes_is_cut() -> None:
    error: BaseException = ValueError("first")
    for number in range(100):
        following = ValueError(f"number {number} " + "x" * LONG)
        following.__cause__ = error
        error = following
    failure, depth = sent(error), 1
    assert failure.ByteSize() < 100_000
    while failure.HasField("cause"):
        failure, depth = failure.cause, depth + 1
    assert depth == MOST_CAUSES


def test_a_short_error_goes_as_it_is() -> None:
    failure = sent(ApplicationError("no disk", {"free": 0}, type="Full", non_retryable=True))
    back = DATA_CONVERTER.failure_converter.from_failure(failure, DATA_CONVERTER.payload_converter)
    assert isinstance(back, ApplicationError)
    assert (back.message, back.type, back.details, back.non_retryable) == ("no disk", "Full", ({"free": 0},), True)
