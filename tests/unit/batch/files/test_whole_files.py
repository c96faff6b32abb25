"""Exports that a full disk cuts: nothing of them is left, and what was there before still is."""

import errno
import os
import resource
import stat
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import polars as pl
import pytest

from batch.files.results import UnknownFormat, export
from batch.files.whole_files import whole_file

ROWS = pl.LazyFrame({"document_id": [token_hex(8) for _ in range(20_000)]})


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files of at most 20 kB, as on a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
@pytest.mark.usefixtures("small_files")
def test_an_export_that_is_cut_leaves_what_was_there(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows.{ending}"
    for before in (None, b"of yesterday"):
        if before is not None:
            path.write_bytes(before)
        with pytest.raises((OSError, pl.exceptions.PolarsError), match="too large"):
            export(ROWS, path)
        assert (path.read_bytes() if path.exists() else None) == before
        assert [each.name for each in tmp_path.iterdir()] == ([] if before is None else [path.name])


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_an_export_takes_the_place_of_the_last(tmp_path: Path, ending: str) -> None:
    path, link = tmp_path / f"rows.{ending}", tmp_path / f"link.{ending}"
    path.write_bytes(b"of yesterday")
    path.chmod(0o640)
    link.symlink_to(path)
    export(ROWS, link)
    assert link.is_symlink() and stat.S_IMODE(path.stat().st_mode) == 0o640
    read = {"parquet": pl.read_parquet, "csv": pl.read_csv, "jsonl": pl.read_ndjson}[ending]
    assert len(read(path)) == 20_000
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([path.name, link.name])
    with pytest.raises(UnknownFormat):
        export(ROWS, tmp_path / "rows.xlsx")


def test_rights_are_the_users_own_choice(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        for name, private in (("shared", False), ("secret", True)):
            with whole_file(tmp_path / name, private=private) as unfinished:
                unfinished.write_text("x")
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("shared", "secret")] == [0o640, 0o600]


def test_the_message_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    for path, number in ((tmp_path / "absent" / "x.csv", errno.ENOENT), (tmp_path, errno.EISDIR)):
        with pytest.raises(OSError) as raised, whole_file(path) as unfinished:
            unfinished.write_text("x")
        assert (raised.value.errno, raised.value.filename) == (number, str(path))
    with pytest.raises(OSError) as raised, whole_file(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(tmp_path / "x") and not list(tmp_path.iterdir())


def test_what_is_no_file_is_written_as_it_is(tmp_path: Path) -> None:
    with whole_file(Path(os.devnull)) as unfinished:
        unfinished.write_text("x")
    assert Path(os.devnull).is_char_device()
