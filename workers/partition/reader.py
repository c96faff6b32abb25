"""A partition's documents as they are read: whether each is the version that was listed, and what its text is.

The listed etag is a hint. A server may ignore it as a condition, give another one in a listing than in a GET, give the
same to all objects, or none; its listing may have another size than the object. So what came is held against what was
listed, and where neither proves anything the listing is asked once more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from batch.corpus.planning import PlannedDocument
from batch.files.kept_text import pack
from batch.schema.error_types import ErrorType
from batch.storage.etags import bare, content_hash, is_hash_of, proves, same_form
from batch.storage.layout import bucket_and_key
from batch.storage.listing import ObjectEntry
from batch.storage.store import ObjectArchived, PreconditionFailed, Storage, StorageError, StorageRefused
from batch.workflows import contracts as c
from batch.workflows.states import Reason
from workers.documents.reading import check_key, check_pages, check_size, planned_text, reading
from workers.documents.rows import Row, carried
from workers.extract import Unreadable
from workers.partition.answered import Answered
from workers.partition.attempt_stop import AttemptStop, Stopped, reason_of
from workers.partition.earlier_rows import EarlierRows
from workers.partition.runs import ActiveRun
from workers.partition.same_texts import SameText, TextClaims

BURST = 32
BURST_BYTES = 2**20
"""Documents, and bytes of them, that are fetched at one go: half the CPU of fetching them one by one (measured)."""
SOURCE_OUTAGE_AFTER, SOURCE_REFUSED_AFTER = 60.0, 5.0
"""Seconds that a document is tried again whose source does not answer, or refuses, before anything is concluded."""
PAYER_HINT = " (of a requester pays bucket: source.requester_pays: true)"
LARGE = 2**20
"""Bytes whose hash takes as long (some 2 ms) as the event loop may wait."""
Found = bytes | ObjectArchived | None
"""What a burst brought of a document: None where it has to be looked at by itself."""
T = TypeVar("T")
log = logging.getLogger(__name__)


class Unchanged(Exception):
    """The job's last run answered this very content: `row` is that answer as a row of this run."""

    def __init__(self, row: Row) -> None:
        super().__init__(row["document_id"])
        self.row = row


