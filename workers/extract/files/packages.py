"""The packages that Office documents of today are (OPC, ISO/IEC 29500-2): which document, and where its parts are.

The main part is what the package's relationships say, whatever it is called (`word/document2.xml` of Word Online), and
names differ by no case. The library that reads a package looks for it under its usual name: one that is made otherwise
is made anew, as the library takes it.
"""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
from typing import Literal
from urllib.parse import unquote
from xml.etree import ElementTree

from batch.schema.error_types import ErrorType
from workers.extract.files.archives import Archive
from workers.extract.files.extracted import Unreadable

Format = Literal["docx", "pptx", "xlsx"]
MAIN: dict[Format, str] = {"docx": "word/document.xml", "pptx": "ppt/presentation.xml", "xlsx": "xl/workbook.xml"}
"""Usual names of the main parts."""

_TYPES, _RELATIONSHIPS = "[Content_Types].xml", "_rels/.rels"
_KINDS: tuple[tuple[str, Format], ...] = (
    ("wordprocessingml", "docx"),
    ("ms-word", "docx"),
    ("presentationml", "pptx"),
    ("ms-powerpoint", "pptx"),
    ("spreadsheetml", "xlsx"),
    ("ms-excel", "xlsx"),
)
"""Words of content types of main parts; those of documents with macros are Microsoft's own."""
_OTHERS = {
    "ms-excel.sheet.binary": "a binary Excel workbook (XLSB)",
    "ms-visio": "a Visio drawing",
    "ms-package.xps": "an XPS document",
    "oxps": "an XPS document",
}
_TEXTS = re.compile(
    r"^(?:word/(?:footnotes|endnotes|comments|header\d+|footer\d+)|xl/worksheets/[^/]+"
    r"|ppt/(?:notes)?slides/[^/]+)\.xml$",
    re.IGNORECASE,
)
"""Usual names of parts whose absence the library does not mind, and which have text."""
_ODD = re.compile(rb"(?:^|/)\./|[\\%]")
"""Of targets: steps that lead nowhere, backslashes, escapes."""
_TARGET = re.compile(rb"""(\sTarget\s*=\s*)(["'])([^"'<>]*)\2""")


