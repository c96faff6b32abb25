"""Where a job's documents lie: under one prefix of a bucket, or several, none of which lies within another. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from batch.storage.layout import S3Uri


@dataclass(frozen=True)
class Prefixes:
    """`prefixes` of one bucket, in the order of their bytes: each "", or a folder with its slash.

    `objects` are the keys of those that were written without one: what lies there may be an object, too.
    """

    bucket: str
    prefixes: tuple[str, ...]
    objects: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, uris: Sequence[str], *, where: str = "source.uri") -> Prefixes:
        """Raises `ValueError` that begins with `where`."""
        places = sorted((S3Uri.parse(uri, where=where) for uri in uris), key=lambda place: (place.bucket, place.prefix))
        if not places:
            raise ValueError(f"{where}: an empty list names no documents; write s3://BUCKET/PREFIX/ into it")
        first = places[0]
        for one, other in pairwise(places):
            if other.bucket != first.bucket:
                raise ValueError(
                    f"{where}: {one} and {other} lie in two buckets, and a job reads one; make two jobs of it"
                )
            if one == other:
                raise ValueError(f"{where}: {one} is named twice; take one of them out")
            if one.contains(other):
                raise ValueError(
                    f"{where}: {other} lies within {one}, so its objects would be two documents each; take it out"
                )
        keys = (S3Uri.parse(uri, where=where).prefix.rstrip("/") for uri in uris if not uri.endswith("/"))
        return cls(first.bucket, tuple(place.prefix for place in places), frozenset(filter(None, keys)))

    def prefix_of(self, key: str) -> str | None:
        """Returns the prefix that the key lies under, or that is itself an object's key; None for any other key."""
        if key in self.objects:
            return f"{key}/"
        at = bisect_right(self.prefixes, key)  # what sorts between a prefix and a key under it lies under it too
        found = self.prefixes[at - 1] if at else None
        return found if found is not None and key.startswith(found) else None

    def name_of(self, key: str) -> str:
        """Returns what follows the prefix that the key lies under; of an object that a URI names, its own name."""
        if key in self.objects:
            return key.rpartition("/")[2]
        return key[len(self.prefix_of(key) or "") :]

    def containing(self, other: S3Uri) -> S3Uri | None:
        """Returns the prefix at or below which `other` lies, if one is that."""
        return next((place for place in self.places if place.contains(other)), None)

    @property
    def places(self) -> list[S3Uri]:
        return [S3Uri(self.bucket, prefix) for prefix in self.prefixes]

    def __str__(self) -> str:
        first, *others = map(str, self.places)
        return first + (f" and {len(others)} more" if len(others) > 1 else f" and {others[0]}" if others else "")