class DocumentReader:
    """Reads the documents of one partition for one attempt, and tells which of them need not be asked about."""

    def __init__(
        self, storage: Storage, run: ActiveRun, task: c.PartitionInput, stop: AttemptStop, answered: Answered
    ) -> None:
        self._storage, self._run, self._stop, self._answered = storage, run, stop, answered
        self._first = task.generation == 1
        self._source = run.file.job.source
        self._earlier = EarlierRows(storage)
        share_texts = self._source.duplicates == "text"
        self._claims = TextClaims(storage, run.layout, task.shard, task.partition) if share_texts else None
        self.likes: dict[str, tuple[PlannedDocument, str]] = {}
        """Of documents whose text another one asks about: themselves, with that one's content and place, and the etag
        of their own version that has the text."""
        self.by_themselves: set[str] = set()
        """Documents that are asked about although another one has their content: they failed before, in a rerun, or
        it has no answer to share."""

    def may_share(self, document: PlannedDocument) -> bool:
        """Whether the plan knows another document of the same content, whose answer this one waits for."""
        return document.same_as is not None and document.document_id not in self.by_themselves

    def groups(self, documents: list[PlannedDocument]) -> list[tuple[list[PlannedDocument], list[int]]]:
        """Neighbours that are fetched together, with the bytes that each takes: at most BURST, and at most BURST_BYTES
        unless it is one alone."""
        groups: list[tuple[list[PlannedDocument], list[int]]] = []
        for document in documents:
            size = min(document.size, self._source.max_document_bytes)
            if not groups or len(groups[-1][0]) == BURST or sum(groups[-1][1]) + size > BURST_BYTES:
                groups.append(([], []))
            groups[-1][0].append(document)
            groups[-1][1].append(size)
        return groups

    async def carry(self, documents: list[PlannedDocument]) -> None:
        """Copies the rows of documents that did not change from the result files of the job's last run.

        A file that is gone, or lacks a row, costs nothing but the question.
        """
        for document in documents:
            if document.document_id not in self._answered.rows:
                row = await self._earlier.unchanged(document, self._run.fingerprint)
                if row is not None and self._answered.keeps(row):
                    self._answered.keep(carried(row, self._answered.maker, document))

    async def burst(self, group: list[PlannedDocument]) -> list[Found]:
        """The group's objects as planned; None for each that `fetch` has to look at by itself."""
        data_of: list[Found] = [None] * len(group)
        places = [place for place, document in enumerate(group) if not document.is_planned and document.etag]
        if len(places) < 2 or not self._first:
            return data_of
        bucket, _ = bucket_and_key(group[0].uri)
        facts = self._storage.facts(bucket)
        if facts.other_etags or facts.plain_reads:
            return data_of
        planned = [group[place] for place in places]
        wanted = [ObjectEntry(bucket_and_key(each.uri)[1], each.size, each.etag) for each in planned]
        found = await self._storage.get_many(bucket, wanted, max_bytes=self._source.max_document_bytes)
        read = next((entry for entry, data in zip(wanted, found, strict=True) if data is not None), None)
        if read is not None:
            self._run.reads.note(bucket, read.key)
        for place, data in zip(places, found, strict=True):
            data_of[place] = data
        return data_of

    async def fetch(self, document: PlannedDocument) -> tuple[bytes, str]:
        """The planned version of the object; in a rerun, or where the plan has none, the current one.

        An unreachable source never makes a row. Raises `Unreadable`, `Stopped`.
        """
        reads = self._run.reads
        bucket, key = bucket_and_key(document.uri)
        limit = self._source.max_document_bytes
        check_size(document, limit)
        failing_since: float | None = None
        pause = 0.5
        while True:
            if self._stop.must():
                raise Stopped
            try:
                with reading(document):
                    if self._first:
                        read = await read_planned(self._storage, document, limit=limit)
                        reads.note(bucket, key)
                        return read
                    found = await self._storage.get_entry(bucket, key, max_bytes=limit)
                if found is None:
                    raise Unreadable(ErrorType.SOURCE_GONE, f"{document.uri} is gone")
                reads.note(bucket, key)
                return found[0], found[1].etag
            except StorageError as error:
                failing_since = failing_since or time.monotonic()
                refused = isinstance(error, StorageRefused)
                patience = SOURCE_REFUSED_AFTER if refused else SOURCE_OUTAGE_AFTER
                if time.monotonic() - failing_since > patience:
                    reason = Reason.SOURCE_REFUSED if refused else Reason.STORAGE_UNREACHABLE
                    if await reads.others_work(self._storage, failing_since):
                        word = ErrorType.SOURCE_REFUSED if refused else ErrorType.SOURCE_UNREACHABLE
                        raise Unreadable(word, str(error)) from None
                    hint = PAYER_HINT if refused and not self._source.requester_pays else ""
                    self._stop.because(reason, f"{str(error)[:400]}{hint}")
                    raise Stopped from None
                await self._run.brakes.wait_stopped(pause)
                pause = min(pause * 2, 5.0)

    async def text(self, document: PlannedDocument, found: Found) -> tuple[str, str]:
        """The text to ask about, and the etag of the version that has it; `found`: what a burst brought of it.

        Raises `Unreadable`, `Unchanged`, `SameText`, `Stopped`.
        """
        etag, text, proven = document.etag, planned_text(document), True
        if text is None:
            check_key(document)
            if isinstance(found, ObjectArchived):
                raise Unreadable(ErrorType.ARCHIVED, str(found))
            data, etag = (found, document.etag) if found is not None else await self.fetch(document)
            if self._run.file.job.incremental:
                await self._check_unchanged(document, data, etag)
            extracted = await self._run.extractors.text_of(document.uri, data, html=self._source.html)
            if extracted.pages is not None:
                self._answered.columns[document.document_id] |= extracted.counts
            check_pages(extracted, self._source.min_text_pages)
            text = extracted.text
            proven = self._claims is not None and await hashed(proves, data, etag, data)
        if self._claims is not None and proven and document.document_id not in self.by_themselves:
            try:
                await self._claims.claim(document, etag, text)
            except SameText as same:
                self.likes[document.document_id] = same.like, same.etag
                raise
        if self._run.file.job.output.keep_text:
            self._answered.columns[document.document_id]["text"] = await asyncio.to_thread(pack, text)
        return text, etag

    async def _check_unchanged(self, document: PlannedDocument, data: bytes, etag: str) -> None:
        """Raises `Unchanged` for a document whose content is the same, whatever its etag; `Stopped`.

        `etag`: of the version that was read, which its row has.
        """
        found = await hashed(content_hash, data, data, etag)
        self._answered.columns[document.document_id]["content_hash"] = found
        if document.previous is not None and await hashed(is_hash_of, data, document.content_hash, data):
            try:
                row = await self._earlier.answered(document, self._run.fingerprint)
            except StorageError as error:
                self._stop.because(reason_of(error), str(error))
                raise Stopped from None
            same = row is not None and await hashed(is_hash_of, data, row["content_hash"], data)
            if row is not None and same and self._answered.keeps(row):
                raise Unchanged(carried({**row, "content_hash": found}, self._answered.maker, document))


