"""Bytes to text: what a page shows, and pages that would keep the parser busy for hours."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from batch.job import Prompt
from batch.planning import PlannedDocument
from workers.extract import SLOW_BYTES, Unreadable, extract
from workers.processor import Attempt
from workers.prompt import CompiledPrompt


def html(body: str) -> str:
    return extract("s3://b/page.html", f"<title>T</title>{body}".encode())


@pytest.mark.parametrize(
    "page",
    [
        "<div>" * 4_000_000,
        "<div title='<br>' / id=a>" * 40_000,
        "".join(f"<b id={n}>" for n in range(20_000)),
        "".join(f"<p><b id={n}>x</p>" for n in range(4_000)),
        "<ruby>" + "<rt>" * 40_000,
        "<script>'</script><div>'</script>" * 40_000,
    ],
    ids=["divs", "attributes", "formatting", "formatting in paragraphs", "optional", "after scripts"],
)
def test_a_page_that_takes_the_parser_too_long_is_refused_at_once(page: str) -> None:
    began = time.monotonic()
    with pytest.raises(Unreadable, match="nests too deeply") as refused:
        html(page)
    assert refused.value.error_type == "too_deep"
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "page",
    [
        "<div><p>Some words.<br><img src=x></p></div>" * 20_000,
        "<ul>" + "<li>words" * 20_000,
        "<p>words" * 20_000,
        "<table>" + "<tr><td>words<td><b>bold</b>" * 10_000,
        "<p><a name=x>words" * 10_000,
        "<font size=2>" + "<p>words</p>" * 10_000,
        "<svg>" + "<path d='M0 0'/>" * 20_000 + "</svg>words",
        "<script>" + "'<div>'" * 40_000 + "</script>words",
        "<!--" + "<div>" * 40_000 + "-->words",
        '<a title="' + "<div>" * 40_000 + '">words</a>',
        "<div>" * 500 + "words",
    ],
)
def test_large_and_sloppy_pages_are_read(page: str) -> None:
    assert "words" in html(page).lower()


async def test_a_large_page_is_read_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = 0
    in_thread = asyncio.to_thread

    async def counted(*call: Any) -> Any:
        nonlocal threads
        threads += 1
        return await in_thread(*call)

    monkeypatch.setattr(asyncio, "to_thread", counted)
    attempt: Any = Attempt.__new__(Attempt)
    chat = SimpleNamespace(payload=lambda messages: messages[0]["content"].encode())
    attempt._active = SimpleNamespace(prompt=CompiledPrompt(Prompt(user="{{ text }}")), chat=chat, dates={})

    async def prepared(key: str, data: bytes) -> bytes:
        document = PlannedDocument(key, f"s3://b/{key}", '"e"', len(data))
        return bytes((await attempt._prepare(document, data))[1])

    assert await prepared("small.html", b"<p>small</p>") == b"small"
    assert await prepared("large.txt", b"x" * SLOW_BYTES * 2) and threads == 0
    assert (await prepared("large.HTML", b"<p>large</p>" * SLOW_BYTES)).startswith(b"large") and threads == 1
