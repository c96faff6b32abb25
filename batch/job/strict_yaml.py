"""YAML as job files use it: a key that stands twice is a mistake, a date is text, and `1e-3` a number, as in JSON."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

_MERGE, _TIMESTAMP = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:timestamp"
_FLOAT = "tag:yaml.org,2002:float"
_EXPONENT = re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$")
"""Numbers that YAML 1.2 knows as such and 1.1 takes for text: without a dot, or without the exponent's sign."""


class YamlError(ValueError):
    """The text is no YAML that can be used. The message says where, if that is known."""


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if (key.tag, key.value) in seen:
                    mark = key.start_mark
                    raise YamlError(f"line {mark.line + 1}, column {mark.column + 1}: {key.value!r} stands there twice")
                seen.add((key.tag, key.value))
        return node


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+0123456789"))


def load(text: str, check: Callable[[yaml.Node | None], None] | None = None) -> Any:
    """The plain data of the one document in `text`. Raises `YamlError`, also for the `ValueError` of a `check`."""
    try:
        if check is not None:
            check(yaml.compose(text, _Loader))
        return yaml.load(text, _Loader)
    except YamlError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise YamlError(" ".join(str(error).split())) from None
    except RecursionError:
        raise YamlError("it nests too deeply") from None
