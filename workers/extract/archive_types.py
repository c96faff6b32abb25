"""What a zip archive is: an EPUB, a package of Office, or something that is not read and has a name."""

from __future__ import annotations

from workers.extract.files.archives import Archive
from workers.extract.files.packages import MAIN
from workers.extract.files.unreadable import Unreadable

_EPUB = "application/epub+zip"
_OPEN_DOCUMENT = {
    "opendocument.text": "an OpenDocument text (ODT)",
    "opendocument.spreadsheet": "an OpenDocument spreadsheet (ODS)",
    "opendocument.presentation": "an OpenDocument presentation (ODP)",
    "opendocument.graphics": "an OpenDocument drawing (ODG)",
}
_KNOWN = {
    "index/document.iwa": "an iWork document (Pages, Numbers or Keynote)",
    "index.xml": "an iWork document (Pages, Numbers or Keynote)",
    "index.apxl": "an iWork document (Pages, Numbers or Keynote)",
    "content.xml": "an OpenDocument document",
    "meta-inf/manifest.mf": "a Java archive",
}
"""Archives that say what they are by a part alone, in small letters."""


def is_epub(archive: Archive) -> bool:
    """Whether an archive is an EPUB, as its type says; one without a type may be a package of Office.

    Raises `Unreadable` for archives of other types, and for those that are neither.
    """
    names = {name.lower() for name in archive.names}
    is_package = "[content_types].xml" in names or not names.isdisjoint(MAIN.values())
    if "mimetype" in archive.names and not is_package:
        kind = archive.read("mimetype").strip()[:80].decode("latin-1")
        if kind == _EPUB:
            return True
        name = next((name for word, name in _OPEN_DOCUMENT.items() if word in kind), f"an archive of the type {kind}")
        raise Unreadable("unsupported_format", f"the document is {name}")
    if is_package:
        return False
    if "meta-inf/container.xml" in names:
        return True
    known = (name for part, name in _KNOWN.items() if part in names)
    name = next(known, "a zip archive, but no DOCX, PPTX, XLSX or EPUB")
    raise Unreadable("unsupported_format", f"the document is {name}")
