"""Cutting a long text: nothing is lost, everything fits, borders are natural, and hostile texts cost no more."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.documents.chunks import first_end, pieces
from workers.documents.token_estimate import UNIT, WORST, measure_for, tokens

MODELS = ("simulated-small", "gpt-5-mini", "gpt-4", "openai/gpt-4.1", "claude-x", "anything")
PARTS = st.sampled_from(
    [
        "word ",
        "A sentence. ",
        "Really?! ",
        "\n\n",
        "\n",
        "# Heading\n",
        "\f",
        "世界。",
        "привет ",
        "é",
        "🙂",
        "\ud800",
        "x" * 50,
    ]
)
TEXTS = st.lists(PARTS | st.text(max_size=20), min_size=1, max_size=200).map("".join)


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.sampled_from(MODELS), st.integers(40, 400), st.floats(0, 0.5))
def test_pieces_cover_the_text_and_fit(text: str, model: str, most: int, share: float) -> None:
    measure = measure_for(model)
    limit, overlap = most * UNIT, int(most * UNIT * share)
    spans = list(pieces(text, limit=limit, overlap=overlap, measure=measure))
    assert spans[0][0] == 0 and spans[-1][1] == len(text)
    for start, end in spans:
        assert measure(text[start:end]) <= limit
    for (start, end), (following, its_end) in pairwise(spans):
        assert start < following <= end < its_end
        assert measure(text[following:end]) <= overlap
    assert len(spans) <= 2 + measure(text) / (limit // 4 - WORST)
    assert spans[0][1] == first_end(text, limit=limit, measure=measure)


@given(st.text(), st.text(), st.sampled_from(MODELS))
def test_weights_add_up(one: str, other: str, model: str) -> None:
    measure = measure_for(model)
    assert measure(one) + measure(other) == measure(one + other)
    assert all(0 < measure(character) <= WORST for character in one)


def cut(text: str, most: int, overlap: int = 0) -> list[str]:
    spans = pieces(text, limit=most * UNIT, overlap=overlap * UNIT, measure=measure_for("simulated-small"))
    return [text[start:end] for start, end in spans]


@pytest.mark.parametrize(
    ("text", "border"),
    [
        (
            "One two three. Four five.\n" * 12 + "\n" + "Six.\n" * 6 + "# Part two\n" + "Seven. Eight.\n" * 40,
            "# Part two",
        ),
        ("One two three.\nFour five.\n" * 14 + "\nA new paragraph. More of it.\n" + "Six seven.\n" * 60, "A new para"),
        (
            "Word after word, " * 22 + "which ends here. The next one begins, " + "word after word, " * 40,
            "The next one",
        ),
        ("a,b,c\n" * 200, "a,b,c\n"),
        ("word " * 200, "word"),
    ],
)
def test_a_piece_ends_at_the_best_border_near_its_end(text: str, border: str) -> None:
    assert cut(text, 100)[1].startswith(border)


def test_the_overlap_begins_with_a_sentence() -> None:
    text = " ".join(f"This is sentence number {number}." for number in range(100))
    first, second, *_ = cut(text, 100, 30)
    assert second.startswith("This is sentence number")
    repeated = second[: second.index(first[-20:].strip()) + 20].strip()
    assert first.rstrip().endswith(repeated) and 40 < len(repeated) <= 120


HOSTILE = ("x", " ", ".\"'", "\n  \t", "世", "# \n\n")


@pytest.mark.parametrize(("pattern", "size"), [("x", 20_000_000), *((pattern, 3_000_000) for pattern in HOSTILE)])
def test_hostile_texts_take_linear_time(pattern: str, size: int) -> None:
    text = pattern * (size // len(pattern))
    began = time.process_time()
    spans = list(pieces(text, limit=20_000 * UNIT, overlap=200 * UNIT, measure=measure_for("gpt-5")))
    assert spans[-1][1] == len(text)
    assert (
        time.process_time() - began < 0.4e-6 * size
    )  # several times what it takes; one that is quadratic takes minutes


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("gpt-4o-mini", "gpt-5"),
        ("openai/o4-mini", "gpt-5"),
        ("ft:gpt-4.1:acme::1", "gpt-5"),
        ("GPT-35-turbo", "gpt-4"),
        ("anthropic/claude-sonnet", "claude-x"),
        ("qwen3", "llama"),
    ],
)
def test_a_family_goes_by_the_name(name: str, like: str) -> None:
    text = "Ein Wort, 世界, 12. мир"
    measure = measure_for(name)
    assert measure(text) == measure_for(like)(text)
    others = {"gpt-5", "gpt-4", "claude-x", "llama"} - {like}
    assert measure(text) not in {measure_for(other)(text) for other in others}


def test_english_chinese_and_code_have_the_tokens_of_their_family() -> None:
    """Counts of o200k, that of `gpt-5`; the estimate is not below them and not far above."""
    for text, counted in (
        ("The quick brown fox jumps over the lazy dog, and the dog does not mind at all. " * 50, 900),
        ("机器学习是人工智能的一个分支。它使用统计技术。" * 50, 800),
        ("for index in range(10):\n    print(f'{index}: {values[index]}')\n" * 50, 1000),
    ):
        estimated = tokens(measure_for("gpt-5")(text))
        assert 1.0 <= estimated / counted <= 1.6, (text[:20], estimated, counted)
        assert measure_for("some-model")(text) > measure_for("gpt-5")(text)
