"""Pages of a listing, whatever its server honours: nothing is left out, nothing comes twice, nothing goes in circles.

Servers were seen that say there is more without a token, or that there is no more where there is; that give one token
for ever, list by version 1 alone, begin at the start whatever they are to start after, or with the very key that they
are to start after.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from batch.storage.bucket_facts import BucketFacts
from batch.storage.errors import ListingBroken
from batch.storage.listing import PAGE, Answer, ObjectEntry, Page, Position, ask_page

MOST_BARREN = 20_000
"""Pages without a key that may follow one another: S3 gives such where much was deleted of a bucket with versions."""
DIRECTORY_BUCKET = "--x-s3"
"""How the names of AWS' directory buckets end: they list in no order and start after no key."""


def next_page(
    client: Any,
    bucket: str,
    prefix: str,
    position: Position,
    facts: BucketFacts,
    *,
    where: str,
    most: int = PAGE,
) -> Page:
    """The page at `position`. Notes in `facts` what the server does not honour. Blocking: for threads.

    Raises `ListingBroken` where the listing cannot be followed, else `StorageError`.
    """
    return _Pages(client, bucket, prefix, facts, where=where, most=most).at(position)


class _Pages:
    def __init__(self, client: Any, bucket: str, prefix: str, facts: BucketFacts, *, where: str, most: int) -> None:
        self._client, self._bucket, self._prefix = client, bucket, prefix
        self._facts, self._where, self._most = facts, where, most
        self._ordered = not bucket.endswith(DIRECTORY_BUCKET)

    def at(self, position: Position) -> Page:
        if position.token is not None:
            answer = self._ask(token=position.token)
            if answer.token == position.token:
                raise self._broken("repeats the token of its last page (NextContinuationToken)")
        elif position.after and not self._facts.ignores_start:
            answer = self._after(position.after)
            if self._facts.ignores_start:
                position = Position(skip=position.after)
        elif position.after:
            position = Position(skip=position.after)
            answer = self._ask()
        else:
            answer = self._ask()
        last = position.last or position.after
        entries = self._new(answer.entries, last)
        end = answer.entries[-1].key if answer.entries else last
        if position.skip:
            entries = self._past(answer.entries, position.skip)
        following = self._next(answer, end, position.skip)
        if following is not None:
            barren = 0 if answer.entries else position.barren + 1
            if not entries and following.token is None and following.after == position.after:
                raise self._broken(f"says that there is more after {end[:200]!r}, and gives nothing")
            if barren > MOST_BARREN:
                raise self._broken(f"gives {MOST_BARREN:,} pages in a row without a key")
            following = following._replace(barren=barren)
        return Page(entries, following, answer.by_key)

    def _next(self, answer: Answer, end: str, skip: str) -> Position | None:
        if answer.token is not None and answer.truncated:
            return Position(token=answer.token, last=end, skip=skip)
        if answer.truncated or self._has_more(answer, end):
            if not end:
                raise self._broken("says that there is more, and gives neither keys nor a token (IsTruncated)")
            if self._facts.ignores_start:
                raise self._broken("says that there is more without a token, and ignores StartAfter")
            return Position(after=end)
        return None

    def _has_more(self, answer: Answer, end: str) -> bool:
        """Whether more comes although the server says that this is the end. AWS is believed."""
        if answer.by_key or not self._ordered or not end or self._facts.ignores_start:
            return False
        if self._facts.server == "amazons3":
            return False
        more = self._ask(after=end, most=2).entries
        return any(not self._is_before(entry.key, end) for entry in more)

    def _after(self, key: str) -> Answer:
        """The page after a key; notes that the server lists from its start all the same."""
        answer = self._ask(after=key)
        if not self._is_ignored(answer, key):
            return answer
        if not self._facts.by_marker:
            self._facts.by_marker = True
            again = self._ask(after=key)
            if not self._is_ignored(again, key):
                return again
            self._facts.by_marker = False
        self._facts.ignores_start = True
        return answer

    def _is_ignored(self, answer: Answer, key: str) -> bool:
        """One key again is that of a server that includes it; more than one is the listing's start."""
        entries = answer.entries
        if not self._ordered or not entries or not self._is_before(entries[0].key, key):
            return False
        return entries[0].key != key or (len(entries) > 1 and self._is_before(entries[1].key, key))

    def _new(self, entries: list[ObjectEntry], last: str) -> list[ObjectEntry]:
        """The entries of a page that follows the key `last`."""
        if not last or not entries or not self._ordered:
            return entries
        if entries[0].key == last:
            entries = entries[1:]
        if entries and self._is_before(entries[0].key, last):
            raise self._broken(f"lists {entries[0].key[:200]!r} once more after {last[:200]!r}")
        return entries

    def _past(self, entries: list[ObjectEntry], key: str) -> list[ObjectEntry]:
        """Those after a key, of a server that has to be known to list by the bytes of keys."""
        if any(one.key >= other.key for one, other in pairwise(entries)):
            raise self._broken("ignores StartAfter, and does not list by the bytes of keys")
        return [entry for entry in entries if entry.key > key]

    @staticmethod
    def _is_before(key: str, last: str) -> bool:
        """Whether a key does not come after `last` in either order in which servers list: by keys, or by folders."""
        return key <= last and key.split("/") <= last.split("/")

    def _ask(self, *, after: str = "", token: str | None = None, most: int = 0) -> Answer:
        facts = self._facts
        answer = ask_page(
            self._client,
            self._bucket,
            self._prefix,
            after=after,
            token=token,
            where=self._where,
            most=most or self._most,
            by_marker=facts.by_marker and token is None,
            pays=facts.requester_pays,
        )
        if not all(entry.key.startswith(self._prefix) for entry in answer.entries):
            raise self._broken("lists keys that do not begin with the prefix that it was asked for")
        return answer

    def _broken(self, what: str) -> ListingBroken:
        return ListingBroken(
            f"list s3://{self._bucket}/{self._prefix}: {self._where} {what}: it cannot be listed whole"
        )
