"""Who asks about a text: the first that claims it, also when it comes again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batch.corpus.planning import PlannedDocument
from batch.storage.layout import RunLayout
from tests.memory_storage import MemoryStorage
from workers.partition.same_texts import SameText, TextClaims

E1, E2 = "1" * 32, "2" * 32
LAYOUT = RunLayout.of("s3://results/x/", "r")


def document(name: str, etag: str) -> PlannedDocument:
    return PlannedDocument(name, f"s3://b/{name}", etag, 10)


async def test_the_first_document_of_a_text_asks_and_the_others_learn_where() -> None:
    store = MemoryStorage()
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
    store = MemoryStorage()
    await TextClaims(store, LAYOUT, 0, 0).claim(document("a.txt", E1), E1, "a text")
    read = store.get_entry

    async def gone(bucket: str, key: str, *, max_bytes: int | None = None) -> None:
        store.objects.clear()
        store.get_entry = read  # type: ignore[method-assign]

    store.get_entry = gone  # type: ignore[method-assign,assignment]
    await TextClaims(store, LAYOUT, 0, 0).claim(document("b.txt", E2), E2, "a text")


async def test_a_claim_of_which_nobody_knows_whether_it_arrived_is_looked_for() -> None:
    store = MemoryStorage()
    claims = TextClaims(store, LAYOUT, 0, 0)
    store.lose = ["answer", "answer", "request"]
    await claims.claim(document("a.txt", E1), E1, "a text")
    with pytest.raises(SameText):
        await claims.claim(document("b.txt", E2), E2, "a text")
    await claims.claim(document("b.txt", E2), E2, "another text")
    with pytest.raises(SameText):
        await claims.claim(document("a.txt", E1), E1, "another text")
