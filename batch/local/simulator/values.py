"""The values that a schema's parts accept, made from a document's text: a tree of nodes, walked once an answer."""

import ipaddress
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from hashlib import blake2b
from typing import Any
from uuid import UUID

import orjson

from batch.local.simulator.document_text import Text, fit
from batch.local.simulator.patterns import ALPHABET, LONGEST_STRING, Pattern, mix
from batch.local.simulator.refusals import SchemaError

LONGEST_ARRAY = 10_000
# How often a recursive schema may enter itself before only what it requires is given.
RECURSION = 2

_WORD_HINTS = frozenset(("keyword", "tag", "topic", "label", "word", "term", "theme", "entity", "category"))
_TITLE_HINTS = frozenset(("title", "name", "subject", "heading", "headline"))
_LEADING_HINTS = frozenset(("summary", "sentence", "abstract", "description", "text", "content"))


def _salt(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")


class Draft:
    """One answer in the making. `lean`: only what is required; `plain`: strings from an alphabet, not from the text."""

    __slots__ = ("depth", "lean", "plain", "text")

    def __init__(self, text: Text, *, lean: bool, plain: bool) -> None:
        self.text, self.lean, self.plain, self.depth = text, lean, plain, 0


class Node:
    """A part of a schema that can make values. `height`: levels of its smallest value, infinite when there is none."""

    height = math.inf

    def measure(self) -> float:
        return 0.0

    def settle(self) -> None:
        """Called once all heights are known."""

    def make(self, draft: Draft, seed: int) -> Any:
        raise NotImplementedError


class Slot(Node):
    """Stands for a schema that is still being compiled: where a recursive schema enters itself."""

    target: Node | None = None

    def measure(self) -> float:
        return 1 + self.target.height if self.target else math.inf

    def make(self, draft: Draft, seed: int) -> Any:
        assert self.target is not None
        draft.depth += 1
        try:
            return self.target.make(draft, seed)
        finally:
            draft.depth -= 1


class Values(Node):
    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def make(self, draft: Draft, seed: int) -> Any:
        return self.values[seed % len(self.values)]


class Choice(Node):
    """anyOf, oneOf, and a list of types. Null, where allowed, is one answer in eight."""

    null = False

    def __init__(self, branches: list[Node], exclusive: list[Callable[[Any], bool]]) -> None:
        self.branches, self.exclusive = branches, exclusive

    def measure(self) -> float:
        return min(branch.height for branch in self.branches)

    def settle(self) -> None:
        possible = [branch for branch in self.branches if branch.height < math.inf]
        self.shallow = sorted(possible, key=lambda branch: branch.height)
        self.branches = [each for each in possible if getattr(each, "values", None) != [None]] or possible
        self.null = len(self.branches) < len(possible)

    def make(self, draft: Draft, seed: int) -> Any:
        if self.null and seed % 8 == 7:
            return None
        deep = draft.depth >= RECURSION
        branches, first = (self.shallow, 0) if deep else (self.branches, seed)
        # oneOf wants exactly one: a value that two branches accept is no answer, and one branch may never give any.
        for place in range(first, first + (8 * len(branches) if self.exclusive else 1)):
            value = branches[place % len(branches)].make(draft, place // len(branches))
            if not self.exclusive or sum(accepts(value) for accepts in self.exclusive) == 1:
                break
        return value


class Number(Node):
    """Multiples of a step between two bounds. Where the schema names no step, a decimal one that leaves room."""

    def __init__(self, base: dict[str, Any], hint: str, *, integer: bool) -> None:
        lows = [(_exact(base[key]), key != "minimum") for key in ("minimum", "exclusiveMinimum") if key in base]
        highs = [(_exact(base[key]), key == "maximum") for key in ("maximum", "exclusiveMaximum") if key in base]
        step = _exact(base["multipleOf"]) if "multipleOf" in base else None
        if integer:
            step = _exact(common_multiple(base.get("multipleOf", 1), 1))
        share = not integer and hint.rpartition("_")[2] in {"score", "confidence", "probability", "share"}
        width = Fraction(1 if share else 100) * (step or 1)
        low, open_low = max(lows, default=(min((Fraction(0), *(high - width for high, _ in highs))), False))
        high, closed_high = min(highs, default=(max(width, low + width), True))
        spread = high - low
        if step is None and spread >= 0:
            step = Fraction(1, 100) if spread >= 1 else Fraction(10) ** (math.floor(math.log10(spread or 1)) - 3)
            if spread == 0 and low:
                step = low
        self.step = step or Fraction(1)
        self.first, self.last = math.ceil(low / self.step), math.floor(high / self.step)
        self.first += open_low and self.first * self.step == low
        self.last -= not closed_high and self.last * self.step == high
        if self.first > self.last:
            raise SchemaError("no number lies between the bounds")
        self.spread = 1 if integer or "multipleOf" in base else 7919  # a prime, so that neighbours lie apart

    def make(self, draft: Draft, seed: int) -> Any:
        value = (self.first + seed * self.spread % (self.last - self.first + 1)) * self.step
        whole = value.denominator == 1 and -(2**63) <= value < 2**63
        return value.numerator if whole else float(value)


def _exact(number: float) -> Fraction:
    """Returns the decimal that the schema's author wrote, not the binary float nearest to it."""
    return Fraction(repr(number))


def common_multiple(one: float, other: float) -> float:
    """Returns the least common multiple of two decimals."""
    first, second = _exact(one), _exact(other)
    numerator = math.lcm(first.numerator * second.denominator, second.numerator * first.denominator)
    multiple = Fraction(numerator, first.denominator * second.denominator)
    return multiple.numerator if multiple.denominator == 1 else float(multiple)


_EPOCH = datetime(2020, 1, 1, tzinfo=UTC)


def _moment(seed: int) -> datetime:
    return _EPOCH + timedelta(days=seed % 2000, seconds=seed // 2000 % 86_400)


def _ascii_word(text: Text, seed: int) -> str:
    words = [word for word in text.words if word.isascii()] or ["document"]
    return words[seed % len(words)] + (str(seed // len(words) % 1000) if seed >= len(words) else "")


_FORMATS: dict[str, Callable[[Text, int], str]] = {
    "date": lambda text, seed: _moment(seed).date().isoformat(),
    "date-time": lambda text, seed: _moment(seed).strftime("%Y-%m-%dT%H:%M:%SZ"),
    "time": lambda text, seed: _moment(seed * 2000 + seed // 86_400).strftime("%H:%M:%SZ"),
    "duration": lambda text, seed: f"P{seed % 365}D",
    "email": lambda text, seed: f"{_ascii_word(text, seed)}@example.com",
    "idn-email": lambda text, seed: f"{_ascii_word(text, seed)}@example.com",
    "hostname": lambda text, seed: f"{_ascii_word(text, seed)}.example.com",
    "idn-hostname": lambda text, seed: f"{_ascii_word(text, seed)}.example.com",
    "ipv4": lambda text, seed: str(ipaddress.IPv4Address(0x0A000000 + seed % 2**24)),
    "ipv6": lambda text, seed: str(ipaddress.IPv6Address((0xFD << 120) + seed % 2**64)),
    "uuid": lambda text, seed: str(UUID(int=mix(seed) << 64 | mix(seed + 1), version=4)),
    "json-pointer": lambda text, seed: f"/{_ascii_word(text, seed)}",
    "regex": _ascii_word,
} | {
    name: lambda text, seed: f"https://example.com/{_ascii_word(text, seed)}"
    for name in ("uri", "iri", "uri-reference", "iri-reference")
}


def _code(seed: int) -> str:
    """Returns a short string that differs for small seeds that differ, already in its first characters."""
    digits = ""
    while True:
        seed, digit = divmod(seed, 62)
        digits += ALPHABET[digit]
        if not seed:
            return digits


class String(Node):
    def __init__(self, base: dict[str, Any], hint: str) -> None:
        self.shortest = math.ceil(base.get("minLength", 0))
        self.longest = math.floor(base.get("maxLength", LONGEST_STRING))
        if self.shortest > min(self.longest, LONGEST_STRING):
            raise SchemaError(f"minLength {self.shortest} is more than maxLength or {LONGEST_STRING}")
        self.format = _FORMATS.get(base.get("format", ""))
        self.pattern = Pattern(base["pattern"]) if "pattern" in base else None
        name = re.split(r"[_\-. ]|(?<=[a-z])(?=[A-Z])", hint.removesuffix("[]"))[-1].lower()
        name = f"{name[:-3]}y" if name.endswith("ies") else name.removesuffix("s")
        self.many = hint.endswith("[]")
        self.words = name in _WORD_HINTS
        self.title = name in _TITLE_HINTS and not self.many
        self.leading = name in _LEADING_HINTS and not self.many

    def _from_text(self, text: Text, seed: int) -> str:
        if self.title:
            return text.title
        if self.words:
            words = text.words
            place = seed % (len(words) if self.many else min(len(words), 5))
            return words[place] + (str(seed // len(words) + 1) if self.many and len(words) <= seed < 2**20 else "")
        return text.summary if self.leading else text.sentence(seed)

    def make(self, draft: Draft, seed: int) -> str:
        if self.pattern:
            return self._matching(draft, seed)
        if self.format:
            value = self.format(draft.text, seed)
            if len(value) < self.shortest and value.startswith("https:"):
                value += "a" * (self.shortest - len(value))
            return value
        return fit(_code(seed) if draft.plain else self._from_text(draft.text, seed), self.shortest, self.longest)

    def _matching(self, draft: Draft, seed: int) -> str:
        assert self.pattern is not None
        value = fit(self._from_text(draft.text, seed), self.shortest, self.longest)
        if not draft.plain and not self.format and self.pattern.matches(value):
            return value
        for stretch in (0, 1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 256):
            value = self.pattern.make(seed, stretch)
            if self.shortest <= len(value) <= self.longest:
                return value
            fitted = fit(value, self.shortest, self.longest)
            if self.pattern.matches(fitted):
                return fitted
        return value


class Array(Node):
    def __init__(self, base: dict[str, Any], prefix: list[Node], rest: Node | None) -> None:
        self.least, self.most = math.ceil(base.get("minItems", 0)), math.floor(base.get("maxItems", LONGEST_ARRAY))
        self.prefix, self.rest, self.unique = prefix, rest, bool(base.get("uniqueItems"))
        if rest is None:
            self.most = min(self.most, len(prefix))
        if self.least > min(self.most, LONGEST_ARRAY):
            raise SchemaError(
                f"minItems {self.least} is more than maxItems, the items there can be, or {LONGEST_ARRAY}"
            )
        self.in_order = isinstance(rest, String) and rest.words and not prefix

    def _at(self, place: int) -> Node | None:
        return self.prefix[place] if place < len(self.prefix) else self.rest

    def measure(self) -> float:
        needed = (node.height for node in map(self._at, range(min(self.least, len(self.prefix) + 1))) if node)
        return 1 + max(needed, default=0) if self.least else 0

    def make(self, draft: Draft, seed: int) -> list[Any]:
        count = self.least
        if draft.depth < RECURSION and not draft.lean:
            usual = max(self.least, len(self.prefix), 3 if self.in_order else 1)
            count = min(self.most, usual + mix(seed) % 3)
        items: list[Any] = []
        seen = set()
        # Seeds count up along a list, so that a node of few values gives all of them before one comes again.
        start, tried, most_tries = 0 if self.in_order else seed, 0, 4 * count + 80
        plain = draft.plain
        while len(items) < count and tried < most_tries:
            node = self._at(len(items))
            if node is None or node.height == math.inf:
                break
            draft.plain = plain or tried > count + 40
            item = node.make(draft, start + tried)
            tried += 1
            if self.unique:
                key = orjson.dumps(item, option=orjson.OPT_SORT_KEYS)
                if key in seen:
                    continue
                seen.add(key)
            items.append(item)
        draft.plain = plain
        return items


class Object(Node):
    def __init__(self, properties: dict[str, Node | None], required: list[str]) -> None:
        if any(properties[name] is None for name in required):
            raise SchemaError("a required property has no possible value")
        self.properties = [
            (name, _salt(name), node, name in required) for name, node in properties.items() if node is not None
        ]

    def measure(self) -> float:
        return 1 + max((node.height for _, _, node, required in self.properties if required), default=0)

    def settle(self) -> None:
        possible = [entry for entry in self.properties if entry[2].height < math.inf]
        self.full = [(name, salt, node) for name, salt, node, _ in possible]
        self.lean = [(name, salt, node) for name, salt, node, required in possible if required]

    def make(self, draft: Draft, seed: int) -> dict[str, Any]:
        chosen = self.lean if draft.lean or draft.depth >= RECURSION else self.full
        return {name: node.make(draft, mix(seed ^ salt)) for name, salt, node in chosen}
