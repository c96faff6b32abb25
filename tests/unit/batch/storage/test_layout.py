"""Keys and URIs of a run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from batch.storage.layout import PreviewLayout, bucket_and_key, object_uri, preview_made_at, preview_token


@pytest.mark.parametrize("key", ["a.txt", "a/b c.txt", "/a", "a//b", "s3://x/y"])
def test_an_object_uri_is_taken_apart_as_it_was_made(key: str) -> None:
    assert bucket_and_key(object_uri("corpus", key)) == ("corpus", key)


def test_the_key_of_a_preview_tells_its_age() -> None:
    key = PreviewLayout.of("s3://results/tickets").file(preview_token())
    assert key.startswith("tickets/previews/")
    made = preview_made_at(key)
    assert made is not None and abs(datetime.now(UTC) - made) < timedelta(seconds=10)


@pytest.mark.parametrize("name", ["notes.json", "20261123T010203Z-0123.json", "20269923T010203Z-0123456789ab.json"])
def test_what_is_no_preview_has_no_age(name: str) -> None:
    assert preview_made_at(f"tickets/previews/{name}") is None
