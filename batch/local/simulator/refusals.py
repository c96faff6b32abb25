"""The errors of the simulated provider: OpenAI's statuses, types, codes and words, as its endpoints raise them."""

import orjson

LARGEST_BODY = 25 * 2**20
_INVALID = "invalid_request_error"
QUOTA = "insufficient_quota"
# OpenAI's errors: HTTP status, type, code, message.
ERRORS: dict[str, tuple[int, str, str | None, str]] = {
    "500": (500, "server_error", None, "The server had an error while processing your request. Sorry about that!"),
    "503": (503, "server_error", None, "The engine is currently overloaded, please try again later."),
    "429": (429, "requests", "rate_limit_exceeded", "Rate limit reached for requests."),
    QUOTA: (429, QUOTA, QUOTA, "You exceeded your current quota, please check your plan and billing details."),
    "invalid_api_key": (401, _INVALID, "invalid_api_key", "Incorrect API key provided."),
    "model_not_found": (404, _INVALID, "model_not_found", "The model does not exist or you do not have access to it."),
    "permission_denied": (403, _INVALID, "permission_denied", "You have insufficient permissions for this operation."),
    "context_length_exceeded": (400, _INVALID, "context_length_exceeded", "Your messages exceed the context length."),
    "invalid_request": (400, _INVALID, None, "The request is not valid."),
    "not_found": (404, _INVALID, None, "Invalid URL."),
    "too_large": (413, _INVALID, "request_too_large", f"The body is larger than {LARGEST_BODY} bytes."),
}


class Refused(Exception):
    """An answer that is one of OpenAI's errors, counted under its name.

    Args:
        name: one of ERRORS, or, with `like`, a name of its own.
        retry_after: seconds to tell the client to wait.
        error: what is special about this one (message, type, param, code).
    """

    def __init__(
        self, name: str, *, retry_after: float | None = None, like: str | None = None, **error: str | None
    ) -> None:
        self.name, self.retry_after = name, retry_after
        self.status, kind, code, message = ERRORS[like or name]
        self.body = orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": code} | error})
        self.key: bytes | None = None


def invalid(message: str, param: str | None = None, code: str | None = None) -> Refused:
    """Returns a 400 of a request that is not as the API wants it."""
    return Refused("invalid_request", message=message, param=param, code=code)


class SchemaError(ValueError):
    """The schema is not a valid JSON schema, or no answer to it can be made."""
