"""PDFs written by hand, as no library writes them."""

from __future__ import annotations

FONT = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"
COMPOSITE = (
    "<< /Type /Font /Subtype /Type0 /BaseFont /Sub /Encoding /Identity-H /DescendantFonts [<< /Type /Font /Subtype "
    "/CIDFontType2 /BaseFont /Sub /CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> >>] >>"
)
"""A font whose codes are numbers of glyphs, without a table that says which characters they show."""
DVIPS = (
    "<< /Type /Font /Subtype /Type1 /BaseFont /ABCDEF+Sub /Encoding << /Type /Encoding /Differences "
    f"[32 {' '.join(f'/a{code}' for code in range(32, 127))}] >> >>"
)
"""A font of old TeX, whose names of glyphs are those of dingbats."""
SCAN = "q 612 0 0 792 0 0 cm BI /W 1 /H 1 /CS /G /BPC 8 ID x EI Q\n"
"""A picture over the whole page."""


def line(text: str, y: int = 700, x: int = 72) -> str:
    return f"BT /F1 12 Tf 1 0 0 1 {x} {y} Tm ({text}) Tj ET\n"


def pdf(
    *pages: str, root: str = "", page: str = "", objects: tuple[str, ...] = (), font: str = FONT, end: str = "%%EOF\n"
) -> bytes:
    """Of pages with these contents. `objects` are numbered from 4 on; `page` and `root` are entries that name them."""
    numbered = {3: font, **dict(enumerate(objects, 4))}
    kids = []
    for content in pages:
        number = len(numbered) + 3
        numbered[number] = f"<< /Length {len(content)} >>\nstream\n{content}\nendstream"
        numbered[number + 1] = (
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] {page} /Contents {number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        kids.append(f"{number + 1} 0 R")
    numbered[1] = f"<< /Type /Catalog /Pages 2 0 R {root} >>"
    numbered[2] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    made, places = "%PDF-1.7\n", {}
    for number in sorted(numbered):
        places[number] = len(made)
        made += f"{number} 0 obj\n{numbered[number]}\nendobj\n"
    start = len(made)
    made += f"xref\n0 {len(places) + 1}\n0000000000 65535 f \n"
    made += "".join(f"{places[number]:010} 00000 n \n" for number in sorted(places))
    made += f"trailer\n<< /Size {len(places) + 1} /Root 1 0 R >>\nstartxref\n{start}\n{end}"
    return made.encode("latin-1")
