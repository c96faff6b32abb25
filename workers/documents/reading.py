"""A document's way to the model's question and from its answer to a row: the same in a run and in a preview.

What is wrong with a document ends as `Unreadable`, whose word and message its error row has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import jinja2

from batch.corpus.planning import PlannedDocument
from batch.job.templates import ROW
from batch.schema.error_types import RETRYABLE, ErrorType
from batch.storage.layout import bucket_and_key
from batch.storage.listing import is_addressable
from batch.storage.store import ObjectArchived, ObjectMissing, ObjectTooLarge, PreconditionFailed
from workers.documents.prompt import CompiledPrompt, RowFields
from workers.documents.rows import Row, failed
from workers.extract import Extracted, Unreadable, legible
from workers.llm.answer import Answer

CANNOT_RENDER = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a template raises of a document whose fields are not what it takes them for; `RecursionError` is among them."""


def check_key(document: PlannedDocument) -> None:
    """Raises `Unreadable` for a key that cannot be asked for."""
    if not is_addressable(bucket_and_key(document.uri)[1]):
        message = f"{document.uri!r} has an empty, '.' or '..' step or a control character"
        raise Unreadable(ErrorType.UNSUPPORTED_KEY, message)


def check_size(document: PlannedDocument, limit: int) -> None:
    """Raises `Unreadable` for one of more than `limit` bytes."""
    if document.size > limit:
        raise Unreadable(ErrorType.TOO_LARGE, f"the document has {document.size:,} bytes; the limit is {limit:,}")


def check_pages(found: Extracted, least: float) -> None:
    """Raises `Unreadable` for a text that less than `least` of its pages have; a blank page lacks none."""
    if found.pages and found.pages_without_text and 1 - found.pages_without_text / found.pages < least:
        raise Unreadable(
            ErrorType.MISSING_TEXT_PAGES,
            f"{found.pages_without_text:,} of {found.pages:,} pages show something but have no text that can be read: "
            f"they are probably scanned, and need OCR (source.min_text_pages is {least:g})",
        )


@contextmanager
def reading(document: PlannedDocument) -> Iterator[None]:
    """Around the GET of its planned version: raises `Unreadable` for what is the document's own; other errors pass."""
    try:
        yield
    except ObjectMissing:
        raise Unreadable(ErrorType.SOURCE_GONE, f"{document.uri} went after it was listed") from None
    except PreconditionFailed:
        raise Unreadable(ErrorType.SOURCE_CHANGED, f"{document.uri} changed after it was listed") from None
    except ObjectArchived as error:
        raise Unreadable(ErrorType.ARCHIVED, str(error)) from None
    except ObjectTooLarge as error:
        raise Unreadable(ErrorType.TOO_LARGE, str(error)) from None


def planned_text(document: PlannedDocument) -> str | None:
    """Takes the text that came with the plan: a row's, as `legible` has it; None for an object, still to be read.

    Raises `Unreadable`, also for what was found to be wrong when the plan was made.
    """
    if document.problem is not None:
        error_type, _, message = document.problem.partition(": ")
        raise Unreadable(error_type, message)
    if document.content is None:
        return None
    text = legible(document.content)
    if not text:
        raise Unreadable(ErrorType.EMPTY, "the row's text is empty")
    return text


def messages_of(
    prompt: CompiledPrompt, dates: Mapping[str, str], document: PlannedDocument, text: str
) -> list[dict[str, str]]:
    """Returns the chat's messages. Raises `Unreadable` where the prompt does not render for this document."""
    return rendered(prompt, dates, document, text=text)


def rendered(
    prompt: CompiledPrompt, dates: Mapping[str, str], document: PlannedDocument, **shown: str | list[str]
) -> list[dict[str, str]]:
    """Returns the messages of a prompt about a document. Raises `Unreadable` where it does not render for it."""
    known = {**dates, "document_id": document.document_id, "uri": document.uri, ROW: RowFields(document.row)}
    try:
        return prompt.messages({**known, **shown})
    except CANNOT_RENDER as error:
        raise Unreadable(ErrorType.TEMPLATE, f"the prompt does not render for this document: {error}") from None


def row_unread(row: Row, error: Unreadable) -> Row:
    """Returns the error row of a document that was never asked about."""
    return failed(row, error.error_type, str(error), retryable=error.error_type in RETRYABLE)


def row_answered(row: Row, answer: Answer) -> Row:
    """Returns the row of a document that was asked about, with its result or its error."""
    if answer.error is not None:
        verdict = answer.error
        return failed(row, verdict.error_type, verdict.message, retryable=verdict.retryable)
    if answer.result is not None:
        row["result"] = answer.result
    return row
