"""The judge of all texts: blanks are empty, garbage is refused with numbers, oddities are cleaned."""

from __future__ import annotations

import random

import pytest

from batch.corpus.planning import PlannedDocument
from benchmarks.made_documents import text_of
from workers.documents.reading import planned_text
from workers.extract import Unreadable, legible

NOISE = random.Random(1).randbytes(3000)


@pytest.mark.parametrize(
    "blank",
    [
        "",
        " \n\t",
        "\ufeff",
        "\u200b\u200c\u2060",
        "\u0301\u0302",
        "\x00\x01\x02",
        "\u3164\u2800",
        "\u200f\u00ad",
        "\x1b[0m",
    ],
)
def test_what_nobody_can_see_is_empty(blank: str) -> None:
    assert legible(blank) == ""


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("a\r\nb\rc\x0cd", "a\nb\nc\nd"),
        ("one\u2028two\x85three", "one\u2028two\x85three"),
        ("hi \ud83d", "hi \ufffd"),
        ("\x1b[1;31mERROR\x1b[0m \x1b]0;title\x07disk \x1b(Bfull", "ERROR disk full"),
        ("N\x08NA\x08AM\x08ME _\x08x", "NAME x"),
        ("at 10%\x08\x08\x0820%\x08\x08\x0830%\nab\x08\x08\x08\x08c", "at 30%\nc"),
        ("\U0001fa77\U0001fae9", "\U0001fa77\U0001fae9"),
        ("abc\x00\x00\x00", "abc"),
        ("last line\n\x1a", "last line\n"),
        ("8=FIX.4.2\x019=176\x0135=8", "8=FIX.4.2\t9=176\t35=8"),
        ("245 \x1faTitle\x1ebody\x1d", "245 \taTitle\nbody\n"),
        ("\uf0b7 One\n\uf0a7 Two", "• One\n• Two"),
        ("It\x92s a long enough sentence, \x93quoted\x94 once", "It\u2019s a long enough sentence, “quoted” once"),
        (
            "A definition or a de\x02nition, with other words around it",
            "A definition or a de\ufffdnition, with other words around it",
        ),
        ("half \ud83d of it, and some more words to read", "half \ufffd of it, and some more words to read"),
        ("M\ufffdller", "M\ufffdller"),
        ("👍", "👍"),
        ("…", "…"),
        ("日本語", "日本語"),
        ("क्षत्रिय مرحبا\u200f", "क्षत्रिय مرحبا\u200f"),
        ("a\xa0b", "a\xa0b"),
    ],
)
def test_what_is_odd_and_harmless_is_cleaned(text: str, clean: str) -> None:
    assert legible(text) == clean


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\ufffd" * 10, "of 10 characters 100 % are 10 replacement characters"),
        (NOISE.decode("latin-1"), "control characters"),
        (NOISE.decode("cp437"), "control characters"),
        (NOISE.decode(errors="replace"), "replacement characters"),
        ("\ue001\ue002\ue003 \ue004\ue005 and words", "private-use characters"),
        ("Title\n" + "\x03\x15\x07\x22\x05 " * 9, "control characters"),
        ("\U000e1000\U000e1001" * 5, "unassigned"),
    ],
)
def test_what_nobody_wrote_is_refused_with_numbers(text: str, says: str) -> None:
    with pytest.raises(Unreadable, match=says) as refused:
        legible(text)
    assert refused.value.error_type == "unreadable_text"


def test_texts_of_every_format_and_of_rows_pass_it() -> None:
    assert text_of("a.log", b"\x1b[31mERROR\x1b[0m") == "ERROR"
    assert text_of("a.html", b"<p>a&#7;b and a few more words") == "a\ufffdb and a few more words"
    assert text_of("a.rtf", rb"{\rtf1 one\'07 two}") == "one two"
    for name, data, error_type in (
        ("a.txt", b"\xef\xbb\xbf", "empty"),
        ("a.html", b"<p>&#8203;</p>", "empty"),
        ("a.rtf", rb"{\rtf1 \u8203?}", "no_text"),
        ("a.html", b"<p>" + b"&#xe001;&#xe002;" * 9, "unreadable_text"),
        ("a.eml", b"Subject: x\n\n" + "\ufffd".encode() * 99, "unreadable_text"),
    ):
        with pytest.raises(Unreadable) as refused:
            text_of(name, data)
        assert refused.value.error_type == error_type, name


def row(content: str) -> PlannedDocument:
    return PlannedDocument("d", "s3://b/k#1", "", 1, content=content)


def test_a_rows_text_is_judged_as_an_objects_is() -> None:
    assert planned_text(row("a\r\n\x1b[1mb")) == "a\nb"
    for content, error_type in (("\u200b", "empty"), ("\ufffd" * 20, "unreadable_text")):
        with pytest.raises(Unreadable) as refused:
            planned_text(row(content))
        assert refused.value.error_type == error_type
