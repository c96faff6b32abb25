"""Text extraction: throughput, quality and memory of the chosen libraries, each against two alternatives.

Quality is the share of a document's marks that are as they should: words that its writer put into headings, cells,
headers, text boxes, notes and groups stand in the text exactly once, and, where the main text of a page is wanted, what
stands around it not at all. What is chosen must have all of them right. Memory is the peak of a process that reads this
document again and again, Python and the library with it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

from benchmarks import made_documents as made
from benchmarks.figures import Figure
from benchmarks.lab import peak_memory
from benchmarks.readers import ALTERNATIVES, CHOSEN

WORDS = made.PROSE
PAGE = "".join(f"<h2>Part {n}</h2><p>{WORDS * 4}</p><ul><li>one</li><li>two</li></ul>" for n in range(40))
RUSSIAN = "Съешь же ещё этих мягких французских булок, да выпей чаю. "


@dataclass(frozen=True)
class Case:
    """A document, the marks that its text should have once, and those that it should not have."""

    name: str
    data: bytes
    marks: list[str]
    absent: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured:
    """`quality` is a share, `memory` bytes."""

    rate: float
    quality: float
    memory: int


def run(quick: bool) -> list[Figure]:
    """Must show 7 of text extraction."""
    seconds = 0.3 if quick else 2.0
    figures: list[Figure] = []
    for case in _cases():
        for reader in (CHOSEN, *ALTERNATIVES[case.name]):
            found = _measured(case, reader, seconds)
            what = f"{case.name}: {reader}"
            print(
                f"  {case.name:9} {reader:22} {found.rate:9.1f} documents/s  {found.quality:4.0%} of "
                f"{len(case.marks) + len(case.absent):2} marks  {found.memory / 1e6:4.0f} MB",
                flush=True,
            )
            figures += [
                Figure(f"{what}, documents a second", found.rate),
                Figure(f"{what}, marks right", found.quality, "%", at_least=1.0 if reader == CHOSEN else None),
                Figure(f"{what}, peak RSS", found.memory / 1e6, "MB"),
            ]
    return figures


def _measured(case: Case, reader: str, seconds: float) -> Measured:
    command = [sys.executable, "-m", "benchmarks.readers", case.name, reader, str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        asked = {"size": len(case.data), "marks": case.marks, "absent": case.absent}
        process.stdin.write(json.dumps(asked).encode() + b"\n" + case.data)
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{reader} could not read {case.name}: what it said stands above")
        found = json.loads(line)
        memory = peak_memory(process.pid)
        process.stdin.close()
    return Measured(found["rate"], found["right"] / (len(case.marks) + len(case.absent)), memory)


def _cases() -> list[Case]:
    russian = (f"first {RUSSIAN}" + RUSSIAN * 50 + "last").encode("koi8-r")
    pages = (f"Page {n} of it: {WORDS[:60]}" for n in range(10, 40))
    parts = [f"{part} {n}" for part in ("Title", "Body", "Grouped", "Notes") for n in (1, 2)]
    article = ["Paragraph 1 of", "Paragraph 8 of", "First point of the list", "Second point of the list", "1234 tons"]
    paragraphs = b"".join(rb"\par Paragraph %d of it: {\b bold} " % n + WORDS.encode() for n in range(10, 50))
    return [
        Case("a.pdf", made.make_pdf(*pages), ["Page 10 of it", "Page 39 of it"]),
        Case(
            "a.docx",
            made.make_docx(*[WORDS * 5] * 40),
            ["The heading", "cell 0 0", "cell 1 1", "the header", "inserted", "boxed"],
        ),
        Case("a.pptx", made.make_pptx(), parts),
        Case("a.xlsx", made.make_rows(2000), ["row 10\t", "row 1999\t", "People"]),
        Case(
            "a.html",
            f"<title>The title</title><body><script>var evil</script><article>{PAGE}</article>".encode(),
            ["The title", "Part 1\n", "Part 39\n"],
            ("evil",),
        ),
        Case("main.html", made.make_page().encode(), article, made.AROUND),
        Case("a.epub", made.make_epub(PAGE), ["Text First.", "Text Second."]),
        Case("a.rtf", made.RTF[:-1] + paragraphs + b"}", ["Größe", "日", "Paragraph 10 of", "Paragraph 49 of"]),
        Case("a.eml", made.make_mail(), ["ada@example.com", "grace@example.com", "Grüße", "Hello größe", "bill.pdf"]),
        Case("a.txt", russian, ["first Съешь же ещё", "чаю. last"]),
    ]
