"""Files that are there whole or not at all: written under another name beside their own, flushed to disk, renamed."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: Path, *, private: bool = False) -> Iterator[Path]:
    """Gives the name to write to; at the end of the block that file takes the place of `path`, unless it failed.

    A link stays one, to the new file. What is no regular file (a pipe, `/dev/stdout`) is written as it is.

    Args:
        path: the file's name. Its folder must exist.
        private: readable by the user alone; else as the file that was there before, or by the process' umask.

    Raises:
        OSError: It cannot be written; what was there before still is.
    """
    path = Path(os.path.realpath(path))
    before = path.stat() if path.exists() else None
    if before is not None and not stat.S_ISREG(before.st_mode):
        if stat.S_ISDIR(before.st_mode):
            raise IsADirectoryError(21, "it is a folder", str(path))
        yield path
        return
    # The ending stays: writers choose a format by it.
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    unfinished = Path(name)
    try:
        yield unfinished
        os.fsync(descriptor)
        if not private:
            unfinished.chmod(0o666 & ~_umask() if before is None else stat.S_IMODE(before.st_mode))
        unfinished.replace(path)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, name):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    finally:
        os.close(descriptor)


def _umask() -> int:
    """Reads the process' umask; there is no call that does but one that sets it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
