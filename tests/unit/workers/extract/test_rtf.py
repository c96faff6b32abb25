"""What RTF documents show: characters by font and code page, notes, tables and boxes, and no more than that."""

from __future__ import annotations

import pytest

from benchmarks.made_documents import text_of
from workers.extract import Unreadable
from workers.extract.office.rtf import rtf_to_text

FONTS = (
    r"{\fonttbl{\f0\fcharset0 Arial;}{\f1\fcharset204{\*\fname A;}Arial CYR;}"
    r"{\f2\fcharset128 MS;}{\f3\fcharset2 Symbol;}}"
)


def hexed(text: str, encoding: str) -> str:
    return "".join(f"\\'{byte:02x}" for byte in text.encode(encoding))


def rtf(body: str, head: str = r"\ansi\ansicpg1252") -> bytes:
    return ("{\\rtf1" + head + FONTS + body + "}").encode("latin-1")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (r"\uc1 \u8364? \u-10179?\u-8704? caf\u233\'e9", "€ 😀 café"),
        (r"\u128512?\uc0\u233 x \uc2\u26085\'93\'fa y", "😀éx 日 y"),
        (
            r"\f0 caf\'e9 {\f1 " + hexed("Добрый", "cp1251") + r"} {\f2 " + hexed("請求書", "cp932") + r"}\'e9",
            "café Добрый 請求書é",
        ),
        (r"{\f3\'b7} item", "• item"),
        (r"5 {\f3 m}m {\f3\'b3} 3", "5 μm ≥ 3"),
        (r"\ldblquote A\rdblquote\emdash b\~c\tab d\line e\_f\-g\{\}\\", "“A”—b c\td\ne-fg{}\\"),
        ("one wo\r\nrd\\par\r\ntwo\\\nthree", "one word\ntwo\nthree"),
        (
            r"Text{\super\chftn{\footnote\pard\plain{\super\chftn} The note.}} goes on.\par Next.",
            "Text[1] goes on.\n[1] The note.\nNext.",
        ),
        (r"\trowd\cellx1000 one\cell two\cell\row three\cell\cell\row\pard After", "one\ttwo\nthree\nAfter"),
        (
            r"{out\intbl\par\itap2 a\nestcell b\nestcell"
            r"{\*\nesttableprops\trowd\nestrow}{\nonesttables\par}c\cell\row}",
            "out\na\tb\nc",
        ),
        (r'See {\field{\*\fldinst HYPERLINK "http://x.example"}{\fldrslt the terms}} now.', "See the terms now."),
        (r"Shown {\v no}\v no\v0  again {\deleted no}{\revised yes}", "Shown  again yes"),
        (r"{\header Head\par}{\footer Foot\par}Body", "Head\n\nFoot\n\nBody"),
        (
            r"A{\shp{\*\shpinst{\sp{\sn no}{\sv 202}}{\shptxt Box\par}}{\shprslt{\*\do{\dptxbxtext Box\par}}}}B",
            "A\nBox\n\nB",
        ),
        (r"{\upr{ansi ?}{\*\ud uni \u8364?}}", "uni €"),
        (r"{\info{\title no}}{\stylesheet{\s0 no;}}{\*\generator no;}{\colortbl;\red0;}{\*\bkmkstart no}Body", "Body"),
        (r"A{\object\objemb{\*\objclass no}{\*\objdata 0102}{\result{\pict 0102}Shown}}B", "AShownB"),
        (r"\sectd\binfsxn4 A {\pict{\*\picprop{\sp{\sn no}{\sv 75}}}\pngblip 89504e47}B\par {\b C}", "A B\nC"),
        (r"A {\pict\bin6 }{\\bin}B{\*\unknown{\b no}} C", "A B C"),
    ],
)
def test_a_document_shows_its_text_and_no_more(body: str, text: str) -> None:
    assert rtf_to_text(rtf(body)) == text


@pytest.mark.parametrize(
    ("head", "data", "text"),
    [
        (r"\mac", b"caf\\'8e", "café"),
        (r"\pc", b"caf\\'82", "café"),
        (r"\ansi\ansicpg65001", b"caf\\'c3\\'a9", "café"),
        (r"\ansi", b"caf\\'e9 \\'80", "café €"),
        (r"\ansi\ansicpg1251", "Добрый".encode("cp1251"), "Добрый"),
        (r"\ansi\ansicpg932", "表示ソース{}".encode("cp932").replace(b"{}", b"\\{\\}"), "表示ソース{}"),
    ],
)
def test_bytes_are_of_the_documents_code_page(head: str, data: bytes, text: str) -> None:
    assert rtf_to_text(b"{\\rtf1" + head.encode() + b"\\pard " + data + b"}") == text


@pytest.mark.parametrize("data", [rb"{\rtf1 One {\b two", rb"{\rtf1 One\par", rb"{\rtf1 One{\pict\bin900 \'ff}}"])
def test_a_document_that_is_cut_is_an_error(data: bytes) -> None:
    with pytest.raises(Unreadable, match="truncated") as refused:
        text_of("a.rtf", data)
    assert refused.value.error_type == "corrupt"


def test_depth_and_what_stands_around_it_do_no_harm() -> None:
    assert rtf_to_text(b"{\\rtf1 " + b"{" * 200_000 + b"deep" + b"}" * 200_001) == "deep"
    assert text_of("a.doc", b"\xef\xbb\xbf\r\n" + rb"{\rtf1 One}" + b"\x00\x00") == "One"
