"""What comes out of a document: its text, and how much of it has none; or the word and sentence of its error row."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Extracted:
    """A document's text. `pages` is None for what has no pages of its own: all but PDF.

    `pages_without_text`: of those, the ones that show something, a scan or a picture, and have no text that can be
    read. A blank page is none of them: with it nothing is lost.
    """

    text: str
    pages: int | None = None
    pages_without_text: int | None = None

    @property
    def counts(self) -> dict[str, int | None]:
        """Returns the columns of a row that say so."""
        return {"pages": self.pages, "pages_without_text": self.pages_without_text}


class Unreadable(ValueError):
    """No text can be had from these bytes; `error_type` is the word for the row."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type
