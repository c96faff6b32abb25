"""Which fields of a row a prompt names: only those travel in the plan, so they must be known before it runs. Pure."""

from __future__ import annotations

from jinja2 import nodes

ROW = "row"
"""The template variable whose parts are a row's other fields: `{{ row.title }}`."""


def row_fields(template: nodes.Template) -> set[str]:
    """The fields of `row` in a template that uses it as a variable of ours.

    Raises `ValueError` where they cannot be told: the row as a whole, or a field whose name is computed.
    """
    fields: set[str] = set()
    owned: set[int] = set()
    parts: list[nodes.Getattr | nodes.Getitem] = [*template.find_all(nodes.Getattr), *template.find_all(nodes.Getitem)]
    for node in parts:
        if not (isinstance(node.node, nodes.Name) and node.node.name == ROW):
            continue
        owned.add(id(node.node))
        if isinstance(node, nodes.Getattr):
            fields.add(node.attr)
        elif isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            fields.add(node.arg.value)
        else:
            raise ValueError(
                f"line {node.lineno}: a field of `row` is named in the template itself, as row.title or row['title']"
            )
    for name in template.find_all(nodes.Name):
        if name.name == ROW and id(name) not in owned:
            raise ValueError(
                f"line {name.lineno}: `row` is not there as a whole; name its fields, as in {{{{ row.title }}}}"
            )
    return fields
