"""The pool of extracting processes: what a parser does to its process is one document's error and nobody else's."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.made_documents import make_docx, make_nested_pdf, make_pdf
from workers.extract import Unreadable
from workers.extract.pool import Extractors, Limits

ROOT = Path(__file__).parents[4]
HOSTILE = ("-P", "-m", "tests.unit.workers.extract.hostile_parser")
MIB = 2**20


@pytest.fixture
async def extractors(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Extractors]:
    """Two processes whose parser does what the document says; a second of CPU, four by the clock."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    pool = Extractors(2, Limits(seconds=1, memory=128 * MIB, text=MIB), HOSTILE)
    yield pool
    await pool.close()


async def does(pool: Extractors, what: str) -> str:
    return (await pool.text_of("s3://b/a.pdf", f"%PDF-{what}".encode())).text


async def error(pool: Extractors, what: str) -> tuple[str, str]:
    with pytest.raises(Unreadable) as refused:
        await does(pool, what)
    return refused.value.error_type, str(refused.value)


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


CASES = [
    ("sleep 99", "extraction_timeout", "4 s"),
    ("spin", "extraction_timeout", "took more than"),
    ("allocate 300000000", "extraction_memory", "more memory than it may have"),
    ("abort", "extraction_memory", "128 MiB"),
    ("allocate 2000000", "too_much_text", "2,000,000 bytes"),
    ("exit 3", "extraction_crashed", "exit code 3"),
    ("exit 0", "extraction_crashed", "exit code 0"),
    ("kill", "extraction_memory", "SIGKILL"),
    ("raise oops", "corrupt", "ZeroDivisionError: oops"),
    ("recurse", "too_deep", "nests too deeply"),
]


async def test_what_a_parser_does_is_that_documents_error_and_no_others(extractors: Extractors) -> None:
    others = [asyncio.create_task(does(extractors, "sleep 0.05")) for _ in CASES]
    found = await asyncio.gather(*(error(extractors, what) for what, _, _ in CASES))
    for (what, error_type, says), (type_found, said) in zip(CASES, found, strict=True):
        assert (type_found, says in said) == (error_type, True), (what, said)
    assert await asyncio.gather(*others) == ["did sleep"] * len(CASES)
    assert await does(extractors, "nothing") == "did nothing"


async def test_what_a_parser_prints_is_no_answer(extractors: Extractors) -> None:
    assert await does(extractors, "print") == "did print"


async def test_processes_have_no_secrets_are_few_and_are_kept(extractors: Extractors) -> None:
    assert "a-secret" not in await does(extractors, "environment")
    pids = await asyncio.gather(*(does(extractors, "pid") for _ in range(20)))
    assert 1 <= len(set(pids)) <= 2
    assert set(await asyncio.gather(*(does(extractors, "pid") for _ in range(20)))) <= set(pids)


async def test_a_document_that_crashed_a_used_process_gets_a_fresh_one(extractors: Extractors) -> None:
    await asyncio.gather(does(extractors, "sleep 0.1"), does(extractors, "sleep 0.1"))
    assert await does(extractors, "first") == "did first"


async def test_a_process_that_died_while_idle_is_no_documents_fault(extractors: Extractors) -> None:
    pid = int(await does(extractors, "pid"))
    os.kill(pid, signal.SIGKILL)
    assert await does(extractors, "nothing") == "did nothing"


async def test_a_document_that_nobody_waits_for_ends_its_process(extractors: Extractors) -> None:
    pid = int(await does(extractors, "pid"))
    waiting = asyncio.create_task(does(extractors, "sleep 99"))
    await asyncio.sleep(0.2)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    assert not is_alive(pid)
    assert await does(extractors, "nothing") == "did nothing"


async def test_close_ends_documents_as_neither_read_nor_errors(extractors: Extractors) -> None:
    pid = int(await does(extractors, "pid"))
    waiting = asyncio.create_task(does(extractors, "sleep 99"))
    await asyncio.sleep(0.2)
    await extractors.close()
    with pytest.raises(RuntimeError, match="the worker ends"):
        await waiting
    assert not is_alive(pid)


async def test_a_process_that_cannot_start_is_no_documents_fault() -> None:
    pool = Extractors(1, command=("-P", "-m", "no.such.module"))
    with pytest.raises(RuntimeError, match="No module named"):
        await does(pool, "nothing")


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGTERM])
def test_the_processes_end_with_the_worker_even_while_a_parser_hangs(way: signal.Signals) -> None:
    script = (
        "import asyncio, os\n"
        "from workers.extract.pool import *\n"
        f"pool = Extractors(1, command={HOSTILE!r})\n"
        "async def main():\n"
        "    print((await pool.text_of('a.pdf', b'%PDF-pid')).text, flush=True)\n"
        "    await pool.text_of('a.pdf', b'%PDF-spin')\n"
        "asyncio.run(main())"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    worker = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment, text=True)
    assert worker.stdout is not None
    pid = int(worker.stdout.readline())
    time.sleep(0.1)
    assert is_alive(pid)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    time.sleep(0.1)
    assert is_alive(pid), "what is meant for the worker is not for its processes"
    worker.send_signal(way)
    worker.wait()
    until = time.monotonic() + 5
    while is_alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    assert not is_alive(pid)


async def test_the_real_parsers_within_limits() -> None:
    pool = Extractors(2, Limits(seconds=3, memory=192 * MIB))
    try:
        hanging = asyncio.create_task(pool.text_of("s3://b/hang.pdf", make_nested_pdf()))
        assert (await pool.text_of("s3://b/a.pdf", make_pdf("First page"))).text == "First page"
        assert "A first paragraph." in (await pool.text_of("s3://b/a.docx", make_docx())).text
        assert (
            "größe" in (await pool.text_of("s3://b/a.txt", "die größe ist schön, sagte Müller".encode("latin-1"))).text
        )
        assert "large" in (await pool.text_of("s3://b/a.html", b"<p>large</p>" * 9000)).text
        with pytest.raises(Unreadable) as refused:
            await hanging
        assert refused.value.error_type in ("extraction_memory", "extraction_timeout"), refused.value
    finally:
        await pool.close()
