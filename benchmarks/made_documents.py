"""Small documents of every format, made by the libraries that write them, and hostile ones made of those."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from email.message import EmailMessage
from typing import Any

import docx
import openpyxl
import pptx
from docx.oxml import parse_xml
from pypdf import PdfReader, PdfWriter
from reportlab.pdfgen.canvas import Canvas

from workers.extract import extract, kind_of

_W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def text_of(name: str, data: bytes) -> str:
    """As a process of the pool reads it, but here."""
    key = f"s3://bucket/{name}"
    return extract(key, data, kind_of(key, data), 8 * 2**20).text


def make_docx(*paragraphs: str) -> bytes:
    """With a heading, a table, header and footer, a text box, and a tracked insertion and deletion."""
    document = docx.Document()
    document.add_heading("The heading", 1)
    for each in paragraphs or ("A first paragraph.",):
        document.add_paragraph(each)
    table = document.add_table(2, 2)
    for row in range(2):
        for column in range(2):
            table.cell(row, column).text = f"cell {row} {column}"
    document.sections[0].header.paragraphs[0].text = "the header"
    changed = document.add_paragraph("kept ")._p
    for tag, text in (("ins", "<w:t>inserted</w:t>"), ("del", "<w:delText>deleted</w:delText>")):
        changed.append(parse_xml(f'<w:{tag} {_W} w:id="1" w:author="a"><w:r>{text}</w:r></w:{tag}>'))
    boxed = "<w:txbxContent><w:p><w:r><w:t>boxed</w:t></w:r></w:p></w:txbxContent>"
    drawn = f'<w:r {_W}><w:pict><v:textbox xmlns:v="urn:schemas-microsoft-com:vml">{boxed}</v:textbox></w:pict></w:r>'
    changed.append(parse_xml(drawn))
    return saved(document.save)


def make_pptx() -> bytes:
    """Two slides, each with title, text, a grouped box and notes."""
    slides = pptx.Presentation()
    for number in (1, 2):
        slide = slides.slides.add_slide(slides.slide_layouts[1])
        slide.shapes.title.text = f"Title {number}"
        slide.placeholders[1].text = f"Body {number}"
        slide.shapes.add_group_shape().shapes.add_textbox(0, 0, 9, 9).text_frame.text = f"Grouped {number}"
        slide.notes_slide.notes_text_frame.text = f"Notes {number}"
    return saved(slides.save)


def make_xlsx() -> bytes:
    """Two sheets; the second has a formula and a cell far out."""
    book = openpyxl.Workbook()
    book.active.title = "People"
    for row in (["name", "amount", "paid"], ["Ada", 12.5, True], ["Grace", 3, False]):
        book.active.append(row)
    second = book.create_sheet("Other")
    second["A1"], second["XFD1048576"] = "=1+1", "far out"
    return saved(book.save)


def make_rows(count: int) -> bytes:
    """A spreadsheet of so many rows."""
    book = openpyxl.Workbook()
    book.active.title = "People"
    for number in range(count):
        book.active.append([f"row {number}", number * 1.5, number % 2 == 0])
    return saved(book.save)


def make_pdf(*pages: str) -> bytes:
    """A page for each text; one without text is a drawing."""
    data = io.BytesIO()
    canvas = Canvas(data)
    for text in pages:
        canvas.line(10, 10, 500, 500)
        if text:
            canvas.drawString(72, 720, text)
        canvas.showPage()
    canvas.save()
    return data.getvalue()


def make_locked_pdf() -> bytes:
    writer = PdfWriter(PdfReader(io.BytesIO(make_pdf("a secret"))))
    writer.encrypt("password", algorithm="RC4-128")
    return saved(writer.write)


def make_nested_pdf(depth: int = 40) -> bytes:
    """Forms that draw each other twice: 2 ** depth drawings for whoever follows them."""
    forms = [
        f"{number} 0 obj <</Subtype /Form /BBox [0 0 9 9] /Resources <</XObject <</F {number + 1} 0 R>>>>"
        " /Length 12>> stream\n/F Do /F Do \nendstream endobj"
        for number in range(4, 4 + depth)
    ]
    last = f"{4 + depth} 0 obj <</Subtype /Form /BBox [0 0 9 9] /Length 1>> stream\n \nendstream endobj"
    page = (
        "3 0 obj <</Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Resources <</XObject <</F 4 0 R>>>>"
        " /Contents 99 0 R>> endobj 99 0 obj <</Length 6>> stream\n/F Do \nendstream endobj"
    )
    head = "%PDF-1.4\n1 0 obj <</Pages 2 0 R>> endobj\n2 0 obj <</Type /Pages /Kids [3 0 R] /Count 1>> endobj"
    return "\n".join([head, page, *forms, last, "trailer <</Root 1 0 R>>", "%%EOF"]).encode()


def make_epub(more: str = "", *, drm: bool = False) -> bytes:
    """Two chapters, in another order in the archive than in the book; `more`: HTML at the end of each."""
    chapter = (
        '<html xmlns="http://www.w3.org/1999/xhtml"><head><title>{0}</title></head>'
        "<body><p>Text {0}.</p>{1}</body></html>"
    )
    files = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="OEBPS/book.opf"/></rootfiles></container>',
        "OEBPS/book.opf": '<package xmlns="http://www.idpf.org/2007/opf"><manifest>'
        '<item id="b" href="b%20b.xhtml" media-type="application/xhtml+xml"/>'
        '<item id="a" href="a.xhtml" media-type="application/xhtml+xml"/>'
        '<item id="i" href="i.png" media-type="image/png"/></manifest>'
        '<spine><itemref idref="a"/><itemref idref="b"/></spine></package>',
        "OEBPS/b b.xhtml": chapter.format("Second", more),
        "OEBPS/a.xhtml": chapter.format("First", more),
    }
    if drm:
        files["META-INF/encryption.xml"] = (
            '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
            '<CipherReference URI="OEBPS/a.xhtml"/></encryption>'
        )
    return archive({name: text.encode() for name, text in files.items()})


def make_mail(*, html: bool = False) -> bytes:
    """With an attachment; `html`: without a plain body."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "Ada <ada@example.com>", "grace@example.com", "Grüße"
    message.set_content("<p>Hello <b>there</b></p>" if html else "Hello größe", subtype="html" if html else "plain")
    message.add_attachment(b"\x00\x01", maintype="application", subtype="pdf", filename="bill.pdf")
    return message.as_bytes()


