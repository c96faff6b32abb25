"""Documents of a job's source to look at before a run: some from all over it, those named, or a weighed sample."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from batch.client.checks import CheckFailed
from batch.corpus.key_list import NamedKey
from batch.corpus.keys import SourceKeys
from batch.corpus.planning import PlannedDocument
from batch.corpus.spread import Spread, evenly
from batch.job.formats import OBJECT, kind_of
from batch.job.job import Job
from batch.previews.probing import probe
from batch.storage.layout import S3Uri, object_uri
from batch.storage.listing import ObjectEntry
from batch.storage.store import Storage

LISTED = 50_000
"""Keys of the source that are listed to spread a few documents over them: seconds. One with more is probed."""
CANDIDATES = 4
"""Places that are probed for each document that is wanted."""
PROBES_FIRST, PROBES_EACH = 60, 12
"""Listings of a probe at most, and more for each document; each gives PROBE_PAGE keys."""
PROBE_PAGE = 20
SPREAD_AMONG = 16
"""Documents at least, for each that is wanted, out of which they are picked at even distances."""


@dataclass(frozen=True)
class Picked:
    """A document, and how many of the corpus it stands for."""

    document: PlannedDocument
    weight: int = 1


@dataclass
class Corpus:
    """What a listing of the whole source found."""

    documents: int = 0
    bytes: int = 0
    too_large: int = 0
    """Documents past `source.max_document_bytes`, which are in neither count."""
    sample: list[Picked] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    """Keys that are no documents, by the rule (`batch.corpus.hidden`)."""


@dataclass(frozen=True)
class Few:
    """Some documents from all over a source. `listed` keys were looked through; `whole`: there are no more."""

    documents: list[PlannedDocument]
    listed: int
    whole: bool


async def spread_over_source(storage: Storage, job: Job, count: int) -> Few:
    """`count` documents from all over the source, at a cost that does not grow with it.

    Up to LISTED keys: at even distances among all documents. A larger source is probed (see `batch.previews.probing`),
    so that the documents are spread over its names, in no known proportion.
    """
    keys = SourceKeys(storage, job.source)
    bucket = keys.prefixes.bucket
    if job.source.manifest is not None:
        return await _spread_over_manifest(keys, count, _chance(job))
    spread = Spread[PlannedDocument](max(count * SPREAD_AMONG, 256), _chance(job))
    async with aclosing(keys.documents()) as pages:
        async for page in pages:
            for entry in page:
                spread.add(PlannedDocument.of(bucket, entry))
            if keys.seen >= LISTED:
                break
    first = [document for document, _ in spread.taken()]
    if keys.seen < LISTED:
        return Few(evenly(first, count), keys.seen, whole=True)
    found: list[list[ObjectEntry]] = []
    places = evenly(keys.prefixes.places, count)
    for place in places:
        found += await _probed(storage, place, count, len(places))
    selected = (next((entry for entry in entries if keys.selects(entry.key)), None) for entries in found)
    probed = {entry.key: PlannedDocument.of(bucket, entry) for entry in selected if entry is not None}
    if len(probed) < count:
        probed |= {document.document_id: document for document in evenly(first, count - len(probed))}
    return Few(evenly([probed[key] for key in sorted(probed)], count), keys.seen, whole=False)


async def _probed(storage: Storage, place: S3Uri, count: int, places: int) -> list[list[ObjectEntry]]:
    """Returns what lies under one of `places` prefixes that share the probes of `count` documents."""

    async def after(key: str) -> list[ObjectEntry]:
        pages = storage.source_pages(place.bucket, place.prefix, after=key, page_size=PROBE_PAGE)
        async with aclosing(pages) as pages:
            return await anext(pages, [])

    wanted, most = count * CANDIDATES, PROBES_FIRST + count * PROBES_EACH
    return await probe(
        after, low=place.prefix, prefix=place.prefix, wanted=-(-wanted // places), most=-(-most // places)
    )


async def _spread_over_manifest(keys: SourceKeys, count: int, chance: random.Random) -> Few:
    """`count` of the documents that the manifest names; where those are more than LISTED, of some of its stretches."""
    whole = await asyncio.to_thread((await keys.manifest()).rows) <= LISTED
    spread = Spread[NamedKey](max(count * SPREAD_AMONG, 256), chance)
    async with aclosing(keys.named() if whole else keys.sample_named(LISTED)) as pages:
        async for page in pages:
            for named in page:
                spread.add(named)
    entries = await keys.entries_of(evenly([named for named, _ in spread.taken()], count))
    return Few([PlannedDocument.of(keys.prefixes.bucket, entry) for entry in entries], keys.seen, whole)


async def named_documents(storage: Storage, job: Job, names: Sequence[str]) -> list[PlannedDocument]:
    """The documents of these ids or `s3://` URIs. Raises `CheckFailed` for one that a run of the job would not have."""
    keys = SourceKeys(storage, job.source)
    bucket = keys.prefixes.bucket
    found: dict[str, PlannedDocument] = {}
    for name in names:
        key = name.removeprefix(f"s3://{bucket}/")
        if keys.prefixes.prefix_of(key) is None:
            raise CheckFailed(
                f"document {name!r} does not lie under source.uri {keys.prefixes}; name its key or its URI"
            )
        if (rule := keys.selects.left_out_by(key)) is not None:
            raise CheckFailed(f"document {name!r} is left out as one of {rule}; source.hidden: true takes it")
        if not keys.selects(key):
            raise CheckFailed(
                f"document {name!r} is left out by source.include {job.source.include} and source.exclude "
                f"{job.source.exclude}"
            )
        entries: list[ObjectEntry]
        if job.source.manifest is not None:
            named = await keys.find_named(key)
            if named is None:
                raise CheckFailed(f"document {name!r}: source.manifest {job.source.manifest} does not name it")
            entries = await keys.entries_of([named])
        else:
            async with aclosing(storage.source_pages(bucket, key, page_size=1)) as pages:
                entries = await anext(pages, [])
        if not entries or entries[0].key != key:
            raise CheckFailed(f"document {name!r}: there is no object {object_uri(bucket, key)}")
        found[key] = PlannedDocument.of(bucket, entries[0])
    return list(found.values())


async def sample_of_source(
    storage: Storage, job: Job, most: int, *, on_progress: Callable[[Corpus], None] | None = None
) -> Corpus:
    """Lists the whole source and keeps a sample of at most `most` documents, spread over all of it.

    Raises `CheckFailed` for a source of rows: how many there are nobody knows without reading it all.

    Args:
        on_progress: called with the counts so far after each page of the listing.
    """
    keys = SourceKeys(storage, job.source)
    bucket = keys.prefixes.bucket
    corpus, spread = Corpus(), Spread[PlannedDocument](most, _chance(job))
    async with aclosing(keys.documents()) as pages:
        async for page in pages:
            for entry in page:
                if kind_of(job.source, entry.key) != OBJECT:
                    raise CheckFailed(
                        f"source.uri: {object_uri(bucket, entry.key)} holds rows, which an estimate does not "
                        "count yet; `docbatch preview` asks about a few of them, source.exclude leaves such objects out"
                    )
                if entry.size > job.source.max_document_bytes:
                    corpus.too_large += 1
                    continue
                corpus.documents += 1
                corpus.bytes += entry.size
                spread.add(PlannedDocument.of(bucket, entry))
            if on_progress is not None:
                on_progress(corpus)
    corpus.left_out = dict(keys.left_out)
    corpus.sample = [Picked(document, weight) for document, weight in spread.taken()]
    return corpus


def _chance(job: Job) -> random.Random:
    """Returns the same for the same job: who looks twice sees the same documents, unless the source has changed."""
    return random.Random(job.fingerprint)