class Package:
    """An Office document in an archive. Raises `Unreadable` for one of a kind that is not read."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._spelled = {unquote(name).lower(): name for name in archive.names}
        self.main = self._main()
        self.kind = self._kind()

    def part(self, name: str) -> str | None:
        """Tells how the archive spells a part's name."""
        return name if name in self._archive.names else self._spelled.get(name.lower())

    def targets(self, part: str) -> dict[str, list[str]]:
        """Returns what a part names by relationships: the last step of their type -> names of parts that are there."""
        folder = posixpath.dirname(part)
        own = self.part(_relationships_of(part))
        found: dict[str, list[str]] = {}
        for each in self._relationships(own) if own is not None else ():
            if each.get("TargetMode") == "External":
                continue
            target = self.part(_resolved(folder, each.get("Target") or ""))
            if target is not None:
                found.setdefault((each.get("Type") or "").rpartition("/")[2], []).append(target)
        return found

    def rewritten(self, changed: dict[str, bytes], data: bytes) -> bytes:
        """Returns the package as the library takes it, with `changed` parts; `data`, as it came, if it takes that."""
        moved, spelled_well = self._moved()
        if not changed and not moved and spelled_well and self._archive.is_named_well:
            return data
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
            for name in sorted(self._archive.names):
                if not name or name.endswith("/"):
                    continue
                part = changed[name] if name in changed else self._archive.read(name)
                if (moved or not spelled_well) and (name.lower().endswith(".rels") or name.lower() == _TYPES.lower()):
                    part = self._retargeted(name, part, moved)
                file.writestr(moved.get(name, name), part)
        return made.getvalue()

    def _main(self) -> str:
        root = self.part(_RELATIONSHIPS)
        for each in self._relationships(root) if root is not None else ():
            if (each.get("Type") or "").endswith("/officeDocument"):
                found = self.part(_resolved("", each.get("Target") or ""))
                if found is not None:
                    return found
        found = next((part for name in MAIN.values() if (part := self.part(name)) is not None), None)
        if found is None:
            raise Unreadable(ErrorType.CORRUPT, "the Office document lacks its main part")
        return found

    def _kind(self) -> Format:
        said = self._type_of(self.main)
        for words, name in _OTHERS.items():
            if words in said:
                raise Unreadable(ErrorType.UNSUPPORTED_FORMAT, f"the document is {name}")
        for words, kind in _KINDS:
            if words in said:
                return kind
        usual = next((kind for kind, name in MAIN.items() if self.main.lower() == name), None)
        if usual is None:
            message = f"the document is a package of the type {said[:100] or 'unknown'}"
            raise Unreadable(ErrorType.UNSUPPORTED_FORMAT, message)
        return usual

    def _type_of(self, part: str) -> str:
        types = self.part(_TYPES)
        said = ""
        for each in _children(self._archive, types) if types is not None else ():
            tag = each.tag.rpartition("}")[2]
            if tag == "Override" and _resolved("", each.get("PartName") or "").lower() == unquote(part).lower():
                return (each.get("ContentType") or "").lower()
            if tag == "Default" and (each.get("Extension") or "").lower() == part.rpartition(".")[2].lower():
                said = (each.get("ContentType") or "").lower()
        return said

    def _relationships(self, part: str) -> list[ElementTree.Element]:
        return _children(self._archive, part)

    def _moved(self) -> tuple[dict[str, str], bool]:
        """Parts that the library would not find -> what it would, and whether it takes all relationships as they are.

        Raises `Unreadable` where a part is missing that has text of the document.
        """
        spelled_well = True
        moved = {
            each: usual
            for usual in (_TYPES, _RELATIONSHIPS)
            if (each := self.part(usual)) is not None and each != usual
        }
        for name in self._archive.names:
            if name.lower().endswith(".rels"):
                folder = posixpath.dirname(posixpath.dirname(name))
                for match in _TARGET.finditer(self._archive.read(name)):
                    spelled_well = spelled_well and _ODD.search(match[3]) is None
                    wanted = _resolved(folder, match[3].decode(errors="replace"))
                    found = self._spelled.get(wanted.lower())
                    if found is None and _TEXTS.search(wanted) is not None:
                        raise Unreadable(ErrorType.CORRUPT, f"the Office document lacks its part {wanted[:100]!r}")
                    if found is not None and wanted not in self._archive.names:
                        moved[found] = wanted
                        own = self.part(_relationships_of(found))
                        if own is not None:
                            moved[own] = _relationships_of(wanted)
        usual = MAIN[self.kind]
        if moved.get(self.main, self.main) != usual:
            moved[self.main] = usual
            own = self.part(_relationships_of(self.main))
            if own is not None:
                moved[own] = _relationships_of(usual)
        return moved, spelled_well

    def _retargeted(self, name: str, part: bytes, moved: dict[str, str]) -> bytes:
        """Relationships that say where their targets are from the root on, and content types of what was moved."""
        if not name.lower().endswith(".rels"):
            for old, new in moved.items():
                part = part.replace(f'"/{old}"'.encode(), f'"/{new}"'.encode())
            return part
        folder = posixpath.dirname(posixpath.dirname(name))

        def absolute(match: re.Match[bytes]) -> bytes:
            found = self.part(_resolved(folder, match[3].decode(errors="replace")))
            if found is None:  # external, or not there
                return match[0]
            quote = match[2]
            return match[1] + quote + b"/" + moved.get(found, found).encode() + quote

        return _TARGET.sub(absolute, part)


def _children(archive: Archive, part: str) -> list[ElementTree.Element]:
    data = archive.read(part)
    if b"<!ENTITY" in data:
        raise Unreadable(ErrorType.CORRUPT, f"{part[:100]!r} declares entities, which no Office document needs")
    try:
        return list(ElementTree.fromstring(data))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise Unreadable(ErrorType.CORRUPT, f"{part[:100]!r} in the Office document is damaged: {error}") from None


def _relationships_of(part: str) -> str:
    folder, name = posixpath.split(part)
    return posixpath.join(folder, "_rels", f"{name}.rels")


def _resolved(folder: str, target: str) -> str:
    """Returns the name of a part that a relationship of a part in `folder` names."""
    target = unquote(target.replace("\\", "/"))
    return posixpath.normpath(posixpath.join("/", folder, target)).lstrip("/")
