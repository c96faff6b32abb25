"""The words of `error_type`: one list, that code and pages share."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

from batch.schema.error_types import RETRYABLE, ErrorType, Stage, words_of

ROOT = Path(__file__).parents[4]
ERRORS = (ROOT / "docs" / "errors.md").read_text()
EXTRACTION = (ROOT / "docs" / "extraction.md").read_text()
SOURCES = (ROOT / "docs" / "sources.md").read_text()
OWN = ERRORS.partition("## Errors of docbatch's own")[2]
TREES = {
    path: ast.parse(path.read_text())
    for house in ("batch", "workers")
    for path in sorted((ROOT / house).rglob("*.py"))
    if path.name != "error_types.py" and "simulator" not in path.parts
}
MAKERS = {"Unreadable", "_ChildEnded", "Verdict", "Rule", "TransportError", "failed", "_failed", "_transient", "fail"}


def column(page: str, header: str, number: int) -> dict[str, str]:
    """Returns the words in a column of the table with this header, each with its line."""
    table = page[page.index(header) :].partition("\n\n")[0].splitlines()[2:]
    return {word: line for line in table for word in re.findall(r"`([^`]+)`", line.split("|")[number])}


def test_a_word_is_its_text_wherever_it_goes() -> None:
    word = ErrorType.SOURCE_GONE
    assert (f"{word}: gone", str(word), json.dumps({word: word})) == (
        "source_gone: gone",
        "source_gone",
        '{"source_gone": "source_gone"}',
    )
    assert word in RETRYABLE and "source_gone" in RETRYABLE and "source_of_another_version" not in RETRYABLE


def test_each_word_has_the_name_that_it_says_and_one_that_pauses_a_run_is_in_no_row() -> None:
    assert [word.name.lower() for word in ErrorType] == list(ErrorType)
    assert not RETRYABLE & set(words_of(Stage.JOB, Stage.JOB_BATCH, Stage.EXTRACTION, Stage.OBJECT, Stage.PROMPT))
    assert set(words_of(Stage.CALL, Stage.BATCH, Stage.PARTITION)) <= RETRYABLE


def test_the_page_of_extraction_has_its_words_and_no_others() -> None:
    assert column(EXTRACTION, "| error_type | what |", 1).keys() == set(words_of(Stage.EXTRACTION))


def test_the_page_of_errors_has_every_word_and_no_others() -> None:
    said = set(re.findall(r"`([a-z_0-9]+)`", ERRORS)) | column(EXTRACTION, "| error_type | what |", 1).keys()
    assert set(ErrorType) - said == set()
    table = column(ERRORS, "| answer | error_type | what follows |", 2)
    assert table.keys() - set(ErrorType) == {"http_{status}"}
    assert set(re.findall(r"`([a-z_0-9]{2,})`", OWN)) - set(ErrorType) == set()
    assert column(SOURCES, "| `error_type` | what |", 1).keys() <= set(ErrorType)


def test_the_page_of_errors_says_which_are_retryable_as_the_words_do() -> None:
    for word, line in column(ERRORS, "| answer | error_type | what follows |", 2).items():
        if "error row" in line and word in list(ErrorType):
            assert (word in RETRYABLE) is ("not retryable" not in line), line


def test_each_word_is_made_somewhere() -> None:
    names = {
        node.attr
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ErrorType"
    }
    assert names == set(ErrorType.__members__)


def test_no_row_has_a_word_that_is_written_out() -> None:
    """Also none that the list lacks, but for what a provider answers with a status alone."""
    written = {
        (path.name, word.value)
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in MAKERS
        for word in node.args[:2]
        if isinstance(word, ast.Constant) and isinstance(word.value, str) and re.fullmatch(r"[a-z_0-9{}]+", word.value)
    }
    assert written == {("errors.py", "http_{status}")}
