"""Answers of the model in, checked column values out. What is wrong with one is said so that the model can mend it.

Pure: no I/O, the same result for the same input.
"""

import itertools
import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import jsonschema_rs
import orjson

from batch.schema.columns import FORMAT_EXAMPLES, INT64_MAX, INT64_MIN, MASK, Columns, Node
from batch.schema.problems import innermost, quoted, shorten

MAX_ANSWER_BYTES = 4 * 1024 * 1024
"""Longest answer that is read: 500 of them, a default partition, fill one Arrow string array (2 GiB)."""

MAX_ANSWER_VALUES = 2**20
"""Most column values that one answer's lists of objects may unfold to: `[{},{},...]` is short text and much memory."""

_MAX_MESSAGE = 500
_MAX_QUOTED = 200
_MAX_PROBLEMS = 5  # that one message names
# The validator makes every error at once, each with a copy of its value (500,000 of them: 5 s and 800 MB).
_EXPLAIN_ALL_BYTES = 8 * 1024
_EXPLAIN_FIRST_BYTES = 64 * 1024
_EXACT_FLOAT = 2**53  # from here on a float may stand for several integers
_WHITESPACE = b" \t\r\n"
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)", re.ASCII)
_FENCE = re.compile(rb"```json[ \t]*\r?\n(.*)```", re.DOTALL | re.IGNORECASE)
_Kinds = jsonschema_rs.ValidationErrorKind


class InvalidAnswer(ValueError):
    """An answer that is not JSON or does not fit the schema.

    The message (at most 500 characters, at most 200 of them the answer's own) is for the error row, and for the model
    on a re-ask.
    """


class AnswerReader:
    """Reads the model's answers of one run: parses, validates, converts. Compiled once from the job's JSON schema.

    Raises:
        SchemaError: as `check_schema`.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        columns = Columns(schema)
        self._convert = _converter(columns.root)
        self._validator = columns.validator
        self._values_per_object = _values_per_listed_object(columns.root)

    def read(self, text: str | bytes) -> dict[str, Any]:
        """The answer as `pa.array([...], type=arrow_type(schema))` takes it: every property there, None where absent.

        Whitespace around the JSON and one surrounding ```json fence are tolerated, nothing else.

        - An integer column takes integral floats as far as a float is exact (2**53); an int64 overflow is invalid.
        - Dates become `date`, date-times aware `datetime` in UTC; digits beyond microseconds are cut off.
        - A date-time that Python cannot hold (a leap second, a year outside 1 to 9999) is invalid.
        - Integers beyond 64 bits lose precision in float and JSON text columns. Of repeated keys the last counts.

        Raises:
            InvalidAnswer: whatever is wrong with the answer; nothing else is raised for any text.
        """
        try:
            data = text.encode() if isinstance(text, str) else text
        except UnicodeEncodeError:
            raise InvalidAnswer("the answer is not valid Unicode: it holds a lone surrogate") from None
        value = self.parse(data)
        try:
            if not self._validator.is_valid(value):
                raise InvalidAnswer(self._explain(value, len(data)))
            answer: dict[str, Any] = self._convert(value)
        except _Unfit as unfit:
            path = _path(unfit.steps[::-1])
            raise InvalidAnswer(f"{path}: {quoted(unfit.value)} {unfit.problem}") from None
        except InvalidAnswer:
            raise
        except ValueError:  # the validator's limit of 255 levels
            raise InvalidAnswer("the answer cannot be validated: it is nested too deeply") from None
        return answer

    def parse(self, data: bytes) -> Any:
        """Returns the answer's JSON as it is, not validated. Raises `InvalidAnswer`."""
        if len(data) > MAX_ANSWER_BYTES:
            raise InvalidAnswer(f"the answer is too long: {len(data)} bytes, at most {MAX_ANSWER_BYTES} are read")
        data = data.strip(_WHITESPACE)
        if data.startswith(b"```") and (fenced := _FENCE.fullmatch(data)):
            data = fenced[1]
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            if not data:
                raise InvalidAnswer("the answer is empty: JSON was expected") from None
            start = quoted(data[:400].decode(errors="replace"))
            raise InvalidAnswer(f"the answer is not JSON: {error} (it starts with {start})") from None
        if self._values_per_object and data.count(b"{") * self._values_per_object > MAX_ANSWER_VALUES:
            raise InvalidAnswer(
                f"the answer is too large: its lists of objects hold more than {MAX_ANSWER_VALUES} values"
            )
        return value

    def _explain(self, value: Any, size: int) -> str:
        errors: list[jsonschema_rs.ValidationError] = []
        if size <= _EXPLAIN_ALL_BYTES:
            errors += itertools.islice(self._validator.iter_errors(value), _MAX_PROBLEMS + 1)
        else:
            self._convert(value)  # says itself where a type is wrong
            if size <= _EXPLAIN_FIRST_BYTES:
                try:
                    self._validator.validate(value)
                except jsonschema_rs.ValidationError as first:
                    errors.append(first)
        problems: list[str] = []
        budget = _MAX_QUOTED
        for error in map(innermost, errors):
            path, shown = _path(error.instance_path), quoted(_culprit(error))
            budget -= len(path) + len(shown)
            if len(problems) == _MAX_PROBLEMS or budget < 0:
                problems.append("and more")
                break
            problems.append(f"{path}: {_problem(error, shown)}")
        return shorten("; ".join(problems), _MAX_MESSAGE) or "the answer does not fit the schema"


