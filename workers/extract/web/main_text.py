"""HTML -> the text that the page is there for: without navigation, cookie banners, side columns, footers and comments.

What that is trafilatura decides (docs/extraction.md has what it was compared with). A page in which it finds nothing
is read whole, as is one so large that it would take too much time or memory. Only for the processes of `pool`: it takes
milliseconds for a page as a rule, but nothing bounds what it may take.
"""

from __future__ import annotations

import re

from workers.extract.files.unreadable import Unreadable
from workers.extract.web.html import page_to_text, title_of
from workers.extract.web.nesting import is_too_deep
from workers.extract.web.xhtml import as_html

MOST_TAGS, MOST_CHARACTERS = 50_000, 4_000_000
"""Beyond either it may take more time and memory than a process has. Of 1,032 pages of the Web that were tried the
largest have 20,000 start and end tags, and 1.6 MB."""
_BREAKS = re.compile(r"\n{2,}")


def page_to_main_text(page: str) -> str:
    """Reads the title, then the main text, a block a line; `page_to_text` where there is none. Raises `Unreadable`."""
    page = as_html(page)
    if is_too_deep(page):
        raise Unreadable("too_deep", "the HTML page nests too deeply: to parse it would take seconds to hours")
    text = _main(page) if len(page) <= MOST_CHARACTERS and page.count("<") <= MOST_TAGS else ""
    if not text:
        return page_to_text(page)
    heading = title_of(page)
    return text if not heading or text.startswith(heading) else f"{heading}\n{text}"


def _main(page: str) -> str:
    """Empty where nothing is found, and where the library fails: its bugs cost the choice, not the document."""
    from trafilatura import extract  # 0.5 s and 30 MB, for jobs that ask for it

    try:
        text = extract(page, include_comments=False, include_tables=True, include_formatting=False) or ""
    except MemoryError:
        raise
    except Exception:
        return ""
    return _BREAKS.sub("\n", text).strip()
