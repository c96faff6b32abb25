"""The statements of docs/reading-results.md: DuckDB runs its own, those of Spark and Athena are parsed and compared."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path, PurePosixPath
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest
import sqlglot
from obstore.fsspec import FsspecStore
from sqlglot import expressions

from batch import Job, connect
from batch.files.results import current
from batch.files.state import read_pointer
from batch.local.corpus import upload_async
from batch.local.servers import REGION
from batch.local.stack import LocalStack
from batch.schema.arrow import row_schema

PAGE = (Path(__file__).parents[2] / "docs" / "reading-results.md").read_text()
SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string"}, "urgent": {"type": "boolean"}},
    "required": ["label", "urgent"],
}


def blocks(heading: str) -> list[str]:
    """The SQL below a heading of the page."""
    section = re.split(r"^## ", PAGE.split(f"\n## {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"^```sql\n(.*?)^```", section, re.DOTALL | re.MULTILINE)


def statements(sql: str) -> list[str]:
    return [each.strip() for each in sql.split(";\n") if each.strip()]


class Files(FsspecStore):  # type: ignore[misc]
    """Lists and matches by itself: of obstore's own `glob` nothing came back (0.12)."""

    def glob(self, path: str, **options: Any) -> list[str]:
        path = path.removeprefix("s3://")
        found = self.find(path.split("*", 1)[0].rpartition("/")[0] + "/")
        return [each for each in found if PurePosixPath(each).match(path)]


@pytest.fixture
def database(stack: LocalStack) -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB, which reaches the stack's S3 through fsspec: its own extension for S3 is no part of the wheel."""
    settings = stack.environment()
    files = Files(
        "s3",
        access_key_id=settings["AWS_ACCESS_KEY_ID"],
        secret_access_key=settings["AWS_SECRET_ACCESS_KEY"],
        endpoint=stack.s3_endpoint,
        region=REGION,
        client_options={"allow_http": True},
    )
    with duckdb.connect() as connection:
        connection.register_filesystem(files)
        yield connection


async def test_duckdb_reads_what_the_page_says(stack: LocalStack, database: duckdb.DuckDBPyConnection) -> None:
    with stack.applied_environment():
        connection = await connect()
        texts = {f"d{number}.txt": f"ticket {number}".encode() for number in range(8)}
        texts["broken.txt"] = b"\x00\x01"
        await upload_async(stack.environment(), "corpus", "recipes", texts.items())
        for day in (1, 2):
            run = await connection.start(job(), run_id=f"recipes-{day}", day=date(2026, 11, day), check_model=False)
            ended = await run.wait()
            if day == 1:
                stack.s3_client().delete_object(Bucket="corpus", Key="recipes/d0.txt")
                await upload_async(stack.environment(), "corpus", "recipes", [("d1.txt", b"edited")])
        assert (ended.deleted, ended.reasons) == (1, {"unchanged": 7, "changed": 1})
        expected = run.results().collect()
        layout = job().state_layout
        found = await read_pointer(connection.storage, layout)
        assert found is not None
        newest = current(layout, found[0]).collect()
        assert newest.height == expected.height == 8

    setup, of_run, of_state = blocks("DuckDB")
    assert all(each.startswith(("INSTALL", "LOAD", "CREATE SECRET")) for each in statements(setup))
    create, *selects = statements(of_run.replace("tickets", "recipes"))
    database.execute(create)
    counts, urgent, deleted = (database.sql(each).fetchall() for each in selects)
    assert {(status, count) for status, _, count, _ in counts} == {("ok", 7), ("error", 1)}
    wanted = expected.filter(status="ok").unnest("result").filter(pl.col("urgent"))
    assert sorted(urgent) == sorted(wanted.select("document_id", "label", "urgent").rows())
    assert deleted == [("recipes/d0.txt",)]

    *before, last = statements(of_state.replace("tickets", "recipes"))
    for each in before:
        database.execute(each)
    assert (
        database.sql(last).fetchall()
        == newest.sort("document_id")
        .with_columns(pl.col("result").struct.field("label"))
        .select("document_id", "label")
        .rows()
    )


def job() -> Job:
    return Job.parse(
        {
            "name": "recipes",
            "source": {"uri": "s3://corpus/recipes/"},
            "prompt": {"user": "Label this.\n{{ text }}"},
            "model": {"name": "simulated-small"},
            "output": {"uri": "s3://results/recipes/{{ date }}/", "schema": SCHEMA},
            "partitions": {"documents": 4},
            "incremental": True,
        }
    )


@pytest.mark.parametrize(("heading", "dialect"), [("Spark", "spark"), ("Athena", "athena"), ("DuckDB", "duckdb")])
def test_the_statements_are_of_their_dialects(heading: str, dialect: str) -> None:
    for block in blocks(heading)[heading == "DuckDB" :]:
        for each in sqlglot.parse(block, dialect=dialect):
            assert each is not None and not isinstance(each, expressions.Command), each


def test_athenas_columns_are_those_of_the_runs_files() -> None:
    table = sqlglot.parse_one(blocks("Athena")[0], dialect="athena")
    given = {
        each.name: each.args["kind"].sql("hive").lower()
        for each in table.find_all(expressions.ColumnDef)
        if each.parent is table.this
    }
    columns = row_schema(SCHEMA, incremental=True)
    assert given == {column.name: of_athena(column.type) for column in columns}
    assert list(given) == columns.names


def of_athena(kind: pa.DataType) -> str:
    if isinstance(kind, pa.StructType):
        return f"struct<{', '.join(f'{kind[n].name}: {of_athena(kind[n].type)}' for n in range(kind.num_fields))}>"
    named: dict[Any, str] = {pa.string(): "string", pa.int64(): "bigint", pa.float64(): "double", pa.bool_(): "boolean"}
    return named.get(kind) or {"timestamp[us, tz=UTC]": "timestamp"}[str(kind)]
