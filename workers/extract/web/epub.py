"""EPUB to text: its chapters, which are HTML pages, in reading order.

Names are taken as reading systems take them: percent-encoded or not, whatever their case. A chapter that the book names
and does not have is an error: a book without it is not the book.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Iterator
from html.entities import html5
from urllib.parse import unquote
from xml.etree import ElementTree

from batch.schema.error_types import ErrorType
from workers.extract.files.archives import Archive
from workers.extract.files.encodings import decode
from workers.extract.files.extracted import Unreadable
from workers.extract.web.html import page_to_text

_CONTAINER = "META-INF/container.xml"
_NO_PAGES = ("image/", "audio/", "video/", "font/", "text/css", "application/x-dtbncx", "application/vnd.ms-opentype")
"""How the types of what is no chapter begin; drawings (SVG) are one where the reading order names them."""
_ENTITY = re.compile(rb"&(?!(?:amp|lt|gt|quot|apos);)([A-Za-z][A-Za-z0-9]*;)")


def epub_to_text(archive: Archive) -> str:
    """Reads the chapters, an empty line between two. Raises `Unreadable`."""
    book = _Book(archive)
    name = book.package_name()
    package = book.xml(name)
    folder = posixpath.dirname(name)
    items = {item.get("id"): item for item in _all(package, "item")}
    chapters: dict[str, None] = {}
    references = [each.get("idref") for each in _all(package, "itemref")]
    for reference in references or list(items):
        item = items.get(reference)
        if item is None:
            raise Unreadable(ErrorType.CORRUPT, f"the EPUB lacks a chapter: nothing is called {reference!r:.100}")
        kind = (item.get("media-type") or "").lower()
        is_drawing = kind == "image/svg+xml" and bool(references)
        if is_drawing or (not kind.startswith(_NO_PAGES) and (references or "html" in kind)):
            href = (item.get("href") or "").partition("#")[0]
            chapters[posixpath.normpath(posixpath.join(folder, href))] = None
    found = {book.find(chapter): chapter for chapter in chapters}
    if book.locked().intersection(found):
        raise Unreadable(ErrorType.ENCRYPTED, "the EPUB's chapters are encrypted (DRM)")
    texts = (page_to_text(decode(name, archive.read(name)), xml=True) for name in found)
    return "\n\n".join(text for text in texts if text)


class _Book:
    """An archive whose entries are found as links name them."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._alike = {_alike(name): name for name in archive.names}

    def find(self, name: str) -> str:
        """Returns the entry that a link means. Raises `Unreadable`."""
        for each in (name, unquote(name)):
            if each in self._archive.names:
                return each
        for each in (name, unquote(name)):
            entry = self._alike.get(_alike(each))
            if entry is not None:
                return entry
        raise Unreadable(ErrorType.CORRUPT, f"the EPUB lacks {name[:100]!r}, which it names as a part of it")

    def package_name(self) -> str:
        """Returns the file that says what the book is made of."""
        if _alike(_CONTAINER) in self._alike:
            for rootfile in _all(self.xml(_CONTAINER), "rootfile"):
                if rootfile.get("full-path"):
                    return self.find(rootfile.get("full-path") or "")
        packages = sorted(name for name in self._archive.names if name.lower().endswith(".opf"))
        if not packages:
            raise Unreadable(ErrorType.CORRUPT, "the EPUB does not say where its contents are")
        return packages[0]

    def xml(self, name: str) -> ElementTree.Element:
        data = self._archive.read(self.find(name)).strip()
        if b"<!ENTITY" in data:
            raise Unreadable(ErrorType.CORRUPT, f"{name[:100]!r} in the EPUB declares entities, which no EPUB needs")
        try:
            return ElementTree.fromstring(_ENTITY.sub(_numbered, data))
        except (ElementTree.ParseError, ValueError, LookupError) as error:  # also of an encoding that nobody knows
            raise Unreadable(ErrorType.CORRUPT, f"{name[:100]!r} in the EPUB is no XML: {error}") from None

    def locked(self) -> set[str]:
        """Entries that `encryption.xml` names; fonts often are, by way of obfuscation."""
        name = "META-INF/encryption.xml"
        if _alike(name) not in self._alike:
            return set()
        named = (each.get("URI") or "" for each in _all(self.xml(name), "CipherReference"))
        return {self._alike.get(_alike(unquote(each)), each) for each in named}


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", name.replace("\\", "/")).casefold()


def _numbered(entity: re.Match[bytes]) -> bytes:
    """Returns an entity of HTML, as XML has it."""
    text = html5.get(entity[1].decode())
    return entity[0] if text is None else "".join(f"&#{ord(each)};" for each in text).encode()


def _all(root: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    """Yields all elements of that name, whatever their namespace."""
    return root.iterfind(f".//{{*}}{name}")
