"""Real files that nobody here made, each a row of one run, and its text beside what a second extractor finds in it.

What counts as lost: words (that begin with a letter, folded in case) that the other found and the row's text has not,
or not as often. A row that is `ok` may lack one in twenty of them, and has no control character.
"""

from __future__ import annotations

import asyncio
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Any

import polars as pl

from batch import Job, connect
from batch.local import corpus
from batch.local.stack import LocalStack
from benchmarks import readers
from benchmarks.figures import Figure
from benchmarks.lab import MODEL, stack
from benchmarks.real_documents import documents

EACH = 40
"""Files of a format, at most, spread evenly over all that there are."""
MOST_LOST = 0.05
FEW = 20
"""Words: of fewer, one is more than MOST_LOST, and it is allowed."""

_WORD = re.compile(r"(?<!\w)[^\W\d]\w*")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff]")


def run(quick: bool) -> list[Figure]:
    """Must show 2 of the issue about true rows."""
    with stack() as running:
        files = _upload(running, 8 if quick else EACH)
        running.start_worker()
        rows = asyncio.run(_rows())
    lost: list[str] = []
    controls, read, unread = 0, Counter[str](), Counter[str]()
    for row in rows:
        key = row["document_id"]
        kind, data = files[key]
        if row["status"] != "ok":
            unread[kind] += 1
            print(f"  {key}: {row['error_type']}: {(row['error_message'] or '')[:110]}")
            continue
        read[kind] += 1
        controls += bool(_CONTROL.search(row["text"]))
        if _CONTROL.search(row["text"]):
            print(f"  {key}: ok, with control characters")
        missing = _missing(kind, data, row["text"])
        if missing is None:
            continue
        words, all_words = missing
        if words.total() > max(MOST_LOST * all_words, 1 if all_words < FEW else 0):
            some = ", ".join(word for word, _ in words.most_common(8))
            lost.append(key)
            print(f"  {key}: {words.total()} of {all_words} words that {SECOND[kind].__name__} has: {some}")
    for kind in SECOND:
        print(f"  {kind:6} {read[kind]:3} ok, {unread[kind]:3} error rows")
    return [
        Figure("formats", len(read), at_least=12),
        Figure("files, each with a row", len(rows), exactly=len(files)),
        Figure("ok rows", read.total(), at_least=300),
        Figure("error rows, each with its reason", unread.total()),
        Figure("ok rows with control characters", controls, exactly=0),
        Figure("ok rows that lost more than 5 % of the other's words", len(lost)),
        Figure("of them without a reason named in benchmarks/documents.py", len(set(lost) - set(KNOWN)), exactly=0),
    ]


async def _rows() -> list[dict[str, Any]]:
    job = Job.parse(
        {
            "name": "documents",
            "source": {"uri": "s3://corpus/documents/", "format": "object"},
            "prompt": {"user": "Label this.\n{{ text[:4000] }}"},
            "model": {"name": MODEL},
            "output": {"uri": "s3://results/documents/", "keep_text": True},
            "limits": {"concurrency": 64, "max_error_rate": 1.0},
        }
    )
    started = await (await connect()).start(job, run_id="documents", check_model=False)
    await started.wait()
    columns = ["document_id", "status", "error_type", "error_message", "text"]
    frame: pl.DataFrame = started.results().select(columns).collect()
    return frame.sort("document_id").to_dicts()


