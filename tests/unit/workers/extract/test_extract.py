"""Bytes to text: what a page shows, and pages that would keep the parser busy for hours."""

from __future__ import annotations

import time

import pytest

from benchmarks.made_documents import AROUND, make_page, text_of
from workers.extract import INLINE_BYTES, Kind, Unreadable, extract, inline, kind_of
from workers.extract.pool import Extractors
from workers.extract.web.html import MOST_TAGS


def html(body: str) -> str:
    return text_of("page.html", f"<title>T</title>{body}".encode())


@pytest.mark.parametrize(
    "page",
    [
        "<div>" * 4_000_000,
        "<div title='<br>' / id=a>" * 40_000,
        "".join(f"<b id={n}>" for n in range(20_000)),
        "".join(f"<p><b id={n}>x</p>" for n in range(4_000)),
        "<ruby>" + "<rt>" * 40_000,
        "<script>'</script><div>'</script>" * 40_000,
        "</script>" + "<div><script>'</div>'</script>" * 40_000,
        "<script><a title='</script>" + "<div>" * 40_000,
    ],
    ids=[
        "divs",
        "attributes",
        "formatting",
        "formatting in paragraphs",
        "optional",
        "after scripts",
        "stray end",
        "open quote",
    ],
)
def test_a_page_that_takes_the_parser_too_long_is_refused_at_once(page: str) -> None:
    began = time.monotonic()
    with pytest.raises(Unreadable, match="nests too deeply") as refused:
        html(page)
    assert refused.value.error_type == "too_deep"
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "page",
    [
        "<div><p>Some words.<br><img src=x></p></div>" * 20_000,
        "<ul>" + "<li>words" * 20_000,
        "<p>words" * 20_000,
        "<table>" + "<tr><td>words<td><b>bold</b>" * 10_000,
        "<p><a name=x>words" * 10_000,
        "<font size=2>" + "<p>words</p>" * 10_000,
        "<svg>" + "<path d='M0 0'/>" * 20_000 + "</svg>words",
        "<script>" + "'<div>'" * 40_000 + "</script>words",
        "<!--" + "<div>" * 40_000 + "-->words",
        '<a title="' + "<div>" * 40_000 + '">words</a>',
        "<div>" * 500 + "words",
    ],
)
def test_large_and_sloppy_pages_are_read(page: str) -> None:
    assert "words" in html(page).lower()


@pytest.mark.parametrize(("end", "kind"), [(b"# Title", Kind.TEXT), (b"<html>", Kind.HTML)])
def test_comments_before_a_page_or_a_text_are_passed_at_once(end: bytes, kind: Kind) -> None:
    began = time.monotonic()
    assert kind_of("s3://b/readme.md", b"<!-- x -->\n" * 24 + end) is kind
    assert time.monotonic() - began < 0.5


def test_what_is_small_or_plain_is_read_where_it_is_and_nothing_else() -> None:
    def read(key: str, data: bytes) -> str | None:
        return inline(key, data, kind_of(key, data))

    assert read("s3://b/small.html", b"<p>small</p>") == "small"
    assert read("s3://b/large.txt", b"x" * INLINE_BYTES * 2) == "x" * INLINE_BYTES * 2
    assert read("s3://b/bom.md", b"\xef\xbb\xbf# Title") == "# Title"
    assert read("s3://b/large.HTML", b"<p>large</p>" * INLINE_BYTES) is None
    assert read("s3://b/latin.txt", b"gr\xf6\xdfe") is None
    assert read("s3://b/paper.txt", b"%PDF-1.7 ...") is None
    for nothing in (b"", b" \n\t "):
        with pytest.raises(Unreadable) as refused:
            read("s3://b/empty.pdf", nothing)
        assert refused.value.error_type == "empty"


def main_text(page: str) -> str:
    return extract("page.html", page.encode(), Kind.HTML_MAIN, 8 * 2**20).text


def test_main_text_is_the_article_and_nothing_around_it() -> None:
    page = make_page()
    text, whole = main_text(page), text_of("page.html", page.encode())
    assert text.startswith("The headline - The Paper\n") and "evil" not in text
    for each in ("Paragraph 1 of", "Paragraph 8 of", "Second point of the list", "1999", "1234 tons"):
        assert each in text and each in whole, each
    for each in AROUND:
        assert each not in text and each in whole, each


@pytest.mark.parametrize(
    "page",
    [
        "<title>T</title><nav><a href=/>Only a menu</a></nav>",
        "<title>T</title>" + "<div>" * 600 + "Only a menu",
        "<title>T</title><p>Only a menu</p>" + "<i>x</i>" * MOST_TAGS,
        "<title>T</title><frameset><frame src=x></frameset>",
    ],
    ids=["nothing but navigation", "deeper than the library looks", "more tags than it bears", "no body"],
)
def test_a_page_without_main_text_is_read_whole(page: str) -> None:
    assert main_text(page) == text_of("page.html", page.encode())


def test_what_breaks_the_choice_of_main_text_does_not_break_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(page: str, **options: object) -> str:
        raise AttributeError(page)

    monkeypatch.setattr("trafilatura.extract", broken)
    assert "Menu 7" in main_text(make_page())


def test_deeply_nested_pages_are_refused_for_main_text_too() -> None:
    began = time.monotonic()
    with pytest.raises(Unreadable) as refused:
        main_text("<div>" * 400_000)
    assert refused.value.error_type == "too_deep" and time.monotonic() - began < 5
    with pytest.raises(Unreadable) as refused:
        main_text("<p> </p>")
    assert refused.value.error_type == "empty"


async def test_main_text_is_looked_for_in_a_process_however_small_the_page() -> None:
    """Nothing bounds what the library may take, so never where the worker's own work is done."""
    page = make_page("A single short paragraph, which is the article.").encode()
    assert inline("page.html", page, Kind.HTML_MAIN) is None
    pool = Extractors(1)
    try:
        assert "Menu 7" in (await pool.text_of("page.html", page)).text and not pool._children
        found = (await pool.text_of("page.html", page, html="main")).text
        assert "which is the article" in found and "Menu 7" not in found and len(pool._children) == 1
        assert (await pool.text_of("a.txt", b"plain text", html="main")).text == "plain text"
    finally:
        await pool.close()
