"""The documents' keys of a job's source, in the one order that all planning relies on.

They are listed, prefix after prefix in the order in which the server would list them all; or its manifest names them.
So a cursor, which is a key, says by itself where to go on.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from functools import partial
from typing import TypeVar

from batch.corpus.hidden import Selection
from batch.corpus.key_list import NamedKey, SourceManifest, changed, gone
from batch.job.formats import OBJECT, kind_of, may_be_jsonl
from batch.job.source import Source
from batch.schema.error_types import ErrorType
from batch.storage.etags import bare
from batch.storage.layout import object_uri, parse_object_uri, place_of
from batch.storage.listing import ObjectEntry, is_addressable
from batch.storage.store import Storage, StorageRefused

Named = TypeVar("Named", ObjectEntry, NamedKey)

HEADS_AT_ONCE = 64
"""Objects that are asked for their size and etag at once, where the manifest does not say."""


class SourceKeys:
    """Of a run's source, whose dates are filled in. `seen`: how many keys were looked at, documents or not.

    `left_out`: how many of them are none by a rule of `batch.corpus.hidden`. `left_out_of_page` has those of the page
    that came last: before which of its entries each stood, and its rule.
    """

    def __init__(
        self, storage: Storage, source: Source, *, manifest_etag: str = "", leave_refused: bool = False
    ) -> None:
        """`manifest_etag`: the version of the manifest that is read, by default the one that is there.

        `leave_refused`: an object of rows that may not be asked for has a `problem` instead of raising.
        """
        self._storage, self._source, self._etag = storage, source, manifest_etag
        self._leave_refused = leave_refused
        self.prefixes = source.prefixes
        if source.requester_pays:
            storage.pay_for(self.prefixes.bucket)
        self.selects = Selection(source)
        self.seen = 0
        self.left_out = Counter[str]()
        self.left_out_of_page: list[tuple[int, str]] = []

    async def by_folders(self) -> bool:
        """Tells whether the keys come as a server gives them that lists by folders (see `Storage.lists_by_folders`)."""
        return self._source.manifest is None and await self._storage.lists_by_folders(self.prefixes.bucket)

    async def documents(self, *, after: str = "") -> AsyncGenerator[list[ObjectEntry], None]:
        """Pages of the documents' objects after the key `after`; some are empty.

        What a manifest names and is not there has a `problem`, and no etag unless the manifest says one. Raises
        `StorageError`, `ManifestBroken`.
        """
        if self._source.manifest is not None:
            async with aclosing(self.named(after=after)) as pages:
                async for named in pages:
                    yield await self.entries_of(named)
            return
        for place, start in await self._stretches(after):
            if place in self.prefixes.objects:
                yield self._selected_of(await self._object(place))
                continue
            async with aclosing(self._storage.source_pages(self.prefixes.bucket, place, after=start)) as pages:
                async for page in pages:
                    yield self._selected_of(page)

    async def _object(self, key: str) -> list[ObjectEntry]:
        """Returns the object that source.uri names without a slash, if there is one; of no bytes, it marks a folder."""
        try:
            entry = await self._storage.head(self.prefixes.bucket, key)
        except StorageRefused:  # S3's answer, too, for what is not there, to those who may not list; else it is listed
            entry = await self._storage.listed(self.prefixes.bucket, key)
        return [entry] if entry is not None and entry.size else []

    def _selected_of(self, page: list[Named]) -> list[Named]:
        """Returns those of a page that are documents."""
        self.seen += len(page)
        selected: list[Named] = []
        self.left_out_of_page = []
        for each in page:
            if self.selects(each.key):
                selected.append(each)
            elif (rule := self.selects.left_out_by(each.key)) is not None:
                self.left_out[rule] += 1
                self.left_out_of_page.append((len(selected), rule))
        return selected

    async def _stretches(self, after: str) -> list[tuple[str, str]]:
        """Prefixes and objects in order, each with the key after which to list it; those before `after` are done."""
        places = [*self.prefixes.prefixes, *self.prefixes.objects]
        if len(places) > 1:
            places.sort(key=partial(place_of, by_folders=await self.by_folders()))
        if not after:
            return [(place, "") for place in places]
        if after in self.prefixes.objects:
            return [(place, "") for place in places[places.index(after) + 1 :]]
        current = self.prefixes.prefix_of(after)
        if current is None:
            raise ValueError(f"the cursor {after!r} does not lie under source.uri {self.prefixes}")
        return [(current, after), *((place, "") for place in places[places.index(current) + 1 :])]

    async def named(self, *, after: str = "") -> AsyncGenerator[list[NamedKey], None]:
        """Pages of the documents' keys that the manifest names. Raises `StorageError`, `ManifestBroken`."""
        manifest = await self.manifest()
        async with aclosing(self._selected(manifest.pages(after=after))) as pages:
            async for page in pages:
                yield page

    async def sample_named(self, most: int) -> AsyncGenerator[list[NamedKey], None]:
        """About `most` of them, from all over the manifest."""
        manifest = await self.manifest()
        async with aclosing(self._selected(manifest.sample_pages(most))) as pages:
            async for page in pages:
                yield page

    async def _selected(self, pages: Iterator[list[NamedKey]]) -> AsyncGenerator[list[NamedKey], None]:
        while (page := await asyncio.to_thread(next, pages, None)) is not None:
            yield self._selected_of(page)

    async def find_named(self, key: str) -> NamedKey | None:
        """Returns what the manifest says of a key; None: it does not name it."""
        manifest = await self.manifest()
        nothing: list[NamedKey] = []
        page = await asyncio.to_thread(next, manifest.pages(after=key, including=True), nothing)
        return page[0] if page and page[0].key == key else None

    async def manifest(self) -> SourceManifest:
        """Returns the manifest as it is, or as the run found it. Raises `ManifestBroken`."""
        assert self._source.manifest is not None
        bucket, key = parse_object_uri(self._source.manifest, where="source.manifest")
        entry = await self._storage.head(bucket, key)
        if entry is None:
            raise gone(self._source.manifest)
        if self._etag and entry.etag != self._etag:
            raise changed(self._source.manifest)
        return SourceManifest(self._storage, bucket, entry, self.prefixes)

    async def entries_of(self, named: list[NamedKey]) -> list[ObjectEntry]:
        """Returns the objects of keys, with their sizes and etags: asked for where the manifest does not say."""
        slots = asyncio.Semaphore(HEADS_AT_ONCE)
        entries = [self._told(each) for each in named]

        async def ask(at: int) -> None:
            async with slots:
                entries[at] = await self._ask(named[at])

        await asyncio.gather(*(ask(at) for at, entry in enumerate(entries) if entry is None))
        return [entry for entry in entries if entry is not None]

    def _told(self, named: NamedKey) -> ObjectEntry | None:
        """Returns the object as the manifest describes it; None: it has to be asked for.

        Rows are read by the size of their object, and one that is wrong would cut some off.
        """
        key, size, etag = named
        if not is_addressable(key):
            return ObjectEntry(key, size or 0, etag or "")
        if size is None or not etag or kind_of(self._source, key) != OBJECT or may_be_jsonl(self._source, key):
            return None
        return ObjectEntry(key, size, etag)

    async def _ask(self, named: NamedKey) -> ObjectEntry:
        key, size, etag = named
        uri = object_uri(self.prefixes.bucket, key)
        try:
            found = await self._storage.head(self.prefixes.bucket, key)
        except StorageRefused as error:
            if kind_of(self._source, key) == OBJECT:
                return ObjectEntry(key, size or 0, etag or "")  # who reads it finds out whether others may be read
            if not self._leave_refused:
                raise
            return ObjectEntry(key, size or 0, etag or "", f"{ErrorType.OBJECT_REFUSED}: {error}")
        if found is None:
            problem = f"{ErrorType.OBJECT_GONE}: {uri}, which the manifest names, was not there when the plan was made"
            return ObjectEntry(key, size or 0, etag or "", problem)
        if etag and bare(etag) != bare(found.etag):
            problem = f"{uri} was not the version that the manifest names when the plan was made"
            return ObjectEntry(key, found.size, etag, f"{ErrorType.OBJECT_CHANGED}: {problem}")
        return found
