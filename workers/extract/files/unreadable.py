"""Why no text can be had from a document: the word and the sentence of its error row."""

from __future__ import annotations


class Unreadable(ValueError):
    """No text can be had from these bytes; `error_type` is the word for the row."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type


EXTRACTION_ERRORS = (
    *("empty", "not_utf8", "not_text", "too_deep", "corrupt", "encrypted", "no_text", "unsupported_format"),
    *("unreadable_text", "decompression_bomb", "too_much_text"),
    *("extraction_timeout", "extraction_memory", "extraction_crashed"),
)
"""All words that extraction has; docs/extraction.md says what each means."""
