"""Rows whose answers are shared: which ones, and how long another partition is waited for."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from batch.corpus.planning import PlannedDocument
from batch.files import result_file
from batch.files.ledger_segment import LedgerName, encode_segment
from batch.files.result_file import ResultFooter, totals_of
from batch.schema.row_schema import row_schema
from batch.storage.layout import RunLayout
from batch.storage.listing import ObjectEntry
from tests.memory_storage import MemoryStorage
from workers.documents.rows import Row, RowMaker, failed, shared
from workers.llm.answer import Answer
from workers.partition import shared_answers
from workers.partition.shared_answers import BETWEEN, Found, SharedAnswers, content_of

LAYOUT = RunLayout.of("s3://results/x/", "r")
MAKER = RowMaker("r", "f", 1, 0, 0)
NAME = LedgerName("r", "f", 0, 1, 1, 1)


class Store(MemoryStorage):
    """Some objects appear only after so many looks."""

    def __init__(self) -> None:
        super().__init__()
        self.after: dict[str, int] = {}
        self.looks = 0

    async def get_entry(
        self, bucket: str, key: str, *, max_bytes: int | None = None
    ) -> tuple[bytes, ObjectEntry] | None:
        self.looks += 1
        return await super().get_entry(bucket, key) if self.looks > self.after.get(key, 0) else None


def document(name: str, etag: str = "E1", same_as: str | None = "0/3") -> PlannedDocument:
    return PlannedDocument(name, f"s3://b/{name}", etag, 10, same_as=same_as)


def row(name: str, etag: str = "E1", text: str = "yes") -> Row:
    answer = Answer(text, None, "stop", "simulated-small", 2, 100, 10, 20, 1.5)
    return MAKER.row(document(name, etag, None), etag, answer, 0.25)


def commit(store: Store, rows: list[Row], partition: int = 3, *, partial: bool = False) -> str:
    footer = ResultFooter("r", 0, partition, 1, "t", totals_of(rows, "r"), partial=partial)
    key = LAYOUT.result(0, partition)
    store.objects[key] = result_file.encode(rows, row_schema(None), footer)
    return key


async def find(store: Store, *documents: PlannedDocument, dispatch: int = 3, stop_after: float = 5.0) -> Found:
    end = time.monotonic() + stop_after

    async def waiting() -> None:
        store.objects["waited"] = b""

    answers = SharedAnswers(store, LAYOUT, replace(NAME, dispatch=dispatch))
    return await answers.find(documents, lambda: time.monotonic() > end, waiting)


async def test_the_answer_of_the_same_etag_and_suffix_is_found() -> None:
    store = Store()
    commit(store, [row("a.txt"), row("b.html", text="no"), row("c.txt", "E2", "other")])
    found = await find(store, document("x.TXT"), document("y.html"), document("z.pdf"), document("w.txt", "E3"))
    assert {name: (each["document_id"], each["output_text"]) for name, each in found.rows.items()} == {
        "x.TXT": ("a.txt", "yes"),
        "y.html": ("b.html", "no"),
    }
    assert store.looks == 1 and "waited" not in store.objects


def test_the_suffix_is_that_of_the_name_alone() -> None:
    assert content_of("E", "s3://data.example/v1.2/README") == content_of("E", "s3://data.example/v1.3/LICENSE")
    assert content_of("E", "s3://b/a.TXT") == content_of("E", "s3://b/c.d/b.txt") != content_of("E", "s3://b/README")


async def test_only_answers_and_errors_that_stay_are_shared() -> None:
    store = Store()
    never_asked = MAKER.row(document("c.txt", "E3"), "E3", Answer(None, None), 0.0)
    commit(
        store,
        [
            failed(row("a.txt", "E1"), "refusal", "no", retryable=False),
            failed(row("b.txt", "E2"), "timeout", "slow", retryable=True),
            failed(never_asked, "unsupported_key", "a//b", retryable=False),
        ],
    )
    found = await find(store, document("x.txt", "E1"), document("y.txt", "E2"), document("z.txt", "E3"))
    assert list(found.rows) == ["x.txt"]


def test_a_shared_row_costs_nothing_and_names_the_one_that_was_asked() -> None:
    found = shared({**row("a.txt"), "extra": "kept"}, RowMaker("r", "f", 1, 2, 9), document("x.txt"))
    assert found["same_as"] == "a.txt" and found["document_id"] == "x.txt" and found["uri"] == "s3://b/x.txt"
    assert (found["shard"], found["partition"], found["output_text"], found["extra"]) == (2, 9, "yes", "kept")
    assert (found["attempts"], found["prompt_tokens"], found["completion_tokens"], found["cost_usd"]) == (0, 0, 0, 0.0)
    assert totals_of([found], "r").ok == 1 and totals_of([found], "r").unpriced == 0


def test_a_shared_row_keeps_no_field_of_the_others() -> None:
    """A text file with the text of a row, which has a title."""
    maker = RowMaker("r", "f", 1, 2, 9, keep=("title",))
    whole = shared({**row("a.jsonl"), "row": '{"title":"T"}'}, maker, document("x.txt"))
    assert whole["row"] is None
    other = shared(whole, maker, replace(document("y.jsonl"), row='{"title":"U","text":"yes"}'))
    assert other["row"] == '{"title":"U"}'


async def test_a_partition_at_work_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_answers, "POLL_FIRST", 0.05)
    store = Store()
    store.after[commit(store, [row("a.txt")])] = 3
    assert list((await find(store, document("x.txt"))).rows) == ["x.txt"]
    assert store.looks == 4 and "waited" in store.objects


async def test_a_partition_at_work_tells_by_its_ledger() -> None:
    """As soon as the answer is durable: it may itself wait for others with its commit."""
    store = Store()
    rows = [{**row(name, etag), "processed_at": "2026-01-01T00:00:00+00:00"} for name, etag in (("a.txt", "E1"),)]
    segment = encode_segment(replace(NAME, partition=3), rows)
    store.objects[LAYOUT.segment(3, 1, 1, "t", 0)] = segment
    found = await find(store, document("x.txt"))
    assert found.rows["x.txt"]["document_id"] == "a.txt" and "waited" not in store.objects
    later = await find(store, document("x.txt"), document("y.txt", "E2"), dispatch=1)
    assert list(later.rows) == ["x.txt"] and later.too_early


@pytest.mark.parametrize(("segments", "patience"), [(2, 0.6), (0, 0.2)])
async def test_one_without_progress_is_given_up(
    monkeypatch: pytest.MonkeyPatch, segments: int, patience: float
) -> None:
    """Sooner when it has not begun; one that has may wait for its turn in its process."""
    for name, value in {"POLL_FIRST": 0.05, "POLL_MOST": 0.05, "LONGEST": 0.6, "NOT_BEGUN": 0.2}.items():
        monkeypatch.setattr(shared_answers, name, value)
    store = Store()
    for number in range(segments):
        store.objects[LAYOUT.segment(3, 1, 1, "t", number)] = b""
    began = time.monotonic()
    assert await find(store, document("x.txt")) == Found({}, too_early=False)
    assert patience <= time.monotonic() - began < patience + 0.35


async def test_what_a_cancelled_run_had_not_answered_is_waited_for_in_its_rerun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its partial file lacks documents that the rerun asks about: asked here too, they would be paid twice."""
    monkeypatch.setattr(shared_answers, "POLL_FIRST", 0.05)
    store = Store()
    commit(store, [row("a.txt")], partial=True)
    found = await find(store, document("x.txt"), document("y.txt", "E2"), dispatch=1)
    assert list(found.rows) == ["x.txt"] and found.too_early
    rows = [{**row("b.txt", "E2"), "processed_at": "2026-01-01T00:00:00+00:00"}]
    store.objects[LAYOUT.segment(3, 2, 1, "t", 0)] = encode_segment(replace(NAME, partition=3), rows)
    assert sorted((await find(store, document("x.txt"), document("y.txt", "E2"))).rows) == ["x.txt", "y.txt"]


async def test_a_stop_ends_the_wait_at_once() -> None:
    began = time.monotonic()
    assert await find(Store(), document("x.txt"), stop_after=0.3) == Found({}, too_early=False)
    assert time.monotonic() - began < 1.5


@pytest.mark.parametrize("dispatch", [1, 2])
async def test_the_first_dispatches_leave_their_slot_to_others(monkeypatch: pytest.MonkeyPatch, dispatch: int) -> None:
    monkeypatch.setattr(shared_answers, "BETWEEN", (0.0, 0.3))
    assert len(BETWEEN) == 2
    store = Store()
    commit(store, [row("a.txt")])
    began = time.monotonic()
    found = await find(store, document("x.txt"), document("y.txt", same_as="0/4"), dispatch=dispatch)
    assert found.too_early and list(found.rows) == ["x.txt"]
    assert time.monotonic() - began < 1.5
    alone = await find(store, document("x.txt"), dispatch=dispatch)
    assert not alone.too_early and list(alone.rows) == ["x.txt"]
