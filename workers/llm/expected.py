"""How many tokens a call will take, before it is made: learnt from those that were made."""

from __future__ import annotations

import math

BYTES_PER_TOKEN = 4.0
"""Of a request, until usage shows better."""
FIRST_COMPLETION = 1000
"""Tokens that an answer is taken for before the first one, where the job names no maximum."""
REMEMBERED = 1000
"""Calls that the means look back on, roughly: the older half fades."""


class Expected:
    """Means over the calls of one run in this process: tokens per byte of a request, and tokens of an answer.

    What is expected is the mean, not the most: over all calls in flight together, reserved is then close to used.
    """

    def __init__(self, most_completion: int | None) -> None:
        self._first_completion = most_completion or FIRST_COMPLETION
        self._calls = self._bytes = self._prompt = self._cached = self._completion = 0.0

    @property
    def is_guess(self) -> bool:
        """Whether no call has told yet."""
        return not self._calls

    def tokens(self, size: int) -> tuple[int, int, int]:
        """Prompt, cached among them, completion, for a request of `size` bytes."""
        if not self._calls:
            return math.ceil(size / BYTES_PER_TOKEN), 0, self._first_completion
        # By the means' ratio, or by the difference from their length: requests have parts that cost no tokens, so what
        # a long one takes must not be concluded from short ones alone. What is too much comes back when it settles.
        longer = (size - self._bytes / self._calls) / BYTES_PER_TOKEN
        prompt = max(size * self._prompt / self._bytes, self._prompt / self._calls + longer)
        cached = prompt * self._cached / self._prompt if self._prompt else 0.0
        return math.ceil(prompt), int(cached), math.ceil(self._completion / self._calls)

    def learn(self, size: int, prompt: int, cached: int, completion: int) -> None:
        """What a call with a body of so many bytes really took; a provider that counts nothing teaches nothing."""
        if prompt <= 0 or size <= 0:
            return
        if self._calls >= REMEMBERED:
            self._calls, self._bytes, self._prompt, self._cached, self._completion = (
                total / 2 for total in (self._calls, self._bytes, self._prompt, self._cached, self._completion)
            )
        self._calls += 1
        self._bytes += size
        self._prompt += prompt
        self._cached += cached
        self._completion += completion
