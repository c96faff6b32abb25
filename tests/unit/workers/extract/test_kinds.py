"""Each format's text, and that what is wrong with a document is told as it is."""

from __future__ import annotations

import random
import time

import pytest

from benchmarks import made_documents as f
from benchmarks.made_documents import text_of
from tests.unit.workers.extract.made_ole import ole
from workers.extract import Kind, Unreadable, kind_of


def test_docx_leaves_nothing_out() -> None:
    text = text_of("a.docx", f.make_docx("Größe — 日本語 😀"))
    for each in ("The heading", "Größe — 日本語 😀", "cell 1 1", "the header", "kept inserted", "boxed"):
        assert text.count(each) == 1, each
    assert "deleted" not in text and text.index("The heading") < text.index("日本語") < text.index("cell 0 0")


def test_pptx_slides_in_order_with_groups_and_notes() -> None:
    text = text_of("a.pptx", f.make_pptx())
    parts = [text.index(f"{part} {number}") for number in (1, 2) for part in ("Title", "Body", "Notes")]
    assert parts == sorted(parts) and "Grouped 2" in text


def test_xlsx_sheets_and_a_cell_far_out() -> None:
    text = text_of("a.xlsx", f.make_xlsx())
    assert "People" in text and "Ada\t12.5\tTRUE" in text and "Grace\t3\tFALSE" in text
    assert "Other" in text and "far out" in text and len(text) < 100_000


def test_pdf_pages_in_order() -> None:
    assert text_of("a.pdf", f.make_pdf("First page", "Second page")) == "First page\n\nSecond page"
    assert text_of("late.pdf", b"junk before it\n" + f.make_pdf("First page")) == "First page"


def test_epub_chapters_in_reading_order() -> None:
    assert text_of("a.epub", f.make_epub()) == "First\nText First.\n\nSecond\nText Second."


def test_rtf() -> None:
    assert text_of("a.rtf", f.RTF).split("\n") == ["Größe bold 日 text", "second"]


def test_mail() -> None:
    text = text_of("a.eml", f.make_mail())
    assert text.startswith("From: Ada <ada@example.com>\nTo: grace@example.com\nSubject: Grüße\nAttached: bill.pdf\n")
    assert text.endswith("\n\nHello größe")
    assert text_of("a.eml", f.make_mail(html=True)).endswith("\n\nHello there")
    assert text_of("none.eml", b"no header, just text") == "no header, just text"
    latin = b"Subject: x\nContent-Type: text/plain; charset=latin-1\n\nGr\xf6\xdfe"
    assert text_of("a.eml", latin).endswith("Größe")


GERMAN = "Die Straße ist größer als üblich, sagte Frau Müller über das schöne Gebäude. Wir prüfen es nächste Woche."
RUSSIAN = "Съешь же ещё этих мягких французских булок, да выпей чаю. Это обычный русский текст."
JAPANESE = "これは日本語の文章です。文字コードの判定を確認するために書かれています。"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (GERMAN, "cp1252"), (GERMAN, "utf-16"), (GERMAN, "utf-16-le"), (GERMAN, "utf-32"), (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8-r"), (JAPANESE, "shift_jis"), (JAPANESE, "euc_jp"), (JAPANESE, "iso2022_jp"),
        ("这是一个用于测试编码检测的中文句子。看看结果是否正确。", "gb18030"),
    ],
)  # fmt: skip
def test_text_in_other_encodings(text: str, encoding: str) -> None:
    assert text_of("a.txt", text.encode(encoding)) == text


def test_declared_encodings_are_believed() -> None:
    page = '<html><head><meta http-equiv="x" content="text/html; charset=iso-8859-1"></head><body>“gr\xf6\xdfe”</body>'
    assert text_of("a.html", page.encode("cp1252")) == "“größe”"
    xml = '<?xml version="1.0" encoding="iso-8859-2"?><html xmlns="http://www.w3.org/1999/xhtml"><p>Zażółć</p></html>'
    assert text_of("a.xml", xml.encode("iso8859-2")) == "Zażółć"
    wrong = '<meta charset="hex"><p>größe über alles und schöne Straßen in Müllers Gebäude'
    assert "größe" in text_of("a.html", wrong.encode())


def test_utf8_with_a_broken_character_is_shown_with_it() -> None:
    assert text_of("a.txt", (GERMAN * 3).encode() + b"\xff") == GERMAN * 3 + "\ufffd"


def test_the_bytes_decide_before_the_name() -> None:
    docx, pdf = f.make_docx("A first paragraph."), f.make_pdf("First page")
    for name in ("a.pdf", "a.txt", "a.html", "a", "a.xlsx", "a.doc"):
        assert "A first paragraph." in text_of(name, docx)
    for name in ("a.docx", "a.txt", "a.eml"):
        assert text_of(name, pdf) == "First page"
    assert text_of("a.pdf", b"<!DOCTYPE html><title>404</title><p>Not found") == "404\nNot found"
    assert text_of("a.docx", b"only text") == "only text"
    assert kind_of("s3://b/a.md", b"# See <html> and %PDF-1.4\n") is Kind.TEXT
    assert kind_of("s3://b/a.b/c", b"text") is Kind.TEXT


