"""PDF to text, page by page, by PDFium, the engine of Chrome.

What a page shows without being part of its content, values of forms and typed annotations, PDFium's text has not: it
follows the text of its page. A page whose fonts do not say which characters they show gives numbers of glyphs that
look like text: that is no text, and the page is counted with those that have none.
"""

from __future__ import annotations

import re
from contextlib import suppress

import pypdfium2
import pypdfium2.raw as pdfium

from batch.schema.error_types import ErrorType
from workers.extract.files.extracted import Extracted, Unreadable
from workers.extract.pdf.annotations import Annotations

LITTLE = 24
"""Characters, white space aside, below which it is looked at what else a page shows: a scan may have its number, or
the name of what made it ("Scanned with CamScanner")."""
DRAWN = 100
"""Segments of paths from which on a page shows more than lines and frames: letters as outlines, drawings."""
MOST_OBJECTS = 2_000
"""Of a page: more of them are no blank page."""
SAMPLE, DOUBTFUL, UNMAPPED = 24, 2, 0.3
"""Characters of a page whose mapping to Unicode is looked at, of those without one from which on all are, and the share
of these from which on it has no text."""

MOST_LETTERS = 40
"""On each side of a hyphen, by which a word is known again."""

_PARTED = re.compile("[\u0002\ufffe]\n?|\u00ad(\n?)|\u2010\n(?=[^\\W\\d_])")
_COMPOUND = re.compile(rf"\b[^\W_]{{1,{MOST_LETTERS}}}-[^\W_]{{1,{MOST_LETTERS}}}\b")
_ENDS_IN, _BEGINS_WITH = re.compile(r"[^\W_]+\Z"), re.compile(r"[^\W_]+")
_SYMBOLS = re.compile("[\u2460-\u2473\u2660-\u2667\u2701-\u27bf]")
_WAITS = re.compile(
    r"please wait|bitte warten|veuillez patienter|espere|attendere|aguarde|even geduld|proszę czekać|подождите"
    r"|お待ち|请稍候|請稍候",
    re.IGNORECASE,
)
"""What pages say in the place of a form that only Adobe's readers show, in its own translations."""
_PORTFOLIO = re.compile(rb"/Collection\b")


def pdf_to_text(data: bytes, most: int) -> Extracted:
    """Returns all pages' text, an empty line between two, and what is attached by name. Raises `Unreadable`.

    Args:
        most: characters at which reading ends; whoever gets more of them has seen too much.
    """
    if _is_cut(data):
        message = "the PDF is truncated: it goes on after its last cross-references, or has none"
        raise Unreadable(ErrorType.CORRUPT, message)
    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError:
        raise _why(data) from None
    form = document.get_formtype()
    if form != pdfium.FORMTYPE_NONE:
        document.init_forms()
    reader = _Pages(document)
    pages: list[str] = []
    size = 0
    for number in range(len(document)):
        try:
            text = reader.text(number)
        except pypdfium2.PdfiumError as error:
            said = f"page {number + 1} of {len(document)} of the PDF cannot be read: {error}"
            raise Unreadable(ErrorType.CORRUPT, said) from None
        pages.append(text)
        size += len(text)
        if size > most:
            break
    text = _in_words("\n\n".join(page for page in pages if page.strip()))
    is_xfa = form in (pdfium.FORMTYPE_XFA_FULL, pdfium.FORMTYPE_XFA_FOREGROUND)
    if is_xfa and (form == pdfium.FORMTYPE_XFA_FULL or not text or _WAITS.search(text[:500])):
        raise Unreadable(ErrorType.UNSUPPORTED_FORMAT, "the PDF is an XFA form, which only Adobe's readers can show")
    attached = _attached(document, reader.annotations.attached)
    if attached and (_PORTFOLIO.search(data) or not text):
        named = ", ".join(attached)[:500]
        message = f"the PDF is a portfolio: its documents are attached to it: {named}"
        raise Unreadable(ErrorType.UNSUPPORTED_FORMAT, message)
    if not text:
        _refuse(reader, len(pages))
    if attached:
        text += f"\n\nAttached: {', '.join(attached)}"
    return Extracted(text, len(pages), reader.without)


def _why(data: bytes) -> Unreadable:
    """Tells why PDFium does not open it. A failure may leave the last one's reason standing, so another comes first."""
    pdfium.FPDF_LoadMemDocument64(b"no PDF", 6, None)
    try:
        pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if error.err_code in (pdfium.FPDF_ERR_PASSWORD, pdfium.FPDF_ERR_SECURITY):
            return Unreadable(ErrorType.ENCRYPTED, "the PDF is protected by a password")
    return Unreadable(ErrorType.CORRUPT, "the PDF cannot be read: it is damaged, or has no pages")


def _refuse(reader: _Pages, count: int) -> None:
    if reader.unmapped:
        said = "its fonts do not say which characters they show: it needs OCR"
    elif reader.without:
        said = "it is probably scanned, and needs OCR"
    else:
        said = "they are blank"
    raise Unreadable(ErrorType.NO_TEXT, f"none of the PDF's {count} pages has text that can be read: {said}")


