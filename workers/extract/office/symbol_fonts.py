# ruff: noqa: RUF001
"""Characters of the fonts Symbol and Wingdings, whose codes stand for others than their numbers say.

To take them for letters makes 5 mm of 5 μm, and a letter of a ticked box. Source of Symbol's:
https://www.unicode.org/Public/MAPPINGS/VENDORS/ADOBE/symbol.txt
"""

from __future__ import annotations

_SYMBOL = {
    **dict(zip(range(0x41, 0x5B), "ΑΒΧΔΕΦΓΗΙϑΚΛΜΝΟΠΘΡΣΤΥςΩΞΨΖ", strict=True)),
    **dict(zip(range(0x61, 0x7B), "αβχδεφγηιϕκλμνοπθρστυϖωξψζ", strict=True)),
    **dict(zip(range(0xA1, 0xC0), "ϒ′≤⁄∞ƒ♣♦♥♠↔←↑→↓°±″≥×∝∂•÷≠≡≈…⏐⎯↵", strict=True)),
    **dict(zip(range(0xC0, 0xE6), "ℵℑℜ℘⊗⊕∅∩∪⊃⊇⊄⊂⊆∈∉∠∇®©™∏√⋅¬∧∨⇔⇐⇑⇒⇓◊〈®©™∑", strict=True)),
    0x22: "∀", 0x24: "∃", 0x27: "∋", 0x2A: "∗", 0x2D: "\u2212", 0x40: "≅", 0x5C: "∴", 0x5E: "⊥", 0x7E: "∼",
    0xA0: "€", 0xF1: "〉", 0xF2: "∫",
}  # fmt: skip
_WINGDINGS = {
    0x20: " ", 0x4A: "☺", 0x4C: "☹", 0x6F: "☐", 0x78: "☒", 0xA8: "☐", 0xDF: "←", 0xE0: "→", 0xE1: "↑", 0xE2: "↓",
    0xE8: "→", 0xF0: "→", 0xFB: "✗", 0xFC: "✓", 0xFD: "☒", 0xFE: "☑",
}  # fmt: skip
"""What text is written with; all else in it is a picture."""
OTHER = "•"
"""What has no character here."""


def shown(font: str, code: int) -> str | None:
    """What a code of a font shows, in Unicode; None for fonts of letters. `code` may be 0xF000 and more, as in Word."""
    font, code = font.casefold(), code - 0xF000 if 0xF000 <= code < 0xF100 else code
    if font.startswith("symbol"):
        return _SYMBOL.get(code) or (chr(code) if 0x20 <= code < 0x7F else OTHER)
    if "dings" in font:
        return _WINGDINGS.get(code, OTHER) if font.strip() == "wingdings" else OTHER
    return None