def make_page(*paragraphs: str) -> str:
    """A news page as the Web has them: an article with a list and a table, and all that stands around one."""
    written = paragraphs or tuple(f"Paragraph {n} of the article: {PROSE * 3}" for n in range(1, 9))
    links = "".join(f'<li><a href="/{n}">Menu {n}</a></li>' for n in range(12))
    return (
        "<!doctype html><html lang=en><head><title>The headline - The Paper</title>"
        "<script>var evil</script></head><body>"
        '<div class="cookie-banner" id="cookie-consent"><p>We use cookies to improve your experience.</p>'
        "<button>Accept all</button></div>"
        f"<header><nav><ul>{links}</ul></nav></header><main><article><h1>The headline</h1>"
        f"{''.join(f'<p>{each}</p>' for each in written)}"
        "<ul><li>First point of the list</li><li>Second point of the list</li></ul>"
        "<table><tr><th>Year</th><th>Amount</th></tr><tr><td>1999</td><td>1234 tons</td></tr></table></article></main>"
        '<aside class="sidebar"><h3>Most read</h3><ul><li><a href="/x">Another story</a></li></ul></aside>'
        '<div class="comments" id="comments"><p>First comment by a reader, who disagrees.</p></div>'
        '<footer><p>Copyright 2026 The Paper. <a href="/imprint">Imprint</a> <a href="/terms">Terms</a></p></footer>'
        "</body></html>"
    )


PROSE = "The quick brown fox jumps over the lazy dog, and reads a page of very ordinary English text. "
AROUND = ("We use cookies", "Menu 7", "Most read", "Another story", "First comment", "Copyright", "Imprint")
"""What stands around the article of `make_page`."""
RTF = rb"{\rtf1\ansi\ansicpg1252 Gr\'f6\'dfe {\b bold} \u26085? text\par second}"


def archive(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return data.getvalue()


def rewritten(data: bytes, change: Callable[[str, bytes], bytes]) -> bytes:
    """An archive with its entries changed."""
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        return archive({name: change(name, packed.read(name)) for name in packed.namelist()})


def with_body(body: str, *, before: str = "") -> bytes:
    """A DOCX whose main part is this."""
    page = f'<?xml version="1.0"?>{before}<w:document {_W}><w:body>{body}</w:body></w:document>'.encode()
    return rewritten(make_docx(), lambda name, data: page if name == "word/document.xml" else data)


def bomb(size: int = 600_000_000) -> bytes:
    """A DOCX of 600 KB that unpacks to `size` bytes."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        packed.writestr("[Content_Types].xml", "<Types/>")
        with packed.open("word/document.xml", "w", force_zip64=True) as entry:
            for _ in range(size // 10_000_000):
                entry.write(bytes(10_000_000))
    return data.getvalue()


def lying(data: bytes, name: str) -> bytes:
    """An archive whose directory says that the entry is a hundred bytes long."""
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        size = packed.getinfo(name).file_size.to_bytes(4, "little")
    return data.replace(size, (100).to_bytes(4, "little"))


def saved(save: Callable[[Any], Any]) -> bytes:
    data = io.BytesIO()
    save(data)
    return data.getvalue()
