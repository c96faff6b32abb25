"""How failures go through Temporal: with a beginning that can be read, however long their texts are.

The server takes 2 MB for a failure, and puts "Failure exceeds size limit" in the place of a longer one.
"""

from __future__ import annotations

from dataclasses import replace

from temporalio.api.failure.v1 import Failure
from temporalio.converter import DataConverter, DefaultFailureConverter, PayloadConverter

MESSAGE, TRACE = 2_000, 6_000
"""Characters of a message, and of a stack trace."""
DETAILS = 20_000
"""Bytes of details of an error of ours; larger ones are left out."""
CAUSES = 6
"""Failures in a chain of causes: more are cut off."""


class BoundedFailureConverter(DefaultFailureConverter):
    """Temporal's own, with all that may be long cut; what is cut says so."""

    def to_failure(self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure) -> None:
        super().to_failure(exception, payload_converter, failure)
        bound(failure)


def bound(failure: Failure) -> None:
    """Cuts the failure, and those that caused it, to a few kilobytes each."""
    for depth in range(CAUSES):
        failure.message = cut(failure.message, MESSAGE)
        failure.stack_trace = cut(failure.stack_trace, TRACE)
        info = failure.application_failure_info
        if failure.HasField("application_failure_info"):
            info.type = cut(info.type, MESSAGE)
            if info.details.ByteSize() > DETAILS:
                info.ClearField("details")
        if failure.HasField("canceled_failure_info") and failure.canceled_failure_info.details.ByteSize() > DETAILS:
            failure.canceled_failure_info.ClearField("details")
        if not failure.HasField("cause"):
            return
        if depth + 1 == CAUSES:
            failure.ClearField("cause")
            return
        failure = failure.cause


def cut(text: str, longest: int) -> str:
    """The beginning of a text that is too long, and how long it was."""
    if len(text) <= longest:
        return text
    told = f"... ({len(text):,} characters in all)"
    return text[: longest - len(told)] + told


DATA_CONVERTER = replace(DataConverter.default, failure_converter_class=BoundedFailureConverter)
"""Temporal's own but for failures; for every connection of ours."""
