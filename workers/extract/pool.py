"""Text from documents that nobody trusts: parsers run in processes of their own, within limits.

A process has one document at a time. One that the parser hangs on, crashes on or bloats on costs that process, and is
an error of that document; the next one gets a new process. The processes have none of the worker's secrets, and what
they answer is lengths and UTF-8.

Not a pool of `concurrent.futures` or loky, where a process that dies takes all documents in the pool with it, and a
hanging one cannot be ended alone; not `multiprocessing`, whose workers answer in pickle, which can do anything here.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from batch.schema.error_types import ErrorType, Stage, words_of
from workers.extract import inline, kind_of
from workers.extract.files.extracted import Extracted, Unreadable
from workers.extract.files.kinds import Kind

CHILD = ("-P", "-m", "workers.extract.child")
MOST_DOCUMENTS = 500
"""After so many a process is replaced: parsers leak."""
LOOK_EVERY, NEARLY = 0.1, 0.7
"""Seconds between two looks at a process' memory, and the share of its limit from which on a crash is for lack of it:
PDFium ends without a word then."""
STARTS_WITHIN = 120.0
READY = b"ready\n"
KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "LANG", "TMPDIR")
_NO_MEMORY = (b"memory allocation of", b"MemoryError", b"bad_alloc", b"Out of memory", b"Cannot allocate memory")
"""What Rust, Python, C++ and C say as they end for lack of memory."""

_MAIN = {Kind.HTML: Kind.HTML_MAIN, Kind.GZIP: Kind.GZIP_MAIN}
"""Kinds that a job which wants the main text of pages alone has in their place."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """Of one document's extraction: CPU seconds, bytes of memory, bytes of UTF-8 that come out.

    It may take four times `seconds` by the clock: a busy machine must not make errors. Of text there may be `text`
    bytes, or twice those of the document where that is more, as another encoding may take as UTF-8.
    """

    seconds: int = 30
    memory: int = 384 * 2**20
    text: int = 8 * 2**20

    @property
    def wall(self) -> float:
        return 4.0 * self.seconds

    def most(self, data: bytes) -> int:
        return max(self.text, 2 * len(data))


class Extractors:
    """At most `processes` of them, each started when it is first needed. Belongs to one event loop."""

    def __init__(self, processes: int = 2, limits: Limits | None = None, command: Sequence[str] = CHILD) -> None:
        """`command`: arguments of the Python that serves as `workers.extract.child` does."""
        self._limits = limits or Limits()
        self._command = command
        self._free = asyncio.Semaphore(processes)
        self._idle: list[_Child] = []
        self._children: set[_Child] = set()
        self._closed = False

    async def text_of(self, key: str, data: bytes, *, html: Literal["all", "main"] = "all") -> Extracted:
        """Returns the text of a document; small text and HTML is read right here. Raises `Unreadable`.

        Args:
            html: whether of an HTML page all visible text is wanted, or its main text.
        """
        kind = kind_of(key, data)
        if html == "main":
            kind = _MAIN.get(kind, kind)
        text = inline(key, data, kind)
        return Extracted(text) if text is not None else await self._extract(key, data, kind)

    async def close(self) -> None:
        """Ends all processes, also with a document in them: that is then neither read nor an error."""
        self._closed = True
        for child in list(self._children):
            await self._end(child)

    async def _extract(self, key: str, data: bytes, kind: Kind) -> Extracted:
        tries = 0
        async with self._free:
            while True:
                if self._closed:
                    raise RuntimeError(f"{key} is not read: the worker ends")
                child = await self._child(fresh=tries > 0)
                fresh = not child.documents
                tries += 1
                try:
                    found = await child.extract(key, data, kind, self._limits)
                except Unreadable:
                    self._idle.append(child)
                    raise
                except _ChildEnded as ended:
                    await self._end(child)
                    if self._closed or (tries == 1 and (ended.may_pass or not fresh)):
                        continue
                    log.warning("%s: %s", key, ended)
                    raise Unreadable(ended.error_type, str(ended)) from None
                except BaseException:  # cancelled: nobody waits for what it works on
                    child.kill()
                    await self._end(child)
                    raise
                self._idle.append(child)
                return found

    async def _child(self, *, fresh: bool) -> _Child:
        while self._idle and not fresh:
            child = self._idle.pop()
            if child.documents < MOST_DOCUMENTS and not child.has_ended():
                return child
            await self._end(child)
        child = await _Child.start(self._command, self._limits)
        self._children.add(child)
        return child

    async def _end(self, child: _Child) -> None:
        self._children.discard(child)
        if child in self._idle:
            self._idle.remove(child)
        child.kill()
        await child.ended()


class _ChildEnded(Exception):
    """The process did not survive a document, or may not. `may_pass`: it may not have been the document's fault.

    That of a process that had others before never is for certain: it is given to a fresh one.
    """

    def __init__(self, error_type: str, message: str, *, may_pass: bool = False) -> None:
        super().__init__(message)
        self.error_type, self.may_pass = error_type, may_pass


class _Child:
    """One process. `documents`: that it was given."""

    def __init__(self, process: Process, errors: IO[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._process, self._errors = process, errors
        self._in, self._out = process.stdin, process.stdout
        self.documents = 0
        self._memory = 0
        """Bytes that it was last seen to have."""

    @classmethod
    async def start(cls, command: Sequence[str], limits: Limits) -> _Child:
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `ended`; the child bounds it
        fcntl.fcntl(errors, fcntl.F_SETFL, os.O_APPEND | fcntl.fcntl(errors, fcntl.F_GETFL))
        environment = {name: value for name in KEPT_ENVIRONMENT if (value := os.environ.get(name)) is not None}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            *map(str, (os.getpid(), limits.memory, limits.seconds)),
            stdin=PIPE,
            stdout=PIPE,
            stderr=errors,
            env={**environment, "PYTHONIOENCODING": "utf-8"},
            start_new_session=True,
        )
        child = cls(process, errors)
        try:
            async with asyncio.timeout(STARTS_WITHIN):
                ready = await child._out.readline()
        except TimeoutError:
            ready = b""
        if ready != READY:
            child.kill()
            said = os.pread(errors.fileno(), 2000, 0).decode(errors="replace").strip()
            await child.ended()
            raise RuntimeError(f"no process for the extraction of text could be started: {said or 'it said nothing'}")
        return child

    async def extract(self, key: str, data: bytes, kind: Kind, limits: Limits) -> Extracted:
        """Raises `Unreadable` where the process goes on, `_ChildEnded` where it does not."""
        self.documents += 1
        os.ftruncate(self._errors.fileno(), 0)
        most = limits.most(data)
        head = json.dumps({"key": key, "kind": kind, "size": len(data), "most": most}).encode()
        try:
            async with asyncio.timeout(limits.wall):
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its end shows in what it answers
                    self._in.write(head + b"\n")
                    self._in.write(data)
                    await self._in.drain()
                answer = json.loads(await self._line())
                if "size" not in answer:
                    raise self._refusal(str(answer["error_type"]), str(answer["message"]))
                if not 0 <= answer["size"] <= most:
                    raise ValueError(f"a text of {answer['size']} bytes")
                text = (await self._out.readexactly(answer["size"])).decode()
                return Extracted(text, _count(answer, "pages"), _count(answer, "pages_without_text"))
        except TimeoutError:
            raise _ChildEnded(ErrorType.EXTRACTION_TIMEOUT, f"the parser took more than {limits.wall:g} s") from None
        except asyncio.IncompleteReadError:
            raise await self._epitaph(limits) from None
        except Unreadable:
            raise
        except (asyncio.LimitOverrunError, ValueError, KeyError, TypeError, ConnectionError) as error:
            message = f"the parser's process talks nonsense: {error}"[:300]
            raise _ChildEnded(ErrorType.EXTRACTION_CRASHED, message) from None

    async def _line(self) -> bytes:
        """Returns the answer's line; looks meanwhile at how much memory the process has."""
        self._memory = 0
        reading = asyncio.ensure_future(self._out.readuntil(b"\n"))
        try:
            while not (await asyncio.wait([reading], timeout=LOOK_EVERY))[0]:
                self._memory = max(self._memory, _memory_of(self._process.pid))
            return reading.result()
        finally:
            reading.cancel()

    def _refusal(self, error_type: str, message: str) -> Exception:
        if error_type == ErrorType.EXTRACTION_MEMORY:
            return _ChildEnded(error_type, message)
        if error_type not in words_of(Stage.EXTRACTION):
            return _ChildEnded(ErrorType.EXTRACTION_CRASHED, f"the parser's process talks nonsense: {error_type[:80]}")
        return Unreadable(error_type, message[:1000])

    async def _epitaph(self, limits: Limits) -> _ChildEnded:
        """Returns what its end says of the document."""
        code = await self._process.wait()
        if code == -signal.SIGKILL:
            said = "the parser was ended by SIGKILL, as a system does that runs out of memory"
            return _ChildEnded(ErrorType.EXTRACTION_MEMORY, said, may_pass=True)
        last = os.pread(self._errors.fileno(), 2**16, 0)
        if code == -signal.SIGXCPU:
            return _ChildEnded(ErrorType.EXTRACTION_TIMEOUT, f"the parser took more than {limits.seconds} s of CPU")
        if any(words in last for words in _NO_MEMORY) or self._memory > NEARLY * limits.memory:
            message = f"the parser needed more than the {limits.memory // 2**20} MiB that it may have"
            return _ChildEnded(ErrorType.EXTRACTION_MEMORY, message)
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return _ChildEnded(ErrorType.EXTRACTION_CRASHED, f"the parser ended its process: {how}")

    def has_ended(self) -> bool:
        return self._process.returncode is not None

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def ended(self) -> None:
        """Waits for its end, and lets go of what it had."""
        await self._process.wait()
        self._in.close()
        self._errors.close()


def _count(answer: dict[str, Any], name: str) -> int | None:
    found = answer.get(name)
    if found is not None and not (type(found) is int and 0 <= found < 2**31):
        raise ValueError(f"{name}: {str(found)[:40]}")
    return found


def _memory_of(pid: int) -> int:
    """Returns bytes that count towards its limit, 0 where the system does not say."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData:")), 0)
