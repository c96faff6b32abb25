"""How many tokens a text is at most, about: by its bytes and the model's family, without a tokenizer. Pure.

Tokenizers are large, their vocabularies come over the network, and most models' are not public. What has to be known
here is only whether a text fits, and where to cut it: so each byte of UTF-8 has a weight by its class, chosen so that
ordinary text (prose, code, tables; not long random strings) comes out a little too high. Weights add up: the parts of a
text have together what the whole has, which lets it be cut in one pass and never depends on what was asked before, so
that every attempt at a document cuts it in the same places. (`batch.previews.estimation` estimates the mean over a
corpus, with a range, and mends it by what the provider counts; that is another question.) Who changes a weight raises
`batch.job.long_documents.WAY`.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable

UNIT = 1000
"""Weights are in thousandths of a token, whole numbers, so that sums are exact."""

Measure = Callable[[str], int]
"""A text's weight, in UNITs of a token."""

WORST = 5 * UNIT
"""No family's character weighs more."""

_CLASSES = (
    string.ascii_lowercase.encode(),
    b" ",
    string.ascii_uppercase.encode(),
    b"\n\r\t\f\v",
    string.digits.encode(),
    bytes(range(0xC0, 0xCA)),
    bytes(range(0xCA, 0xE0)),
    bytes([0xE2]),
    bytes(range(0xE3, 0xEE)),
    bytes([0xE0, 0xE1, 0xEE, 0xEF]),
    bytes(range(0xF0, 0x100)),
    bytes(range(0x80, 0xC0)),
)
"""Lower case, spaces, upper case, line breaks, digits; the first bytes of characters: Latin with accents; Greek,
Cyrillic, Hebrew, Arabic; typographic signs; Chinese, Japanese, Korean; scripts of India and South-East Asia, rare ones;
emoji. Then the bytes that continue a character. All others are punctuation."""

_O200K = (262, 40, 400, 400, 630, 1700, 500, 800, 1020, 620, 2500, 0, 850)
_CL100K = (270, 40, 450, 400, 630, 2300, 1100, 1000, 1420, 2100, 3000, 0, 850)
"""By counts of OpenAI's vocabularies over 30 texts of 22 languages, code, JSON, tables, hashes: 1.0 to 1.5 times them,
to twice for Cyrillic and Thai in the older one; half of them for base64."""
_SIMULATED = (250,) * 13

_FAMILIES: tuple[tuple[str, tuple[int, ...], float], ...] = (
    (r"simulated-", _SIMULATED, 1.0),
    (r"(chatgpt|gpt-(4o|4\.[1-9]|[5-9]|oss)|o[1-9])", _O200K, 1.0),
    (r"(gpt-(3|4)|text-)", _CL100K, 1.0),
    (r"claude-", _CL100K, 1.35),
    (r"", _CL100K, 1.2),
)
"""Beginning of the model's name -> weights, and a factor for tokenizers that could not be counted with."""


def measure_for(model: str) -> Measure:
    """Returns the measure of a model by its name; a router's prefix (up to the last `/`) and `ft:` do not count."""
    name = model.rsplit("/", 1)[-1].lower().removeprefix("ft:")
    weights, factor = next((found, by) for begin, found, by in _FAMILIES if re.match(begin, name))
    *each, other = (round(weight * factor) for weight in weights)
    if len(set(each)) == 1:
        return lambda text: len(_bytes(text)) * other
    classes = tuple(zip(_CLASSES, each, strict=True))

    def measure(text: str) -> int:
        left = _bytes(text)
        total = 0
        for members, weight in classes:
            size = len(left)
            if not size:
                break
            left = left.translate(None, members)
            total += (size - len(left)) * weight
        return total + len(left) * other

    return measure


def tokens(weight: int) -> int:
    """Whole tokens, rounded up."""
    return -(-weight // UNIT)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
