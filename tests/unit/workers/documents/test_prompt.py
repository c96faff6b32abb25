"""Rendering without Jinja's `render` gives what `render` gives."""

from __future__ import annotations

import jinja2
import pytest

from batch.corpus.planning import PlannedDocument
from batch.job.templates import Prompt, template_environment
from workers.documents.prompt import CompiledPrompt, RowFields
from workers.documents.reading import rendered
from workers.extract import Unreadable

VALUES = {"text": "one\ntwo\n", "document_id": "d", "uri": "s3://b/d", "date": "2026-01-02"}
TEMPLATES = [
    "{{ text }}",
    "{% for line in text.splitlines() %}{{ loop.index }}: {{ line | upper }}\n{% endfor %}",
    "{% for n in range(3) %}{{ n }}{% endfor %}{% set ns = namespace(x=1) %}{{ ns.x }}{{ dict(a=1).a }}",
    "{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(date) }}{{ uri }}",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_it_renders_as_jinja_does(template: str) -> None:
    prompt = CompiledPrompt(Prompt(system="On {{ date }}.", user=template))
    assert prompt.messages(VALUES) == [
        {"role": "system", "content": "On 2026-01-02."},
        {"role": "user", "content": template_environment().from_string(template).render(VALUES)},
    ]


def test_a_system_prompt_that_renders_to_nothing_is_left_out() -> None:
    prompt = CompiledPrompt(Prompt(system="{% if text == 'a' %}On a.{% endif %}", user="{{ text }}"))
    assert [len(prompt.messages({"text": text})) for text in "ab"] == [2, 1]


def test_one_documents_variables_are_not_the_nexts() -> None:
    prompt = CompiledPrompt(Prompt(user="{% if text == 'a' %}{% set seen = 1 %}{% endif %}{{ seen is defined }}"))
    assert [prompt.messages({"text": text})[0]["content"] for text in "ab"] == ["True", "False"]


def test_an_unknown_variable_and_a_forbidden_attribute_are_template_errors() -> None:
    for template in ("{{ nowhere }}", "{{ text.__class__.__mro__ }}"):
        with pytest.raises(jinja2.TemplateError):
            CompiledPrompt(Prompt(user=template)).messages(VALUES)


def test_fields_of_a_row() -> None:
    template = "{{ row.items }} {{ row._id }} {{ row['a b'] }} {{ row.n + 1 }} {{ row.no | default('none') }}"
    row = RowFields('{"items": "i", "_id": "x", "a b": "c", "n": 1}')
    assert CompiledPrompt(Prompt(user=template)).messages({"row": row})[0]["content"] == "i x c 2 none"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"titel": 1}', r"this row has no field 'title'; where it may be missing, write row\.title \| default\(''\)"),
        (None, "the document is an object, no row, without field 'title'"),
    ],
)
def test_a_field_that_is_not_there_is_named(row: str | None, message: str) -> None:
    with pytest.raises(jinja2.UndefinedError, match=message):
        CompiledPrompt(Prompt(user="{{ row.title }}")).messages({"row": RowFields(row)})


@pytest.mark.parametrize(
    "template", ["{{ row.meta | dictsort }}", "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}"]
)
def test_what_a_template_does_not_take_is_that_documents_error(template: str) -> None:
    document = PlannedDocument("d", "s3://b/d", "e", 1, content="t", row='{"meta": [1]}')
    with pytest.raises(Unreadable, match="the prompt does not render for this document: ") as refused:
        rendered(CompiledPrompt(Prompt(user=template)), {}, document, text="t")
    assert refused.value.error_type == "template"