# --- From the tree to converters: each trusts nothing, for the merged type of a union is wider than any one alternative


class _Unfit(Exception):
    """A value that its column does not take. `steps` is the way to it, innermost first."""

    def __init__(self, value: Any, problem: str) -> None:
        self.value = value
        self.problem = problem
        self.steps: list[str | int] = []


_Converter = Callable[[Any], Any]


def _converter(node: Node) -> _Converter:
    if node.is_json_text:
        return _to_json_text
    if node.kind == "object":
        return _object_converter(node)
    if node.item is not None:
        return _array_converter(_converter(node.item))
    return _SCALARS[node.kind]


def _object_converter(node: Node) -> _Converter:
    converters = [(name, _converter(child)) for name, child in node.fields.items()]

    def convert(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise _Unfit(value, "is not an object")
        converted: dict[str, Any] = {}
        name = ""
        try:
            for name, convert_property in converters:
                inner = value.get(name)
                converted[name] = None if inner is None else convert_property(inner)
        except _Unfit as unfit:
            unfit.steps.append(name)
            raise
        return converted

    return convert


def _array_converter(convert_item: _Converter) -> _Converter:
    def convert(value: Any) -> list[Any]:
        if type(value) is not list:
            raise _Unfit(value, "is not an array")
        converted: list[Any] = []
        try:
            for inner in value:
                converted.append(None if inner is None else convert_item(inner))
        except _Unfit as unfit:
            unfit.steps.append(len(converted))
            raise
        return converted

    return convert


def _to_string(value: Any) -> str:
    if type(value) is str:
        return value
    raise _Unfit(value, "is not a string")


def _to_boolean(value: Any) -> bool:
    if type(value) is bool:
        return value
    raise _Unfit(value, "is not a boolean")


def _to_integer(value: Any) -> int:
    if type(value) is int:
        if INT64_MIN <= value <= INT64_MAX:
            return value
        raise _Unfit(value, "is beyond the 64 bits of an integer column")
    if type(value) is not float or not value.is_integer():
        raise _Unfit(value, "is not an integer")
    if abs(value) < _EXACT_FLOAT:
        return int(value)
    if abs(value) >= 2**63:
        raise _Unfit(value, "is beyond the 64 bits of an integer column")
    raise _Unfit(value, "is too large for an integer with a fraction or an exponent: write out its digits alone")


def _to_number(value: Any) -> float:
    if type(value) is float:
        return value
    if type(value) is int:
        return float(value)
    raise _Unfit(value, "is not a number")


def _to_date(value: Any) -> date:
    try:
        if type(value) is str and _DATE.fullmatch(value):
            return date.fromisoformat(value)
    except ValueError:
        pass
    raise _Unfit(value, f"is not a date of the years 1 to 9999, such as {FORMAT_EXAMPLES['date']}")


def _to_timestamp(value: Any) -> datetime:
    try:
        if type(value) is str and _DATE_TIME.fullmatch(upper := value.upper()):
            return datetime.fromisoformat(upper).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise _Unfit(value, f"is not a date-time of the years 1 to 9999, such as {FORMAT_EXAMPLES['date-time']}")


def _to_json_text(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # its limit is 254 levels
        raise _Unfit(value, "is nested too deeply") from None


_SCALARS: dict[str, _Converter] = {
    "boolean": _to_boolean,
    "integer": _to_integer,
    "number": _to_number,
    "string": _to_string,
    "date": _to_date,
    "timestamp": _to_timestamp,
}


def _values_per_listed_object(node: Node) -> int:
    """Column values that one `{}` in a list can unfold to, at most; 0 if no list holds objects."""
    if node.item is None:
        return max((_values_per_listed_object(child) for child in node.fields.values()), default=0)
    return 1 + node.item.size if node.item.size else 0  # what is deeper is smaller


# --- Saying what is wrong with an answer


def _culprit(error: jsonschema_rs.ValidationError) -> Any:
    match error.kind:
        case _Kinds.AdditionalProperties(unexpected=names) | _Kinds.UnevaluatedProperties(unexpected=names):
            return ", ".join(names)
        case _Kinds.PropertyNames(error=inner):
            return inner.instance
    return error.instance


def _problem(error: jsonschema_rs.ValidationError, shown: str) -> str:
    match error.kind:
        case _Kinds.AdditionalProperties() | _Kinds.UnevaluatedProperties():
            return f"the schema does not allow the properties {shown}"
        case _Kinds.PropertyNames():
            return f"the schema does not allow a property with the name {shown}"
        case _Kinds.Enum(options=options):
            listed = ", ".join(json.dumps(option, ensure_ascii=False) for option in options)
            return f"{shown} is not one of {shorten(listed, 200)}"
        case _Kinds.Format(format=name) if name in FORMAT_EXAMPLES:
            return f"{shown} is not a {name}, such as {FORMAT_EXAMPLES[name]}"
    return shorten(error.message, 200).replace(MASK, shown)


def _path(steps: list[str | int]) -> str:
    text = ""
    for step in steps:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return shorten(text.removeprefix("."), 100) or "the answer"
