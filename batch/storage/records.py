"""Dataclasses out of JSON that we wrote, perhaps by another version: what that knows beyond us is ignored.

A field that a newer version has added must not make its files foreign, or a roll-back pays for every answer again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache, partial
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
Read = Callable[[Any], Any]


def read_record(kind: type[T], found: Any) -> T:
    """Makes the dataclass `kind` of parsed JSON, and those within it where they are none yet.

    Fields that it does not have are ignored. Raises `ValueError` that names those that it lacks and has no default for.
    """
    if isinstance(found, kind):
        return found
    if not isinstance(found, dict):
        raise ValueError(f"{kind.__name__}: {type(found).__name__} in place of an object")
    wanted: Any = kind
    required, readers = _fields(wanted)
    if lacking := required - found.keys():
        raise ValueError(f"{kind.__name__}: no field {', '.join(sorted(lacking))}")
    values = {name: read(found[name]) if read else found[name] for name, read in readers.items() if name in found}
    return kind(**values)


@cache
def _fields(kind: Any) -> tuple[frozenset[str], dict[str, Read | None]]:
    """The fields without a default, and of each field what reads it, None where it stays as it is."""
    hints = get_type_hints(kind)
    required = (each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING)
    return frozenset(required), {each.name: _reader(hints[each.name]) for each in fields(kind)}


def _reader(hint: Any) -> Read | None:
    if is_dataclass(hint):
        kind: Any = hint
        return partial(read_record, kind)
    within = [read for each in get_args(hint) if (read := _reader(each)) is not None]
    if not within:
        return None
    (read,) = within
    if get_origin(hint) in (UnionType, Union):
        return lambda value: None if value is None else read(value)
    if get_origin(hint) is list:
        return partial(_list, read)
    raise TypeError(f"no reader for {hint}")


def _list(read: Read, found: Any) -> list[Any]:
    if not isinstance(found, list):
        raise ValueError(f"{type(found).__name__} in place of a list")
    return [read(value) for value in found]