def _upload(running: LocalStack, each: int) -> dict[str, tuple[str, bytes]]:
    """Document id -> format and bytes."""
    found: dict[str, tuple[str, bytes]] = {}
    objects = []
    for kind in SECOND:
        everything = list(documents(f".{kind}"))
        step = max(1, len(everything) // each)
        for name, data in islice(everything[::step], each):
            key = f"{kind}/{re.sub(r'[^A-Za-z0-9._-]+', '_', name)}"
            objects.append((key, data))
            found[f"documents/{key}"] = kind, data
    corpus.upload(running.environment(), "corpus", "documents", objects)
    return found


def _missing(kind: str, data: bytes, text: str) -> tuple[Counter[str], int] | None:
    """The words that the second extractor has more often, and how many it has in all; None where it fails."""
    try:
        theirs = _words(SECOND[kind](data))
    except Exception as error:
        print(f"  ({kind}: {SECOND[kind].__name__} fails: {type(error).__name__} {str(error)[:80]})")
        return None
    return theirs - _words(text), theirs.total()


def _words(text: str) -> Counter[str]:
    return Counter(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def mail(data: bytes) -> str:
    """Subject and text of a message, by mail-parser."""
    import mailparser

    found = mailparser.parse_from_bytes(data)
    return "\n".join([str(found.subject), *found.text_plain])


def plain(data: bytes) -> str:
    """Text by charset-normalizer."""
    from charset_normalizer import from_bytes

    return str(from_bytes(data).best())


def xhtml(data: bytes) -> str:
    """The text of a page, by inscriptis over what lxml makes of it, without its letter o for bullets in lists."""
    import inscriptis
    from lxml.etree import HTMLParser, parse, strip_elements

    root = parse(io.BytesIO(data), HTMLParser()).getroot()
    strip_elements(root, "iframe", with_tail=False)  # what stands in one is for browsers that know no frames
    text = inscriptis.Inscriptis(root).get_text()
    return re.sub(r"^ *[o*+] ", "", str(text), flags=re.MULTILINE)


def deck(data: bytes) -> str:
    """Text by firecrawl-anydoc, without the backslashes of its Markdown."""
    return re.sub(r"\\([^A-Za-z0-9\s])", r"\1", readers.ALTERNATIVES["a.rtf"]["firecrawl-anydoc"](data))


def pdf(data: bytes) -> str:
    """Text by pdfminer.six, without its numbers for glyphs that it cannot tell."""
    return re.sub(r"\(cid:\d+\)", "", readers.ALTERNATIVES["a.pdf"]["pdfminer.six"](data))


def word(data: bytes) -> str:
    """Paragraphs and cells by python-docx, a cell that spans several once."""
    import docx

    document = docx.Document(io.BytesIO(data))
    cells = {id(cell._tc): cell.text for table in document.tables for row in table.rows for cell in row.cells}
    return "\n".join([*(paragraph.text for paragraph in document.paragraphs), *cells.values()])


_other = readers.ALTERNATIVES
SECOND: dict[str, Callable[[bytes], str]] = {
    "pdf": pdf,
    "docx": word,
    "pptx": _other["a.pptx"]["python-pptx"],
    "xlsx": _other["a.xlsx"]["python-calamine"],
    "xls": _other["a.xlsx"]["python-calamine"],
    "ppt": deck,
    "rtf": deck,
    "html": xhtml,
    "xhtml": xhtml,
    "epub": _other["a.epub"]["fast-ebook"],
    "eml": mail,
    "txt": plain,
    "md": plain,
    "csv": plain,
}
"""By ending: an extractor of other people's that docbatch does not use for this format."""

_CXREF = "RTF: firecrawl-anydoc writes a line's end in a table as <br>, a word to whoever counts"
_DOXYGEN = "XHTML: two labels beside each other, which only the page's style sheet, another file, parts"
_APT, _CXREF_AT = (
    "documents/xhtml/libapt-pkg-doc_usr_share_doc_libapt-pkg-doc_html_",
    "documents/rtf/cxref-doc_usr_share_doc_",
)
KNOWN: dict[str, str] = {
    "documents/pdf/pypdf-7.1.0_resources_issue-301.pdf": "noise that OCR saw in a picture: letters upon each other",
    "documents/pdf/pypdf-7.1.0_resources_toy.pdf": "pdfminer.six takes letters that are set apart for words",
    f"{_CXREF_AT}cxref_examples_comment.c.rtf": _CXREF,
    f"{_CXREF_AT}cxref_examples_cxref.c.rtf": _CXREF,
    "documents/rtf/sc3-plugins-language_usr_share_SuperCollider_Extensions_SC3plugins_MCLDUGens_Help_FincoSprottM"
    ".help.rtf": "firecrawl-anydoc marks bold and italics within words, which parts them: d**t**",
    f"{_APT}classLz4FileFdPrivate-members.xhtml": _DOXYGEN,
    f"{_APT}classZstdFileFdPrivate-members.xhtml": _DOXYGEN,
    f"{_APT}classedspIFType-members.xhtml": _DOXYGEN,
    f"{_APT}structAPT_1_1Internal_1_1Patterns_1_1PackageReverseDepends-members.xhtml": _DOXYGEN,
}
"""Documents that lost more, each with the reason why that is no loss."""
