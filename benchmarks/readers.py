"""The libraries that `benchmarks.extraction` compares, each measured in a process that loads no other.

    python -m benchmarks.readers CASE READER SECONDS     (a line of JSON on stdin, then the document; ends with stdin)

It answers with a line of JSON: documents a second, and how many of the marks the text has as it should.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from workers.extract import Kind, extract, kind_of

Reader = Callable[[bytes], str]
CHOSEN = "chosen"


def main(case: str, reader: str, seconds: float) -> None:
    """Measures one reader on the document that stdin holds."""
    asked = json.loads(sys.stdin.buffer.readline())
    data = sys.stdin.buffer.read(asked["size"])
    read = _chosen(case) if reader == CHOSEN else ALTERNATIVES[case][reader]
    text = read(data)
    count, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        read(data)
        count += 1
    right = sum(text.count(mark) == 1 for mark in asked["marks"]) + sum(each not in text for each in asked["absent"])
    print(json.dumps({"rate": count / took, "right": right}), flush=True)
    sys.stdin.buffer.read()  # until its memory was looked at


def _chosen(case: str) -> Reader:
    def read(data: bytes) -> str:
        kind = Kind.HTML_MAIN if case == "main.html" else kind_of(case, data)
        return extract(case, data, kind, 8 * 2**20).text

    return read


def _pypdf(data: bytes) -> str:
    import pypdf

    return "\n".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(data)).pages)


def _pdfminer(data: bytes) -> str:
    from pdfminer.high_level import extract_text

    return str(extract_text(io.BytesIO(data)))


def _python_docx(data: bytes) -> str:
    import docx

    document = docx.Document(io.BytesIO(data))
    cells = [cell.text for table in document.tables for row in table.rows for cell in row.cells]
    return "\n".join([*(paragraph.text for paragraph in document.paragraphs), *cells])


def _docx2python(data: bytes) -> str:
    import docx2python

    return docx2python.docx2python(io.BytesIO(data)).text


def _python_pptx(data: bytes) -> str:
    import pptx

    slides = pptx.Presentation(io.BytesIO(data)).slides
    return "\n".join(shape.text_frame.text for slide in slides for shape in slide.shapes if shape.has_text_frame)


def _anydoc(data: bytes) -> str:
    import anydoc

    return str(anydoc.to_markdown_bytes(data))


def _openpyxl(data: bytes) -> str:
    import openpyxl

    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    return "\n".join(f"{sheet.title}\n{_lines(sheet.iter_rows(values_only=True))}" for sheet in book)


def _calamine(data: bytes) -> str:
    import python_calamine

    book = python_calamine.CalamineWorkbook.from_filelike(io.BytesIO(data))
    return "\n".join(f"{name}\n{_lines(book.get_sheet_by_name(name).to_python())}" for name in book.sheet_names)


def _lines(rows: Iterable[Iterable[Any]]) -> str:
    return "\n".join("\t".join("" if cell is None else str(cell) for cell in row) for row in rows)


def _inscriptis(data: bytes) -> str:
    import inscriptis

    return str(inscriptis.get_text(data.decode()))


def _resiliparse(data: bytes) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    return str(extract_plain_text(data.decode(), alt_texts=False))


def _resiliparse_main(data: bytes) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    return str(extract_plain_text(data.decode(), main_content=True, alt_texts=False, comments=False))


def _justext(data: bytes) -> str:
    import justext

    paragraphs = justext.justext(data, justext.get_stoplist("English"))
    return "\n".join(each.text for each in paragraphs if not each.is_boilerplate)


def _fast_ebook(data: bytes) -> str:
    from fast_ebook import ITEM_DOCUMENT, epub

    return "\n".join(item.get_text() or "" for item in epub.read_epub(data).get_items_of_type(ITEM_DOCUMENT))


def _mail_parser(data: bytes) -> str:
    import mailparser

    mail = mailparser.parse_from_bytes(data)
    people = [address for _, address in [*mail.from_, *mail.to]]
    return "\n".join([*people, mail.subject, *(part["filename"] for part in mail.attachments), *mail.text_plain])


def _fast_mail_parser(data: bytes) -> str:
    import fast_mail_parser

    mail = fast_mail_parser.parse_email(data)
    people = [each.address for each in [mail.from_, *mail.to] if each is not None]
    return "\n".join([*people, mail.subject, *(part.filename for part in mail.attachments), *mail.text_plain])


def _striprtf(data: bytes) -> str:
    from striprtf.striprtf import rtf_to_text

    return str(rtf_to_text(data.decode("latin-1"), errors="replace"))


def _pyth(data: bytes) -> str:
    from pyth.plugins.plaintext.writer import PlaintextWriter
    from pyth.plugins.rtf15.reader import Rtf15Reader

    return str(PlaintextWriter.write(Rtf15Reader.read(io.BytesIO(data))).getvalue())


def _charset_normalizer(data: bytes) -> str:
    from charset_normalizer import from_bytes

    return str(from_bytes(data).best())


def _uchardet(data: bytes) -> str:
    from resiliparse.parse.encoding import detect_encoding

    return data.decode(detect_encoding(data) or "utf-8", "replace")


ALTERNATIVES: dict[str, dict[str, Reader]] = {
    "a.pdf": {"pypdf": _pypdf, "pdfminer.six": _pdfminer},
    "a.docx": {"python-docx": _python_docx, "docx2python": _docx2python},
    "a.pptx": {"python-pptx": _python_pptx, "firecrawl-anydoc": _anydoc},
    "a.xlsx": {"openpyxl": _openpyxl, "python-calamine": _calamine},
    "a.html": {"inscriptis": _inscriptis, "resiliparse": _resiliparse},
    "main.html": {"resiliparse": _resiliparse_main, "justext": _justext},
    "a.epub": {"fast-ebook": _fast_ebook, "firecrawl-anydoc": _anydoc},
    "a.rtf": {"striprtf": _striprtf, "firecrawl-anydoc": _anydoc, "pyth3": _pyth},
    "a.eml": {"mail-parser": _mail_parser, "fast-mail-parser": _fast_mail_parser},
    "a.txt": {"charset-normalizer": _charset_normalizer, "uchardet (resiliparse)": _uchardet},
}
"""By the name of the case; all of permissive licences."""

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
