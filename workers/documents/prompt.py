"""A job's prompt, compiled once and rendered for each document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2
import orjson

from batch.job.templates import Prompt, template_environment


class CompiledPrompt:
    """The texts that the model is asked with. The system prompt comes first: providers cache common prefixes."""

    def __init__(self, prompt: Prompt) -> None:
        environment = template_environment()
        self._system = _Text(environment.from_string(prompt.system)) if prompt.system else None
        self._user = _Text(environment.from_string(prompt.user))

    def messages(self, values: Mapping[str, Any]) -> list[dict[str, str]]:
        """Returns the chat's messages. Raises what a template may raise, `jinja2.TemplateError` among them."""
        system = self._system.render(values) if self._system is not None else ""
        user = {"role": "user", "content": self._user.render(values)}
        return [{"role": "system", "content": system}, user] if system else [user]


class _Text:
    """One template. Its globals are laid out flat once: Jinja does that at each `render`, for 11 us (measured)."""

    def __init__(self, template: jinja2.Template) -> None:
        self._template = template
        template.globals = self._globals = dict(template.globals)

    def render(self, values: Mapping[str, Any]) -> str:
        context = self._template.new_context({**self._globals, **values}, shared=True)
        return "".join(self._template.root_render_func(context))


class RowFields:
    """`row` in a template: the fields of a document's row, read from its JSON once one is asked for.

    Not a dict, whose methods would hide fields of the same names (`row.items`). A field that is not there is undefined:
    an error, unless the template says what then (`default`, `is defined`).
    """

    __slots__ = ("__fields", "__text")

    def __init__(self, text: str | None) -> None:
        self.__text = text
        self.__fields: dict[str, object] | None = None

    def __getitem__(self, name: str) -> object:
        if self.__fields is None:
            self.__fields = orjson.loads(self.__text) if self.__text is not None else {}
        if name in self.__fields:
            return self.__fields[name]
        whose = (
            "this row has no field" if self.__text is not None else "the document is an object, no row, without field"
        )
        return jinja2.StrictUndefined(f"{whose} {name!r}; where it may be missing, write row.{name} | default('')")
