"""The answers that documents of the same content share: rows of another partition of the run, waited for if need be.

The plan, or a text's claim (`workers.partition.same_texts`), says in which partition such a document came first. While
that one is not committed, its ledger tells: what is asked about itself is asked first, so no partition waits for
another one's waiting. If the answer is not there after a while, this one yields its slot and comes again after the
others of its shard, twice; then it waits. Not for ever: if the other one has not come so far by then, the document is
asked about after all, which is correct, and merely paid twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from batch.corpus.duplicates import parse_reference
from batch.corpus.planning import PlannedDocument
from batch.files import result_file
from batch.files.kept_text import packed
from batch.files.ledger_segment import LedgerName
from batch.files.result_file import ERROR, OK, NotOurs
from batch.storage.layout import RunLayout
from batch.storage.store import Storage
from workers.documents.rows import Row
from workers.extract import suffix_of
from workers.llm.limits.waiting import sleep_unless
from workers.partition.ledger import read_ledger

NOT_BEGUN = 90.0
"""Seconds to wait for one that has no ledger yet. It lies before in the plan, so it is dispatched, or soon will be."""
LONGEST = 600.0
"""Seconds to wait in all. A partition whose ledger does not grow may wait for its turn in its process."""
BETWEEN = (1.5, 5.0)
"""Seconds to wait at the first dispatches of a partition, before it yields."""
POLL_FIRST, POLL_MOST = 0.5, 4.0
AT_ONCE = 8
"""Result files that are read at once."""

Content = tuple[str, str]
"""Etag and file name's suffix: bytes of the same etag are read in the same way if they have the same suffix."""
log = logging.getLogger(__name__)


def content_of(etag: str, uri: str) -> Content:
    return etag, suffix_of(uri)


def is_usable(row: Row) -> bool:
    """Whether others may share the row's answer: a good one, or an error that asking again would not mend."""
    return row["status"] == OK or (row["status"] == ERROR and not row["retryable"] and bool(row["attempts"]))


def usable(rows: Iterable[Row]) -> dict[Content, Row]:
    """Those with an answer that others may share, by their content."""
    found: dict[Content, Row] = {}
    for row in rows:
        if not is_usable(row):
            continue
        content = content_of(row["etag"], row["uri"])
        if content not in found or found[content].get("same_as") is not None:
            found[content] = row
    return found


@dataclass
class _Source:
    """A partition that is waited for."""

    documents: list[PlannedDocument]
    segments: int = 0


@dataclass(frozen=True)
class Found:
    """`rows`: those whose answers may be shared, by the id of the document that shares. Others have to be asked about,
    but not yet if `too_early`."""

    rows: dict[str, Row]
    too_early: bool


class SharedAnswers:
    """Finds them for the documents of one partition."""

    def __init__(self, storage: Storage, layout: RunLayout, name: LedgerName) -> None:
        """`name`: that of the partition's own ledger."""
        self._storage, self._layout, self._name = storage, layout, name
        self._yields = name.dispatch <= len(BETWEEN)
        self._longest = BETWEEN[name.dispatch - 1] if self._yields else LONGEST

    async def find(
        self, documents: Iterable[PlannedDocument], stopped: Callable[[], bool], waiting: Callable[[], Awaitable[None]]
    ) -> Found:
        """`waiting` is called once, before the first wait. Rows are as result files or ledgers have them.

        Raises `StorageError`.
        """
        by_place: defaultdict[tuple[int, int], list[PlannedDocument]] = defaultdict(list)
        for document in documents:
            assert document.same_as is not None
            by_place[parse_reference(document.same_as)].append(document)
        sources = {place: _Source(found) for place, found in by_place.items()}
        rows: dict[str, Row] = {}
        began, pause = time.monotonic(), 0.0
        while sources and not stopped():
            if pause == POLL_FIRST:
                await waiting()
            if pause and await sleep_unless(stopped, pause):
                break
            slots, waited = asyncio.Semaphore(AT_ONCE), time.monotonic() - began
            looks = (self._look(place, each, rows, slots, waited) for place, each in sources.items())
            ended = await asyncio.gather(*looks)
            sources = {place: each for (place, each), over in zip(sources.items(), ended, strict=True) if not over}
            if not sources or time.monotonic() - began >= self._longest:
                break
            pause = min(POLL_MOST, pause * 1.5) or POLL_FIRST
        return Found(rows, too_early=bool(sources) and self._yields)

    async def _look(
        self, place: tuple[int, int], source: _Source, rows: dict[str, Row], slots: asyncio.Semaphore, waited: float
    ) -> bool:
        """Takes the rows that a partition has. Tells whether there is nothing more to wait for, after `waited` s."""
        shard, partition = place
        async with slots:
            bucket = self._layout.output.bucket
            found = await self._storage.get_entry(bucket, self._layout.result(shard, partition))
            if found is not None:
                shared, is_whole = await asyncio.to_thread(_take, found[0], source.documents)
                rows |= shared
                if is_whole:
                    return True
                source.documents = [each for each in source.documents if each.document_id not in rows]
                if not source.documents:
                    return True
            segments = len(await self._storage.list_all(bucket, self._layout.ledger(partition)))
            if segments > source.segments:
                source.segments = segments
                ledger = await read_ledger(self._storage, self._layout, replace(self._name, partition=partition))
                rows |= _shared_with(source.documents, ledger.rows.values())
                settled = {content_of(row["etag"], row["uri"]) for row in ledger.rows.values()}
                source.documents = [
                    each
                    for each in source.documents
                    if each.document_id not in rows and content_of(each.etag, each.uri) not in settled
                ]
                if not source.documents:
                    return True
        if not segments and waited > NOT_BEGUN:
            log.info("not waiting any longer for partition %d, whose answers are shared", partition)
            return True
        return False


def _take(data: bytes, documents: list[PlannedDocument]) -> tuple[dict[str, Row], bool]:
    """The rows to share, and whether there come no more: a cancelled run's partial file is completed by its rerun."""
    try:
        table, footer = result_file.decode(data)
    except NotOurs as error:
        log.warning("documents are asked about themselves: %s", error)
        return {}, True
    wanted = pa.array(sorted({document.etag for document in documents}))
    rows = table.filter(pc.is_in(table.column("etag"), value_set=wanted)).to_pylist()
    return _shared_with(documents, map(packed, rows)), not footer.partial


def _shared_with(documents: list[PlannedDocument], rows: Iterable[Row]) -> dict[str, Row]:
    by_content = usable(rows)
    contents = ((document.document_id, content_of(document.etag, document.uri)) for document in documents)
    return {document_id: by_content[content] for document_id, content in contents if content in by_content}
