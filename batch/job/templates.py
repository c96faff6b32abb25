"""The Jinja2 templates of a job: its prompt, and the dates in its URIs. What they name is checked before a run."""

from __future__ import annotations

from datetime import UTC, datetime

from jinja2 import ChainableUndefined, StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2.sandbox import SandboxedEnvironment
from pydantic import Field

from batch.job.logical_date import DATE_VARIABLES, Nominal
from batch.job.part import Part, nearest

ROW = "row"
"""The template variable whose parts are a row's other fields: `{{ row.title }}`."""
TEMPLATE_VARIABLES = frozenset({"text", "document_id", "uri", ROW}) | DATE_VARIABLES
"""What a prompt template may name: the document's text, its id, the URI of its object, the other fields of its row, and
when the run is for."""
COMBINE_VARIABLES = frozenset({"answers", "document_id", "uri"}) | DATE_VARIABLES
"""What the templates of `long_documents.combine` may name; `answers` are those to the chunks, a list of texts."""
ANY_DAY = Nominal(datetime(2026, 1, 31, 12, 30, 15, tzinfo=UTC))
"""Stands in for the nominal start while a job is only checked."""
_SAMPLE = {
    "text": "\n".join(f"Line {n}: a few words, and 12.5 of something; more: words" for n in range(100)),
    "document_id": "corpus/folder/document-1.txt",
    "uri": "s3://bucket/corpus/folder/document-1.txt",
    "answers": ['{"label": "one"}', '{"label": "two"}'],
    ROW: ChainableUndefined(),
}
_NO_OTHERS = "there are no other templates that it could include, import or extend"


class Prompt(Part):
    """Jinja2 templates, rendered once per document; the variables are those of `TEMPLATE_VARIABLES`."""

    system: str | None = None
    user: str = Field(min_length=1)


def template_environment() -> SandboxedEnvironment:
    """Makes the one Jinja2 environment of prompts and URIs: sandboxed, strict about unknown names, nothing escaped."""
    return SandboxedEnvironment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)


def variables(template: str) -> set[str]:
    """Finds the variables that a template wants from outside."""
    return set(meta.find_undeclared_variables(template_environment().parse(template)))


def fields_of_row(text: str) -> set[str]:
    """Finds the fields of `row` that a template names: only those travel in the plan, so they are known before it.

    Raises `ValueError` where they cannot be told: the row as a whole, or a field whose name is computed.
    """
    fields: set[str] = set()
    owned: set[int] = set()
    template = template_environment().parse(text)
    if ROW not in meta.find_undeclared_variables(template):  # the template's own variable of that name
        return fields
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


def is_template(text: str) -> bool:
    """Tells whether a URI has anything to fill in."""
    return "{{" in text or "{%" in text


def rendered(where: str, uri: str, nominal: Nominal) -> str:
    """Fills the dates of one nominal start into a URI. Raises `ValueError`."""
    if not is_template(uri):
        return uri
    try:
        return template_environment().from_string(uri).render(nominal.values)
    except (TemplateError, ArithmeticError, TypeError, ValueError, LookupError) as error:
        raise ValueError(f"{where}: the template does not render: {error}") from None


def check_template(where: str, template: str | None, known: frozenset[str]) -> None:
    """Compiles and renders a template once, with a sample. Raises `ValueError` that says `where` the mistake is."""
    if template is None:
        return
    try:
        compiled = template_environment().from_string(template)  # compiling also finds unknown filters and tests
        names = variables(template)
    except TemplateSyntaxError as error:
        raise ValueError(f"{where}, line {error.lineno}: the template does not compile: {error.message}") from None
    except (RecursionError, MemoryError):
        raise ValueError(f"{where}: the template does not compile: it nests too deeply") from None
    for name in sorted(names - known):
        listed = ", ".join(sorted(known))
        raise ValueError(f"{where}: unknown variable {name!r}{nearest(name, known)}; known are {listed}")
    try:
        fields_of_row(template)
    except ValueError as error:
        raise ValueError(f"{where}, {error}") from None
    try:
        compiled.render({**_SAMPLE, **ANY_DAY.values})
    except (TemplateError, TypeError) as error:
        if _depends_on_the_document(error) or (ROW in names and "no loader" not in str(error)):
            return
        reason = _NO_OTHERS if "no loader" in str(error) else str(error)
        raise ValueError(f"{where}: the template does not render: {reason}") from None
    except (ArithmeticError, ValueError, LookupError):
        return  # may well be this text's fault: then it is an error row of those documents where it happens


def _depends_on_the_document(error: Exception) -> bool:
    """Such as the tenth line of a text: missing in the sample, there in the corpus."""
    return isinstance(error, UndefinedError) and "has no element" in str(error)
