"""Any corpus: PDFs, HTML, office files, rows of JSONL and Parquet, and hostile files, in one run over one prefix.

Every document has one row, hostile ones an error row with a true reason, and no worker dies of them.
"""

from __future__ import annotations

import asyncio
import io
import json
import random
import threading
import time
import zipfile
import zlib
from collections.abc import Callable
from itertools import islice
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from batch import Job, connect
from batch.client.status import RunResult
from batch.local import corpus
from batch.local.stack import LocalStack
from benchmarks.figures import Figure, same
from benchmarks.lab import MODEL, SCHEMA, stack, tree_memory
from benchmarks.real_documents import documents

ROW_GROUPS = 10
BOMB = 10**9
"""Bytes that a few kilobytes unpack to."""


def run(quick: bool) -> list[Figure]:
    """Must show 1 of the issue about sources."""
    files, jsonl_rows, parquet_rows = (40, 1_000, 2_500) if quick else (200, 20_000, 50_000)
    with stack() as running:
        expected = _upload(running, files, jsonl_rows, parquet_rows, huge=50 * 10**6 if quick else 2 * 10**9)
        worker = running.start_worker()
        peaks, stopped = {"worker": 0, "all": 0}, threading.Event()
        watching = threading.Thread(target=_watch_memory, args=(worker.pid, peaks, stopped))
        watching.start()
        pid = worker.pid
        ended, rows, seconds = asyncio.run(_run())
        stopped.set()
        watching.join()
        lived = worker.running and worker.pid == pid
    hostile = rows.filter(pl.col("document_id").str.contains("/hostile/"))
    for row in hostile.sort("document_id").iter_rows(named=True):
        print(f"  {row['document_id']}: {row['status']} {row['error_type'] or ''} {(row['error_message'] or '')[:90]}")
    failed = dict(hostile.filter(pl.col("status") == "error").select("document_id", "error_type").iter_rows())
    others = rows.filter(~pl.col("document_id").str.contains("/hostile/") & (pl.col("status") == "error"))
    print(others.group_by("error_type").len().sort("len", descending=True))
    wanted = files * 2 + files // 4 + jsonl_rows + parquet_rows + len(HOSTILE) + 1
    return [
        Figure("documents with a row", rows.height, exactly=wanted),
        Figure("distinct document ids", rows["document_id"].n_unique(), exactly=wanted),
        same("documents = ok + error", ended.documents == ended.ok + ended.errors),
        Figure("objects and rows uploaded", expected, exactly=wanted),
        Figure(
            "hostile documents that must fail, and did",
            sum(f"mixed/hostile/{n}" in failed for n in MUST_FAIL),
            exactly=len(MUST_FAIL),
        ),
        Figure("other documents without text or broken", others.height),
        same("the worker that began is the worker that ended", lived),
        Figure("peak RSS of the worker", peaks["worker"] / 1e6, "MB", at_most=1000),
        Figure("peak RSS of the worker and its extraction processes", peaks["all"] / 1e6, "MB"),
        Figure("documents a second, start to end", rows.height / seconds),
    ]


async def _run() -> tuple[RunResult, pl.DataFrame, float]:
    job = Job.parse(
        {
            "name": "mixed",
            "source": {"uri": "s3://corpus/mixed/"},
            "prompt": {"user": "Label this.\n{{ text[:4000] }}"},
            "model": {"name": MODEL},
            "output": {"uri": "s3://results/mixed/", "schema": SCHEMA},
            "limits": {"concurrency": 128, "max_error_rate": 1.0},
        }
    )
    began = time.monotonic()
    started = await (await connect()).start(job, run_id="mixed", check_model=False)
    ended = await started.wait()
    columns = ["document_id", "status", "error_type", "error_message"]
    return ended, started.results().select(columns).collect(), time.monotonic() - began


def _watch_memory(pid: int, peaks: dict[str, int], stopped: threading.Event) -> None:
    while not stopped.wait(0.2):
        worker, tree = tree_memory(pid)
        peaks["worker"], peaks["all"] = max(peaks["worker"], worker), max(peaks["all"], tree)


# -- the corpus


