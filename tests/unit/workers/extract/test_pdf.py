"""PDFs: what of their pages is text, and what they say that is none."""

from __future__ import annotations

import pytest

from benchmarks.made_documents import make_locked_pdf
from tests.unit.workers.extract.made_pdf import COMPOSITE, DVIPS, SCAN, line, pdf
from workers.documents.reading import check_pages
from workers.extract import Extracted, Kind, Unreadable, extract
from workers.extract.pool import Extractors


def read(data: bytes) -> Extracted:
    return extract("a.pdf", data, Kind.PDF, 8 * 2**20)


def refusal(data: bytes) -> tuple[str, str]:
    with pytest.raises(Unreadable) as refused:
        read(data)
    return refused.value.error_type, str(refused.value)


def test_pages_that_show_something_and_have_no_text_are_counted_and_blank_ones_are_not() -> None:
    found = read(pdf(line("Cover"), SCAN, SCAN, "", line("End")))
    assert found == Extracted("Cover\n\nEnd", 5, 2)
    outlines = "0 0 m " + "10 10 l 20 30 l " * 200 + "f\n"
    assert read(pdf(line("Cover"), outlines, "0 0 m 612 0 l S\n")) == Extracted("Cover", 3, 1)
    numbered = read(pdf(line("Cover"), SCAN + line("Page 2")))
    assert numbered == Extracted("Cover\n\nPage 2", 2, 1), "the number that was stamped onto a scan is not its text"
    assert read(pdf(line("Cover"), SCAN + line("Scanned with CamScanner"))).pages_without_text == 1
    words = "A caption that says what is seen in the picture"
    assert read(pdf(SCAN + line(words))) == Extracted(words, 1, 0)


@pytest.mark.parametrize(("least", "is_refused"), [(0.0, False), (0.4, False), (0.5, True), (1.0, True)])
def test_a_job_says_how_many_pages_must_have_text(least: float, is_refused: bool) -> None:
    if is_refused:
        with pytest.raises(Unreadable, match="3 of 5 pages show something") as refused:
            check_pages(Extracted("x", 5, 3), least)
        assert refused.value.error_type == "missing_text_pages"
    else:
        check_pages(Extracted("x", 5, 3), least)
    check_pages(Extracted("x", 5, 0), least)
    check_pages(Extracted("x"), least)


def test_why_a_pdf_has_no_text() -> None:
    assert refusal(pdf(SCAN, SCAN)) == (
        "no_text",
        "none of the PDF's 2 pages has text that can be read: it is probably scanned, and needs OCR",
    )
    assert refusal(pdf("", ""))[1].endswith("they are blank")
    glyphs = "BT /F1 12 Tf 72 700 Td <002400480051004F00550057> Tj ET\n"
    for made in (pdf(glyphs, font=COMPOSITE), pdf(line("The problem"), font=DVIPS)):
        error_type, said = refusal(made)
        assert error_type == "no_text" and "do not say which characters they show" in said
    assert read(pdf(line("Cover"), line("\\244 a few bullets \\225"))).pages_without_text == 0


def test_words_that_a_line_end_parted_are_whole_and_other_hyphens_stay() -> None:
    lines = ["The informa-", "tion about the well-", "known Anglo-", "American way, which is a well-known one"]
    text = read(pdf("".join(line(each, y=700 - 14 * at) for at, each in enumerate(lines)))).text
    assert text == "The information about the well-known Anglo-American way, which is a well-known one"


def test_lines_end_where_they_do() -> None:
    """PDFium's text within bounds joins lines of different sizes."""
    text = read(pdf("BT /F1 30 Tf 72 700 Td (A large title) Tj ET " + line("Its author", y=650))).text
    assert text.split() == ["A", "large", "title", "Its", "author"]


def test_text_outside_the_page_is_not_read() -> None:
    shown = line("Inside", x=520, y=700) + line("Printer mark", x=10, y=10)
    assert read(pdf(shown, page="/CropBox [500 500 612 792]")).text == "Inside"


def widget(entries: str, flags: int = 4) -> str:
    return f"<< /Type /Annot /Subtype /Widget /F {flags} /Rect [120 700 320 720] {entries} >>"