async def hashed(function: Callable[..., T], data: bytes, *arguments: object) -> T:
    """What a function that hashes `data` gives for the arguments; in a thread where there is much of it."""
    return function(*arguments) if len(data) <= LARGE else await asyncio.to_thread(function, *arguments)


async def read_planned(storage: Storage, document: PlannedDocument, *, limit: int) -> tuple[bytes, str]:
    """The planned version of the document's object, and the etag that its row has.

    Raises `Unreadable` (`source_changed`) for another version, or what may be one; else `StorageError`.
    """
    bucket, key = bucket_and_key(document.uri)
    wanted, facts = document.etag, storage.facts(bucket)
    condition = "" if facts.other_etags else wanted
    try:
        data, found = await storage.get_version(bucket, key, etag=condition, max_bytes=limit)
    except PreconditionFailed:
        data, found = await storage.get_version(bucket, key, max_bytes=limit)
    if await hashed(proves, data, wanted, data):
        return data, wanted
    changed = wanted and found.etag and bare(found.etag) != bare(wanted) and same_form(found.etag, wanted)
    if changed:
        raise Unreadable(ErrorType.SOURCE_CHANGED, f"{document.uri} changed after it was listed")
    if len(data) != document.size:
        raise Unreadable(ErrorType.SOURCE_CHANGED, await _other_size(storage, document, found, len(data)))
    if not wanted:
        return data, found.etag
    if bare(found.etag) == bare(wanted):
        return data, wanted
    listed = await storage.listed(bucket, key)
    if listed is None or listed.etag != wanted or listed.size != document.size:
        raise Unreadable(ErrorType.SOURCE_CHANGED, f"{document.uri} changed after it was listed")
    if not facts.other_etags:
        facts.other_etags = True
        log.warning(
            "s3://%s lists %s with the etag %s and gives it with %s: versions are told by size and by the listing",
            bucket,
            key,
            wanted,
            found.etag or "none",
        )
    return data, wanted


async def _other_size(storage: Storage, document: PlannedDocument, found: ObjectEntry, size: int) -> str:
    """What to say of an object that has another size than was listed."""
    listed = await storage.listed(*bucket_and_key(document.uri))
    if listed is None or (listed.etag, listed.size) != (document.etag, document.size):
        return f"{document.uri} changed after it was listed"
    return (
        f"{document.uri} is listed with {document.size:,} bytes and the etag {document.etag or 'none'}, and has "
        f"{size:,} bytes and the etag {found.etag or 'none'}: which version this is cannot be told"
    )
