"""Answers of the simulated provider: a document's text and a JSON schema in, a value that the schema accepts out.

The same text and schema always give the same answer, so that tests can tell a repeated answer from a changed one. A
schema is compiled once into a tree of nodes; each answer is then one walk over the tree.
"""

import ipaddress
import math
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import cached_property, lru_cache, partial
from hashlib import blake2b
from importlib import import_module
from itertools import chain
from typing import Any
from urllib.parse import unquote
from uuid import UUID

import jsonschema_rs
import orjson

# Characters of a document that are looked at, so that one of 25 MB costs no more than one of 4 KB.
TEXT_READ, WORDS_READ, SENTENCES_READ = 4096, 1024, 1024
# Bounds on what a schema may ask for: beyond them the answer would be slower to make than a real model's.
LONGEST_STRING = 100_000
LONGEST_ARRAY = 10_000
# How often a recursive schema may enter itself before only what it requires is given.
RECURSION = 2
ATTEMPTS = 8

_WORD_HINTS = frozenset(("keyword", "tag", "topic", "label", "word", "term", "theme", "entity", "category"))
_TITLE_HINTS = frozenset(("title", "name", "subject", "heading", "headline"))
_LEADING_HINTS = frozenset(("summary", "sentence", "abstract", "description", "text", "content"))
_STOP_WORDS = """
    about above after again against along already also although always among another because before being below between
    both cannot could doing during either every first following further given having however itself might never other
    others quite rather second several shall should since still their theirs themselves there therefore these thing
    things third those though three through today under until using wants where whether which while whose within without
    would yours
"""
_STOPS = frozenset(_STOP_WORDS.split())
_PUNCTUATION = string.punctuation + "\u2013\u2014\u2018\u2019\u201c\u201d\u2026"
_SENTENCE = re.compile(r"[^\s.!?\u3002][^.!?\u3002\n]{3,398}[.!?\u3002]?")
_TAG = re.compile(r"<(?:script|style)\b.*?</(?:script|style)>|<[^<>]{1,2000}>", re.DOTALL | re.IGNORECASE)
_HTML_HEADING = re.compile(r"<(title|h1|h2)\b[^>]*>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
_HEADING = re.compile(r"^(?:#{1,6}[ \t]+|(?:subject|title):[ \t]*)(\S.*)$", re.MULTILINE | re.IGNORECASE)
_MARKUP = re.compile(r"^[#>*+\-=\s|]+|[*`]+|\[([^\]]*)\]\([^)]*\)")
# A prompt usually opens with what to do; the document begins below it.
_INSTRUCTION = re.compile(
    r"(?:please|you are|your task|read|label|classify|summari[sz]e|extract|describe|analy[sz]e|answer|give|return|write"
    r"|translate|identify|list|tag|rate|tell|here|below|the following|document|text|input|ticket)\b.*[.:]$",
    re.IGNORECASE,
)
_MASK = (1 << 64) - 1


class SchemaError(ValueError):
    """The schema is not a valid JSON schema, or no answer to it can be made."""


def _mix(number: int) -> int:
    """Spread a number's bits over 64 (the finaliser of splitmix64)."""
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)


