"""The first rows of an object, for a look at them before a run."""

from __future__ import annotations

from itertools import islice

from batch.job import Job
from batch.kinds import OBJECT, kind_of
from batch.layout import bucket_and_key
from batch.listing import is_addressable
from batch.places import Place
from batch.planning import PlannedDocument
from batch.store import Storage
from workers.sources import READERS
from workers.sources.documents import row_documents
from workers.sources.objects import SourceObject
from workers.sources.occurrences import Occurrences
from workers.sources.row import Wanted


def holds_rows(job: Job, document: PlannedDocument) -> bool:
    """Whether it is an object whose rows a run would ask about, not the object."""
    key = bucket_and_key(document.uri)[1]
    return not document.is_planned and kind_of(job.source, key) != OBJECT and is_addressable(key)


def first_rows(storage: Storage, job: Job, document: PlannedDocument, count: int) -> list[PlannedDocument]:
    """Up to `count` rows of an object, as a run plans them. Blocking. Raises `StorageError`."""
    bucket, key = bucket_and_key(document.uri)
    source = SourceObject(storage, bucket, storage.described(bucket, key))
    rows = READERS[kind_of(job.source, key)](source, Wanted.of(job), Place())
    seen = Occurrences()
    try:
        return [found for found, _ in islice(row_documents(source, rows, seen), count)]
    finally:
        seen.close()
