"""Gzipped documents, books whose names are off, and encodings that are not what they say."""

from __future__ import annotations

import gzip
import io
import zipfile
from functools import partial

import pytest

from benchmarks import made_documents as f
from benchmarks.made_documents import text_of
from workers.extract import Kind, Unreadable, extract, inline, kind_of
from workers.extract.pool import Extractors

gzipped = partial(gzip.compress, mtime=0)
"""The same bytes in each process: they are part of a test's name."""

GERMAN = "Die Straße ist größer als üblich, sagte Frau Müller über das schöne Gebäude. Wir prüfen es nächste Woche."
RUSSIAN = "Добрый день! Сумма в счёте расходится по договору, проверьте, пожалуйста, ещё раз."
PAGE = b"<html><body><p>Pack<b>ed</b></body></html>"


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("a.txt", gzipped(b"Packed"), "Packed"),
        ("a.csv.gz", gzipped(b"Pack") + gzipped(b"ed") + b"\0\0", "Packed"),
        ("a.html", gzipped(PAGE), "Packed"),
        ("a.gz", gzipped(f.make_docx("Packed")), "Packed"),
    ],
)
def test_gzip_data_is_unpacked(name: str, data: bytes, text: str) -> None:
    assert kind_of(name, data) is Kind.GZIP and inline(name, data, Kind.GZIP) is None
    assert text in text_of(name, data)


@pytest.mark.parametrize(
    ("data", "error_type"),
    [
        (gzipped(b"\0" * 70_000_000, 1), "decompression_bomb"),
        (gzipped(b"words" * 999)[:-12], "corrupt"),
        (gzipped(b"words" * 999)[:30] + b"\xff" * 30, "corrupt"),
        (gzipped(gzipped(b"words")), "unsupported_format"),
        (gzipped(b" \n"), "empty"),
        (gzipped(b"a.txt" + b"\0" * 252 + b"ustar" + b"\0" * 300), "unsupported_format"),
    ],
    ids=["bomb", "cut", "damaged", "twice", "blank", "tar"],
)
def test_gzip_data_without_a_text_is_told_as_it_is(data: bytes, error_type: str) -> None:
    with pytest.raises(Unreadable) as refused:
        text_of("a.txt", data)
    assert refused.value.error_type == error_type, refused.value


def test_of_a_packed_page_the_main_text_can_be_had() -> None:
    page = gzipped(f.make_page().encode())
    found = extract("a.html.gz", page, Kind.GZIP_MAIN, 2**20).text
    assert "Paragraph 8 of" in found and not any(each in found for each in f.AROUND)


async def test_packed_data_is_unpacked_in_a_process() -> None:
    pool = Extractors(1)
    try:
        await pool.text_of("a.html", gzipped(PAGE), html="main")
        assert len(pool._children) == 1
    finally:
        await pool.close()


def book(change: dict[str, str]) -> bytes:
    """The made book, with entries renamed."""
    with zipfile.ZipFile(io.BytesIO(f.make_epub())) as made:
        return f.archive(
            {change.get(name, name): made.read(name) for name in made.namelist() if change.get(name) != ""}
        )


BOOK = "First\nText First.\n\nSecond\nText Second."


def test_chapters_are_found_as_readers_find_them() -> None:
    for change in (
        {"OEBPS/a.xhtml": "OEBPS/A.XHTML"},
        {"OEBPS/b b.xhtml": "OEBPS/b%20b.xhtml"},
        {"OEBPS/book.opf": "oebps/Book.opf", "mimetype": ""},
        {"META-INF/container.xml": ""},
    ):
        assert text_of("a.epub", book(change)) == BOOK, change


def test_a_book_that_lacks_a_chapter_names_it() -> None:
    with pytest.raises(Unreadable, match=r"OEBPS/a\.xhtml") as refused:
        text_of("a.epub", book({"OEBPS/a.xhtml": ""}))
    assert refused.value.error_type == "corrupt"

    def other(name: str, data: bytes) -> bytes:
        return data.replace(b'idref="b"', b'idref="c"') if name.endswith(".opf") else data

    with pytest.raises(Unreadable, match="'c'"):
        text_of("a.epub", f.rewritten(f.make_epub(), other))


def test_without_a_reading_order_the_manifests_is_taken() -> None:
    def without(name: str, data: bytes) -> bytes:
        if not name.endswith(".opf"):
            return data
        return (
            data.partition(b"<spine>")[0].replace(b"<manifest>", b"<title>a&nbsp;b</title><manifest>") + b"</package>"
        )

    text = text_of("a.epub", f.rewritten(f.make_epub(), without))
    assert text == "Second\nText Second.\n\nFirst\nText First."


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (GERMAN.encode("mac_roman"), GERMAN),
        ("Cats and dogs\x97and mice\x97live here.".encode("latin-1") * 3, "Cats and dogs—and mice—live here." * 3),
        (b"\xef\xbb\xbf" + GERMAN.encode("cp1252"), GERMAN),
        (b"log line" + bytes(4096), "log line"),
        (bytes(4096) + b"log line", "log line"),
        (("log " * 30).encode("utf-16-le") + bytes(8), "log " * 30),
        ("log".encode("utf-16") + bytes(8), "log"),
    ],
    ids=["old Mac", "dashes", "lying mark", "padded", "hole", "padded UTF-16", "marked and padded"],
)
def test_text_is_what_it_looks_like(data: bytes, text: str) -> None:
    assert text_of("a.txt", data) == text


def test_a_declaration_that_cannot_be_is_not_believed() -> None:
    page = b'<html><head><meta charset="iso-8859-1"></head><body>' + RUSSIAN.encode("cp1251")
    try:
        assert text_of("a.html", page) == RUSSIAN
    except Unreadable as refused:
        assert refused.error_type == "not_utf8"
    hebrew = '<meta charset="iso-8859-8-i"><p>שלום'.encode("iso8859-8")
    assert text_of("a.html", hebrew) == "שלום"