class _Pages:
    """Reads the pages of a document. `without`: pages so far that show something and have no text; `unmapped`: those of
    them whose characters are no Unicode."""

    def __init__(self, document: pypdfium2.PdfDocument) -> None:
        self._document = document
        self.annotations = Annotations(document)
        self.without = self.unmapped = 0

    def text(self, number: int) -> str:
        """Raises `PdfiumError`."""
        page = self._document[number]
        letters = page.get_textpage()
        text = _shown(page, letters).replace("\r\n", "\n")
        if text and (_is_unmapped(letters) or _is_symbols(text)):
            self.unmapped += 1
            self.without += 1
            text = ""
        elif len(text) < 4 * LITTLE and len("".join(text.split())) < LITTLE and _shows_more(page, bool(text.strip())):
            self.without += 1
        if pdfium.FPDFPage_GetAnnotCount(page):
            text = "\n".join(filter(None, [text, *self.annotations.of(page, text)]))
        letters.close()
        page.close()  # frees what was parsed of it: a long document is never in memory whole
        return text


def _shown(page: pypdfium2.PdfPage, letters: pypdfium2.PdfTextPage) -> str:
    """Returns the text within what a reader shows of the page.

    PDFium has a text within bounds, too, but without the ends of some lines: two words are one there.
    """
    text: str = letters.get_text_range()
    within: str = letters.get_text_bounded()
    if len(text) - 2 * text.count("\r\n") <= len(within) - 2 * within.count("\r\n"):
        return text
    if len("".join(text.split())) <= len("".join(within.split())):
        return text
    left, bottom, right, top = page.get_bbox()
    shown = []
    for at in range(letters.count_chars()):
        letter = chr(pdfium.FPDFText_GetUnicode(letters, at))
        if not letter.isspace():
            x1, y1, x2, y2 = letters.get_charbox(at)
            if x2 < left or x1 > right or y2 < bottom or y1 > top:
                continue
        shown.append(letter)
    return "".join(shown).strip()


def _is_unmapped(letters: pypdfium2.PdfTextPage) -> bool:
    count = letters.count_chars()
    lacks = pdfium.FPDFText_HasUnicodeMapError
    step = max(1, count // SAMPLE)
    if sum(lacks(letters, at) == 1 for at in range(0, count, step)) < DOUBTFUL:
        return False
    return bool(sum(lacks(letters, at) == 1 for at in range(count)) > UNMAPPED * count)


def _is_symbols(text: str) -> bool:
    """Tells whether a text is dingbats, which is what old TeX's names of glyphs (`/a65`) are taken for."""
    if text.isascii():
        return False
    return len(_SYMBOLS.findall(text)) > UNMAPPED * len("".join(text.split()))


def _shows_more(page: pypdfium2.PdfPage, has_text: bool) -> bool:
    """Whether the page is no blank one: it has a picture (beside some text: one over half of it), or is drawn on."""
    drawn = 0
    width, height = page.get_size()
    for number, found in enumerate(page.get_objects(max_depth=8)):
        if number == MOST_OBJECTS:
            return not has_text
        if found.type in (pdfium.FPDF_PAGEOBJ_IMAGE, pdfium.FPDF_PAGEOBJ_SHADING):
            left, bottom, right, top = found.get_bounds()
            if not has_text or (right - left) * (top - bottom) > width * height / 2:
                return True
        elif found.type == pdfium.FPDF_PAGEOBJ_PATH and not has_text:
            drawn += max(0, pdfium.FPDFPath_CountSegments(found))
            if drawn > DRAWN:
                return True
    return False


def _in_words(text: str) -> str:
    """Without the signs of hyphens at line ends, by which PDFium parts words.

    Between small letters they parted a word, unless the text has both parts with a hyphen elsewhere; any other belongs
    to what it stands in: Anglo-American, 1990-95. A soft hyphen that is drawn within a line is a hyphen.
    """
    if all(sign not in text for sign in ("\u0002", "\ufffe", "\u00ad", "\u2010\n")):
        return text
    compounds = set(_COMPOUND.findall(text))

    def joined(sign: re.Match[str]) -> str:
        before = text[max(0, sign.start() - MOST_LETTERS) : sign.start()]
        after = text[sign.end() : sign.end() + MOST_LETTERS]
        if sign[1] == "" or not (before[-1:].isalpha() and after[:1].islower()):
            return "-"
        parts = (_ENDS_IN.search(before), _BEGINS_WITH.match(after))
        return "-" if "-".join(part[0] for part in parts if part) in compounds else ""

    return _PARTED.sub(joined, text)


def _is_cut(data: bytes) -> bool:
    """Tells whether objects may be missing at the end, which does not show otherwise: their numbers stood there.

    What follows all objects, the cross-references, is missing then. An end mark that alone is missing or damaged says
    nothing.
    """
    last = data.rfind(b"endobj")
    end = data.rfind(b"startxref")
    if end < last:
        return b"trailer" not in data[last:]
    return re.search(rb"\d\s+\d+\s+obj\b", data[end:]) is not None


def _attached(document: pypdfium2.PdfDocument, on_pages: list[str]) -> list[str]:
    """Names of what is attached, each once."""
    names = []
    for at in range(min(document.count_attachments(), 1000)):
        with suppress(pypdfium2.PdfiumError):  # a damaged entry costs its name, not the pages
            names.append(document.get_attachment(at).get_name())
    return list(dict.fromkeys(" ".join(name.split()) for name in [*names, *on_pages] if name.strip()))
