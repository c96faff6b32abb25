"""Office documents that are made otherwise than by the programs whose names for parts everybody takes for granted."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable

import pytest

from benchmarks.made_documents import archive, make_docx, make_pptx, make_xlsx, text_of
from tests.unit.workers.extract.made_ole import ole
from workers.extract import Unreadable
from workers.extract.office.old_sheets import with_times

SHEETS = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def parts(document: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(document)) as file:
        return {name: file.read(name) for name in file.namelist()}


def renamed(document: bytes, rename: Callable[[str], str], *changes: tuple[bytes, bytes]) -> bytes:
    """With other names of parts; `changes` are what relationships and types say of them."""
    made = {}
    for name, data in parts(document).items():
        said = data
        for old, new in changes if name.endswith((".rels", "Types].xml")) else ():
            said = said.replace(old, new)
        made[rename(name)] = said
    return archive(made)


@pytest.mark.parametrize(("name", "make"), [("a.docx", make_docx), ("a.pptx", make_pptx), ("a.xlsx", make_xlsx)])
def test_parts_are_found_whatever_they_are_called(name: str, make: Callable[[], bytes]) -> None:
    document = make()
    whole = text_of(name, document)
    for rename in (str.lower, str.upper, lambda part: part.replace("/", "\\"), lambda part: "/" + part):
        assert text_of(name, renamed(document, rename)) == whole
    main = {"a.docx": "word/document.xml", "a.pptx": "ppt/presentation.xml", "a.xlsx": "xl/workbook.xml"}[name]
    file = main.partition("/")[2]
    odd = renamed(document, lambda part: part.replace(file, "main2.xml"), (file.encode(), b"main2.xml"))
    assert text_of(name, odd) == whole
    if name == "a.docx":
        deep = renamed(document, lambda part: part.replace("word/", "a b/c/"), (b"word/", b"a%20b/c/"))
        assert text_of(name, deep) == whole
        dotted = renamed(document, lambda part: part, (b'Target="word/', b'Target="./word/'))
        assert text_of(name, dotted) == whole


def refusal(name: str, data: bytes) -> tuple[str, str]:
    with pytest.raises(Unreadable) as refused:
        text_of(name, data)
    return refused.value.error_type, str(refused.value)


def test_a_part_that_has_text_and_is_missing_is_no_document_without_it() -> None:
    document = parts(make_docx())
    del document["word/header1.xml"]
    assert refusal("a.docx", archive(document)) == (
        "corrupt",
        "the Office document lacks its part 'word/header1.xml'",
    )
    book = parts(workbook('<c r="A1" t="s"><v>0</v></c><c r="B1"><v>7</v></c>'))
    assert refusal("a.xlsx", archive(book)) == ("corrupt", "the XLSX lacks the part that has its texts")


def workbook(cells: str, *, codes: tuple[str, ...] = (), since_1904: bool = False) -> bytes:
    """One sheet `S` of one row; style N has the format `codes[N - 1]`."""
    formats = "".join(f'<numFmt numFmtId="{n}" formatCode="{code}"/>' for n, code in enumerate(codes, 165))
    styles = "".join(f'<xf numFmtId="{number}"/>' for number in [0, *range(165, 165 + len(codes))])
    types = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    relations = '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    return archive({
        "[Content_Types].xml": (
            '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
            '<Default Extension="xml" ContentType="application/xml"/>'
            f'<Override PartName="/xl/workbook.xml" ContentType="{types}.sheet.main+xml"/></Types>'
        ).encode(),
        "_rels/.rels": (
            f'{relations}<Relationship Id="r1" Type="{OFFICE}/officeDocument" Target="xl/workbook.xml"/>'
            "</Relationships>"
        ).encode(),
        "xl/workbook.xml": (
            f'<workbook xmlns="{SHEETS}" xmlns:r="{OFFICE}"><workbookPr date1904="{int(since_1904)}"/>'
            '<sheets><sheet name="S" sheetId="1" r:id="r1"/></sheets></workbook>'
        ).encode(),
        "xl/_rels/workbook.xml.rels": (
            f'{relations}<Relationship Id="r1" Type="{OFFICE}/worksheet" Target="worksheets/sheet1.xml"/>'
            f'<Relationship Id="r2" Type="{OFFICE}/styles" Target="styles.xml"/></Relationships>'
        ).encode(),
        "xl/worksheets/sheet1.xml": (
            f'<worksheet xmlns="{SHEETS}"><sheetData><row r="1">{cells}</row></sheetData></worksheet>'
        ).encode(),
        "xl/styles.xml": (
            f'<styleSheet xmlns="{SHEETS}"><numFmts>{formats}</numFmts><cellXfs>{styles}</cellXfs></styleSheet>'
        ).encode(),
    })  # fmt: skip


@pytest.mark.parametrize(
    ("code", "number", "shown"),
    [
        ("# ?/?", "1234.5678", "1234.5678"),
        ("0.###", "1234.5678", "1234.568"),
        ("0.##%", "0.5625", "56.25%"),
        ("General&quot; pcs&quot;", "5.5", "5.5"),
        ("00000", "7001", "07001"),
        ("000-00-0000", "12345678", "012-34-5678"),
        ("[&lt;=9999999]###-####;(###) ###-####", "5551234", "555-1234"),
        ("[&lt;=9999999]###-####;(###) ###-####", "2025551234", "(202) 555-1234"),
        ("# ##0", "1234567", "1234 567"),
        ("#,##0.00_);(#,##0.00)", "-5", "(5.00)"),
    ],
)
def test_numbers_keep_their_digits(code: str, number: str, shown: str) -> None:
    book = workbook(f'<c r="A1" s="1"><v>{number}</v></c><c r="B1"><v>7</v></c>', codes=(code,))
    assert text_of("a.xlsx", book) == f"S\n{shown}\t7"


@pytest.mark.parametrize("since_1904", [False, True])
@pytest.mark.parametrize(
    ("code", "number", "shown"),
    [
        ("hh:mm", "0.5625", "13:30"),
        ("h:mm:ss AM/PM", "0.5625", "13:30:00"),
        ("[h]:mm", "1.5", "36:00"),
        ("[hh]:mm:ss;@", "-0.25", "-06:00:00"),
        ("mm:ss", "0.001", "00:01:26"),
        ("[$-F400]h:mm:ss", "0", "00:00:00"),
        ("0.00", "0.25", "0.25"),
        ("0 &quot;hours&quot;", "7", "7 hours"),
    ],
)
def test_times_and_durations_are_no_parts_of_days(code: str, number: str, shown: str, since_1904: bool) -> None:
    made = workbook(f'<c r="A1" s="1"><v>{number}</v></c>', codes=(code,), since_1904=since_1904)
    assert text_of("a.xlsx", made) == f"S\n{shown}"


@pytest.mark.parametrize(("since_1904", "year"), [(False, "2026-05-01"), (True, "2030-05-02")])
def test_days_stay_days(since_1904: bool, year: str) -> None:
    cells = '<c r="A1" s="1"><v>46143</v></c><c r="B1" s="2"><v>46143.5625</v></c>'
    made = workbook(cells, codes=("dd/mm/yyyy", "hh:mm"), since_1904=since_1904)
    assert text_of("a.xlsx", made) == f"S\n{year}\t{year} 13:30:00"


def test_a_formula_without_a_result_shows_itself_and_an_empty_result_is_empty() -> None:
    cells = (
        '<c r="A1"><f>SUM(B1:C1)</f><v></v></c><c r="B1"><f>1+1</f><v/></c><c r="C1"><f>2+2</f></c>'
        '<c r="D1" t="str"><f>""</f><v></v></c><c r="E1"><f>6*7</f><v>42</v></c>'
    )
    assert text_of("a.xlsx", workbook(cells)) == "S\n=SUM(B1:C1)\t=1+1\t=2+2\t\t42"


def test_a_workbook_of_empty_sheets_has_no_text() -> None:
    assert refusal("a.xlsx", workbook(""))[0] == "no_text"
    assert text_of("a.xlsx", workbook('<c r="A1" t="inlineStr"><is><t>S</t></is></c>')) == "S\nS"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (ole({"Book": b"\x09\x08"}), "Excel 95"),
        (ole({"WordDocument": b"\xdc\xa5\x65\x00"}), "Word 95"),
        (ole({"__properties_version1.0": b"x", "Workbook": b"x"}), "Outlook message"),
        (ole({"VisioDocument": b"x"}), "Visio"),
        (archive({"mimetype": b"application/vnd.oasis.opendocument.spreadsheet", "content.xml": b"<x/>"}), "(ODS)"),
        (archive({"content.xml": b"<x/>", "styles.xml": b"<x/>"}), "OpenDocument"),
        (archive({"Index/Document.iwa": b"x"}), "iWork"),
        (
            archive({
                "[Content_Types].xml": b'<Types><Override PartName="/xl/workbook.bin" '
                b'ContentType="application/vnd.ms-excel.sheet.binary.macroEnabled.main"/></Types>',
                "_rels/.rels": b'<Relationships><Relationship Type="x/officeDocument" Target="xl/workbook.bin"/>'
                b"</Relationships>",
                "xl/workbook.bin": b"x",
            }),
            "XLSB",
        ),
    ],
)  # fmt: skip
def test_what_is_not_read_is_named(data: bytes, said: str) -> None:
    error_type, message = refusal("a.bin", data)
    assert error_type == "unsupported_format" and said in message


def test_times_of_old_workbooks_are_known_by_their_records() -> None:
    def record(kind: int, data: bytes) -> bytes:
        return struct.pack("<HH", kind, len(data)) + data

    def number(style: int, value: float) -> bytes:
        return record(0x0203, struct.pack("<HHHd", 0, 0, style, value))

    code = b"[h]:mm"
    stream = record(0x041E, struct.pack("<HHB", 165, len(code), 0) + code)
    stream += b"".join(record(0x00E0, struct.pack("<HH16x", 0, kind)) for kind in (0, 20, 165, 14))
    stream += number(0, 0.5) + number(1, 0.5625) + number(2, 1.5) + number(3, 0.35) + number(1, 0.0)
    stream += record(0x027E, struct.pack("<HHHI", 0, 0, 2, (1225 << 2) | 3))  # 1225 hundredths of days
    stream += record(0x00BD, struct.pack("<HHHIHIH", 0, 0, 1, 0x3FE80000, 1, 0x3FD00000, 1))
    text = "S\n0.5\t0.5625\t1900-01-01 12:00:00\t0.35\t0\t1900-01-12 06:00:00\n0.75\t0.25"
    assert with_times(text, stream) == "S\n0.5\t13:30\t36:00\t0.35\t0\t294:00\n18:00\t06:00"
    assert with_times(text, stream[:9]) == text


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (
            "<w:ruby><w:rt><w:r><w:t>kan</w:t></w:r></w:rt><w:rubyBase><w:r><w:t>漢</w:t></w:r></w:rubyBase></w:ruby>",
            "漢(kan)",
        ),
        ("<w:t>5 </w:t><w:sym w:font='Symbol' w:char='F06D'/><w:t>m</w:t>", "5 μm"),
        ("<w:sym w:font='Wingdings' w:char='F0FE'/><w:t> yes</w:t>", "☑ yes"),
        ("<w:t>a</w:t><w:ptab w:relativeTo='margin' w:alignment='right' w:leader='none'/><w:t>b</w:t>", "a\tb"),
    ],
)
def test_what_the_library_leaves_out_of_runs_is_read(run: str, text: str) -> None:
    assert text in text_of("a.docx", with_paragraph(f"<w:r>{run}</w:r>"))


def test_formulas_keep_what_is_raised_and_divided() -> None:
    def part(name: str, text: str) -> str:
        return f"<m:{name}><m:r><m:t>{text}</m:t></m:r></m:{name}>"

    formula = (
        '<m:oMath xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math">'
        f"<m:f>{part('num', '3')}{part('den', '4')}</m:f><m:sSup>{part('e', '10')}{part('sup', '6')}</m:sSup></m:oMath>"
    )
    assert "(3)/(4)10^(6)" in text_of("a.docx", with_paragraph(formula))


def with_paragraph(inside: str) -> bytes:
    made = parts(make_docx())
    main = made["word/document.xml"].replace(b"<w:body>", f"<w:body><w:p>{inside}</w:p>".encode(), 1)
    return archive({**made, "word/document.xml": main})
