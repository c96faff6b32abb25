"""A row of an object: which of its fields a job wants, and what they come to. Pure.

Whatever is wrong with a row is its own: it becomes an error row of its own, and the others stay what they are.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Any
from urllib.parse import unquote
from uuid import UUID

import orjson

from batch.corpus.cursor import Place
from batch.job.job import Job
from batch.schema.error_types import ErrorType

LONGEST_ID = 256
"""Characters of a row's id."""
EXACT = 2**53
"""Up to here floats hold each integer: pandas makes them of integer columns that have nulls."""
NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"
"""What Hive and Spark call the folder of rows whose partition column is null."""
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
    of_folders: Mapping[str, str | None] = field(default_factory=dict)
    """Fields that the object's key says, for rows that lack them."""

    @classmethod
    def of(cls, job: Job) -> Wanted:
        source, shown = job.source, job.prompt_fields
        carried = tuple(sorted({*shown, *source.keep}))
        return cls(source.text_field, source.id_field, tuple(shown), carried, source.max_document_bytes)

    def within(self, key: str) -> Wanted:
        """The same for the rows of an object: with those fields that the folders of its key name, as Hive does."""
        found = {name: value for name, value in folder_fields(key).items() if name in self.others}
        return replace(self, of_folders=found) if found else self

    @cached_property
    def names(self) -> list[str]:
        """Returns all of them, each once."""
        return list(dict.fromkeys([self.text, *self.others]))

    @cached_property
    def others(self) -> list[str]:
        """Returns all but the text, each once."""
        return list(dict.fromkeys([*([self.id] if self.id is not None else []), *self.carried]))

    def row(self, values: Mapping[str, Any], place: Place, where: str, raw: bytes | None = None) -> SourceRow:
        """The row of these values. `where` names it in messages; `raw` stands for it where it has no usable text."""
        try:
            return self._row(values, place, where, raw)
        except TypeError as error:  # orjson's, of what it can read, but not write: lists within lists, hundreds deep
            return self.bad(f"{where}: its fields cannot be kept: {error}", place, raw or repr(values).encode())

    def _row(self, values: Mapping[str, Any], place: Place, where: str, raw: bytes | None) -> SourceRow:
        if self.of_folders:
            values = {**self.of_folders, **values}
        text = values.get(self.text)
        if not isinstance(text, str):
            problem, text = self._text(values, whole=raw is not None)
            if text is None:
                return self.bad(f"{where}: {problem}", place, raw or _json(values), self._identity(values))
        content = text.encode()
        identity = self._identity(values) if self.id is not None else digest(content)
        if identity is None:
            assert self.id is not None
            known = f"a text, a number or a time, of 1 to {LONGEST_ID} characters"
            wrong = self._about(values, self.id, known, whole=raw is not None)
            return self.bad(f"{where}: source.id_field: {wrong}", place, raw or content)
        fields = self._fields(values, self.carried) if self.carried else b""
        size = len(content) + len(fields)
        if size > self.limit:
            found = f"{where}: text and other fields have {size:,} bytes; the limit is {self.limit:,}"
            return SourceRow(identity, place, etag=digest(content, 16), problem=f"{ErrorType.TOO_LARGE}: {found}")
        shown = fields
        if self.shown != self.carried:
            shown = self._fields(values, self.shown)
        etag = digest(len(content).to_bytes(8) + content + shown, 16)
        return SourceRow(identity, place, text, fields.decode() if self.carried else None, etag, size)

    def bad(self, message: str, place: Place, raw: bytes, identity: str | None = None) -> SourceRow:
        """Returns a row that cannot be asked about."""
        problem = f"{ErrorType.BAD_ROW}: {message}"
        return SourceRow(identity or digest(raw), place, etag=digest(raw, 16), problem=problem)

    def _text(self, values: Mapping[str, Any], *, whole: bool) -> tuple[str, str | None]:
        """Of a row whose text is no `str`: what is wrong with it, or the text of bytes that are UTF-8."""
        value = values.get(self.text)
        if not isinstance(value, bytes):
            return self._about(values, self.text, "a text", whole=whole), None
        try:
            return "", value.decode()
        except UnicodeDecodeError as error:
            wrong = f"its field {self.text!r} is bytes that are not UTF-8: {value[error.start]:#04x} at {error.start:,}"
            return wrong, None

    @staticmethod
    def _fields(values: Mapping[str, Any], names: tuple[str, ...]) -> bytes:
        """Returns some of them as JSON. Infinity, of which that makes a null as of NaN, is text."""
        found = {name: values[name] for name in names if name in values}
        if float in map(type, found.values()):
            for name, value in found.items():
                if type(value) is float and math.isinf(value):
                    found[name] = "Infinity" if value > 0 else "-Infinity"
        return _json(found)

    def _identity(self, values: Mapping[str, Any]) -> str | None:
        text = id_text(values.get(self.id)) if self.id is not None else None
        if text is None or not 0 < len(text) <= LONGEST_ID:
            return None
        return _ESCAPED.sub(_escaped, text) if _ESCAPED.search(text) else text

    @staticmethod
    def _about(values: Mapping[str, Any], name: str, wanted: str, *, whole: bool) -> str:
        """`whole`: the values are all that the row has."""
        if name not in values:
            there = ", ".join(map(str, values)) if whole else ""
            return f"it has no field {name!r}" + (f"; its fields are {there[:200]}" if there else "")
        value = values[name]
        kind = _kind(value)
        if isinstance(value, str):
            kind = f"a text of {len(value):,} characters" if value else "an empty text"
        return f"its field {name!r} is {kind}, not {wanted}"


def _escaped(match: re.Match[str]) -> str:
    return f"%{ord(match[0]):02X}"


def id_text(value: object) -> str | None:
    """What a value is as a row's id, the same from JSON and from Parquet; None: it is none (null, NaN, true, a list).

    7, 7.0, a decimal 7.00 and "7" are one id. Bytes are their text where that is UTF-8 without control characters, else
    hex digits; times are ISO 8601, UUIDs have their hyphens.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return str(int(value)) if value.is_integer() and abs(value) <= EXACT else repr(value)
    if isinstance(value, Decimal):
        if not value.is_finite():
            return None
        text = f"{value:f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
        return "0" if text == "-0" else text
    if isinstance(value, bytes):
        try:
            text = value.decode()
        except UnicodeDecodeError:
            return value.hex()
        return text if text.isprintable() else value.hex()
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return str(value) if isinstance(value, timedelta | UUID) else None


def folder_fields(key: str) -> dict[str, str | None]:
    """Returns the columns that the folders of a key name: `dt=2026-01-01/`, names and values percent-decoded."""
    found: dict[str, str | None] = {}
    for step in key.split("/")[:-1]:
        name, equals, value = step.partition("=")
        if equals and name:
            found[unquote(name)] = None if value == NO_PARTITION else unquote(value)
    return found


def digest(data: bytes, size: int = 8) -> str:
    """`2 * size` hex digits."""
    return hashlib.blake2b(data, digest_size=size).hexdigest()


def _kind(value: object) -> str:
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    names: dict[type, str] = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number"}
    names |= {float: "a number", Decimal: "a number", bytes: "bytes"}
    return "null" if value is None else names.get(type(value), "no text")


def _json(values: Mapping[str, Any]) -> bytes:
    """Keys in the given order; what JSON does not have (a decimal, bytes) as text."""
    return orjson.dumps(values, default=_plain, option=orjson.OPT_NON_STR_KEYS)


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)
