"""A process that extracts text from one document after another, for the worker that started it; see `pool`.

    python -P -m workers.extract.child PARENT MEMORY CPU     (process id, bytes, seconds a document)

Each document comes on stdin as a line of JSON (key, kind, size, most) and its bytes; each text goes to stdout as a line
of JSON (size and counts of pages, or error_type and message) and its UTF-8. It ends when stdin does, or with
the worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from batch.schema.error_types import ErrorType
from workers.extract import Extracted, Kind, Unreadable, extract

_DIES_WITH_PARENT = 1
"""`PR_SET_PDEATHSIG` of prctl(2)."""
STDERR_BYTES = 2**20
"""What it may write to any file, stderr above all."""


def main(arguments: list[str], read: Callable[[str, bytes, Kind, int], Extracted] = extract) -> None:
    """Serves until stdin ends. `read`: how a document is read."""
    parent, memory, cpu = map(int, arguments)
    _belong_to(parent)
    _limit(resource.RLIMIT_DATA, memory)
    _limit(resource.RLIMIT_FSIZE, STDERR_BYTES)
    _limit(resource.RLIMIT_CORE, 0)
    documents, texts = _own_streams()
    texts.write(b"ready\n")
    texts.flush()
    while line := documents.readline():
        asked = json.loads(line)
        data = documents.read(asked["size"])
        _limit_cpu(cpu)
        outcome, text = _outcome(read, asked, data)
        texts.write(json.dumps(outcome).encode() + b"\n" + text)
        texts.flush()
        if outcome.get("error_type") == ErrorType.EXTRACTION_MEMORY:
            return  # what is left of its memory is in pieces


def _outcome(
    read: Callable[[str, bytes, Kind, int], Extracted], asked: dict[str, Any], data: bytes
) -> tuple[dict[str, Any], bytes]:
    """Returns the answer's line, and the text as UTF-8."""
    kind, most = Kind(asked["kind"]), asked["most"]
    try:
        found = read(asked["key"], data, kind, most)
        text = found.text.encode(errors="replace").replace(b"\x00", b"")
    except Unreadable as error:
        return {"error_type": error.error_type, "message": str(error)}, b""
    except MemoryError:
        said = "the parser needed more memory than it may have"
        return {"error_type": ErrorType.EXTRACTION_MEMORY, "message": said}, b""
    except RecursionError:
        return {"error_type": ErrorType.TOO_DEEP, "message": f"the document ({kind}) nests too deeply"}, b""
    except Exception as error:
        said = f"{type(error).__name__}: {error}"[:300]
        return {"error_type": ErrorType.CORRUPT, "message": f"the document ({kind}) cannot be read: {said}"}, b""
    if len(text) > most:
        said = f"the document has {len(text):,} bytes of text or more; the limit is {most:,}"
        return {"error_type": ErrorType.TOO_MUCH_TEXT, "message": said}, b""
    return {"size": len(text), **found.counts}, text


def _belong_to(parent: int) -> None:
    """Ends with the worker, however that ends, and by no signal that is meant for it: Ctrl-C reaches all."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):  # Linux alone has it; elsewhere stdin ends
        ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:  # it died before this was set
        sys.exit(0)
    with contextlib.suppress(OSError):  # where memory runs out, the kernel should take this process, not the worker
        Path("/proc/self/oom_score_adj").write_text("1000")


def _limit(what: int, most: int) -> None:
    with contextlib.suppress(ValueError, OSError):  # a system without it, or one that is stricter already
        resource.setrlimit(what, (most, most))


def _limit_cpu(seconds: int) -> None:
    """From now on. At the limit the process ends by SIGXCPU."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    with contextlib.suppress(ValueError, OSError):
        soft = int(used.ru_utime + used.ru_stime) + 1 + seconds
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def _own_streams() -> tuple[IO[bytes], IO[bytes]]:
    """stdin and stdout, taken away from parsers: what one of them prints goes to stderr."""
    documents, texts = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return documents, texts


if __name__ == "__main__":
    main(sys.argv[1:])
