"""How many tokens a call will take, before it is made: by its size, and by what the calls before it took."""

from __future__ import annotations

TOKENS_A_BYTE = 0.25
"""Of English prose, until the provider has counted."""
COMPLETION = 256.0
NEWEST = 0.05
"""Weight of the newest call in the running means."""


class Expected:
    """The running means of one run in this process."""

    def __init__(self, most_completion: int | None) -> None:
        self._tokens_a_byte = TOKENS_A_BYTE
        self._completion = min(COMPLETION, most_completion or COMPLETION)
        self._calls = 0

    def tokens(self, payload: bytes) -> float:
        """Of the prompt in a request's body, and of its answer."""
        return len(payload) * self._tokens_a_byte + self._completion

    def learn(self, size: int, prompt: int, completion: int) -> None:
        """What a call with a body of so many bytes really took; a provider that counts nothing teaches nothing."""
        if prompt <= 0 or size <= 0:
            return
        self._calls += 1
        newest = max(NEWEST, 1 / self._calls)
        self._tokens_a_byte += newest * (prompt / size - self._tokens_a_byte)
        self._completion += newest * (completion - self._completion)
