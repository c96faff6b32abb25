"""Places in a JSON schema as `$ref` spells them, `#/properties/x`. Pure: text in, text out."""

from urllib.parse import unquote


def escape(token: str | int) -> str:
    return str(token).replace("~", "~0").replace("/", "~1")


def step(at: str, token: str | int) -> str:
    """Returns the place one step further in."""
    return f"{at}/{escape(token)}"


def pointer(steps: list[str | int]) -> str:
    """Returns the place that `steps` from the root lead to."""
    return "/".join(["#", *(escape(token) for token in steps)])


def tokens(ref: str) -> list[str]:
    """Returns the steps of a `$ref` as they are written in the schema, the root (`#`) being the first."""
    return [token.replace("~1", "/").replace("~0", "~") for token in unquote(ref).split("/")]
