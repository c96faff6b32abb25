"""What an etag says of its object: nothing until it is known to be the MD5 of the content. Pure.

Stores give empty etags, one for all objects (MinIO's and JuiceFS' gateways: thirty-two zeros and `-1`), weak ones (a
proxy that compresses), some without their quotes, and others in a listing than in a GET (gateways to Azure). Multipart
uploads and SSE-KMS make etags that no reader can compute.
"""

from __future__ import annotations

import hashlib
import re

_MD5 = re.compile(r'"?([0-9a-fA-F]{32})"?')
_HEX = re.compile(r"[0-9a-fA-F]+(-[0-9]+)?")
CONTENT_HASH_DIGITS = 32


def bare(etag: str) -> str:
    """The etag without its quotes and the mark of a weak one: what two of one version have in common."""
    return etag.removeprefix("W/").removeprefix("w/").strip('"')


def quoted(etag: str) -> str:
    """The etag as a precondition has it; some listings leave the quotes out."""
    return etag if '"' in etag or not etag else f'"{etag}"'


def md5_of(etag: str) -> str | None:
    """The MD5, 32 small hex digits, that a strong etag seems to be; None for any other."""
    found = _MD5.fullmatch(etag)
    return found[1].lower() if found else None


def proves(etag: str, data: bytes) -> bool:
    """Whether the etag is the MD5 of the content: then every object that has it has this content."""
    found = md5_of(etag)
    return found is not None and found == hashlib.md5(data, usedforsecurity=False).hexdigest()


def content_hash(data: bytes, etag: str = "") -> str:
    """32 hex digits of a document's bytes: their MD5 where that is what `etag` is, else the first ones of SHA-256.

    So of an etag that equals the hash beside it, it is known that it tells contents apart.
    """
    if proves(etag, data):
        return bare(etag).lower()
    return hashlib.sha256(data).hexdigest()[:CONTENT_HASH_DIGITS]


def is_hash_of(found: str | None, data: bytes) -> bool:
    """Whether `found` is a `content_hash` of these bytes, whatever their etag was."""
    return found is not None and (
        found == hashlib.sha256(data).hexdigest()[:CONTENT_HASH_DIGITS]
        or found == hashlib.md5(data, usedforsecurity=False).hexdigest()
    )


def is_proven(etag: str, content_hash: str | None) -> bool:
    """Whether an etag is known to be the MD5 of the content that has this `content_hash`."""
    return content_hash is not None and md5_of(etag) == content_hash


def tells_versions(etag: str) -> bool:
    """Whether an etag may be taken for one of a version: a strong one of hex digits, not all of them the same."""
    plain = etag.strip('"')
    digits = plain.partition("-")[0]
    return not etag.startswith(("W/", "w/")) and _HEX.fullmatch(plain) is not None and len(set(digits)) > 1


def same_form(one: str, other: str) -> bool:
    """Whether two etags are of one kind: then two that differ are of two versions."""
    return _form(one) == _form(other)


def _form(etag: str) -> tuple[int, bool, bool]:
    plain = bare(etag)
    digits, _, parts = plain.partition("-")
    return len(digits), bool(parts), _HEX.fullmatch(plain) is not None
