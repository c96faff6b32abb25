"""A storage of some keys, and what a source lists of it."""

from __future__ import annotations

from contextlib import aclosing

from batch.corpus.keys import SourceKeys
from batch.job.job import Source
from tests.memory_storage import MemoryStorage


def memory_of(keys: list[str], *, by_folders: bool = False) -> MemoryStorage:
    memory = MemoryStorage(by_folders=by_folders)
    memory.objects = {key: f"text of {key}".encode() for key in keys}
    return memory


async def listed(memory: MemoryStorage, source: Source, after: str = "", etag: str = "") -> list[str]:
    keys = SourceKeys(memory, source, manifest_etag=etag)
    async with aclosing(keys.documents(after=after)) as pages:
        return [entry.key async for page in pages for entry in page]
