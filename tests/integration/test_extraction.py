"""A prefix of everything, hostile documents among it: each one row, each error a true one, and the worker lives."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest

from batch import Job, connect, preview
from batch.local.corpus import upload_async
from batch.local.stack import LocalStack
from batch.workflows.states import State
from benchmarks import made_documents as f
from tests.unit.workers.extract.made_pdf import SCAN, line, pdf

NOISE = random.Random(5).randbytes(5000)
GERMAN = "Die Straße ist größer als üblich, sagte Frau Müller über das schöne Gebäude. Wir prüfen es nächste Woche."

READABLE: dict[str, tuple[bytes, str]] = {
    "a.pdf": (f.make_pdf("First page", "Second page"), "First page\n\nSecond page"),
    "a.docx": (f.make_docx("A paragraph."), "A paragraph."),
    "a.pptx": (f.make_pptx(), "Notes 2"),
    "a.xlsx": (f.make_xlsx(), "Ada\t12.5\tTRUE"),
    "a.epub": (f.make_epub(), "Text Second."),
    "a.rtf": (f.RTF, "Größe bold 日 text"),
    "a.eml": (f.make_mail(), "Hello größe"),
    "a.txt": (b"plain text", "plain text"),
    "a.md": (b"# plain text", "# plain text"),
    "a.html": (b"<title>T</title><p>a page</p>", "T\na page"),
    "large.html": (b"<p>a large page</p>" * 5000, "a large page"),
    "latin.txt": (GERMAN.encode("cp1252"), GERMAN),
    "utf16.txt": (GERMAN.encode("utf-16"), GERMAN),
    "mojibake.txt": (GERMAN.encode().decode("cp1252", "replace").encode(), "StraÃŸe"),
    "pdf.txt": (f.make_pdf("Called a text"), "Called a text"),
    "docx.pdf": (f.make_docx("Called a PDF"), "Called a PDF"),
    "page.docx": (b"<!doctype html><p>404, not found", "404, not found"),
}
HOSTILE: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "empty.pdf": (b"", ("empty",)),
    "noise.bin": (NOISE, ("not_text",)),
    "noise.pdf": (b"%PDF-1.4\n" + NOISE, ("corrupt",)),
    "noise.docx": (NOISE, ("corrupt",)),
    "truncated.pdf": (f.make_pdf("x" * 80, "y" * 80)[:-300], ("corrupt",)),
    "truncated.docx": (f.make_docx()[:9000], ("corrupt",)),
    "scanned.pdf": (f.make_pdf("", "", ""), ("no_text",)),
    "locked.pdf": (f.make_locked_pdf(), ("encrypted",)),
    "drm.epub": (f.make_epub(drm=True), ("encrypted",)),
    "bomb.docx": (f.bomb(), ("decompression_bomb",)),
    "deep.html": (b"<div>" * 400_000, ("too_deep",)),
    "deep.docx": (f.with_body("<w:tbl><w:tr><w:tc>" * 9000 + "</w:tc></w:tr></w:tbl>" * 9000), ("too_deep",)),
    "hang.pdf": (f.make_nested_pdf(), ("extraction_timeout", "extraction_memory")),
    "picture.txt": (b"\x89PNG\r\n\x1a\n" + NOISE, ("unsupported_format",)),
    "archive.zip": (f.archive({"a.txt": b"text"}), ("unsupported_format",)),
}


@pytest.fixture
def env(stack: LocalStack) -> Iterator[dict[str, str]]:
    with stack.applied_environment():
        yield stack.environment()


def job(name: str, *, html: str = "all", mode: str = "online", **output: Any) -> Job:
    return Job.parse(
        {
            "name": name,
            "source": {"uri": f"s3://corpus/{name}/", "html": html},
            "prompt": {"user": "Label this.\n{{ text }}"},
            "model": {"name": "simulated-small", "mode": mode},
            "output": {"uri": f"s3://results/{name}/", **output},
            "partitions": {"documents": 20},
        }
    )


async def test_each_document_is_a_row_with_its_text_or_a_true_error(stack: LocalStack, env: dict[str, str]) -> None:
    name = "mixed"
    documents = {key: data for key, (data, _) in (READABLE | HOSTILE).items()}
    await upload_async(env, "corpus", name, documents.items())
    worker = stack.workers[0].pid
    run = await (await connect()).start(job(name, keep_text=True), check_model=False)
    result = await run.wait()
    assert (result.state, result.documents, result.ok) == (
        State.COMPLETED_WITH_FAILURES,
        len(documents),
        len(READABLE),
    )
    rows = rows_of(run.results().collect())
    for key, (_, text) in READABLE.items():
        assert rows[key]["status"] == "ok" and text in rows[key]["text"], (key, rows[key])
    for key, (_, types) in HOSTILE.items():
        assert rows[key]["error_type"] in types and rows[key]["text"] is None, (key, rows[key]["error_message"])
        assert rows[key]["attempts"] == 0 and not rows[key]["retryable"]
    assert stack.workers[0].pid == worker and stack.workers[0].running

    await upload_async(env, "corpus", name, [("scanned.pdf", f.make_pdf("with text now"))])
    await (await run.rerun(all_errors=True)).wait()
    again = rows_of(run.results().collect())
    assert again["scanned.pdf"]["text"] == "with text now"
    assert {key: again[key]["text"] for key in READABLE} == {key: rows[key]["text"] for key in READABLE}
    assert stack.workers[0].pid == worker and stack.workers[0].running


@pytest.mark.parametrize("mode", ["online", "batch"])
async def test_pages_are_counted_and_too_many_without_text_are_an_error(env: dict[str, str], mode: str) -> None:
    name, words = f"pages-{mode}", line("Words of a page")
    documents = {"half.pdf": pdf(words, SCAN), "cover.pdf": pdf(words, SCAN, SCAN), "a.txt": b"No page at all"}
    await upload_async(env, "corpus", name, documents.items())
    run = await (await connect()).start(job(name, mode=mode), check_model=False)
    await run.wait()
    rows = rows_of(run.results().collect())
    counts = {key: (row["error_type"], row["pages"], row["pages_without_text"]) for key, row in rows.items()}
    assert counts == {
        "half.pdf": (None, 2, 1),
        "cover.pdf": ("missing_text_pages", 3, 2),
        "a.txt": (None, None, None),
    }
    assert rows["cover.pdf"]["attempts"] == 0


async def test_a_preview_reads_them_too_and_nothing_is_kept_unless_said(env: dict[str, str]) -> None:
    await upload_async(env, "corpus", "look-inside", [("a.docx", READABLE["a.docx"][0]), ("n.bin", NOISE)])
    found = await preview(job("look-inside"))
    shown = {document.document_id.rpartition("/")[2]: document for document in found.documents}
    assert "A paragraph." in shown["a.docx"].messages[0]["content"]
    assert shown["n.bin"].error_type == "not_text"
    run = await (await connect()).start(job("look-inside"), check_model=False)
    await run.wait()
    assert "text" not in run.results().collect().columns


async def test_a_job_may_ask_for_the_main_text_of_pages(env: dict[str, str]) -> None:
    pages = {"a.html": f.make_page().encode(), "menu.html": b"<nav><a href=/>Only a menu</a></nav>"}
    await upload_async(env, "corpus", "main-text", [*pages.items(), ("deep.html", b"<div>" * 400_000)])
    asked = job("main-text", html="main", keep_text=True)
    shown = {each.document_id.rpartition("/")[2]: each for each in (await preview(asked)).documents}
    run = await (await connect()).start(asked, check_model=False)
    await run.wait()
    rows = rows_of(run.results().collect())
    for text in (rows["a.html"]["text"], shown["a.html"].messages[0]["content"]):
        assert "Paragraph 8 of the article" in text and not any(each in text for each in f.AROUND)
    assert rows["menu.html"]["text"] == "Only a menu"
    assert rows["deep.html"]["error_type"] == "too_deep"


def rows_of(frame: pl.DataFrame) -> dict[str, dict[str, Any]]:
    return {row["document_id"].rpartition("/")[2]: row for row in frame.to_dicts()}
