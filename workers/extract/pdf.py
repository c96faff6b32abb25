"""PDF to text, page by page, by PDFium, the engine of Chrome."""

from __future__ import annotations

import pypdfium2
import pypdfium2.raw as pdfium

from workers.extract.unreadable import Unreadable

_HYPHEN = "\ufffe"
"""PDFium's sign for a hyphen at the end of a line that parts a word."""


def pdf_to_text(data: bytes, most: int) -> str:
    """All pages' text, an empty line between two. Raises `Unreadable`.

    Args:
        most: characters at which reading ends; whoever gets more of them has seen too much.
    """
    if data.rfind(b"%%EOF") < data.rfind(b"endobj"):
        # A page that is missing at the end does not show: its number stood there.
        raise Unreadable("corrupt", "the PDF is truncated: it goes on after its last end mark, or has none")
    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if error.err_code in (pdfium.FPDF_ERR_PASSWORD, pdfium.FPDF_ERR_SECURITY):
            raise Unreadable("encrypted", "the PDF is protected by a password") from None
        raise Unreadable("corrupt", f"the PDF cannot be read: {error}") from None
    pages: list[str] = []
    size = 0
    for number in range(len(document)):
        try:
            page = document[number]
            text = page.get_textpage().get_text_bounded()
            page.close()  # frees what was parsed of it: a long document is never in memory whole
        except pypdfium2.PdfiumError as error:
            said = f"page {number + 1} of {len(document)} of the PDF cannot be read: {error}"
            raise Unreadable("corrupt", said) from None
        pages.append(text.replace("\r\n", "\n").replace(_HYPHEN, ""))
        size += len(text)
        if size > most:
            break
    text = "\n\n".join(page for page in pages if page.strip())
    if not text:
        count = len(pages)
        raise Unreadable("no_text", f"none of the PDF's {count} pages has text: it is probably scanned, and needs OCR")
    return text
