"""The simulated provider's Files API: what clients upload for batches, and what batches leave for them.

Shapes, limits and errors are OpenAI's (https://platform.openai.com/docs/api-reference/files). Contents lie in a
temporary folder.
"""

import hashlib
import itertools
import shutil
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import BodyPartReader
from aiohttp.web import BaseRequest

from batch.local.simulator.refusals import Refused, invalid

MOST_BYTES = 200_000_000


@dataclass
class File:
    """A file that stands, or stood."""

    id: str
    name: str
    purpose: str
    path: Path
    size: int
    created_at: int = field(default_factory=lambda: int(time.time()))

    def shown(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.size,
            "created_at": self.created_at,
            "expires_at": self.created_at + 30 * 86_400,
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


class Files:
    """All files, by their ids."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._files: dict[str, File] = {}
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._files)

    def close(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def get(self, identifier: str) -> File | None:
        return self._files.get(identifier)

    def find(self, identifier: str) -> File:
        """Raises `Refused`."""
        file = self._files.get(identifier)
        if file is None:
            raise Refused("not_found", message=f"No such File object: {identifier}", param="id")
        return file

    def newest_first(self, purpose: str | None) -> list[File]:
        return [file for file in reversed(self._files.values()) if purpose in (None, file.purpose)]

    async def upload(self, request: BaseRequest) -> File:
        """Takes a multipart upload. Raises `Refused`."""
        if not request.content_type.startswith("multipart/"):
            raise invalid("Expected multipart/form-data.")
        identifier, path = self._place()
        name, purpose, size = "", "", 0
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader):
                continue
            if part.name == "purpose":
                purpose = (await part.read()).decode(errors="replace")
            elif part.name == "file":
                name = part.filename or "upload"
                with path.open("wb") as written:
                    while chunk := await part.read_chunk(2**18):
                        size += len(chunk)
                        written.write(chunk)
        problem = None
        if not name:
            problem = invalid("'file' is a required property", "file")
        elif purpose != "batch":
            problem = invalid(f"'{purpose}' is not one of ['batch'] - 'purpose'", "purpose")
        elif not size:
            problem = invalid("File is empty.", "file")
        elif size > MOST_BYTES:
            problem = invalid("File is too large.")
        if problem is not None:
            path.unlink(missing_ok=True)
            raise problem
        file = self._files[identifier] = File(identifier, name, purpose, path, size)
        return file

    def write(self, name: str, content: bytes) -> str:
        """Makes a file of the provider's own; returns its id."""
        identifier, path = self._place()
        path.write_bytes(content)
        self._files[identifier] = File(identifier, name, "batch_output", path, len(content))
        return identifier

    def delete(self, file: File, *, in_use: Collection[str]) -> None:
        """`in_use`: files whose content somebody still reads."""
        del self._files[file.id]
        if file.id not in in_use:
            file.path.unlink()

    def _place(self) -> tuple[str, Path]:
        """Returns a new id and where its content goes."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="simulated-provider-"))
        number = hashlib.blake2b(b"%d/%d" % (id(self), next(self._numbers)), digest_size=12).hexdigest()
        return f"file-{number}", self._folder / number
