"""How often each row id came in an object so far, in bounded memory: on this machine's disk where there are many."""

from __future__ import annotations

import hashlib
import sqlite3

CACHE_KIB = 16 * 1024


class Occurrences:
    """Counts. Ids are kept as hashes of 64 bits: of ten million, two share one with a chance of three in a million, and
    then the second has a count too many, which harms nothing."""

    def __init__(self) -> None:
        # "" is a private file without a name that SQLite writes to only once the cache is full.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for pragma in (f"cache_size = -{CACHE_KIB}", "journal_mode = OFF", "synchronous = OFF"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.execute("CREATE TABLE seen (id INTEGER PRIMARY KEY, count INTEGER NOT NULL)")
        self._database.execute("BEGIN")

    def add(self, identity: str) -> int:
        """Which occurrence this is, from 1."""
        key = int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=8).digest(), signed=True)
        found = self._database.execute(
            "INSERT INTO seen VALUES (?, 1) ON CONFLICT (id) DO UPDATE SET count = count + 1 RETURNING count", (key,)
        ).fetchone()
        return int(found[0])

    def close(self) -> None:
        """Gives the disk back."""
        self._database.close()
