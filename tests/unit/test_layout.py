"""Keys and URIs of a run."""

from __future__ import annotations

import pytest

from batch.layout import bucket_and_key, object_uri


@pytest.mark.parametrize("key", ["a.txt", "a/b c.txt", "/a", "a//b", "s3://x/y"])
def test_an_object_uri_is_taken_apart_as_it_was_made(key: str) -> None:
    assert bucket_and_key(object_uri("corpus", key)) == ("corpus", key)
