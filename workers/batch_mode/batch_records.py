"""What is known of a partition's batches, durably: each is announced before it is created, and recorded at once.

A record goes INTENDED -> UPLOADED -> CREATED -> READ, or ends as VOID, each step one conditional PUT over the version
that was read. So of two attempts at once one finds out at its next step that the other has taken its batch over, and a
batch whose creator died is looked for by what its record said before (see `workers.batch_mode.partition_batches`).
"""

from __future__ import annotations

import math
import secrets
from dataclasses import asdict, dataclass, field, replace

import orjson

from batch.storage.compare_and_set import compare_and_set
from batch.storage.layout import RunLayout
from batch.storage.records import read_record
from batch.storage.store import Storage

INTENDED, UPLOADED, CREATED, READ, VOID = "intended", "uploaded", "created", "read", "void"


class TakenOver(Exception):
    """Another attempt has changed the record: this one is late."""


@dataclass(frozen=True)
class BatchRecord:
    """One batch of a partition. Times are Unix seconds, `input_created_at` by the provider's clock."""

    partition: int
    generation: int
    number: int
    token: str
    """Of whoever announced it; the batch's metadata carry it."""
    created_at: float
    documents: list[int]
    """Places in the partition's plan, in the order of the input file's lines."""
    etags: dict[str, str] = field(default_factory=dict)
    """Place -> etag, where it is not the planned one."""
    in_words: list[int] = field(default_factory=list)
    """Places asked with the schema in the prompt."""
    truncated: list[int] = field(default_factory=list)
    """Places of which only the beginning was sent. A record without one does not name it: older workers read those."""
    pages: dict[str, dict[str, int | None]] = field(default_factory=dict)
    """Place -> the columns that count its pages, of what has any. Left out where it is empty, as `truncated` is."""
    state: str = INTENDED
    input_file: str = ""
    input_created_at: int = 0
    batch_id: str = ""


@dataclass
class Held:
    """A record and the version of it that is known."""

    record: BatchRecord
    etag: str


def metadata_of(run_id: str, record: BatchRecord) -> dict[str, str]:
    """What a batch of ours says of itself: OpenAI takes 16 pairs of short texts."""
    return {
        "docbatch_run": run_id[:512],
        "docbatch_partition": str(record.partition),
        "docbatch_generation": str(record.generation),
        "docbatch_batch": str(record.number),
        "docbatch_token": record.token,
    }


class BatchRecords:
    """The records of one partition, or (`partition` None) of all of a run. Raises `StorageRefused`."""

    def __init__(self, storage: Storage, layout: RunLayout, partition: int | None = None) -> None:
        self._storage, self._layout, self._partition = storage, layout, partition
        self._bucket = layout.output.bucket

    async def read(self) -> list[Held]:
        """Those that stand, in the order in which they were announced."""
        found = []
        for entry in await self._storage.list_all(self._bucket, self._layout.batch_records(self._partition)):
            got = await self._storage.get_entry(self._bucket, entry.key)
            if got is not None:
                found.append(Held(read_record(BatchRecord, orjson.loads(got[0])), got[1].etag))
        found.sort(key=lambda held: (held.record.partition, held.record.generation, held.record.number))
        return found

    async def announce(self, record: BatchRecord) -> Held:
        """Creates the record, with a token of its own. Raises `TakenOver` if one of this number stands."""
        record = replace(record, token=secrets.token_hex(6))
        return Held(record, await self._write(record, None))

    async def step(self, held: Held, **changes: object) -> None:
        """The record's next state. Raises `TakenOver`."""
        record = replace(held.record, **changes)  # type: ignore[arg-type]
        held.etag = await self._write(record, held.etag)
        held.record = record

    async def void(self, held: Held) -> None:
        """Ends the record of a batch that was never created, or whose documents are asked anew."""
        await self.step(held, state=VOID)
        await self.forget([held])

    async def forget(self, records: list[Held]) -> None:
        """Removes records that nobody will change any more: void ones, and those of a committed partition."""
        await self._storage.delete(self._bucket, [self._key(held.record) for held in records])

    def uri(self, record: BatchRecord) -> str:
        """Where the record is."""
        return self._layout.uri(self._key(record))

    def _key(self, record: BatchRecord) -> str:
        return self._layout.batch_record(record.partition, record.generation, record.number)

    async def _write(self, record: BatchRecord, etag: str | None) -> str:
        """Writes the record over the version that is known. Raises `TakenOver`."""
        fields = {name: value for name, value in asdict(record).items() if name not in ("truncated", "pages") or value}
        data = orjson.dumps(fields)
        standing = await compare_and_set(
            self._storage, self._bucket, self._key(record), data, over=etag, patience=math.inf
        )
        if not standing.ours:
            raise TakenOver(f"{self.uri(record)} was changed by another attempt")
        return standing.etag
