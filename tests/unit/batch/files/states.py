"""Entries of a state, and a comparison with them."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

from batch.files.state import Entry
from workers.plan.comparison import Comparison

DAY = datetime(2026, 11, 23, tzinfo=UTC)


def proof(name: str) -> str:
    """An etag, and the hash of the content that it is proven to be of."""
    return hashlib.md5(name.encode()).hexdigest()


def entry(key: str, *, etag: str = "e", processed: int = 0, listed: int = 0, fingerprint: str = "f") -> Entry:
    when, seen = DAY + timedelta(hours=processed), DAY + timedelta(hours=listed)
    return Entry(key, key, proof(etag), proof(etag), fingerprint, "ok", None, when, seen, seen, f"s3://b/{processed}")


def compared(entries: list[Entry], *, full: bool = False, within: str = "", by_folders: bool = False) -> Comparison:
    comparison = Comparison(entries, fingerprint="f", full=full, within=within, by_folders=by_folders)
    comparison.begin()
    return comparison