def _upload(running: LocalStack, files: int, jsonl_rows: int, parquet_rows: int, *, huge: int) -> int:
    """How many documents there are."""
    office = [*islice(documents(".docx"), files // 8), *islice(documents(".pptx"), files // 4 - files // 8)]
    named = [
        *(("pdf", name, data) for name, data in islice(documents(".pdf"), files)),
        *(("html", name, data) for name, data in islice(documents(".html"), files)),
        *(("office", name, data) for name, data in office),
        *(("hostile", name, make()) for name, make in HOSTILE.items()),
    ]
    objects = [
        (f"{folder}/{number:04d}-{name.rsplit('/', 1)[-1]}" if folder != "hostile" else f"hostile/{name}", data)
        for number, (folder, name, data) in enumerate(named)
    ]
    rows = [("rows/tickets.jsonl.zst", _jsonl(jsonl_rows)), ("rows/tickets.parquet", _parquet(parquet_rows))]
    corpus.upload(running.environment(), "corpus", "mixed", [*objects, *rows])
    running.s3_client().upload_fileobj(io.BufferedReader(_Zeros(huge)), "corpus", "mixed/hostile/huge.txt")
    return len(objects) + 1 + jsonl_rows + parquet_rows


def _ticket(number: int) -> dict[str, str]:
    return {"id": f"t{number}", "title": f"Ticket {number}", "text": f"Ticket {number}: the invoice is wrong. " * 8}


def _jsonl(count: int) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        for number in range(count):
            out.write(json.dumps(_ticket(number)).encode() + b"\n")
    return bytes(sink.getvalue())


def _parquet(count: int) -> bytes:
    table = pa.Table.from_pylist([_ticket(10**6 + number) for number in range(count)])
    out = io.BytesIO()
    pq.write_table(table, out, row_group_size=count // ROW_GROUPS)
    return out.getvalue()


class _Zeros(io.RawIOBase):
    """So many bytes, without memory."""

    def __init__(self, left: int) -> None:
        self._left = left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        taken = min(len(buffer), self._left)
        buffer[:taken] = b"0" * taken
        self._left -= taken
        return taken


def _zip_bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        with archive.open("word/document.xml", "w", force_zip64=True) as member:
            for _ in range(BOMB // 10**6):
                member.write(b" " * 10**6)
    return out.getvalue()


def _pdf(content: bytes, *, filters: str = "", more: str = "") -> bytes:
    """A PDF of one page with this content stream."""
    return (
        b"%PDF-1.7\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
        b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R"
        b"/Resources<</XObject<</F0 5 0 R>>>>>>endobj\n"
        + f"4 0 obj<</Length {len(content)}{filters}>>stream\n".encode()
        + content
        + b"\nendstream endobj\n"
        + more.encode()
        + b"trailer<</Root 1 0 R/Size 40>>\n%%EOF\n"
    )


def _pdf_bomb() -> bytes:
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(b"BT " * 10**6) for _ in range(BOMB // (3 * 10**6))) + packer.flush()
    return _pdf(packed, filters="/Filter/FlateDecode")


def _pdf_that_never_ends() -> bytes:
    """Forms that each draw the next one thirty times, twenty-five deep."""
    depth, draws = 25, " ".join(["/F0 Do"] * 30)
    forms = "".join(
        f"{5 + level} 0 obj<</Type/XObject/Subtype/Form/BBox[0 0 9 9]/Resources<</XObject<</F0 {6 + level} 0 R>>>>"
        f"/Length {len(draws)}>>stream\n{draws}\nendstream endobj\n"
        for level in range(depth)
    )
    return _pdf(
        b"/F0 Do",
        more=forms
        + f"{5 + depth} 0 obj<</Type/XObject/Subtype/Form/BBox[0 0 9 9]/Length 0>>stream\n\nendstream endobj\n",
    )


def _noise() -> bytes:
    return random.Random(5).randbytes(200_000)


HOSTILE: dict[str, Callable[[], bytes]] = {
    "bomb.docx": _zip_bomb,
    "bomb.pdf": _pdf_bomb,
    "endless.pdf": _pdf_that_never_ends,
    "truncated.pdf": lambda: _pdf(b"BT ET")[:150],
    "picture.pdf": lambda: b"\x89PNG\r\n\x1a\n" + _noise(),
    "pdf-in-disguise.txt": lambda: next(iter(documents(".pdf")))[1],
    "empty.txt": lambda: b"",
    "noise.txt": _noise,
    "noise.docx": _noise,
    "nested.html": lambda: b"<div>" * 200_000 + b"deep" + b"</div>" * 200_000,
    "mojibake.txt": lambda: "Grüße aus Köln, señor — naïve café".encode("cp1252") * 20,
}
MUST_FAIL = ["bomb.docx", "truncated.pdf", "picture.pdf", "empty.txt", "noise.txt", "noise.docx", "huge.txt"]
"""The others may give a text: what has another ending than its content, what is read in time after all."""