def test_values_of_forms_are_read_with_their_names() -> None:
    fields = (
        widget("/T (topmostSubform[0].f1) /TU (Your name) /FT /Tx /V (Jane Doe)"),
        widget("/T (empty) /FT /Tx"),
        widget("/T (secret) /FT /Tx /Ff 8192 /V (hunter2)"),
        widget("/T (hidden) /FT /Tx /V (not shown)", flags=2),
        widget("/T (agreed) /FT /Btn /V /Yes /AS /Yes /AP << /N << /Yes 4 0 R /Off 4 0 R >> >>"),
        widget("/T (land) /FT /Ch /Ff 131072 /Opt [[(de) (Germany)] [(fr) (France)]] /V (fr)"),
        widget("/T (unicode) /FT /Tx /V <FEFF0047007200F600DF0065>"),
    )
    named = " ".join(f"{number} 0 R" for number in range(4, 4 + len(fields)))
    found = read(
        pdf(line("Form"), root=f"/AcroForm << /Fields [{named}] >>", page=f"/Annots [{named}]", objects=fields)
    )
    assert found.text.split("\n") == ["Form", "Your name: Jane Doe", "agreed: Yes", "land: France", "unicode: Größe"]


def test_what_was_typed_onto_a_page_and_what_is_attached_is_said() -> None:
    notes = (
        "<< /Type /Annot /Subtype /FreeText /Rect [72 600 300 620] /RC (<body><p>Typed by <b>hand</b></p></body>) >>",
        "<< /Type /Annot /Subtype /Text /Rect [72 500 90 520] /Contents (A sticky note) >>",
        "<< /Type /Annot /Subtype /Link /Rect [72 500 90 520] /Contents (a link's tip) >>",
        "<< /Type /Filespec /F (contract.pdf) /UF (contract.pdf) /EF << /F 8 0 R >> >>",
        "<< /Type /EmbeddedFile /Length 1 >>\nstream\nx\nendstream",
    )
    attached = "/Names << /EmbeddedFiles << /Names [(contract.pdf) 7 0 R] >> >>"
    made = pdf(line("Printed"), page="/Annots [4 0 R 5 0 R 6 0 R]", root=attached, objects=notes)
    assert read(made).text == "Printed\nTyped by hand\nA sticky note\n\nAttached: contract.pdf"
    portfolio = pdf(line("Open this in Acrobat"), root=attached + " /Collection << >>", objects=notes)
    assert refusal(portfolio) == (
        "unsupported_format",
        "the PDF is a portfolio: its documents are attached to it: contract.pdf",
    )


def test_forms_that_only_adobe_shows_are_refused_and_others_with_such_a_part_are_read() -> None:
    form = "/AcroForm << /Fields [] /XFA 4 0 R >>"
    xfa = ("<< /Length 6 >>\nstream\n<xdp/>\nendstream",)
    for placeholder in ("Please wait... your PDF viewer may not be able to display", "Bitte warten..."):
        error_type, said = refusal(pdf(line(placeholder), root=form, objects=xfa))
        assert error_type == "unsupported_format" and "XFA" in said
    assert refusal(pdf(line("Anything"), root=form + " /NeedsRendering true", objects=xfa))[0] == "unsupported_format"
    assert read(pdf(line("Application for leave"), root=form, objects=xfa)).text == "Application for leave"


def test_a_lost_end_mark_is_no_lost_page_and_lost_objects_are() -> None:
    whole = pdf(*(line(f"Page {number}") for number in range(6)))
    for end in (b"", b"%%E", b"%%EOF\n" + b"\0" * 2000):
        assert read(whole.removesuffix(b"%%EOF\n") + end).pages == 6
    assert read(whole[: whole.rindex(b"startxref") + 12]).pages == 6, "its objects are there, and its trailer"
    for cut in (whole[: len(whole) // 2], whole[: whole.rindex(b"endobj")], whole + b"90 0 obj\n<< /Type /Page"):
        assert refusal(cut)[0] == "corrupt"


def test_a_password_is_not_held_against_the_next_document() -> None:
    assert refusal(make_locked_pdf())[0] == "encrypted"
    assert refusal(pdf())[0] == "corrupt"


async def test_the_process_says_the_pages_too() -> None:
    pool = Extractors(1)
    try:
        assert await pool.text_of("a.pdf", pdf(line("Cover"), SCAN)) == Extracted("Cover", 2, 1)
    finally:
        await pool.close()
