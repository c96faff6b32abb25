"""What a job's incremental runs know: the comparison with a listing, and the merge of two versions."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.corpus.planning import CHANGED, FULL, JOB_CHANGED, NEW, RETRIED, UNCHANGED, PlannedDocument
from batch.files.state import STATE_SCHEMA, Entry, StatePointer, read_entries
from tests.memory_storage import MemoryStorage
from tests.unit.batch.files.states import DAY, compared, entry, proof
from tests.unit.workers.sources.row_corpus import job
from workers.finish.state_merge import merged
from workers.plan.comparison import Comparison, UnsortedListing


def document(key: str, etag: str = "e") -> PlannedDocument:
    return PlannedDocument(key, f"s3://b/{key}", proof(etag), 1)


def reasons(comparison: Comparison, *documents: PlannedDocument) -> list[str | None]:
    return [comparison.judge(document).reason for document in documents]


def gone(comparison: Comparison, *, last: bool) -> list[str]:
    data, count = comparison.finish(last=last)
    ids: list[str] = pq.read_table(io.BytesIO(data)).column("document_id").to_pylist()
    assert len(ids) == count
    return ids


def test_each_document_has_its_reason() -> None:
    known = [
        entry("a"),
        entry("b"),
        entry("c", fingerprint="other"),
        entry("d")._replace(status="error", retryable=True),
        entry("e")._replace(status="error", retryable=False),
        entry("x"),
    ]
    comparison = compared(known)
    found = [comparison.judge(one) for one in (document("a"), document("b", "new"), *map(document, "cdef"))]
    assert [one.reason for one in found] == [UNCHANGED, CHANGED, JOB_CHANGED, RETRIED, UNCHANGED, NEW]
    assert (found[0].previous, found[0].content_hash) == ("s3://b/0", None)
    assert (found[1].previous, found[1].content_hash) == ("s3://b/0", proof("e"))
    assert [one.previous for one in found[2:4]] == [None, None]
    assert gone(comparison, last=True) == ["x"]
    assert reasons(compared(known, full=True), document("a"), document("aa")) == [FULL, NEW]


def test_an_object_of_many_rows_is_looked_up_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.plan.comparison.MOST_KNOWN", 3)
    known = [entry("a"), *(entry("rows")._replace(document_id=f"rows#{number}") for number in range(9)), entry("z")]
    rows = [replace(document("rows"), document_id=f"rows#{number}") for number in (8, 0, 99, 5)]
    comparison = compared(known)
    assert reasons(comparison, *rows, document("z")) == [UNCHANGED, UNCHANGED, NEW, UNCHANGED, UNCHANGED]
    assert gone(comparison, last=True) == ["a", *(f"rows#{number}" for number in (1, 2, 3, 4, 6, 7))]


def test_what_is_gone_of_an_object_in_two_shards_is_not_concluded() -> None:
    known = [entry("rows")._replace(document_id=f"rows#{number}") for number in range(4)]
    first = compared(known)
    assert reasons(first, replace(document("rows"), document_id="rows#0")) == [UNCHANGED]
    data, count = first.finish(last=False, whole=False)
    assert count == 0 and data
    second = compared(known, within="rows")
    assert reasons(second, replace(document("rows"), document_id="rows#3"), document("z")) == [UNCHANGED, NEW]
    assert gone(second, last=True) == []
    third = compared(known, within="rows")
    assert reasons(third, document("z")) == [NEW], "the shard before ended with its last row"
    assert gone(third, last=True) == []
    assert gone(compared(known, within="rows"), last=True) == []


def test_what_is_gone_of_an_object_that_cannot_be_read_is_not_concluded() -> None:
    known = [*(entry("rows")._replace(document_id=f"rows#{number}") for number in range(3)), entry("x"), entry("z")]
    broken = replace(document("rows"), problem="broken_object: it ends within a row")
    comparison = compared(known)
    found = reasons(comparison, replace(document("rows"), document_id="rows#0"), broken, document("z"))
    assert found == [UNCHANGED, NEW, UNCHANGED]
    assert gone(comparison, last=True) == ["x"]
    a_row = replace(document("rows"), document_id="rows#0", problem="too_large: this row alone")
    comparison = compared(known)
    assert reasons(comparison, a_row, document("x"), document("z")) == [UNCHANGED] * 3
    assert gone(comparison, last=True) == ["rows#1", "rows#2"]


def test_servers_that_list_by_folders() -> None:
    """`a/x` before `a-b` and `a.txt`, which S3 lists the other way round."""
    by_folders = [entry(key) for key in ("a/x", "a/z", "a-b", "a.txt", "b")]
    comparison = compared(by_folders, by_folders=True)
    assert reasons(comparison, document("a/z"), document("a.txt"), document("b")) == [UNCHANGED] * 3
    assert gone(comparison, last=True) == ["a/x", "a-b"]
    with pytest.raises(UnsortedListing, match="the source lists 'a-b' after 'a/x'"):
        reasons(compared(by_folders), document("a/x"), document("a-b"))
    others = [entry("a/y", processed=1), entry("a.txt", processed=1), entry("c", processed=1)]
    found = merged(by_folders, hours(-1), others, hours(-1), by_folders=True)
    assert [one.key for one in found] == ["a/x", "a/y", "a/z", "a-b", "a.txt", "b", "c"]


KEYS = st.lists(st.sampled_from("abcdefghij"), unique=True).map(sorted)


@given(KEYS, KEYS, st.lists(st.integers(0, 20), max_size=8))
def test_any_cut_of_the_listing_finds_the_same(known: list[str], listed: list[str], cuts: list[int]) -> None:
    borders = sorted({min(cut, len(listed)) for cut in cuts} | {len(listed)})
    found, left, start, after = list[str | None](), list[str](), 0, ""
    for end in borders:
        entries = [entry(key) for key in known if key > after]
        comparison = compared(entries)
        found += reasons(comparison, *map(document, listed[start:end]))
        after = listed[end - 1] if end > start else after
        left += gone(comparison, last=end == len(listed))
        start = end
    assert found == [UNCHANGED if key in known else NEW for key in listed]
    assert left == [key for key in known if key not in listed]


def hours(hour: int) -> datetime:
    return DAY + timedelta(hours=hour)


def test_the_row_that_was_processed_last_holds() -> None:
    older, newer = entry("a", etag="1", processed=1, listed=1), entry("a", etag="2", processed=2, listed=2)
    for ours, theirs in (((older, 1), (newer, 2)), ((newer, 2), (older, 1))):
        assert list(merged([ours[0]], hours(ours[1]), [theirs[0]], hours(theirs[1]))) == [newer]


def test_the_younger_listing_knows_what_is_gone() -> None:
    """And what it lacks all the same, because it came after it, stays."""
    night, rerun = (
        [entry("a", listed=5), entry("c", listed=5)],
        [entry("a", processed=9, listed=1), entry("b", listed=1)],
    )
    for one, at, other, then in ((night, 5, rerun, 1), (rerun, 1, night, 5)):
        found = list(merged(one, hours(at), other, hours(then)))
        assert [(each.key, each.processed_at, each.listed_at) for each in found] == [
            ("a", hours(9), hours(5)),
            ("c", hours(0), hours(5)),
        ]


@given(KEYS, KEYS, st.booleans())
def test_a_merge_is_the_same_both_ways(ours: list[str], theirs: list[str], newer: bool) -> None:
    mine = [entry(key, etag="m", processed=1, listed=3 if newer else 1) for key in ours]
    others = [entry(key, etag="t", processed=2, listed=2) for key in theirs]
    at, then = hours(3 if newer else 1), hours(2)
    found = list(merged(mine, at, others, then))
    assert found == list(merged(others, then, mine, at))
    assert [one.key for one in found] == (ours if newer else theirs)


def test_an_older_run_takes_no_answer_back() -> None:
    """Neither by an error that may pass, nor by an answer to what was asked before."""
    answer = entry("a", processed=10, listed=10)
    again = entry("a", processed=12, listed=1)._replace(status="error", retryable=True)
    before = entry("a", processed=12, listed=1, fingerprint="earlier")
    for rerun in (again, before):
        for one, at, other, then in (([answer], 10, [rerun], 1), ([rerun], 1, [answer], 10)):
            assert list(merged(one, hours(at), other, hours(then))) == [answer]


def test_the_version_that_was_seen_last_holds() -> None:
    """Though another one was answered later: a slow run has the version that it listed, and a rerun its plan."""
    newer = entry("a", etag="2", processed=5, listed=4)
    slow = entry("a", etag="1", processed=9, listed=1)
    row, planned = (each._replace(key="rows", document_id="rows#1") for each in (newer, slow))
    for holds, older in ((newer, slow), (newer, slow._replace(status="error", retryable=True)), (row, planned)):
        for one, at, other, then in (([holds], 4, [older], 1), ([older], 1, [holds], 4)):
            assert list(merged(one, hours(at), other, hours(then))) == [holds]
    read_again = slow._replace(etag="3", seen_at=hours(9))
    for one, at, other, then in (([newer], 4, [read_again], 1), ([read_again], 1, [newer], 4)):
        assert list(merged(one, hours(at), other, hours(then))) == [read_again._replace(listed_at=hours(4))]
    asked_before = read_again._replace(fingerprint="earlier")
    found = list(merged([newer], hours(4), [asked_before], hours(1)))
    assert [(each.etag, each.fingerprint) for each in found] == [(proof("2"), "f")]


def test_rows_of_an_object_that_was_not_read_to_its_end_stay() -> None:
    """Whichever of two runs could not read it; what the younger one read to its end lacks no row by mistake."""

    def rows(*numbers: int, listed: int) -> list[Entry]:
        return [entry("rows", listed=listed)._replace(document_id=f"rows#{number}") for number in numbers]

    def broken(listed: int) -> Entry:
        return entry("rows", listed=listed)._replace(status="error", retryable=False)

    def both_ways(one: list[Entry], at: int, other: list[Entry], then: int) -> set[str]:
        found, turned = merged(one, hours(at), other, hours(then)), merged(other, hours(then), one, hours(at))
        ids = [each.document_id for each in found]
        assert sorted(ids) == sorted(each.document_id for each in turned)
        assert len(set(ids)) == len(ids)
        return set(ids)

    night = rows(1, 2, 3, listed=1)
    assert both_ways(night, 1, [*rows(1, listed=2), broken(2)], 2) == {"rows", "rows#1", "rows#2", "rows#3"}
    assert both_ways([*night, broken(1)], 1, rows(2, 4, listed=2), 2) == {"rows#2", "rows#4"}
    assert both_ways([broken(1)], 1, [broken(2)], 2) == {"rows"}


def test_states_of_older_versions_are_read() -> None:
    """They do not say when a document was seen."""
    at = STATE_SCHEMA.get_field_index("seen_at")
    known = [entry("a", listed=3), entry("b", listed=4)]
    table = pa.Table.from_pylist([each._asdict() for each in known], schema=STATE_SCHEMA.remove(at))
    part = io.BytesIO()
    pq.write_table(table, part)
    memory, layout = MemoryStorage(), job().state_layout
    memory.objects[layout.part("before", 0)] = part.getvalue()
    pointer = StatePointer("before", 1, 2, "n", 1, DAY.isoformat())
    assert list(read_entries(memory, layout, pointer)) == known