def _salt(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")


class Text:
    """What an answer can take from a document: its title, its sentences, and its most frequent longer words."""

    def __init__(self, raw: str, digest: bytes) -> None:
        self.seed = int.from_bytes(digest[:8], "big")
        self._head = raw[:TEXT_READ]

    @cached_property
    def _parts(self) -> tuple[str, str]:
        """The title and what stands below it: the first heading, else the first line that is no instruction."""
        head = self._head
        if "</" in head:
            markup = _HTML_HEADING.search(head)
            if markup:
                return _clean(_TAG.sub(" ", markup[2]), 120), _TAG.sub("\n", head[markup.end() :])
            head = _TAG.sub("\n", head)
        heading = _HEADING.search(head)
        if heading:
            return _clean(heading[1], 120), head[heading.end() :]
        line, _, below = head.lstrip().partition("\n")
        for _ in range(4):
            if not _INSTRUCTION.match(line) or not below.strip():
                break
            line, _, below = below.lstrip().partition("\n")
        return _clean(line, 120), below if below.strip() else line

    @property
    def title(self) -> str:
        """The title without markup, at most 120 characters."""
        return self._parts[0] or "Empty document"

    @cached_property
    def summary(self) -> str:
        """The first sentence below the title, without markup and at most 300 characters."""
        first = _SENTENCE.search(self._parts[1])
        return (_clean(first[0], 300) if first else "") or self.title

    @cached_property
    def _sentences(self) -> list[str]:
        found = _SENTENCE.findall(self._parts[1][:SENTENCES_READ])
        return [sentence for each in found if (sentence := _clean(each, 300))] or [self.title]

    def sentence(self, place: int) -> str:
        """One of the first sentences below the title."""
        return self._sentences[place % len(self._sentences)]

    @cached_property
    def words(self) -> list[str]:
        """The most frequent longer words, lower case, most frequent first (never empty)."""
        counts = Counter(self._parts[1][:WORDS_READ].lower().split())
        often = [token for token, count in counts.items() if count > 1]
        often.sort(key=counts.__getitem__, reverse=True)
        words: dict[str, None] = {}
        for token in chain(often, counts):
            if len(token) > 4 and token not in _STOPS:
                word = token.strip(_PUNCTUATION)
                if 4 < len(word) < 25 and word not in _STOPS and word.isalpha():
                    words[word] = None
                    if len(words) == 8:
                        break
        return list(words) or ["document"]


def _clean(line: str, longest: int) -> str:
    return _fit(" ".join(_MARKUP.sub(_label, line).split()), 0, longest)


def _label(markup: re.Match[str]) -> str:
    """What is left of a piece of markup: the text of a link."""
    return markup[1] or ""


def _fit(text: str, shortest: int, longest: int) -> str:
    """Text cut (between words where that is possible) or repeated to a length in bounds."""
    if len(text) > longest:
        cut = text[:longest]
        whole = cut.rpartition(" ")[0]
        return whole if len(whole) >= max(shortest, longest // 2, 1) else cut
    if len(text) < shortest:
        return ((text + " ") * (shortest // (len(text) + 1) + 1))[:shortest]
    return text


class _Draft:
    """One answer in the making. `lean`: only what is required; `plain`: strings from an alphabet, not from the text."""

    __slots__ = ("depth", "lean", "plain", "text")

    def __init__(self, text: Text, *, lean: bool, plain: bool) -> None:
        self.text, self.lean, self.plain, self.depth = text, lean, plain, 0


class _Node:
    """A part of a schema that can make values. `height`: levels of its smallest value, infinite when there is none."""

    height = math.inf

    def measure(self) -> float:
        return 0.0

    def settle(self) -> None:
        """Called once all heights are known."""

    def make(self, draft: _Draft, seed: int) -> Any:
        raise NotImplementedError


class _Slot(_Node):
    """Stands for a schema that is still being compiled: where a recursive schema enters itself."""

    target: _Node | None = None

    def measure(self) -> float:
        return 1 + self.target.height if self.target else math.inf

    def make(self, draft: _Draft, seed: int) -> Any:
        assert self.target is not None
        draft.depth += 1
        try:
            return self.target.make(draft, seed)
        finally:
            draft.depth -= 1


class _Values(_Node):
    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def make(self, draft: _Draft, seed: int) -> Any:
        return self.values[seed % len(self.values)]


class _Choice(_Node):
    """anyOf, oneOf, and a list of types. Null, where allowed, is one answer in eight."""

    null = False

    def __init__(self, branches: list[_Node], exclusive: list[Callable[[Any], bool]]) -> None:
        self.branches, self.exclusive = branches, exclusive

    def measure(self) -> float:
        return min(branch.height for branch in self.branches)

    def settle(self) -> None:
        possible = [branch for branch in self.branches if branch.height < math.inf]
        self.shallow = sorted(possible, key=lambda branch: branch.height)
        self.branches = [each for each in possible if getattr(each, "values", None) != [None]] or possible
        self.null = len(self.branches) < len(possible)

    def make(self, draft: _Draft, seed: int) -> Any:
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


class _Number(_Node):
    """Multiples of a step between two bounds. Where the schema names no step, a decimal one that leaves room."""

    def __init__(self, base: dict[str, Any], hint: str, *, integer: bool) -> None:
        lows = [(_exact(base[key]), key != "minimum") for key in ("minimum", "exclusiveMinimum") if key in base]
        highs = [(_exact(base[key]), key == "maximum") for key in ("maximum", "exclusiveMaximum") if key in base]
        step = _exact(base["multipleOf"]) if "multipleOf" in base else None
        if integer:
            step = _exact(_common_multiple(base.get("multipleOf", 1), 1))
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

    def make(self, draft: _Draft, seed: int) -> Any:
        value = (self.first + seed * self.spread % (self.last - self.first + 1)) * self.step
        whole = value.denominator == 1 and -(2**63) <= value < 2**63
        return value.numerator if whole else float(value)


def _exact(number: float) -> Fraction:
    """The decimal that the schema's author wrote, not the binary float nearest to it."""
    return Fraction(repr(number))


def _common_multiple(one: float, other: float) -> float:
    """The least common multiple of two decimals."""
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
    "uuid": lambda text, seed: str(UUID(int=_mix(seed) << 64 | _mix(seed + 1), version=4)),
    "json-pointer": lambda text, seed: f"/{_ascii_word(text, seed)}",
    "regex": _ascii_word,
} | {
    name: lambda text, seed: f"https://example.com/{_ascii_word(text, seed)}"
    for name in ("uri", "iri", "uri-reference", "iri-reference")
}

_ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def _code(seed: int) -> str:
    """A short string that differs for small seeds that differ, already in its first characters."""
    digits = ""
    while True:
        seed, digit = divmod(seed, 62)
        digits += _ALPHABET[digit]
        if not seed:
            return digits


class _String(_Node):
    def __init__(self, base: dict[str, Any], hint: str) -> None:
        self.shortest = math.ceil(base.get("minLength", 0))
        self.longest = math.floor(base.get("maxLength", LONGEST_STRING))
        if self.shortest > min(self.longest, LONGEST_STRING):
            raise SchemaError(f"minLength {self.shortest} is more than maxLength or {LONGEST_STRING}")
        self.format = _FORMATS.get(base.get("format", ""))
        self.pattern = _Pattern(base["pattern"]) if "pattern" in base else None
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

    def make(self, draft: _Draft, seed: int) -> str:
        if self.pattern:
            return self._matching(draft, seed)
        if self.format:
            value = self.format(draft.text, seed)
            if len(value) < self.shortest and value.startswith("https:"):
                value += "a" * (self.shortest - len(value))
            return value
        return _fit(_code(seed) if draft.plain else self._from_text(draft.text, seed), self.shortest, self.longest)

    def _matching(self, draft: _Draft, seed: int) -> str:
        assert self.pattern is not None
        value = _fit(self._from_text(draft.text, seed), self.shortest, self.longest)
        if not draft.plain and not self.format and self.pattern.matches(value):
            return value
        for stretch in (0, 1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 256):
            value = self.pattern.make(seed, stretch)
            if self.shortest <= len(value) <= self.longest:
                return value
            fitted = _fit(value, self.shortest, self.longest)
            if self.pattern.matches(fitted):
                return fitted
        return value


_PRINTABLE = [*_ALPHABET, *" -_.,:;/+@#()'\"!?%&*=<>[]{}|~^$\\`", "\u00e9", "\u00df", "\u5b57", "\t", "\n"]


class _Pattern:
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
        """One string; `stretch` is how many more times than its least each part is repeated."""
        self._state, self._groups = seed, dict[int, str]()
        return self._sequence(self._tree, stretch)

    def _pick(self, choices: list[Any]) -> Any:
        self._state = _mix(self._state + 0x9E3779B97F4A7C15 & _MASK)
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
        """The characters that a class of them, a dot or a negated character stands for."""
        single = import_module("re._compiler").compile(import_module("re._parser").SubPattern(self._tree.state, [node]))
        ranges = [argument for op, argument in node[1] if str(op) == "RANGE"] if str(node[0]) == "IN" else []
        return [each for each in _PRINTABLE if single.match(each)] or [chr(first) for first, _ in ranges] or [""]


class _Array(_Node):
    def __init__(self, base: dict[str, Any], prefix: list[_Node], rest: _Node | None) -> None:
        self.least, self.most = math.ceil(base.get("minItems", 0)), math.floor(base.get("maxItems", LONGEST_ARRAY))
        self.prefix, self.rest, self.unique = prefix, rest, bool(base.get("uniqueItems"))
        if rest is None:
            self.most = min(self.most, len(prefix))
        if self.least > min(self.most, LONGEST_ARRAY):
            raise SchemaError(
                f"minItems {self.least} is more than maxItems, the items there can be, or {LONGEST_ARRAY}"
            )
        self.in_order = isinstance(rest, _String) and rest.words and not prefix

    def _at(self, place: int) -> _Node | None:
        return self.prefix[place] if place < len(self.prefix) else self.rest

    def measure(self) -> float:
        needed = (node.height for node in map(self._at, range(min(self.least, len(self.prefix) + 1))) if node)
        return 1 + max(needed, default=0) if self.least else 0

    def make(self, draft: _Draft, seed: int) -> list[Any]:
        count = self.least
        if draft.depth < RECURSION and not draft.lean:
            usual = max(self.least, len(self.prefix), 3 if self.in_order else 1)
            count = min(self.most, usual + _mix(seed) % 3)
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


class _Object(_Node):
    def __init__(self, properties: dict[str, _Node | None], required: list[str]) -> None:
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

    def make(self, draft: _Draft, seed: int) -> dict[str, Any]:
        chosen = self.lean if draft.lean or draft.depth >= RECURSION else self.full
        return {name: node.make(draft, _mix(seed ^ salt)) for name, salt, node in chosen}


def _both(one: Any, other: Any) -> Any:
    return other if one is True or one == other else one if other is True else {"allOf": [one, other]}


_TIGHTER: dict[str, Callable[[Any, Any], Any]] = (
    dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems"), max)
    | dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems"), min)
    | {
        "required": lambda one, other: list(dict.fromkeys([*one, *other])),
        "uniqueItems": lambda one, other: one or other,
        "multipleOf": _common_multiple,
        "enum": lambda one, other: [value for value in one if any(_same(value, each) for each in other)],
        "items": _both,
        "additionalProperties": _both,
    }
)
_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
_IMPLIED = {
    "object": ("properties", "required", "additionalProperties", "minProperties", "maxProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
# Keywords whose value is a map from names to schemas, and those whose value is data and no schema.
_MAPS = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))
_DATA = frozenset(("enum", "const", "default", "examples"))
# Keywords that say nothing about the value at their own place.
_ELSEWHERE = frozenset(
    ("$defs", "definitions", "$comment", "title", "description", "default", "examples", "deprecated")
)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _same(one: Any, other: Any) -> bool:
    """Equality as JSON has it: 1 equals 1.0 and is not true."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other)


def _merge(base: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """One schema for what two ask for together (both without references and combinations)."""
    merged = base | other
    for key in base.keys() & other.keys():
        if key in _TIGHTER:
            merged[key] = _TIGHTER[key](base[key], other[key])
    if "type" in base and "type" in other:
        one, two = ({*_listed(each["type"])} for each in (base, other))
        both = one & two | ({"integer"} if "integer" in one | two and "number" in one | two else set())
        if not both:
            raise SchemaError("two types exclude each other")
        merged["type"] = [name for name in _TYPES if name in both]
    if "properties" in base or "properties" in other:
        names = base.get("properties", {}) | other.get("properties", {})
        merged["properties"] = {name: _both(_property(base, name), _property(other, name)) for name in names}
    return merged


def _property(schema: dict[str, Any], name: str) -> Any:
    return schema.get("properties", {}).get(name, schema.get("additionalProperties", True))


def _rooted(schema: Any) -> Any:
    """The schema as it stands below `#/$defs/root` of another document."""
    if isinstance(schema, list):
        return [_rooted(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "$ref" and isinstance(value, str) and value.startswith("#") and value[1:2] in ("", "/"):
            result[key] = "#/$defs/root" + value[1:]
        elif key in _MAPS and isinstance(value, dict):
            result[key] = {name: _rooted(each) for name, each in value.items()}
        elif key not in ("$id", "$schema"):
            result[key] = value if key in _DATA else _rooted(value)
    return result


class _Compiler:
    def __init__(self, schema: Any) -> None:
        self._document: dict[str, Any] = {"$defs": {"root": _rooted(schema)}}
        if isinstance(schema, dict) and "$schema" in schema:
            self._document["$schema"] = schema["$schema"]
        self._slots: dict[bytes, _Slot | SchemaError] = {}
        self._nodes: list[_Node] = []

    def compiled(self) -> tuple[_Node, Callable[[Any], bool]]:
        """The tree of nodes, and the check that an answer is valid."""
        top = {"$ref": "#/$defs/root"}
        accepts = self._validator(top)
        root = self._node(top, "")
        changed = True
        while changed:
            heights = [node.measure() for node in self._nodes]
            changed = heights != [node.height for node in self._nodes]
            for node, height in zip(self._nodes, heights, strict=True):
                node.height = height
        if root.height == math.inf:
            raise SchemaError("every answer to it would be infinitely deep")
        for node in self._nodes:
            node.settle()
        return root, accepts

    def _validator(self, schema: Any) -> Callable[[Any], bool]:
        try:
            document = self._document | {"allOf": [schema]}
            return jsonschema_rs.validator_for(document, validate_formats=True, offline=True).is_valid
        except ValueError as error:
            raise SchemaError(str(error).splitlines()[0]) from error

    def _node(self, schema: Any, hint: str) -> _Node:
        key = orjson.dumps([schema, hint])
        known = self._slots.get(key)
        if isinstance(known, SchemaError):
            raise known
        if known is not None:
            return known.target or known
        slot = self._slots[key] = _Slot()
        self._nodes.append(slot)
        try:
            slot.target = self._made(*self._flat(schema), hint)
        except SchemaError as error:
            self._slots[key] = error
            raise
        return slot.target

    def _flat(self, schema: Any) -> tuple[dict[str, Any], list[tuple[str, list[Any]]]]:
        """References followed, allOf merged: the keywords of a schema, and the anyOf and oneOf beside them."""
        base: dict[str, Any] = {}
        groups: list[tuple[str, list[Any]]] = []
        pending, followed = [schema], set()
        while pending:
            part = pending.pop(0)
            if part is False:
                raise SchemaError("false accepts nothing")
            part = {} if part is True else {key: value for key, value in part.items() if key not in _ELSEWHERE}
            reference = part.pop("$ref", None)
            if reference is not None and reference not in followed:
                followed.add(reference)
                pending.append(self._target(reference))
            pending += part.pop("allOf", [])
            groups += [(kind, part.pop(kind)) for kind in ("anyOf", "oneOf") if kind in part]
            if "const" in part:
                part = _merge(part, {"enum": [part.pop("const")]})
            base = _merge(base, part)
        return base, groups

    def _target(self, reference: str) -> Any:
        place: Any = self._document
        try:
            for step in reference.removeprefix("#/").split("/"):
                name = unquote(step).replace("~1", "/").replace("~0", "~")
                place = place[int(name) if isinstance(place, list) else name]
        except (KeyError, IndexError, ValueError, TypeError):
            message = f"$ref {reference!r} leads nowhere; only pointers into the schema itself are followed"
            raise SchemaError(message) from None
        return place

    def _kept(self, node: _Node) -> _Node:
        self._nodes.append(node)
        return node

    def _any(self, makers: Iterable[Callable[[], _Node]], exclusive: list[Callable[[Any], bool]]) -> _Node:
        """A choice of the branches that can be answered at all."""
        branches, error = [], SchemaError("it has no branches")
        for maker in makers:
            try:
                branches.append(maker())
            except SchemaError as failure:
                error = failure
        if not branches:
            raise error
        return branches[0] if len(branches) == 1 and not exclusive else self._kept(_Choice(branches, exclusive))

    def _made(self, base: dict[str, Any], groups: list[tuple[str, list[Any]]], hint: str) -> _Node:
        if groups:
            (kind, options), *others = groups
            rest = [base, *({kind: options} for kind, options in others)]
            exclusive = [self._validator(option) for option in options] if kind == "oneOf" and len(options) > 1 else []
            return self._any([partial(self._node, {"allOf": [*rest, each]}, hint) for each in options], exclusive)
        if "enum" in base:
            values = list(filter(self._validator(base), base["enum"]))
            if not values:
                raise SchemaError("enum and its neighbours exclude each other")
            return self._kept(_Values(values))
        implied = (name for name, keywords in _IMPLIED.items() if not base.keys().isdisjoint(keywords))
        names = _listed(base.get("type") or next(implied, "string"))
        return self._any([partial(self._typed, name, base, hint) for name in names], [])

    def _typed(self, name: str, base: dict[str, Any], hint: str) -> _Node:
        match name:
            case "object":
                return self._kept(self._object(base))
            case "array":
                return self._kept(self._array(base, hint.removesuffix("[]") + "[]"))
            case "string":
                return self._kept(_String(base, hint))
            case "null" | "boolean":
                return self._kept(_Values([None] if name == "null" else [False, True]))
            case _:
                return self._kept(_Number(base, hint, integer=name == "integer"))

    def _array(self, base: dict[str, Any], hint: str) -> _Array:
        prefix, rest = base.get("prefixItems", []), base.get("items", True)
        if isinstance(rest, list):  # as up to draft 7
            prefix, rest = rest, base.get("additionalItems", True)
        return _Array(base, [self._node(each, hint) for each in prefix], self._optional(rest, hint))

    def _object(self, base: dict[str, Any]) -> _Object:
        required, schemas = base.get("required", []), base.get("properties", {})
        if base.get("additionalProperties") is False and not schemas.keys() >= set(required):
            raise SchemaError("a required property is not allowed")
        asked = {**schemas, **{name: _property(base, name) for name in required}}
        return _Object({name: self._optional(schema, name) for name, schema in asked.items()}, required)

    def _optional(self, schema: Any, hint: str) -> _Node | None:
        try:
            return self._node(schema, hint)
        except SchemaError:
            return None


class Answerer:
    """Makes answers to one schema.

    Raises:
        SchemaError: the schema is no valid JSON schema, or one that no answer of ours can satisfy.
    """

    def __init__(self, schema: Any) -> None:
        try:
            self._root, self._accepts = _Compiler(schema).compiled()
        except (RecursionError, TypeError, AttributeError) as error:
            raise SchemaError(f"it is nested too deeply or has a keyword of the wrong type ({error})") from error

    def answer(self, text: Text) -> Any:
        """The answer for a text: always the same one, and valid against the schema."""
        for attempt in range(ATTEMPTS):
            draft = _Draft(text, lean=attempt >= ATTEMPTS // 2, plain=attempt >= ATTEMPTS - 2)
            try:
                value = self._root.make(draft, _mix(text.seed + attempt))
            except RecursionError:
                continue
            if self._accepts(value):
                return value
        raise SchemaError("the simulated provider cannot make an answer that it accepts")


@lru_cache(maxsize=512)
def _answerer(schema: bytes) -> Answerer:
    return Answerer(orjson.loads(schema))


def answer_for(text: Text, schema: Any) -> Any:
    """A JSON value for a text, valid against a JSON schema (given as parsed JSON); `SchemaError` if there is none."""
    try:
        key = orjson.dumps(schema)
    except TypeError as error:
        raise SchemaError(f"it is not JSON: {error}") from error
    return _answerer(key).answer(text)
