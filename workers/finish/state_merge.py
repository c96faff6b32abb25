"""Two versions of a job's state as one, document by document: streams, in memory that no object of many rows fills.

Of each document's version the row that was processed last holds, but an answer against an error that may pass. Of two
versions the one holds that was seen last, and an answer to what the younger run asks against one to something else. A
document that only one of them has was deleted if the other's listing is the younger one, and if that run could read the
object whose row it is. So neither order of two runs that overlapped, nor the rerun of an older one, takes the state
back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import groupby
from operator import attrgetter

from batch.files.result_file import ERROR
from batch.files.state import Entry
from batch.storage.layout import place_of
from workers.plan.comparison import KnownEntries


def merged(
    ours: Iterable[Entry],
    ours_listed: datetime,
    theirs: Iterable[Entry],
    theirs_listed: datetime,
    *,
    by_folders: bool = False,
) -> Iterator[Entry]:
    """Both, in the order of their objects' keys. Blocking: for threads.

    `..._listed`: when the run was claimed whose listing it is: what was seen later may be missing in it.
    """

    def is_before(one: str, another: str) -> bool:
        return bool(place_of(one, by_folders=by_folders) < place_of(another, by_folders=by_folders))

    mine, other = groupby(ours, key=attrgetter("key")), groupby(theirs, key=attrgetter("key"))
    left, right = next(mine, None), next(other, None)
    while left is not None or right is not None:
        if right is None or (left is not None and is_before(left[0], right[0])):
            assert left is not None
            yield from (entry for entry in left[1] if entry.seen_at > theirs_listed)
            left = next(mine, None)
        elif left is None or is_before(right[0], left[0]):
            yield from (entry for entry in right[1] if entry.seen_at > ours_listed)
            right = next(other, None)
        else:
            yield from _merged_object(left[0], left[1], ours_listed, right[1], theirs_listed)
            left, right = next(mine, None), next(other, None)


def _merged_object(
    key: str, ours: Iterable[Entry], ours_listed: datetime, theirs: Iterable[Entry], theirs_listed: datetime
) -> Iterator[Entry]:
    known = KnownEntries(theirs)
    whole = known.take(key)
    we_read, they_read = True, not _is_unread(whole)
    for left in ours:
        if left.document_id == key:
            right, whole = whole, None
            we_read = not _is_unread(left)
        else:
            right = known.take(left.document_id)
        if right is not None:
            listed_at, seen_at = max(left.listed_at, right.listed_at), max(left.seen_at, right.seen_at)
            yield _better(left, right)._replace(listed_at=listed_at, seen_at=seen_at)
        elif left.seen_at > theirs_listed or not they_read:
            yield left
    if whole is not None and whole.seen_at > ours_listed:
        yield whole
    yield from (right for right in known.take_rest() if right.seen_at > ours_listed or not we_read)


def _is_unread(entry: Entry | None) -> bool:
    """Whether it is the error row of an object of rows as a whole: what there is in it besides is not known."""
    return entry is not None and entry.document_id == entry.key and entry.status == ERROR


def _better(one: Entry, other: Entry) -> Entry:
    if one.fingerprint != other.fingerprint:
        return max(one, other, key=lambda entry: entry.listed_at)
    if one.etag != other.etag:
        return max(one, other, key=lambda entry: (entry.seen_at, entry.listed_at, entry.processed_at))
    if bool(one.retryable) != bool(other.retryable):
        return other if one.retryable else one
    return max(one, other, key=lambda entry: (entry.processed_at, entry.listed_at))
