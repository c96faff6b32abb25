"""Tables of the rows of a run with their typed results, for a terminal of 80 columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from batch.terminal.printable import printable

if TYPE_CHECKING:
    import polars as pl

CELL_LINES = 3
"""Lines that a value takes in a table of rows at most."""


def field_types(columns: Mapping[str, pl.DataType]) -> dict[str, str]:
    """The fields of the typed result and their types, of the schema of a run's rows; empty for plain text answers."""
    import polars as pl

    result = columns.get("result")
    if isinstance(result, pl.Struct):
        return {field.name: _type_name(field.dtype) for field in result.fields}
    return {} if result is None else {"result": _type_name(result)}


def _type_name(kind: Any) -> str:
    import polars as pl

    if isinstance(kind, pl.List):
        return f"list[{_type_name(kind.inner)}]"
    return "struct" if isinstance(kind, pl.Struct) else str(kind).lower()


def rows_table(
    rows: Sequence[Mapping[str, Any]], types: Mapping[str, str], *, errors: bool = False, width: int = 80
) -> Table:
    """Returns rows of a run. `types` are the result's fields and their types; empty for plain text answers."""
    folder = _common_folder([str(row["document_id"]) for row in rows])
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        caption=Text(f"documents under {printable(folder)}") if folder else None,
        caption_justify="left",
    )
    table.add_column("document", overflow="fold", max_width=32)
    with_status = not errors and any(row["status"] != "ok" for row in rows)
    if with_status:
        table.add_column("status", no_wrap=True)
    if errors:
        types = {"error_type": "", "retryable": "", "error_message": ""}
    for name, kind in (types or {"output_text": ""}).items():
        heading = printable(name)
        table.add_column(Text(f"{heading}\n{printable(kind)}" if kind else heading), overflow="fold")
    longest = 4 * width if errors else CELL_LINES * max(12, width // len(table.columns) - 2)
    for row in rows:
        shown = [Text(cell(str(row["document_id"])[len(folder) :], longest))]
        if with_status:
            shown.append(Text(cell(row["status"], longest)))
        if errors:
            shown += [Text(cell(row[name], longest)) for name in types]
        elif row["status"] != "ok":
            shown.append(Text(cell(f"{row['error_type'] or ''}: {row['error_message'] or ''}", longest), "yellow"))
        elif types:
            shown += [Text(cell(_field(row["result"], name), longest)) for name in types]
        else:
            shown.append(Text(cell(row["output_text"], longest)))
        table.add_row(*shown)
    return table


def _field(result: Any, name: str) -> Any:
    return result.get(name) if isinstance(result, dict) else result


def _common_folder(names: Sequence[str]) -> str:
    """Returns the folder that all names share, so that it need not stand in every row."""
    if not names:
        return ""
    first, last = min(names), max(names)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[: first.rfind("/", 0, same) + 1]


def cell(value: Any, longest: int) -> str:
    """Returns one value as text of at most `longest` characters."""
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        text = ", ".join(value)
    elif isinstance(value, (list, dict)):
        text = json.dumps(value, ensure_ascii=False, default=str)
    elif isinstance(value, bool):
        text = "true" if value else "false"
    else:
        text = str(value)
    text = printable(" ".join(text.split()))
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