NOISE = random.Random(4).randbytes(4000)


@pytest.mark.parametrize(
    ("name", "make", "error_type"),
    [
        ("a.pdf", lambda: f.make_pdf("x" * 50, "y" * 50)[:-200], "corrupt"),
        ("a.pdf", lambda: f.make_pdf("x")[:400], "corrupt"),
        ("a.pdf", lambda: b"%PDF-1.7\n" + NOISE, "corrupt"),
        ("a.pdf", lambda: b"%PDF-1.7\n" + NOISE + b"%%EOF", "corrupt"),
        ("a.pdf", lambda: NOISE, "corrupt"),
        ("a.pdf", f.make_locked_pdf, "encrypted"),
        ("a.pdf", lambda: f.make_pdf("", ""), "no_text"),
        ("a.docx", lambda: f.make_docx()[:-500], "corrupt"),
        ("a.docx", lambda: f.archive({"[Content_Types].xml": b"<Types/>"}), "corrupt"),
        ("a.docx", lambda: f.rewritten(f.make_docx(), lambda n, d: d[:999] if "document" in n else d), "corrupt"),
        ("a.docx", lambda: f.lying(f.make_docx("x" * 5000), "word/document.xml"), "corrupt"),
        ("a.docx", lambda: f.with_body(""), "no_text"),
        ("a.docx", f.bomb, "decompression_bomb"),
        ("a.docx", lambda: f.with_body("<w:p><w:r><w:t>" + "A" * 40_000_000), "decompression_bomb"),
        ("a.docx", lambda: f.with_body("<w:tbl><w:tr><w:tc>" * 9000 + "</w:tc></w:tr></w:tbl>" * 9000), "too_deep"),
        ("a.zip", lambda: f.archive({f"{n}": b"" for n in range(10_001)}), "decompression_bomb"),
        ("a.zip", lambda: f.archive({"a.txt": b"text"}), "unsupported_format"),
        ("a.odt", lambda: f.archive({"mimetype": b"application/vnd.oasis.opendocument.text"}), "unsupported_format"),
        ("a.epub", lambda: f.make_epub(drm=True), "encrypted"),
        ("a.epub", lambda: f.archive({"mimetype": b"application/epub+zip"}), "corrupt"),
        ("a.docx", lambda: ole({"EncryptionInfo": b"\x04", "EncryptedPackage": NOISE}), "encrypted"),
        ("a.msg", lambda: ole({"__properties_version1.0": b"x"}), "unsupported_format"),
        ("a.doc", lambda: ole({"Contents": b"x"}), "unsupported_format"),
        ("a.doc", lambda: ole({"WordDocument": NOISE}), "corrupt"),
        ("a.doc", lambda: ole({"WordDocument": NOISE})[:700], "corrupt"),
        ("a.txt", lambda: b"\x89PNG\r\n\x1a\n" + NOISE, "unsupported_format"),
        ("a.txt", lambda: b"\x1f\x8b" + NOISE, "unsupported_format"),
        ("a.txt", lambda: NOISE, "not_text"),
        ("a.txt", lambda: NOISE.replace(b"\0", b"\1"), "not_utf8"),
        ("a.txt", lambda: b"abc\x00def", "not_text"),
        ("a.txt", lambda: "größe".encode("latin-1"), "not_utf8"),
        ("a.txt", lambda: b"\xff\xfe" + NOISE, "not_text"),
        ("a.rtf", lambda: b"{\\rtf1 {\\pict 0102} }", "no_text"),
        ("a.html", lambda: b"<p> </p>", "empty"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_why(name: str, make: object, error_type: str) -> None:
    data = make()  # type: ignore[operator]
    began = time.monotonic()
    with pytest.raises(Unreadable) as refused:
        text_of(name, data)
    assert refused.value.error_type == error_type, refused.value
    assert time.monotonic() - began < 5


def test_entities_expand_to_nothing() -> None:
    laugh = "".join(f'<!ENTITY {name} "{f"&{of};" * 10}">' for name, of in zip("bcdefghi", "abcdefgh", strict=True))
    before = f'<!DOCTYPE z [<!ENTITY a "lol"><!ENTITY x SYSTEM "file:///etc/passwd">{laugh}]>'
    text = text_of("a.docx", f.with_body("<w:p><w:r><w:t>so &i; and &x;</w:t></w:r></w:p>", before=before))
    assert "lol" not in text and "root:" not in text and len(text) < 200
    book = f.rewritten(f.make_epub(), lambda name, data: before.encode() + data if name.endswith(".opf") else data)
    with pytest.raises(Unreadable, match="entities"):
        text_of("a.epub", book)
