"""What a PDF's pages show beside their content: values of form fields, text typed onto them, notes, attached files."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium

from workers.extract.web.html import page_to_text

MOST_ANNOTATIONS = 5_000
"""Of a page."""
MOST_OPTIONS = 1_000
"""Of a list to choose from."""

_TYPED = frozenset({
    pdfium.FPDF_ANNOT_TEXT, pdfium.FPDF_ANNOT_FREETEXT, pdfium.FPDF_ANNOT_HIGHLIGHT, pdfium.FPDF_ANNOT_UNDERLINE,
    pdfium.FPDF_ANNOT_SQUIGGLY, pdfium.FPDF_ANNOT_STRIKEOUT, pdfium.FPDF_ANNOT_STAMP, pdfium.FPDF_ANNOT_CARET,
    pdfium.FPDF_ANNOT_SQUARE, pdfium.FPDF_ANNOT_CIRCLE, pdfium.FPDF_ANNOT_LINE, pdfium.FPDF_ANNOT_POLYGON,
    pdfium.FPDF_ANNOT_POLYLINE, pdfium.FPDF_ANNOT_INK,
})  # fmt: skip
"""Kinds whose `Contents` somebody wrote."""
_HIDDEN = pdfium.FPDF_ANNOT_FLAG_HIDDEN | pdfium.FPDF_ANNOT_FLAG_NOVIEW
_TICKED = (pdfium.FPDF_FORMFIELD_CHECKBOX, pdfium.FPDF_FORMFIELD_RADIOBUTTON)
_CHOSEN = (pdfium.FPDF_FORMFIELD_COMBOBOX, pdfium.FPDF_FORMFIELD_LISTBOX)
_PASSWORD = 1 << 13
"""Flag of a text field whose value nobody is shown (ISO 32000-1, 12.7.4.3)."""


class Annotations:
    """Reads those of a document's pages. `attached`: names of files that were seen on them."""

    def __init__(self, document: pypdfium2.PdfDocument) -> None:
        self._document = document
        self._said: set[str] = set()
        self.attached: list[str] = []

    def of(self, page: pypdfium2.PdfPage, text: str) -> Iterator[str]:
        """Yields the lines that they add to the page's text, each once in a document: a field may be on all pages."""
        for at in range(min(pdfium.FPDFPage_GetAnnotCount(page), MOST_ANNOTATIONS)):
            annotation = pdfium.FPDFPage_GetAnnot(page, at)
            if not annotation:
                continue
            try:
                line = "" if pdfium.FPDFAnnot_GetFlags(annotation) & _HIDDEN else self._line(annotation)
            finally:
                pdfium.FPDFPage_CloseAnnot(annotation)
            if line and line not in self._said and line not in text:
                self._said.add(line)
                yield line

    def _line(self, annotation: Any) -> str:
        kind = pdfium.FPDFAnnot_GetSubtype(annotation)
        if kind == pdfium.FPDF_ANNOT_WIDGET:
            return self._field(annotation) if self._document.formenv is not None else ""
        if kind == pdfium.FPDF_ANNOT_FILEATTACHMENT:
            attachment = pdfium.FPDFAnnot_GetFileAttachment(annotation)
            self.attached.append(_text(lambda *room: pdfium.FPDFAttachment_GetName(attachment, *room)))
        if kind in _TYPED:
            plain = _text(lambda *room: pdfium.FPDFAnnot_GetStringValue(annotation, b"Contents", *room))
            rich = "" if plain else _text(lambda *room: pdfium.FPDFAnnot_GetStringValue(annotation, b"RC", *room))
            return page_to_text(rich) if rich else plain
        return ""

    def _field(self, annotation: Any) -> str:
        """`Name: value`; the name is what readers show of it, else its own."""
        form = self._document.formenv
        kind = pdfium.FPDFAnnot_GetFormFieldType(form, annotation)
        if kind in _TICKED:
            value = self._ticked(annotation)
        elif kind in _CHOSEN:
            value = self._chosen(annotation) or self._value(annotation)
        elif kind == pdfium.FPDF_FORMFIELD_TEXTFIELD:
            hidden = pdfium.FPDFAnnot_GetFormFieldFlags(form, annotation) & _PASSWORD
            value = "" if hidden else self._value(annotation)
        else:
            return ""
        name = _text(lambda *room: pdfium.FPDFAnnot_GetFormFieldAlternateName(form, annotation, *room))
        name = name or _text(lambda *room: pdfium.FPDFAnnot_GetFormFieldName(form, annotation, *room))
        return (f"{name}: {value}" if name else value) if value else ""

    def _value(self, annotation: Any) -> str:
        return _text(lambda *room: pdfium.FPDFAnnot_GetFormFieldValue(self._document.formenv, annotation, *room))

    def _ticked(self, annotation: Any) -> str:
        form = self._document.formenv
        if not pdfium.FPDFAnnot_IsChecked(form, annotation):
            return ""
        return _text(lambda *room: pdfium.FPDFAnnot_GetFormFieldExportValue(form, annotation, *room)) or "Yes"

    def _chosen(self, annotation: Any) -> str:
        form = self._document.formenv
        count = pdfium.FPDFAnnot_GetOptionCount(form, annotation)
        return ", ".join(
            _text(lambda *room, at=at: pdfium.FPDFAnnot_GetOptionLabel(form, annotation, at, *room))
            for at in range(min(count, MOST_OPTIONS))
            if pdfium.FPDFAnnot_IsOptionSelected(form, annotation, at)
        )


def _text(read: Callable[..., int]) -> str:
    """Tells what one of PDFium's functions writes as UTF-16; it is asked for the bytes first."""
    size = read(None, 0)
    if size <= 2:
        return ""
    room = ctypes.create_string_buffer(size)
    read(ctypes.cast(room, ctypes.POINTER(pdfium.FPDF_WCHAR)), size)
    return room.raw[: size - 2].decode("utf-16-le", "replace").replace("\r\n", "\n").replace("\r", "\n").strip()
