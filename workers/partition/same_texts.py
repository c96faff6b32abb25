"""Documents of the same text, where a job wants them to be asked about once: whoever claims a text first asks about it.

What the text of an object is shows only when it is read, so no plan can tell. A claim is a small object of the run,
written only if there is none yet; it names the document that asks, and the partition whose ledger has the answer.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import orjson

from batch.corpus.duplicates import reference
from batch.corpus.planning import PlannedDocument
from batch.storage.compare_and_set import compare_and_set
from batch.storage.layout import RunLayout
from batch.storage.store import Storage


class SameText(Exception):
    """Another document asks about this text: `like` is this one, with the etag, the URI and the place of that.

    `etag`: of the version of this one that has the text.
    """

    def __init__(self, like: PlannedDocument, etag: str) -> None:
        super().__init__(like.document_id)
        self.like, self.etag = like, etag


class TextClaims:
    """The claims of one partition's documents. A claim stays: the document's next attempt finds its own."""

    def __init__(self, storage: Storage, layout: RunLayout, shard: int, partition: int) -> None:
        self._storage, self._layout = storage, layout
        self._here = reference(shard, partition)

    async def claim(self, document: PlannedDocument, etag: str, text: str) -> None:
        """Returns if it is for this document to ask. `etag`: of the version that was read.

        It must tell contents apart, as one does that is the MD5 of its own: the other's answer is known again by it.
        Raises `SameText` if another one asks, `StorageError` if it cannot be found out.
        """
        bucket = self._layout.output.bucket
        key = self._layout.text(hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest())
        own = {"document_id": document.document_id, "uri": document.uri, "etag": etag, "same_as": self._here}
        standing = await compare_and_set(self._storage, bucket, key, orjson.dumps(own), over=None)
        owner = orjson.loads(standing.data) if standing.data is not None else own
        if owner["document_id"] != document.document_id:
            raise SameText(replace(document, uri=owner["uri"], etag=owner["etag"], same_as=owner["same_as"]), etag)
