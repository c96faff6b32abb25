"""Whether a server read the whole prompt: some cut what does not fit their window, say nothing, and answer the rest.

Ollama does, at 2,048 or 4,096 tokens by default (https://docs.ollama.com/context-length). All that tells is
`prompt_tokens`, held here against what no tokenizer goes below: tokens do not reach across white space, so there is one
a word at least, and in scripts without spaces one for four characters. Tokenizers with tokens of several words exist;
the run's first answers, too short to be cut, show whether this is one.
"""

from __future__ import annotations

BYTES_PER_TOKEN = 5.5
"""Of a request. One with fewer is not looked at: that is where nearly all are (English has about 4.3)."""
PER_WORD, PER_CHARACTER = 0.8, 0.25
"""Tokens at least for a word, and for a character of Chinese, Japanese or Korean."""
SMALLEST_WINDOW = 1_000
"""Tokens. Fewer are no window, but a short prompt, or another way to count: of what was not in the server's cache."""
LEARNT_FROM, TELLING = 8, 100
"""Short answers that show what the run's tokenizer counts for a word, and tokens from which one does."""
WHOLE_WINDOWS = 1_024
"""A count that is a multiple of it is likely a window itself: there a word more than tokens is enough."""

_WIDE = bytes(range(0xE3, 0xEE))
"""First bytes of the UTF-8 of U+3000 to U+DFFF: kana, CJK, Hangul."""


class Window:
    """Judges the prompt counts of one run in this process."""

    def __init__(self) -> None:
        self._seen = 0
        self._per_word = 1.0
        """The fewest tokens for a word that an answer with an uncut prompt showed; 1 at most."""

    def is_cut(self, messages: bytes, tokens: int) -> bool:
        """Tells whether `tokens`, cached ones included, are too few for the request's messages (JSON, UTF-8)."""
        if tokens < SMALLEST_WINDOW:
            if tokens >= TELLING and self._seen < LEARNT_FROM:
                self._seen += 1
                self._per_word = min(self._per_word, tokens / least_tokens(messages))
            return False
        if tokens * BYTES_PER_TOKEN >= len(messages):
            return False
        share = 1.0 if tokens % WHOLE_WINDOWS == 0 else PER_WORD
        return tokens < least_tokens(messages, share * self._per_word)


def least_tokens(messages: bytes, per_word: float = 1.0) -> float:
    """Returns tokens of UTF-8 text at least. (Escaped line ends in JSON join words: fewer are counted, never more.)"""
    wide = len(messages) - len(messages.translate(None, _WIDE))
    return max(1, len(messages.split())) * per_word + wide * PER_CHARACTER
