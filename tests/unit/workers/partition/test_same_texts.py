"""Who asks about a text: the first that claims it, also when it comes again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from batch.corpus.planning import PlannedDocument
from batch.storage.layout import RunLayout
from batch.storage.listing import ObjectEntry
from batch.storage.store import PreconditionFailed, StorageUnreachable
from workers.partition.same_texts import SameText, TextClaims

E1, E2 = "1" * 32, "2" * 32
LAYOUT = RunLayout.of("s3://results/x/", "r")


class Store:
    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    async def create(self, bucket: str, key: str, data: bytes) -> str:
        if key in self.objects:
            raise PreconditionFailed(key)
        self.objects[key] = data
        return "e"

    async def get_entry(self, bucket: str, key: str) -> tuple[bytes, ObjectEntry] | None:
        return (self.objects[key], ObjectEntry(key, 1, "e")) if key in self.objects else None


def document(name: str, etag: str) -> PlannedDocument:
    return PlannedDocument(name, f"s3://b/{name}", etag, 10)


async def test_the_first_document_of_a_text_asks_and_the_others_learn_where() -> None:
    store: Any = Store()
    first, second = document("a.txt", E1), document("b.html", E2)
    here, there = TextClaims(store, LAYOUT, 0, 3), TextClaims(store, LAYOUT, 2, 70)
    await here.claim(first, E1, "a text")
    await here.claim(first, E1, "a text")  # the next attempt at it
    await there.claim(second, E2, "another \ud800 text")
    with pytest.raises(SameText) as same:
        await there.claim(second, E2, "a text")
    assert same.value.etag == E2
    assert same.value.like == replace(second, uri="s3://b/a.txt", etag=E1, same_as="0/3")
    assert all(key.startswith(LAYOUT.texts) for key in store.objects) and len(store.objects) == 2


async def test_a_claim_that_went_meanwhile_leaves_the_document_to_itself() -> None:
    class Emptied(Store):
        async def get_entry(self, bucket: str, key: str) -> None:
            return None

    store: Any = Emptied()
    claims = TextClaims(store, LAYOUT, 0, 0)
    await claims.claim(document("a.txt", E1), E1, "a text")
    await claims.claim(document("b.txt", E2), E2, "a text")


async def test_a_claim_of_which_nobody_knows_whether_it_arrived_is_looked_for() -> None:
    class Unsure(Store):
        arrives = True

        async def create(self, bucket: str, key: str, data: bytes) -> str:
            if self.arrives:
                await super().create(bucket, key, data)
            raise StorageUnreachable("503")

    store: Any = Unsure()
    claims = TextClaims(store, LAYOUT, 0, 0)
    await claims.claim(document("a.txt", E1), E1, "a text")
    with pytest.raises(SameText):
        await claims.claim(document("b.txt", E2), E2, "a text")
    store.arrives = False
    await claims.claim(document("b.txt", E2), E2, "another text")
