"""Strings that match a JSON schema's `pattern`."""

import re
from importlib import import_module
from typing import Any

from batch.local.simulator.refusals import SchemaError

# Bounds on what a schema may ask for: beyond them the answer would be slower to make than a real model's.
LONGEST_STRING = 100_000
_MASK = (1 << 64) - 1


def mix(number: int) -> int:
    """Spread a number's bits over 64 (the finaliser of splitmix64)."""
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)


ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

_PRINTABLE = [*ALPHABET, *" -_.,:;/+@#()'\"!?%&*=<>[]{}|~^$\\`", "\u00e9", "\u00df", "\u5b57", "\t", "\n"]


class Pattern:
    """Strings that match a regular expression, made from the tree of Python's own parser: not public, but the only one.

    Anchors and look-arounds take no room: the final check of an answer sees whether they hold.
    """

    def __init__(self, pattern: str) -> None:
        # JSON schema patterns are ECMAScript's, whose named groups are spelled without the P.
        python = re.sub(r"\(\?<(?![=!])", "(?P<", pattern)
        try:
            self._compiled = re.compile(python)
            self._tree = import_module("re._parser").parse(python)
        except (re.error, RecursionError, OverflowError) as error:
            raise SchemaError(f"the pattern {pattern!r} is not understood: {error}") from error
        self._characters: dict[int, list[str]] = {}

    def matches(self, value: str) -> bool:
        return self._compiled.search(value) is not None

    def make(self, seed: int, stretch: int) -> str:
        """Returns one string; `stretch` is how many more times than its least each part is repeated."""
        self._state, self._groups = seed, dict[int, str]()
        return self._sequence(self._tree, stretch)

    def _pick(self, choices: list[Any]) -> Any:
        self._state = mix(self._state + 0x9E3779B97F4A7C15 & _MASK)
        return choices[self._state % len(choices)]

    def _sequence(self, tree: Any, stretch: int) -> str:
        return "".join(self._part(node, str(node[0]), node[1], stretch) for node in tree)

    def _part(self, node: Any, op: str, argument: Any, stretch: int) -> str:
        match op:
            case "LITERAL":
                return chr(argument)
            case "NOT_LITERAL" | "ANY" | "IN":
                if id(node) not in self._characters:
                    self._characters[id(node)] = self._matching(node)
                return str(self._pick(self._characters[id(node)]))
            case "BRANCH":
                return self._sequence(self._pick(argument[1]), stretch)
            case "SUBPATTERN":
                self._groups[argument[0]] = text = self._sequence(argument[3], stretch)
                return text
            case "ATOMIC_GROUP":
                return self._sequence(argument, stretch)
            case "GROUPREF":
                return self._groups.get(argument, "")
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                least, most, inner = argument
                times = min(int(most), least + (stretch or self._pick([0, 1])), LONGEST_STRING)
                return "".join(self._sequence(inner, stretch) for _ in range(times))
            case _:
                return ""

    def _matching(self, node: Any) -> list[str]:
        """Returns the characters that a class of them, a dot or a negated character stands for."""
        single = import_module("re._compiler").compile(import_module("re._parser").SubPattern(self._tree.state, [node]))
        ranges = [argument for op, argument in node[1] if str(op) == "RANGE"] if str(node[0]) == "IN" else []
        return [each for each in _PRINTABLE if single.match(each)] or [chr(first) for first, _ in ranges] or [""]
