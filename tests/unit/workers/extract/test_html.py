"""Pages as they show: which elements break a line and which do not, what is hidden, and what XHTML means."""

from __future__ import annotations

import pytest

from benchmarks.made_documents import text_of
from workers.extract.web.html import page_to_text

XHTML = '<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml">'


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>un<b>believ</b>able, <a href=x>the <i>terms</i></a>.</p>", "unbelievable, the terms."),
        ("<p>a</p>\n<p>b</p>  c <i> d </i>", "a\nb\nc d"),
        ("one<br>two<br/>three", "one\ntwo\nthree"),
        ("<ul><li>a<ul><li>b</ul><li>c</ul>", "a\nb\nc"),
        ("<dl><dt>term<dd>what it is</dl>", "term\nwhat it is"),
        ("a&shy;b&nbsp;c&#1;d<wbr>e<!-- x -->f", "ab c def"),
        ('<span style="display:block">a</span><span style="display: flex">b</span>', "a\nb"),
        (
            "<table><tr><th>Item<th>Price<tr><td><p>Bolt</p></td>\n<td>\n<p>7</p>\n</td></table>after",
            "Item\tPrice\nBolt\t7\nafter",
        ),
        ("<table><tr><td></td><td>x</td><td></td></tr><tr><td>y</table>", "x\ny"),
        ("<p>t<table><tr><td><td>head<tr><td>row<td>7</table>", "t\n\thead\nrow\t7"),
        ("<table><tr><td><table><tr><td>in</table><td>beside</table>", "in\nbeside"),
        ("<pre>def f():\n    return 1\n\n\nx</pre>tail", "def f():\n    return 1\n\n\nx\ntail"),
        (
            "<label>Name</label><input value=Jane><input type=hidden value=no><textarea>My\n  own</textarea>",
            "Name Jane\nMy\n  own",
        ),
        ("<input type=submit value=Send><input type=PASSWORD value=no>", "Send"),
        ("<ruby>漢<rp>(</rp><rt>kan</rt><rp>)</rp>字<rt>ji</rt></ruby>", "漢(kan)字(ji)"),
        ("10<sup>6</sup> x<sup>2</sup> H<sub>2</sub>O 10<sup>-3</sup>", "10^6 x2 H2O 10^-3"),
        ("in 2010<sup><a href=#n>6</a></sup>, 1010<sub>2</sub>", "in 2010^6, 1010_2"),
        ("<s>100</s>80, <del>old</del><ins>new</ins>, a<ins>b</ins>c", "100 80, old new, abc"),
        (
            "<math><semantics><mfrac><mn>1</mn><mn>2</mn></mfrac><msup><mn>10</mn><mn>6</mn></msup>"
            "<annotation>no</annotation></semantics></math>",
            "1/210^6",
        ),
        ("<math><mfrac><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow><mn>2</mn></mfrac></math>", "(a+b)/2"),
        ("<svg><title>no</title><defs><text>no</text></defs><g><text>a<tspan>b</tspan></text></g></svg>c", "ab\nc"),
        ("<p>&lt;p&gt; &amp;amp; caf&eacute; &#128512;", "<p> &amp; café 😀"),
        ("a<xmp><b>raw</b></xmp>", "a\n<b>raw</b>"),
    ],
)
def test_elements_join_or_part_as_they_are_shown(page: str, text: str) -> None:
    assert page_to_text(page) == text


@pytest.mark.parametrize(
    "hidden",
    [
        "<p hidden>no</p>",
        "<div style='color:red; DISPLAY : none !important'><p>no</div>",
        "<dialog>no</dialog>",
        "<i style=visibility:hidden>no</i>",
        "<p style='mso-hide:all'>no</p>",
        "<noscript>no</noscript>",
        "<template><p>no</template>",
        "<script>no</script>",
        "<style>no</style>",
        "<video>no</video>",
        "<iframe>no</iframe>",
        "<datalist><option>no</datalist>",
    ],
)
def test_what_a_page_does_not_show_is_left_out(hidden: str) -> None:
    assert page_to_text(f"<p>Shown{hidden}</p>on") in ("Shown\non", "Shownon")


def test_what_only_a_script_or_a_reader_opens_is_shown() -> None:
    assert page_to_text("<body style='display:none'><p hidden=until-found>a</p><dialog open>b</dialog>") == "a\nb"
    assert page_to_text("<details><summary>s</summary>d</details><p aria-hidden=true>e") == "s\nd\ne"


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (f'{XHTML}<head><title>T</title><script src="k.js"/></head><body><p>B</p><div/>x</body></html>', "T\nB\nx"),
        (f"{XHTML}<head><title/></head><body><a id='x'/><b/><p>B</p></body></html>", "B"),
        (f"{XHTML}<body><p><![CDATA[a < b]]></p><textarea/><iframe src='x'/>c</body></html>", "a < b\nc"),
        (f"{XHTML}<body><script>var s = '<script/>';</script>B</body></html>", "B"),
        ('<!DOCTYPE html [<!ENTITY x "y">]>' + XHTML[21:] + "<body>B<br/></body></html>", "B"),
        (XHTML[:-1] + ' xmlns:h="http://www.w3.org/1999/xhtml"><h:p>a</h:p><h:p>b</h:p></html>', "a\nb"),
        ("<title>T</title><script src='k.js' /><p>B</p>", "T\nB"),
        ('<title>T</title><p>B</p><script>s = "<style/>"</script>C', "T\nB\nC"),
    ],
)
def test_self_closed_tags_close(page: str, text: str) -> None:
    assert page_to_text(page) == text


def test_a_title_is_shown_once_and_a_drawings_is_none() -> None:
    assert page_to_text("<html><body><td>Cell<title>late  title</title><li>Item") == "late title\nCell\nItem"
    assert page_to_text("<svg><title>drawn</title></svg><p>x") == "x"


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("page", b"\xff\xfe" + "<html><p>Grüße</p>".encode("utf-16-le"), "Grüße"),
        ("table.xls", b"<table border=1><tr><td>a<td>b</table>", "a\tb"),
        ("index.php", b"<div>a<b>b</b></div>", "ab"),
        ("message.eml", b"<!doctype html><p>a<b>b</b>", "ab"),
        ("note.txt", b"<b>not a page", "<b>not a page"),
        (
            "page.htm",
            b"MIME-Version: 1.0\nContent-Type: multipart/related; boundary=x\n\n"
            b"--x\nContent-Type: text/html\n\n<p>a\n--x--\n",
            "a",
        ),
    ],
)
def test_a_page_is_known_by_its_bytes(name: str, data: bytes, text: str) -> None:
    assert text_of(name, data) == text


def test_unclosed_tags_of_a_page_that_is_xml_take_no_time_squared() -> None:
    page = XHTML + "<style " * 200_000 + "/>"
    assert page_to_text(page) == ""
