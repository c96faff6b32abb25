"""Text extraction: throughput and quality of the chosen libraries, each against two alternatives.

Quality is the share of a document's marks that the text has exactly once: words that its writer put into headings,
cells, headers, text boxes, notes and groups. What is chosen must miss none, and be faster than both alternatives.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence

import docx
import docx2python
import openpyxl
import pptx
import pypdf
import python_calamine
import trafilatura
from charset_normalizer import from_bytes
from pdfminer.high_level import extract_text
from resiliparse.extract.html2text import extract_plain_text

from benchmarks.figures import Figure
from tests.unit import formats
from workers.extract import extract, kind_of

Reader = Callable[[bytes], str]
WORDS = "The quick brown fox jumps over the lazy dog and reads a page of very ordinary English text. "
PAGE = "".join(f"<h2>Part {n}</h2><p>{WORDS * 4}</p><ul><li>one<li>two</ul>" for n in range(40))
RUSSIAN = "Съешь же ещё этих мягких французских булок, да выпей чаю. "


def run(quick: bool) -> list[Figure]:
    """Must show 7 of text extraction."""
    seconds = 0.3 if quick else 2.0
    figures: list[Figure] = []
    for name, data, marks, others in _cases():
        readers: dict[str, Reader] = {"chosen": lambda data, name=name: _chosen(name, data), **others}  # type: ignore[misc]
        for reader, read in readers.items():
            rate, quality = _measured(read, data, marks, seconds)
            print(f"  {name:8} {reader:20} {rate:9.1f} documents/s  {quality:4.0%} of {len(marks)} marks", flush=True)
            target = 1.0 if reader == "chosen" else None
            figures.append(Figure(f"{name}: {reader}, documents a second", rate))
            figures.append(Figure(f"{name}: {reader}, marks found", quality, "%", at_least=target))
    return figures


def _chosen(name: str, data: bytes) -> str:
    return extract(name, data, kind_of(name, data), 8 * 2**20)


def _measured(read: Reader, data: bytes, marks: Sequence[str], seconds: float) -> tuple[float, float]:
    text = read(data)
    count, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        read(data)
        count += 1
    return count / took, sum(text.count(mark) == 1 for mark in marks) / len(marks)


def _cases() -> list[tuple[str, bytes, list[str], dict[str, Reader]]]:
    """Name, bytes, marks, alternatives."""
    return [
        (
            "a.pdf",
            formats.make_pdf(*(f"Page {n} of it: {WORDS[:60]}" for n in range(10, 40))),
            ["Page 10 of it", "Page 39 of it"],
            {"pypdf": _pypdf, "pdfminer.six": lambda data: extract_text(io.BytesIO(data))},
        ),
        (
            "a.docx",
            formats.make_docx(*[WORDS * 5] * 40),
            ["The heading", "cell 0 0", "cell 1 1", "the header", "inserted", "boxed"],
            {"python-docx": _python_docx, "docx2python": lambda data: docx2python.docx2python(io.BytesIO(data)).text},
        ),
        (
            "a.pptx",
            formats.make_pptx(),
            [f"{part} {n}" for part in ("Title", "Body", "Grouped", "Notes") for n in (1, 2)],
            {"python-pptx": _python_pptx},
        ),
        (
            "a.xlsx",
            _sheet(),
            ["row 10\t", "row 1999\t", "People"],
            {"openpyxl": _openpyxl, "python-calamine": _calamine},
        ),
        (
            "a.html",
            f"<title>The title</title><script>var evil</script><article>{PAGE}</article>".encode(),
            ["The title", "Part 1\n", "Part 39\n"],
            {
                "trafilatura": lambda data: trafilatura.extract(data.decode()) or "",
                "resiliparse": lambda data: str(extract_plain_text(data.decode())),
            },
        ),
        (
            "a.txt",
            (f"first {RUSSIAN}" + RUSSIAN * 50 + "last").encode("koi8-r"),
            ["first Съешь же ещё", "чаю. last"],
            {"charset-normalizer": lambda data: str(from_bytes(data).best())},
        ),
    ]


def _pypdf(data: bytes) -> str:
    return "\n".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(data)).pages)


def _python_docx(data: bytes) -> str:
    document = docx.Document(io.BytesIO(data))
    cells = [cell.text for table in document.tables for row in table.rows for cell in row.cells]
    return "\n".join([*(paragraph.text for paragraph in document.paragraphs), *cells])


def _python_pptx(data: bytes) -> str:
    slides = pptx.Presentation(io.BytesIO(data)).slides
    return "\n".join(shape.text_frame.text for slide in slides for shape in slide.shapes if shape.has_text_frame)


def _sheet() -> bytes:
    book = openpyxl.Workbook()
    book.active.title = "People"
    for number in range(2000):
        book.active.append([f"row {number}", number * 1.5, number % 2 == 0])
    return formats.saved(book.save)


def _openpyxl(data: bytes) -> str:
    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    return "\n".join(f"{sheet.title}\n{_lines(sheet.iter_rows(values_only=True))}" for sheet in book)


def _calamine(data: bytes) -> str:
    book = python_calamine.CalamineWorkbook.from_filelike(io.BytesIO(data))
    return "\n".join(f"{name}\n{_lines(book.get_sheet_by_name(name).to_python())}" for name in book.sheet_names)


def _lines(rows: object) -> str:
    return "\n".join("\t".join("" if cell is None else str(cell) for cell in row) for row in rows)  # type: ignore[attr-defined]
