"""`output.keep_text`: the column, and the text's way through ledger and result file."""

from __future__ import annotations

from typing import Any

import pytest

from batch.files import result_file
from batch.files.kept_text import pack, unpack
from batch.files.run_file import RunFile
from batch.job.job import Job
from batch.job.part import JobError
from batch.schema.arrow import row_schema
from batch.workflows.contracts import Totals

JOB: dict[str, Any] = {
    "name": "keep",
    "source": {"uri": "s3://corpus/a/"},
    "prompt": {"user": "{{ text }}"},
    "model": {"name": "m"},
    "output": {"uri": "s3://results/a/"},
}
FOOTER = result_file.ResultFooter("r", 0, 0, 1, "t", Totals())


def job(keep: bool, **model: Any) -> Job:
    return Job.parse({**JOB, "model": {"name": "m", **model}, "output": {**JOB["output"], "keep_text": keep}})


def test_text_is_a_column_only_when_said_and_changes_no_fingerprint() -> None:
    plain, kept = (RunFile.of("r", job(keep), "e", "2026-01-01", None) for keep in (False, True))  # type: ignore[arg-type]
    assert plain.schema == row_schema(None) and "text" not in plain.schema.names
    assert [name for name in kept.schema.names if name not in plain.schema.names] == ["text"]
    assert job(True).fingerprint == job(False).fingerprint == Job.parse(JOB).fingerprint


def test_not_in_batch_mode_yet() -> None:
    with pytest.raises(JobError, match=r"output.keep_text in model.mode: batch is not supported yet"):
        job(True, mode="batch")


@pytest.mark.parametrize("text", ["", "größe 日本語 😀", "x" * 100_000, "lone \ud800 surrogate"])
def test_packed_text_comes_back(text: str) -> None:
    assert unpack(pack(text)) == text.encode(errors="replace").decode()


def test_a_result_file_has_it_plain_however_much_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_file, "GROUP_CHARACTERS", 100)
    texts = ["a" * 60, None, "b" * 60, "c", None]
    rows = [{"document_id": str(n), "status": "ok", "text": text and pack(text)} for n, text in enumerate(texts)] + [
        {"document_id": "5", "status": "error"}
    ]
    table, footer = result_file.decode(result_file.encode(rows, row_schema(None, keep_text=True), FOOTER))
    assert table.column("text").to_pylist() == [*texts, None]
    assert table.column("document_id").to_pylist() == list("012345")
    assert footer == FOOTER and table.schema.names == row_schema(None, keep_text=True).names
    assert result_file.decode(result_file.encode([], row_schema(None), FOOTER))[0].num_rows == 0
