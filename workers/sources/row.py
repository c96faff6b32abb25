"""A row of an object: which of its fields a job wants, and what they come to. Pure.

Whatever is wrong with a row is its own: it becomes an error row of its own, and the others stay what they are.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from batch.job import Job
from batch.places import Place

BAD_ROW, TOO_LARGE = "bad_row", "too_large"
LONGEST_ID = 256
"""Characters of a row's id."""
_ESCAPED = re.compile(r"[%#\x00-\x1f\x7f]")


class Broken(Exception):
    """The object cannot be read from here on; what was read before stands. The message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row as it goes into the plan. `identity` is the part of the document's id that tells it from other rows.

    `place` is behind it. A row with a `problem` (`TYPE: message`) has no `content`.
    """

    identity: str
    place: Place
    content: str | None = None
    fields: str | None = None
    etag: str = ""
    size: int = 0
    problem: str | None = None


@dataclass(frozen=True)
class Wanted:
    """The fields of a row that a job needs: its text, its id, those that the prompt shows, those that are carried.

    `limit`: bytes that a row may have at most.
    """

    text: str
    id: str | None
    shown: tuple[str, ...]
    carried: tuple[str, ...]
    limit: int

    @classmethod
    def of(cls, job: Job) -> Wanted:
        source, shown = job.source, job.prompt_fields
        carried = tuple(sorted({*shown, *source.keep}))
        return cls(source.text_field, source.id_field, tuple(shown), carried, source.max_document_bytes)

    @property
    def names(self) -> list[str]:
        """All of them, each once."""
        return list(dict.fromkeys([self.text, *([self.id] if self.id is not None else []), *self.carried]))

    def row(self, values: Mapping[str, Any], place: Place, where: str, raw: bytes | None = None) -> SourceRow:
        """The row of these values. `where` names it in messages; `raw` stands for it where it has no usable text."""
        try:
            return self._row(values, place, where, raw)
        except TypeError as error:  # orjson's, of what it can read, but not write: lists within lists, hundreds deep
            return self.bad(f"{where}: its fields cannot be kept: {error}", place, raw or repr(values).encode())

    def _row(self, values: Mapping[str, Any], place: Place, where: str, raw: bytes | None) -> SourceRow:
        text = values.get(self.text)
        if not isinstance(text, str):
            wrong = self._about(values, self.text, "a text")
            return self.bad(f"{where}: {wrong}", place, raw or _json(values), self._identity(values))
        content = text.encode()
        identity = self._identity(values) if self.id is not None else digest(content)
        if identity is None:
            assert self.id is not None
            wrong = self._about(values, self.id, f"a text or an integer, of 1 to {LONGEST_ID} characters")
            return self.bad(f"{where}: source.id_field: {wrong}", place, raw or content)
        fields = _json({name: values[name] for name in self.carried if name in values}) if self.carried else b""
        size = len(content) + len(fields)
        if size > self.limit:
            found = f"{where}: text and other fields have {size:,} bytes; the limit is {self.limit:,}"
            return SourceRow(identity, place, etag=digest(content, 16), problem=f"{TOO_LARGE}: {found}")
        shown = fields
        if self.shown != self.carried:
            shown = _json({name: values[name] for name in self.shown if name in values})
        etag = digest(len(content).to_bytes(8) + content + shown, 16)
        return SourceRow(identity, place, text, fields.decode() if self.carried else None, etag, size)

    def bad(self, message: str, place: Place, raw: bytes, identity: str | None = None) -> SourceRow:
        """A row that cannot be asked about."""
        problem = f"{BAD_ROW}: {message}"
        return SourceRow(identity or digest(raw), place, etag=digest(raw, 16), problem=problem)

    def _identity(self, values: Mapping[str, Any]) -> str | None:
        value = values.get(self.id) if self.id is not None else None
        if isinstance(value, bool) or not isinstance(value, str | int) or not 0 < len(str(value)) <= LONGEST_ID:
            return None
        return _ESCAPED.sub(lambda match: f"%{ord(match[0]):02X}", str(value))

    @staticmethod
    def _about(values: Mapping[str, Any], name: str, wanted: str) -> str:
        if name not in values:
            return f"it has no field {name!r}"
        value = values[name]
        return f"its field {name!r} is {_kind(value)}, not {wanted}"


def digest(data: bytes, size: int = 8) -> str:
    """`2 * size` hex digits."""
    return hashlib.blake2b(data, digest_size=size).hexdigest()


def _kind(value: object) -> str:
    names: dict[type, str] = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number"}
    return "null" if value is None else names.get(type(value), "a number" if isinstance(value, float) else "no text")


def _json(values: Mapping[str, Any]) -> bytes:
    """Keys in the given order; what JSON does not have (a decimal, bytes) as text."""
    return orjson.dumps(values, default=_plain, option=orjson.OPT_NON_STR_KEYS)


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)
