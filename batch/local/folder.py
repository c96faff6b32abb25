"""The local stack's data folder and the private files in it. Locks keep it to one stack at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from batch.files.whole_files import whole_file
from batch.local.options import StackError
from batch.local.ports import GRPC_OFFSET

TEMPORARY_PREFIX = "docbatch-"
KEPT = "kept-after-an-error"


def lock_folder(folder: Path) -> tuple[int, int]:
    """Two open locks of a data folder: the owner's own, and one that the children's launchers get to hold as well."""
    owner = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    children = os.open(folder / "lock-children", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _try_lock(owner):
            raise StackError(
                f"{folder} is in use by another local stack (process {os.pread(owner, 32, 0).decode() or 'unknown'}): "
                "stop that one first or choose another data folder"
            )
        os.ftruncate(owner, 0)
        os.pwrite(owner, str(os.getpid()).encode(), 0)
        # After a `kill -9` of the last owner its children need a moment to end: worth waiting for.
        deadline = time.monotonic() + 15
        while not _try_lock(children):
            if time.monotonic() > deadline:
                raise StackError(f"processes of a former local stack on {folder} still run: end them first")
            time.sleep(0.05)
    except BaseException:
        os.close(owner)
        os.close(children)
        raise
    return owner, children


def remove_abandoned() -> None:
    """Remove temporary data folders that a `kill -9` of their owners left behind. Those kept after an error stay."""
    for folder in Path(tempfile.gettempdir()).glob(f"{TEMPORARY_PREFIX}*"):
        with contextlib.suppress(OSError, StackError):
            # Not one that somebody is just about to lock, nor anything that is no data folder.
            age = time.time() - (folder / "lock-children").stat().st_mtime
            if age > 60 and (folder / "stack.json").is_file() and not (folder / KEPT).exists():
                locks = lock_folder(folder)
                shutil.rmtree(folder, ignore_errors=True)
                for lock in locks:
                    os.close(lock)


def remembered(folder: Path) -> tuple[dict[str, str], dict[str, int]]:
    """Reads the credentials and ports of the last start on a data folder; new credentials where there was none."""
    try:
        last = json.loads((folder / "stack.json").read_text())
        return dict(last["credentials"]), dict(last["ports"])
    except FileNotFoundError:
        key, secret = "LOCAL" + secrets.token_hex(8).upper(), secrets.token_hex(20)
        return {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}, {}
    except (ValueError, KeyError, TypeError) as error:
        raise StackError(
            f"{folder / 'stack.json'} is damaged ({error!r}): remove it; data stays, endpoints become new ones"
        ) from None


def remember(folder: Path, credentials: Mapping[str, str], ports: Mapping[str, int]) -> None:
    """Keeps credentials and ports beside the data written under them: an env file of the last start stays true."""
    kept = {name: port for name, port in ports.items() if not name.startswith("worker-")}
    text = json.dumps({"credentials": dict(credentials), "ports": kept}, indent=2)
    write_private(folder / "stack.json", text + "\n")


def remove_sockets(ports: Iterable[int]) -> None:
    """Removes the Unix sockets that SeaweedFS leaves behind."""
    for port in ports:
        for each in (port, port + GRPC_OFFSET):
            for leftover in Path("/tmp").glob(f"seaweedfs-*-{each}.sock"):
                leftover.unlink(missing_ok=True)


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step by one that only its owner can read. Its folder is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, private=True) as unfinished:
        unfinished.write_text(text)


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
