"""The first rows of an object, for a look at them before a run."""

from __future__ import annotations

from itertools import islice

from batch.corpus.cursor import Place
from batch.corpus.planning import PlannedDocument
from batch.job.formats import JSONL, OBJECT, kind_of, may_be_jsonl
from batch.job.job import Job
from batch.storage.layout import bucket_and_key
from batch.storage.listing import ObjectEntry, is_addressable
from batch.storage.store import ObjectArchived, ObjectMissing, Storage, StorageRefused
from workers.sources import READERS
from workers.sources.documents import Occurrences, row_documents
from workers.sources.json_layout import holds_json_lines
from workers.sources.objects import SourceObject
from workers.sources.row import Wanted


def holds_rows(storage: Storage, job: Job, document: PlannedDocument) -> bool:
    """Whether it is an object whose rows a run would ask about, not the object. Blocking. Raises `StorageError`."""
    key = bucket_and_key(document.uri)[1]
    if document.is_planned or not is_addressable(key):
        return False
    if may_be_jsonl(job.source, key):
        try:
            return holds_json_lines(_object(storage, document))
        except (ObjectArchived, ObjectMissing, StorageRefused):  # who reads it as a document says so
            return False
    return kind_of(job.source, key) != OBJECT


def first_rows(storage: Storage, job: Job, document: PlannedDocument, count: int) -> list[PlannedDocument]:
    """Up to `count` rows of an object, as a run plans them. Blocking. Raises `StorageError`."""
    source = _object(storage, document)
    kind = kind_of(job.source, source.key)
    rows = READERS[JSONL if kind == OBJECT else kind](source, Wanted.of(job).within(source.key), Place())
    seen = Occurrences()
    try:
        return [found for found, _ in islice(row_documents(source, rows, seen), count)]
    finally:
        seen.close()


def _object(storage: Storage, document: PlannedDocument) -> SourceObject:
    bucket, key = bucket_and_key(document.uri)
    try:
        return SourceObject(storage, bucket, storage.described(bucket, key))
    except ObjectMissing:  # who reads it says so
        return SourceObject(storage, bucket, ObjectEntry(key, document.size, document.etag))
