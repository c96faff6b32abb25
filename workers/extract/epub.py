"""EPUB to text: its chapters, which are HTML pages, in reading order."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from urllib.parse import unquote
from xml.etree import ElementTree

from workers.extract.archives import Archive
from workers.extract.encodings import decode
from workers.extract.html import page_to_text
from workers.extract.packages import MAIN
from workers.extract.unreadable import Unreadable

_EPUB = "application/epub+zip"
_CONTAINER = "META-INF/container.xml"
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
"""Archives that say what they are by a part alone."""
_PAGES = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")


def is_epub(archive: Archive) -> bool:
    """Whether an archive is an EPUB, as its type says; one without a type may be a package of Office.

    Raises `Unreadable` for archives of other types, and for those that are neither.
    """
    if "mimetype" in archive.names:
        kind = archive.read("mimetype").strip()[:80].decode("latin-1")
        if kind == _EPUB:
            return True
        name = next((name for word, name in _OPEN_DOCUMENT.items() if word in kind), f"an archive of the type {kind}")
        raise Unreadable("unsupported_format", f"the document is {name}")
    names = {name.lower() for name in archive.names}
    if "[content_types].xml" in names or not names.isdisjoint(MAIN.values()):
        return False
    if _CONTAINER in archive.names:
        return True
    name = next((name for part, name in _KNOWN.items() if part in names), "a zip archive, but no DOCX, PPTX, XLSX or EPUB")
    raise Unreadable("unsupported_format", f"the document is {name}")


def epub_to_text(archive: Archive) -> str:
    """The chapters, an empty line between two. Raises `Unreadable`."""
    rootfile = next(_all(_xml(archive, _CONTAINER), "rootfile"), None)
    name = rootfile.get("full-path") if rootfile is not None else None
    if not name:
        raise Unreadable("corrupt", "the EPUB does not say where its contents are")
    package = _xml(archive, name)
    folder = posixpath.dirname(name)
    chapters = {
        item.get("id"): posixpath.normpath(posixpath.join(folder, unquote(item.get("href") or "")))
        for item in _all(package, "item")
        if item.get("media-type") in _PAGES
    }
    spine = [chapters[each.get("idref")] for each in _all(package, "itemref") if each.get("idref") in chapters]
    locked = _locked(archive)
    if locked.intersection(spine):
        raise Unreadable("encrypted", "the EPUB's chapters are encrypted (DRM)")
    texts = (page_to_text(decode(chapter, archive.read(chapter))) for chapter in dict.fromkeys(spine))
    return "\n\n".join(text for text in texts if text)


def _xml(archive: Archive, name: str) -> ElementTree.Element:
    data = archive.read(name)
    if b"<!ENTITY" in data:
        raise Unreadable("corrupt", f"{name[:100]!r} in the EPUB declares entities, which no EPUB needs")
    try:
        return ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise Unreadable("corrupt", f"{name[:100]!r} in the EPUB is no XML: {error}") from None


def _all(root: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    """All elements of that name, whatever their namespace."""
    return root.iterfind(f".//{{*}}{name}")


def _locked(archive: Archive) -> set[str]:
    """Entries that `encryption.xml` names; fonts often are, by way of obfuscation."""
    name = "META-INF/encryption.xml"
    if name not in archive.names:
        return set()
    return {unquote(each.get("URI") or "") for each in _all(_xml(archive, name), "CipherReference")}
