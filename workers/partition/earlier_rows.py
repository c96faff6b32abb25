"""Rows of the result files that the job's last run left, a few files at a time."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from batch.corpus.planning import UNCHANGED, PlannedDocument
from batch.files import result_file
from batch.files.kept_text import packed
from batch.files.result_file import ERROR, NotOurs
from batch.storage.layout import bucket_and_key
from batch.storage.store import ObjectMissing, Storage
from workers.documents.rows import Row

KEPT = 2
"""Files whose rows are held: neighbours of a plan are neighbours in the last one too."""

log = logging.getLogger(__name__)


class EarlierRows:
    """Reads each file once while its documents come one after the other."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._files: dict[str, asyncio.Task[dict[str, Row]]] = {}

    async def unchanged(self, document: PlannedDocument, fingerprint: str) -> Row | None:
        """The row of a document that did not change since, if there is one that still holds."""
        if document.reason != UNCHANGED:
            return None
        row = await self.answered(document, fingerprint)
        return row if row is not None and row["etag"] == document.etag else None

    async def answered(self, document: PlannedDocument, fingerprint: str) -> Row | None:
        """The last row of a document, if the same was asked, and it is no error that may pass or that cost nothing."""
        assert document.previous is not None
        row = (await self._rows(document.previous)).get(document.document_id)
        if row is None or row["fingerprint"] != fingerprint:
            return None
        for_nothing = not row["attempts"] and not row.get("same_as")
        return None if row["status"] == ERROR and (row["retryable"] or for_nothing) else row

    async def _rows(self, uri: str) -> dict[str, Row]:
        """Of the result file at `uri`, by document; empty where there is none any more. Raises `StorageError`."""
        reading = self._files.get(uri)
        if reading is None or (reading.done() and (reading.cancelled() or reading.exception() is not None)):
            while len(self._files) >= KEPT:
                del self._files[next(iter(self._files))]
            reading = self._files[uri] = asyncio.create_task(self._read(uri))
        return await asyncio.shield(reading)

    async def _read(self, uri: str) -> dict[str, Row]:
        try:
            return await asyncio.to_thread(_decode, await self._storage.get(*bucket_and_key(uri)))
        except (ObjectMissing, NotOurs) as error:
            log.warning("its documents are asked about again: %s", error)
            return {}


def _decode(data: bytes) -> dict[str, Any]:
    table, _ = result_file.decode(data)
    return {row["document_id"]: packed(row) for row in table.to_pylist()}
