"""Prompts that a server cut in silence, and those that it did not."""

from __future__ import annotations

import orjson
import pytest

from workers.llm.limits.window import Window, least_tokens

ENGLISH = "The invoice of May is wrong, and the customer asks for another one by Monday. "
GERMAN = "Die Rechnung vom Mai ist falsch, und der Kunde bittet bis Montag um eine neue. "
CHINESE = "五月的发票有误,客户希望在星期一之前收到新的发票。"
CODE = "    if (value === undefined) {\n        return null;\n    }\n"
TABLE = "| 12 | 3.50 | x |          |\n"


def messages(text: str) -> bytes:
    return orjson.dumps([{"role": "user", "content": text}])


@pytest.mark.parametrize("window", [2048, 4096, 4095, 8192])
@pytest.mark.parametrize("text", [ENGLISH, CHINESE, "naïve café déjà vu "])
def test_a_prompt_that_was_cut_by_half_or_more_is_found(text: str, window: int) -> None:
    size = window * 12 if text != CHINESE else window * 15
    long = messages(text * (size // len(text.encode()) + 1))
    assert Window().is_cut(long, window)


@pytest.mark.parametrize(
    "text", [ENGLISH, GERMAN, CHINESE, CODE, TABLE, " " * 80, "=" * 80, "a" * 80, "a b c ", "\n" * 40]
)
@pytest.mark.parametrize("repeats", [1, 50, 1000])
def test_no_tokenizer_that_takes_a_word_a_token_is_suspected(text: str, repeats: int) -> None:
    sent = messages(text * repeats)
    assert not Window().is_cut(sent, round(least_tokens(sent)) + 4)


def test_counts_that_are_no_window_say_nothing() -> None:
    sent = messages(ENGLISH * 1000)
    for tokens in (0, 1, 17, 999):
        assert not Window().is_cut(sent, tokens)


def test_a_tokenizer_with_tokens_of_several_words_is_learnt_from_short_prompts() -> None:
    long = messages(ENGLISH * 900)
    tokens = round(least_tokens(long) * 0.6)
    assert Window().is_cut(long, tokens)
    window = Window()
    for repeats in range(20, 60):
        short = messages(ENGLISH * repeats)
        assert not window.is_cut(short, round(least_tokens(short) * 0.6))
    assert not window.is_cut(long, tokens)
    assert window.is_cut(long, tokens // 2)
