"""Says what is wrong with a schema or an answer, in few words. Both are other people's, so little of them is quoted."""

import json
from typing import Any

import jsonschema_rs

_WHERE = "output.schema"
_UNIONS = (jsonschema_rs.ValidationErrorKind.AnyOf, jsonschema_rs.ValidationErrorKind.OneOfNotValid)


class SchemaError(ValueError):
    """The job's `output.schema` is no valid JSON schema, or cannot become columns. Says where, what, and what to do."""


def schema_error(at: str, problem: str, advice: str) -> SchemaError:
    return SchemaError(f"{_WHERE}{shorten(at, 300)}: {problem}. {advice}{'' if advice.endswith('?') else '.'}")


def innermost(error: jsonschema_rs.ValidationError) -> jsonschema_rs.ValidationError:
    """Returns the error that says most: of a union with null, the one of its other alternative."""
    while isinstance(error.kind, _UNIONS):
        telling = [errors for errors in error.kind.context if errors and not _is_only_null(errors)]
        if len(telling) != 1:
            break
        error = telling[0][0]
    return error


def _is_only_null(errors: list[jsonschema_rs.ValidationError]) -> bool:
    kind = errors[0].kind
    return len(errors) == 1 and isinstance(kind, jsonschema_rs.ValidationErrorKind.Type) and kind.types == ["null"]


def quoted(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (RecursionError, TypeError):
        return "the value"
    return shorten(text, 60)


def shorten(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
